//! `ctl test`: what a stream from one relay to another would get, before there is one.

use super::super::ask::{At, Ops};
use super::{list, number, text};
use crate::line::Ask;
use clap::Args;
use link::Bitrate;
use node::exit::{Exit, Failure};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Duration;
use topology::NodeName;

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Where progress goes to no terminal, how often it is told.
const TELL_EVERY: u32 = 20;

/// What is tested.
#[derive(Debug, Args)]
pub(in crate::cli) struct Cmd {
    /// The relay that sends: the one whose operations port is asked
    from: NodeName,
    /// The relay that receives; any of the overlay
    to: NodeName,
    /// Payload to send, such as 20M or "20 Mbit/s": what the stream will have
    #[arg(long, value_name = "RATE", value_parser = crate::config::parse_rate)]
    rate: Bitrate,
    /// For how long, 10 min at most
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = super::super::duration)]
    duration: Duration,
    /// The one-way deadline that routes and repair work for
    #[arg(long, value_name = "TIME", default_value = "200ms", value_parser = super::super::duration)]
    deadline: Duration,
    /// Bytes of each payload; seven packets of a transport stream by default
    #[arg(long, value_name = "BYTES", default_value_t = Ask::PACKET_SIZE)]
    packet_size: u16,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

impl Cmd {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let ask = Ask {
            to: self.to.clone(),
            rate: self.rate,
            duration: self.duration,
            deadline: self.deadline,
            packet_size: self.packet_size,
        };
        ask.check().map_err(|what| Failure::new(Exit::Usage, what))?;
        node::host::block_on_local(self.run())
    }

    async fn run(self) -> Result<(), Failure> {
        let ops = self.at.open()?;
        // To test from another relay than was meant would mislead.
        let status = get(&ops, "/api/v1/status").await?;
        if text(&status["name"]) != self.from.as_str() {
            let what = format!("this is relay {}: ask relay {} at its own (--ops)", text(&status["name"]), self.from);
            return Err(Failure::new(Exit::Refused, format!("operations port {ops}: {what}")));
        }
        let body = json!({
            "to": self.to.as_str(),
            "rate": format!("{} bit/s", self.rate.as_bps()),
            "duration_s": self.duration.as_secs_f64(),
            "deadline_ms": self.deadline.as_secs_f64() * 1e3,
            "packet_size": self.packet_size,
        });
        ops.parse(&ops.request("POST", "/api/v1/test", Some(&body)).await?.good(&ops)?.body)?;
        let test = follow(&ops).await?;
        if self.json {
            super::super::print(&format!("{test}\n"))?;
        } else {
            super::super::print(&result(&test))?;
        }
        match text(&test["stage"]) {
            "failed" => Err(Failure::new(Exit::Refused, format!("the test failed: {}", text(&test["reason"])))),
            _ => Ok(()),
        }
    }
}

async fn get(ops: &Ops, path: &str) -> Result<Value, Failure> {
    ops.parse(&ops.request("GET", path, None).await?.good(ops)?.body)
}

/// Shows how it goes until it is over. Ctrl-C ends it, and what was sent until then is accounted for; a second one leaves it to the relay.
async fn follow(ops: &Ops) -> Result<Value, Failure> {
    let mut looks = tokio::time::interval(LOOK);
    let mut stopped = false;
    let on_terminal = std::io::stderr().is_terminal();
    let mut interrupted = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())
        .map_err(|error| Failure::new(Exit::Software, format!("Ctrl-C cannot be caught: {error}")))?;
    for nth in 0u32.. {
        tokio::select! {
            _ = looks.tick() => {}
            _ = interrupted.recv() => {
                ops.request("DELETE", "/api/v1/test", None).await?.good(ops)?;
                if std::mem::replace(&mut stopped, true) {
                    return Err(Failure::new(Exit::Software, "left; the relay ends the test by itself"));
                }
            }
        }
        let test = get(ops, "/api/v1/test").await?;
        let over = ["done", "stopped", "failed"].contains(&text(&test["stage"]));
        // Nothing is lost where standard error cannot be written to.
        let _ = match on_terminal {
            true => write!(std::io::stderr(), "\r{}\x1b[K{}", progress(&test), if over { "\n" } else { "" }),
            false if over || nth.is_multiple_of(TELL_EVERY) => writeln!(std::io::stderr(), "{}", progress(&test)),
            false => Ok(()),
        };
        if over {
            return Ok(test);
        }
    }
    unreachable!("a test has an end before these numbers have")
}

pub(super) fn percent(share: &Value, digits: usize) -> String {
    match share.as_f64() {
        // What is not all is not shown as all.
        Some(share) if share < 1.0 => {
            let scale = 10f64.powi(digits as i32 + 2);
            format!("{:.digits$}", (share * scale).floor() / (scale / 100.0))
        }
        Some(_) => format!("{:.digits$}", 100.0),
        None => "-".to_owned(),
    }
}

/// One line while it runs.
fn progress(test: &Value) -> String {
    let last = list(&test["delivered"]).last().unwrap_or(&Value::Null);
    format!(
        "{} -> {} {}: {:.0} of {:.0} s, {} sent, {} missing, {} % by {} ms, delay p50 {:.1} p99 {:.1} ms",
        text(&test["from"]),
        text(&test["to"]),
        text(&test["stage"]),
        number(&test["elapsed_s"]),
        number(&test["duration_s"]),
        test["sent"],
        test["missing"],
        percent(&last["share"], 4),
        number(&last["deadline_ms"]),
        number(&test["delay"]["p50_ms"]),
        number(&test["delay"]["p99_ms"]),
    )
}

/// What came of it.
fn result(test: &Value) -> String {
    let mut out = format!(
        "{} -> {}: {}, {:.2} Mbit/s of {} bytes for {:.1} s, deadline {} ms\n\
         {} packets sent, {} delivered in time, {} missing\n",
        text(&test["from"]),
        text(&test["to"]),
        text(&test["stage"]),
        number(&test["rate"]) / 1e6,
        test["packet_size"],
        number(&test["elapsed_s"]),
        number(&test["deadline_ms"]),
        test["sent"],
        test["received"],
        test["missing"],
    );
    // Writing to a String does not fail.
    if number(&test["not_sent"]) > 0.0 {
        let _ =
            writeln!(out, "{} packets not sent: the machine of {} was too slow", test["not_sent"], text(&test["from"]));
    }
    let delay = &test["delay"];
    let _ = writeln!(
        out,
        "delay least {:.1}, p50 {:.1}, p99 {:.1}, p99.9 {:.1}, most {:.1} ms; jitter {:.2} ms (RFC 3550)",
        number(&delay["least_ms"]),
        number(&delay["p50_ms"]),
        number(&delay["p99_ms"]),
        number(&delay["p999_ms"]),
        number(&delay["most_ms"]),
        number(&delay["jitter_ms"]),
    );
    let _ = writeln!(out, "\n{:>11} {:>12} {:>12}", "DEADLINE ms", "DELIVERED", "SHARE %");
    let rows: Vec<&Value> = list(&test["delivered"]).collect();
    // Deadlines that nothing can meet say nothing but that; one of them is enough.
    let first = rows.iter().position(|row| number(&row["packets"]) > 0.0).unwrap_or(0).saturating_sub(1);
    for (nth, row) in rows.iter().enumerate().skip(first) {
        // From where all had come, the deadline asked for is enough.
        if nth > first && nth + 1 < rows.len() && rows[nth - 1]["packets"] == test["received"] {
            continue;
        }
        let _ = writeln!(
            out,
            "{:>11} {:>12} {:>12}",
            number(&row["deadline_ms"]),
            row["packets"].to_string(),
            percent(&row["share"], 5)
        );
    }
    let _ = writeln!(out, "\n{:<24} {:>9} {:>9} {:>9} {:>9}  USED", "HOP", "DELAY ms", "LOST %", "LEFT %", "REPAIR %");
    for hop in list(&test["hops"]) {
        let name = format!("{} -> {}", text(&hop["from"]), text(&hop["to"]));
        let _ = writeln!(
            out,
            "{name:<24} {:>9.1} {:>9} {:>9} {:>9}  {}",
            number(&hop["delay_ms"]),
            percent(&hop["lost"], 2),
            percent(&hop["left"], 4),
            percent(&hop["overhead"], 1),
            if hop["used"] == true { "yes" } else { "ready" },
        );
    }
    out += super::views::ONE_WAY;
    let _ = writeln!(out, "{:.2} transmissions for each packet", number(&test["transmissions_per_packet"]));
    let hop = |hop: &Value| format!("{}->{}: {}", text(&hop["from"]), text(&hop["to"]), hop["packets"]);
    let mut lost: Vec<String> = list(&test["lost"]).map(hop).collect();
    if number(&test["lost_unknown"]) > 0.0 {
        lost.push(format!("unknown: {}", test["lost_unknown"]));
    }
    if !lost.is_empty() {
        let _ = writeln!(out, "missing packets were lost on {}", lost.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_all_is_not_shown_as_all() {
        assert_eq!(percent(&json!(1.0), 4), "100.0000");
        assert_eq!(percent(&json!(0.999_999_99), 4), "99.9999");
        assert_eq!(percent(&Value::Null, 4), "-");
    }

    #[test]
    fn a_result_says_what_would_have_been_delivered_and_where_the_rest_was_lost() {
        let test = json!({
            "from": "fra", "to": "lon", "stage": "done", "reason": null, "rate": 20_000_000, "duration_s": 60.0,
            "deadline_ms": 200.0, "packet_size": 1316, "elapsed_s": 60.0, "sent": 1000, "not_sent": 2, "received": 998,
            "missing": 2,
            "delivered": [
                {"deadline_ms": 5.0, "packets": 0, "share": 0.0}, {"deadline_ms": 10.0, "packets": 0, "share": 0.0},
                {"deadline_ms": 65.0, "packets": 950, "share": 0.95}, {"deadline_ms": 150.0, "packets": 998, "share": 0.998},
                {"deadline_ms": 175.0, "packets": 998, "share": 0.998}, {"deadline_ms": 200.0, "packets": 998, "share": 0.998},
            ],
            "delay": {"least_ms": 19.0, "p50_ms": 20.0, "p99_ms": 80.0, "p999_ms": 120.0, "most_ms": 150.0, "jitter_ms": 3.0},
            "hops": [{"from": "fra", "to": "lon", "used": true, "delay_ms": 20.0, "lost": 0.05, "left": 0.002, "overhead": 0.06}],
            "lost": [{"from": "fra", "to": "lon", "packets": 1}], "lost_unknown": 1, "transmissions_per_packet": 1.06,
        });
        let shown = result(&test);
        for part in ["998 delivered in time, 2 missing", "p99 80.0", "fra->lon: 1, unknown: 1", "1.06 transmissions"] {
            assert!(shown.contains(part), "{part}: {shown}");
        }
        assert!(!shown.lines().any(|line| line.trim_start().starts_with("5 ")), "{shown}");
        assert!(
            shown.lines().any(|line| line.trim_start().starts_with("65 ") && line.ends_with("95.00000")),
            "{shown}"
        );
        assert!(
            shown.contains("        150          998     99.80000\n        200          998     99.80000\n"),
            "{shown}"
        );
        assert!(progress(&test).contains("99.8000 % by 200 ms"), "{}", progress(&test));
    }
}
