//! `ctl sla`: what the sinks of a relay had of a stream.

use super::{At, ask, list, number, parse, text};
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
    #[command(flatten)]
    at: At,
}

impl Cmd {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let ops = self.at.ops;
        let body = ask("GET", ops, &format!("/api/v1/sla/{}", self.stream))?;
        if self.json {
            return super::super::print(&(body + "\n"));
        }
        let sla = parse(ops, &body)?;
        super::super::print(&if self.csv { csv(&sla) } else { table(&sla) })
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
        let share = span["on_time_share"].as_f64().map_or("-".to_owned(), |share| format!("{:.5}", share * 100.0));
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
        assert!(table.contains("99.00000") && table.contains("fra->lon: 8, unknown: 2"), "{table}");
        let csv = csv(&sla);
        assert!(csv.contains("news/one,lon,hall,minute,1000,990,1,9,0,fra,lon,8\n"), "{csv}");
        assert_eq!(csv.lines().count(), 5, "a head, two of the minute, one each of hour and day");
    }
}
