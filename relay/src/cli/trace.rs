//! `ctl trace`: a stream hop by hop, as each relay on its graph has measured it.

use super::super::ask::At;
use super::{list, number, text};
use clap::Args;
use node::exit::Failure;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;
use topology::{NodeName, StreamName};

#[derive(Debug, Args)]
pub(in super::super) struct Cmd {
    /// The stream
    stream: StreamName,
    /// Only the ways to this relay
    #[arg(long, value_name = "NAME")]
    to: Option<NodeName>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: At,
}

impl Cmd {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let answer = self.at.open()?.get(&format!("/api/v1/trace/{}", self.stream))?;
        if self.json {
            return crate::cli::print(&format!("{answer}\n"));
        }
        crate::cli::print(&table(&answer, self.to.as_ref().map(NodeName::as_str)))
    }
}

/// Hops in the order of the age of what comes over them; of those to `to`, where it is given.
fn table(answer: &Value, to: Option<&str>) -> String {
    let mut out = format!(
        "{} from {}, {} ms\n",
        text(&answer["stream"]),
        text(&answer["ingress"]),
        number(&answer["deadline_ms"])
    );
    out += &format!(
        "{:<18} {:<18} {:>16} {:>7} {:>10} {:>9} {:>8} {:>6} {:>8} {:>8} {:>9}\n",
        "FROM", "TO", "ONE WAY ms", "LOSS %", "PACKETS", "REPAIRED", "COPIES", "LATE", "AGE ms", "MOST ms", "SLACK ms"
    );
    let mut hops: Vec<(&str, &Value)> = list(&answer["relays"])
        .flat_map(|relay| list(&relay["hops"]).map(|hop| (text(&relay["relay"]), hop)))
        .collect();
    hops.sort_by(|(_, a), (_, b)| age(a).total_cmp(&age(b)));
    let wanted = to.map(|to| above(&hops, to));
    for (relay, hop) in hops.iter().filter(|(relay, _)| wanted.as_ref().is_none_or(|wanted| wanted.contains(relay))) {
        let shown = |field: &str| hop[field].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let one_way = format!("{:.2} ± {:.2}", number(&hop["transit_ms"]), number(&hop["bound_ms"]));
        // Writing to a String does not fail.
        let _ = writeln!(
            out,
            "{:<18} {relay:<18} {one_way:>16} {:>7.2} {:>10} {:>9} {:>8} {:>6} {:>8} {:>8} {:>9}",
            text(&hop["from"]),
            number(&hop["loss"]) * 100.0,
            hop["received"],
            hop["repaired"],
            hop["duplicates"],
            hop["late"],
            shown("age_ms"),
            shown("most_age_ms"),
            shown("slack_ms"),
        );
    }
    for relay in list(&answer["silent"]) {
        let _ = writeln!(out, "{}: no answer within a second", text(relay));
    }
    out
}

/// `to`, and every relay from which something comes there, however far above.
fn above<'a>(hops: &[(&'a str, &'a Value)], to: &'a str) -> BTreeSet<&'a str> {
    let (mut found, mut frontier) = (BTreeSet::from([to]), vec![to]);
    while let Some(relay) = frontier.pop() {
        let from = hops.iter().filter(|(at, _)| *at == relay).map(|(_, hop)| sender(hop));
        frontier.extend(from.filter(|from| found.insert(from)));
    }
    found
}

/// The relay, or the source, that sends on a hop, whatever the link is called.
fn sender(hop: &Value) -> &str {
    let from = text(&hop["from"]);
    from.split_once('~').map_or(from, |(relay, _)| relay)
}

/// What nothing came over comes last.
fn age(hop: &Value) -> f64 {
    hop["age_ms"].as_f64().unwrap_or(f64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn answer() -> Value {
        let hop = |from: &str, age: f64| {
            json!({"from": from, "transit_ms": 10.0, "bound_ms": 0.2, "loss": 0.01, "received": 900, "repaired": 9,
                "duplicates": 0, "late": 0, "age_ms": age, "most_age_ms": age + 20.0, "slack_ms": 150.0 - age})
        };
        json!({"stream": "t/c", "ingress": "a", "deadline_ms": 200.0, "silent": ["d"], "relays": [
            {"relay": "a", "hops": [hop("camera", 1.0)]},
            {"relay": "c", "hops": [hop("b", 25.0)]},
            {"relay": "b", "hops": [hop("a", 12.0)]},
            {"relay": "x", "hops": [hop("a", 30.0)]},
        ]})
    }

    #[test]
    fn hops_are_told_in_the_order_in_which_packets_take_them_and_who_is_silent_is_named() {
        let shown = table(&answer(), None);
        let starts: Vec<&str> = shown.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
        assert_eq!(starts, ["camera", "a", "b", "a", "d:"], "{shown}");
        assert!(shown.contains("10.00 ± 0.20") && shown.contains("d: no answer"), "{shown}");
    }

    #[test]
    fn only_the_ways_to_one_relay_where_it_is_named() {
        let shown = table(&answer(), Some("c"));
        assert!(!shown.contains(" x ") && shown.contains(" b ") && shown.contains("camera"), "{shown}");
    }
}
