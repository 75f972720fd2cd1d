//! `ctl sla`: what the sinks of a relay had of a stream.

use super::super::ask::At;
use super::line::percent;
use super::{list, number, text};
use clap::Args;
use node::exit::Failure;
use serde_json::Value;
use std::fmt::Write as _;
use topology::StreamName;

/// What is shown of a stream.
#[derive(Debug, Args)]
pub(in crate::cli) struct Cmd {
    /// The stream; ask the relay that its sinks are connected to
    stream: StreamName,
    /// Print the answer as JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print a line for each sink, span of time and hop, separated by commas
    #[arg(long)]
    csv: bool,
    /// Print how old packets were when they came, late ones too: how many, and which share had come by then
    #[arg(long)]
    ages: bool,
    #[command(flatten)]
    at: At,
}

impl Cmd {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let ops = self.at.open()?;
        let body = ops.ask("GET", &format!("/api/v1/sla/{}", self.stream))?;
        if self.json {
            return super::super::print(&(body + "\n"));
        }
        let sla = ops.parse(&body)?;
        super::super::print(&match (self.ages, self.csv) {
            (false, false) => table(&sla),
            (false, true) => csv(&sla),
            (true, csv) => ages(&sla, csv),
        })
    }
}

const SPANS: [&str; 3] = ["minute", "hour", "day"];

/// Every sink and span of an answer.
fn spans(sla: &Value) -> impl Iterator<Item = (&str, &'static str, &Value)> {
    list(&sla["sinks"]).flat_map(|sink| SPANS.map(|name| (text(&sink["sink"]), name, &sink[name])))
}

/// The counts of a span, in the order of the columns.
fn counts(span: &Value) -> [u64; 5] {
    ["due", "on_time", "late", "missing", "overflow"].map(|key| span[key].as_u64().unwrap_or(0))
}

fn table(sla: &Value) -> String {
    let mut out = format!(
        "{:<24} {:<7} {:>12} {:>11} {:>9} {:>9} {:>9}  {}\n",
        "SINK", "OVER", "DUE", "ON TIME %", "LATE", "MISSING", "OVERFLOW", "LOST ON"
    );
    for (sink, name, span) in spans(sla) {
        let [due, _, late, missing, overflow] = counts(span);
        let share = percent(&span["on_time_share"], 5);
        let hop = |hop: &Value| format!("{}->{}: {}", text(&hop["from"]), text(&hop["to"]), hop["packets"]);
        let mut lost: Vec<String> = list(&span["hops"]).map(hop).collect();
        if number(&span["unknown"]) > 0.0 {
            lost.push(format!("unknown: {}", span["unknown"]));
        }
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{sink:<24} {name:<7} {due:>12} {share:>11} {late:>9} {missing:>9} {overflow:>9}  {}",
            lost.join(", ")
        );
    }
    out
}

/// Names hold no comma.
fn csv(sla: &Value) -> String {
    let mut out = "stream,relay,sink,over,due,on_time,late,missing,overflow,hop_from,hop_to,hop_packets\n".to_owned();
    for (sink, name, span) in spans(sla) {
        let counts = counts(span).map(|count| count.to_string()).join(",");
        let head = format!("{},{},{sink},{name},{counts}", text(&sla["stream"]), text(&sla["relay"]));
        for hop in list(&span["hops"]) {
            let _ = writeln!(out, "{head},{},{},{}", text(&hop["from"]), text(&hop["to"]), hop["packets"]);
        }
        let _ = writeln!(out, "{head},unknown,unknown,{}", span["unknown"]);
    }
    out
}

/// The histogram of each span that has one. In the table, classes older than any packet are left out.
fn ages(sla: &Value, csv: bool) -> String {
    let mut out = match csv {
        true => "stream,relay,sink,over,up_to_ms,packets\n".to_owned(),
        false => format!("{:<24} {:<7} {:>9} {:>12} {:>14}\n", "SINK", "OVER", "UP TO ms", "PACKETS", "COME BY THEN %"),
    };
    for (sink, name, span) in spans(sla) {
        let classes: Vec<(&Value, u64)> =
            list(&span["ages"]).map(|class| (&class["up_to_ms"], class["packets"].as_u64().unwrap_or(0))).collect();
        let all = classes.iter().fold(0u64, |sum, (_, packets)| sum.saturating_add(*packets));
        let mut come = 0u64;
        for (up_to, packets) in classes {
            let before = come;
            come = come.saturating_add(packets);
            if csv {
                let up_to = up_to.as_u64().map_or("inf".to_owned(), |ms| ms.to_string());
                let _ =
                    writeln!(out, "{},{},{sink},{name},{up_to},{packets}", text(&sla["stream"]), text(&sla["relay"]));
            } else if come > 0 && before < all {
                let share = percent(&Value::from(come as f64 / all as f64), 5);
                let up_to = up_to.as_u64().map_or("older".to_owned(), |ms| ms.to_string());
                let _ = writeln!(out, "{sink:<24} {name:<7} {up_to:>9} {packets:>12} {share:>14}");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_shares_and_hops() {
        let quiet = json!({"due": 0, "on_time": 0, "late": 0, "missing": 0, "overflow": 0, "on_time_share": null, "hops": [], "unknown": 0});
        let minute = json!({
            "due": 1000, "on_time": 990, "late": 1, "missing": 9, "overflow": 0, "on_time_share": 0.99,
            "hops": [{"from": "fra", "to": "lon", "packets": 8}], "unknown": 2
        });
        let sink = json!({"sink": "hall", "minute": minute, "hour": quiet, "day": quiet});
        let sla = json!({"stream": "news/one", "relay": "lon", "sinks": [sink]});
        let table = table(&sla);
        let missed_one = json!({"due": 86_400_000, "on_time": 86_399_999, "late": 0, "missing": 1, "overflow": 0,
            "on_time_share": 86_399_999.0 / 86_400_000.0, "hops": [], "unknown": 1});
        let sink = json!({"sink": "hall", "minute": quiet, "hour": quiet, "day": missed_one});
        let day = self::table(&json!({"stream": "news/one", "relay": "lon", "sinks": [sink]}));
        assert!(day.contains("99.99999") && !day.contains("100.0"), "what is not all is not shown as all: {day}");
        assert!(table.contains("99.00000") && table.contains("fra->lon: 8, unknown: 2"), "{table}");
        let csv = csv(&sla);
        assert!(csv.contains("news/one,lon,hall,minute,1000,990,1,9,0,fra,lon,8\n"), "{csv}");
        assert_eq!(csv.lines().count(), 5, "a head, two of the minute, one each of hour and day");
    }

    #[test]
    fn shows_how_old_packets_were() {
        let class = |up_to_ms: Option<u16>, packets: u64| json!({"up_to_ms": up_to_ms, "packets": packets});
        let minute = json!({"ages": [class(Some(20), 0), class(Some(30), 900), class(Some(40), 0), class(Some(50), 99),
            class(Some(65), 0), class(None, 1)]});
        let hour = json!({"ages": [class(Some(20), 0), class(Some(30), 5), class(Some(40), 0), class(None, 0)]});
        let sink = json!({"sink": "hall", "minute": minute, "hour": hour, "day": {"ages": []}});
        let sla = json!({"stream": "news/one", "relay": "lon", "sinks": [sink]});
        let table = ages(&sla, false);
        let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[1], ["hall", "minute", "30", "900", "90.00000"]);
        assert_eq!(rows[5], ["hall", "minute", "older", "1", "100.00000"]);
        assert_eq!((rows.len(), &rows[6][..]), (7, &["hall", "hour", "30", "5", "100.00000"][..]), "{table}");
        let csv = ages(&sla, true);
        assert!(csv.contains("news/one,lon,hall,minute,50,99\n") && csv.contains(",minute,inf,1\n"), "{csv}");
        assert_eq!(csv.lines().count(), 11);
    }
}
