//! What `ctl` shows of a relay's report.

use super::{list, number, text};
use node::terminal::page;
use node::ts::TsHealth;
use serde::Deserialize as _;
use serde_json::Value;
use std::fmt::Write as _;

/// The repair of this relay's links to relays, then the links of the overlay.
pub(super) fn links(report: &Value) -> String {
    let mut out = format!(
        "{:<18} {:<9} {:<6} {:>8} {:>8} {:>11} {:>7} {:>7} {:>7} {:>9} {:>9}\n",
        "REPAIR TO",
        "MODE",
        "SET BY",
        "TARGET",
        "CEIL %",
        "CAPACITY",
        "LOSS %",
        "ARQ %",
        "FEC %",
        "IN SAVED%",
        "IN LEFT%"
    );
    for link in list(&report["links"]).filter(|link| link["role"] == "relay") {
        out += &repair_row(text(&link["peer"]), link);
    }
    // Writing to a String does not fail.
    let _ =
        writeln!(out, "\n{:<24} {:<24} {:>9} {:>8} {:>6}  TAGS", "OVERLAY FROM", "TO", "DELAY ms", "LOSS %", "COST");
    for link in list(&report["overlay"]["link_states"]) {
        let _ = writeln!(
            out,
            "{:<24} {:<24} {:>9.1} {:>8.2} {:>6}  {}{}",
            text(&link["from"]),
            text(&link["to"]),
            number(&link["delay_ms"]),
            number(&link["loss"]) * 100.0,
            link["cost"],
            list(&link["tags"]).map(text).collect::<Vec<_>>().join(" "),
            if link["late"] == true { "  late" } else { "" },
        );
    }
    out + ONE_WAY
}

/// No clock tells how a round trip divides into its two ways.
pub(super) const ONE_WAY: &str =
    "DELAY ms: one way, as configured, or half of the smallest round trip, which is right to within itself (ctl rtt)\n";

/// Policy, then what it works against and costs on the way out, then what the peer's repair brings on the way in.
fn repair_row(peer: &str, link: &Value) -> String {
    let (policy, repair) = (&link["policy"], &link["repair"]);
    format!(
        "{peer:<18} {:<9} {:<6} {:>8.0e} {:>8.0} {:>11} {:>7.2} {:>7.1} {:>7.1} {:>9.3} {:>9.4}\n",
        text(&policy["mode"]),
        text(&link["set_by"]),
        number(&policy["target_residual"]),
        number(&policy["max_overhead"]) * 100.0,
        rate(&policy["capacity"]),
        number(&link["wire_loss_sent"]) * 100.0,
        number(&repair["cost_arq"]) * 100.0,
        number(&repair["cost_fec"]) * 100.0,
        number(&repair["saved"]) * 100.0,
        number(&repair["left"]) * 100.0,
    )
}

fn rate(bits: &Value) -> String {
    match bits.as_u64() {
        Some(bits) => format!("{} Mbit/s", bits as f64 / 1e6),
        None => "estimated".to_owned(),
    }
}

/// What may still be admitted to links.
pub(super) fn capacity(report: &Value) -> String {
    if list(&report["capacity"]).next().is_none() {
        return "no link of the overlay has a capacity that is configured or set: nothing is refused\n".to_owned();
    }
    let mut out = format!(
        "{:<24} {:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}\n",
        "FROM", "TO", "ADMITS Mb", "HIGH Mb", "NORMAL Mb", "LEFT Mb", "LEFT HIGH", "USED Mb"
    );
    let mbps =
        |value: &Value| value.as_u64().map_or_else(|| "-".to_owned(), |bits| format!("{:.1}", bits as f64 / 1e6));
    for link in list(&report["capacity"]) {
        let of = |field: &str| mbps(&link[field]);
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{:<24} {:<24} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            text(&link["from"]),
            text(&link["to"]),
            of("admissible"),
            of("admitted_high"),
            of("admitted_normal"),
            of("left"),
            of("left_high"),
            of("used"),
        );
    }
    for stream in list(&report["streams"]) {
        for why in list(&stream["unserved"]) {
            let _ = writeln!(out, "not carried: {} to {}", text(&stream["name"]), text(why));
        }
    }
    out
}

/// What came in by each token, then what each stream that passes here used.
pub(super) fn usage(report: &Value) -> String {
    let mut out = format!(
        "{:<32} {:>8} {:>12} {:>12} {:>12} {:>12} {:>10} {:>10}\n",
        "TOKEN", "STREAMS", "PACKETS", "MBYTES", "SENT", "MBYTES SENT", "PULLED", "POLICED"
    );
    let megabytes = |value: &Value| number(value) / 1e6;
    for entry in list(&report["usage"]) {
        let usage = &entry["usage"];
        let token = match text(&entry["token"]) {
            "" => "(others)",
            token => token,
        };
        let _ = writeln!(
            out,
            "{token:<32} {:>8} {:>12} {:>12.1} {:>12} {:>12.1} {:>10} {:>10}",
            entry["streams"],
            usage["packets"],
            megabytes(&usage["bytes"]),
            usage["packets_sent"],
            megabytes(&usage["bytes_sent"]),
            usage["pulled"],
            usage["policed"],
        );
    }
    let _ = writeln!(
        out,
        "\n{:<32} {:>8} {:>12} {:>12} {:>12} {:>12} {:>10} {:>10}",
        "STREAM", "Mbit/s", "PACKETS", "MBYTES", "SENT", "MBYTES SENT", "PULLED", "COPIES"
    );
    for stream in list(&report["streams"]) {
        let counters = &stream["counters"];
        let admitted =
            stream["admitted_rate"].as_f64().map_or_else(|| "-".to_owned(), |bits| format!("{:.1}", bits / 1e6));
        let _ = writeln!(
            out,
            "{:<32} {admitted:>8} {:>12} {:>12.1} {:>12} {:>12.1} {:>10} {:>10}",
            text(&stream["name"]),
            counters["unique"],
            megabytes(&counters["unique_bytes"]),
            counters["forwarded"],
            megabytes(&counters["forwarded_bytes"]),
            counters["pulled"],
            counters["duplicates"],
        );
    }
    out
}

/// The answer to a change of a link's repair.
pub(super) fn changed(link: &Value) -> String {
    let policy = &link["policy"];
    let kept = match text(&link["set_by"]) {
        "kept" => "kept for the next start",
        "live" => "until the relay is restarted",
        _ => "as configured",
    };
    format!(
        "{} -> {}{}: {}, target {:e}, at most {} % repair, capacity {}; {kept}\n\
         it works against {:.2} % loss on the wire; what it costs from now on: anabranch-relay ctl links\n",
        text(&link["from"]),
        text(&link["to"]),
        if link["up"] == true { "" } else { " (down now)" },
        text(&policy["mode"]),
        number(&policy["target_residual"]),
        number(&policy["max_overhead"]) * 100.0,
        rate(&policy["capacity"]),
        number(&link["wire_loss_sent"]) * 100.0,
    )
}

/// What a reload changed.
pub(super) fn reloaded(answer: &Value) -> String {
    let mut out = String::new();
    for (key, title) in [
        ("applied", "in force now"),
        ("restart", "changed, in force after a restart only"),
        ("covered", "changed, but hidden by what `ctl link set` set"),
    ] {
        for what in list(&answer[key]) {
            let _ = writeln!(out, "{title}: {}", text(what));
        }
    }
    if out.is_empty() { "read, nothing has changed\n".to_owned() } else { out }
}

/// How the transport stream in each stream is.
pub(super) fn ts(report: &Value) -> String {
    let mut out = format!("{:<32} {:>12} {:>12}  TRANSPORT STREAM\n", "STREAM", "TS PACKETS", "NOT SEEN");
    for stream in list(&report["streams"]) {
        let ts = &stream["ts"];
        let _ = writeln!(
            out,
            "{:<32} {:>12} {:>12}  {}",
            text(&stream["name"]),
            number(&ts["health"]["packets"]),
            number(&ts["unlooked"]),
            ts_words(ts),
        );
    }
    out
}

/// The same in a few words.
pub(in crate::cli) fn ts_words(ts: &Value) -> String {
    let health = || TsHealth::deserialize(&ts["health"]).ok();
    match text(&ts["state"]) {
        "checked" => health().map_or_else(|| "not seen yet".into(), |health| page::ts_words(Some(&health))),
        "not_ts" => "not TS".into(),
        other => other.into(),
    }
}

/// What is measured of the time that packets take on this relay's links.
pub(super) fn rtt(report: &Value) -> String {
    let mut out =
        format!("{:<24} {:>10} {:>10} {:>10} {:>20}\n", "LINK", "RTT ms", "LEAST ms", "VARIES ms", "ONE WAY ms");
    for link in list(&report["links"]) {
        let quality = &link["quality"];
        let one_way = format!("{:.2} ± {:.2}", millis(&quality["transit"]), millis(&quality["transit_bound"]));
        let _ = writeln!(
            out,
            "{:<24} {:>10.2} {:>10.2} {:>10.2} {one_way:>20}",
            text(&link["peer"]),
            millis(&quality["rtt"]),
            millis(&quality["rtt_min"]),
            millis(&quality["rtt_variation"]),
        );
    }
    out
}

/// The graph of a stream; `None` where the relay does not carry it.
pub(super) fn route(report: &Value, stream: &str) -> Option<String> {
    let found = list(&report["streams"]).find(|found| text(&found["name"]) == stream)?;
    let mut out = format!(
        "{stream} from {}, {} ms, epoch {}\n",
        text(&found["ingress"]),
        number(&found["deadline_ms"]),
        found["epoch"]
    );
    let spread: Vec<&str> = list(&found["spread"]).map(text).collect();
    let in_force = found["label"].as_u64().map(|label| label as u16);
    let _ = match in_force {
        Some(_) => writeln!(out, "mode {}; in force: {}", text(&found["mode"]), spread.join(", ")),
        None => writeln!(out, "this relay is not its ingress: what is installed, not what is in force"),
    };
    for why in list(&found["why"]) {
        let _ = writeln!(out, "{}", text(why));
    }
    for why in list(&found["unserved"]) {
        let _ = writeln!(out, "not carried to {}", text(why));
    }
    let _ = writeln!(out, "{:<24} {:<24} {:>9} {:>8} {:>9}  USED", "FROM", "TO", "DELAY ms", "LOSS %", "REST ms");
    for edge in list(&found["graph"]) {
        let modules = edge["modules"].as_u64().unwrap_or(0) as u16;
        let state = list(&report["overlay"]["link_states"])
            .find(|link| link["from"] == edge["from"] && link["to"] == edge["to"]);
        let used = in_force.is_none_or(|in_force| in_force & modules != 0);
        let _ = writeln!(
            out,
            "{:<24} {:<24} {:>9.1} {:>8.2} {:>9.1}  {}",
            text(&edge["from"]),
            text(&edge["to"]),
            state.map_or(0.0, |state| number(&state["delay_ms"])),
            state.map_or(0.0, |state| number(&state["loss"]) * 100.0),
            number(&edge["rest_ms"]),
            if used { "yes" } else { "ready" },
        );
    }
    Some(out + ONE_WAY)
}

fn millis(duration: &Value) -> f64 {
    number(&duration["secs"]) * 1e3 + number(&duration["nanos"]) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn transport_streams_are_told_in_words() {
        let health = TsHealth { packets: 7, continuity_errors: 2, ..TsHealth::default() };
        let stream = |state: &str, health: Value| json!({"name": "t/c", "ts": {"state": state, "health": health, "unlooked": 3}});
        let streams = [
            stream("checked", serde_json::to_value(health).expect("it is JSON")),
            stream("checked", Value::Null),
            stream("sealed", Value::Null),
            stream("not_ts", Value::Null),
        ];
        let shown = ts(&json!({"streams": streams}));
        let ends = ["7            3  2 continuity", "not seen yet", "sealed", "not TS"];
        assert!(shown.lines().skip(1).zip(ends).all(|(line, end)| line.ends_with(end)), "{shown}");
        assert_eq!(shown.lines().count(), 5);
    }

    #[test]
    fn a_route_says_what_is_used_and_what_is_ready() {
        let report = json!({
            "streams": [{
                "name": "t/c", "ingress": "a", "deadline_ms": 200.0, "epoch": 3, "label": 0x0003_0001, "mode": "auto",
                "spread": ["base"],
                "graph": [
                    {"from": "a", "to": "b", "modules": 3, "rest_ms": 5.0},
                    {"from": "a", "to": "c", "modules": 2, "rest_ms": 9.0},
                ],
            }],
            "overlay": {"link_states": [{"from": "a", "to": "b", "delay_ms": 10.5, "loss": 0.02, "late": false}]},
        });
        let text = route(&report, "t/c").expect("it is carried");
        assert!(text.contains("in force: base") && text.contains("10.5     2.00"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("a ") && line.contains(" c ") && line.ends_with("ready")));
        assert_eq!(route(&report, "t/d"), None);
    }
}
