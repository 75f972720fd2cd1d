//! `ctl`: asking a running relay.

#[path = "events.rs"]
mod events;
#[path = "line.rs"]
mod line;
#[path = "link.rs"]
mod link;
#[path = "sla.rs"]
mod sla;
#[path = "trace.rs"]
mod trace;
#[path = "views.rs"]
mod views;

use super::ask::At;
use clap::{Args, Subcommand};
use node::exit::{Exit, Failure};
use serde_json::Value;
use std::fmt::Write as _;
use std::time::Duration;

#[derive(Debug, Subcommand)]
pub(super) enum Ctl {
    /// Print how the relay, its links and its streams are
    Status(Status),
    /// Print the repair in force on this relay's links, with what it costs and brings, and the links of the whole overlay
    Links(Status),
    /// Change the repair of one link, live
    #[command(subcommand)]
    Link(link::Link),
    /// Print round trip and one-way delay of this relay's links, with their bounds
    Rtt(Status),
    /// Print the graph of a stream: which modules are in force, and each edge with its delay, loss and slack
    Route(Route),
    /// Ask every relay on a stream's graph how the stream comes there: delay, loss, repair, age and slack of each hop
    Trace(trace::Cmd),
    /// Print how the transport streams that pass here are: sync, tables, continuity, clock references (ETSI TR 101 290)
    Ts(Status),
    /// Print what may still be admitted to each link of the overlay whose capacity is known
    Capacity(Status),
    /// Print what came in at the relay by each token, and what its streams used
    Usage(Status),
    /// Take streams off this relay, or off one of its links, without losing a packet; for maintenance
    Drain(Drain),
    /// Print what each sink at the relay had of a stream over the last minute, hour and day, and where the rest was lost
    Sla(sla::Cmd),
    /// Send test packets from one relay to another, and print what would have been delivered by which deadline; before an event
    Test(line::Cmd),
    /// Print what changes, as it changes, until Ctrl-C: links, streams, subscriptions, policies, reloads, peers
    Events(events::Events),
    /// Read the configuration anew, as SIGHUP does, and print what that changed; a file with a mistake changes nothing
    Reload(Reload),
}

#[derive(Debug, Args)]
pub(super) struct Reload {
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(super) struct Status {
    #[command(flatten)]
    at: At,
    /// Print the whole report as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub(super) struct Route {
    /// The stream; ask its ingress to see what is in force
    stream: String,
    #[command(flatten)]
    at: At,
}

#[derive(Debug, Args)]
pub(super) struct Drain {
    /// Only the link to this neighbour; with several links to it NEIGHBOUR~LINK
    #[arg(long, value_name = "LINK")]
    link: Option<topology::LinkEnd>,
    /// Let streams on again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    at: At,
}

impl Ctl {
    pub(super) fn execute(self) -> Result<(), Failure> {
        let (at, json, view): (At, bool, fn(&Value) -> String) = match self {
            Ctl::Status(status) => (status.at, status.json, summary),
            Ctl::Links(status) => (status.at, status.json, views::links),
            Ctl::Ts(status) => (status.at, status.json, views::ts),
            Ctl::Rtt(status) => (status.at, status.json, views::rtt),
            Ctl::Capacity(status) => (status.at, status.json, views::capacity),
            Ctl::Usage(status) => (status.at, status.json, views::usage),
            Ctl::Trace(trace) => return trace.execute(),
            Ctl::Route(route) => return route.execute(),
            Ctl::Drain(drain) => return drain.execute(),
            Ctl::Link(link) => return link.execute(),
            Ctl::Reload(reload) => return reload.execute(),
            Ctl::Events(events) => return events.execute(),
            Ctl::Sla(sla) => return sla.execute(),
            Ctl::Test(test) => return test.execute(),
        };
        let ops = at.open()?;
        let body = ops.ask("GET", "/api/v1/status")?;
        if json {
            return super::print(&(body + "\n"));
        }
        super::print(&view(&ops.parse(&body)?))
    }
}

impl Route {
    fn execute(self) -> Result<(), Failure> {
        let ops = self.at.open()?;
        match views::route(&ops.get("/api/v1/status")?, &self.stream) {
            Some(text) => super::print(&text),
            None => Err(ops.unavailable(&format!("it does not carry {}", self.stream))),
        }
    }
}

impl Drain {
    fn execute(self) -> Result<(), Failure> {
        let act = if self.undo { "resume" } else { "drain" };
        let link = self.link.map(|link| format!("?link={link}")).unwrap_or_default();
        let ops = self.at.open()?;
        let answer = ops.parse(&ops.ask("POST", &format!("/api/v1/{act}{link}"))?)?;
        super::print(if answer["changed"] == true { "done\n" } else { "nothing to do: it is so already\n" })
    }
}

impl Reload {
    fn execute(self) -> Result<(), Failure> {
        let ops = self.at.open()?;
        let answer = node::host::block_on_local(ops.request("POST", "/api/v1/reload", None))?;
        if answer.status == 422 {
            return Err(Failure::new(Exit::Config, answer.why()));
        }
        super::print(&views::reloaded(&ops.parse(&answer.good(&ops)?.body)?))
    }
}

/// A report in a screenful.
fn summary(report: &Value) -> String {
    let mut out = String::new();
    let state = match (&report["draining"], &report["ready"]) {
        (Value::Bool(true), _) => "draining",
        (_, Value::Bool(true)) => "ready",
        _ => "starting",
    };
    let overlay = &report["overlay"];
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "relay {} {state}, up {}; overlay: {} relays, {} links, {} streams",
        text(&report["name"]),
        humantime::format_duration(Duration::from_secs(report["uptime_s"].as_f64().unwrap_or(0.0) as u64)),
        overlay["relays"].as_array().map_or(0, Vec::len),
        overlay["links"],
        overlay["streams"],
    );
    for neighbour in
        list(&report["neighbours"]).filter(|neighbour| neighbour["state"] != "up" && neighbour["state"] != "itself")
    {
        let link = neighbour["link"].as_str().map_or_else(String::new, |link| format!("~{link}"));
        let who = format!("{}{link} {}", text(&neighbour["name"]), text(&neighbour["address"]));
        let _ = writeln!(out, "neighbour {who}: {} {}", text(&neighbour["state"]), text(&neighbour["last_error"]));
    }
    let _ = writeln!(
        out,
        "\n{:<24} {:<7} {:>8} {:>9} {:>9} {:>10} {:>9}",
        "LINK", "ROLE", "RTT ms", "LOSS out%", "LOSS in%", "RESIDUAL", "REPAIR %"
    );
    for link in list(&report["links"]) {
        let _ = writeln!(
            out,
            "{:<24} {:<7} {:>8.1} {:>9.2} {:>9.2} {:>10.1e} {:>9.1}",
            text(&link["peer"]),
            text(&link["role"]),
            rtt_ms(link),
            number(&link["wire_loss_sent"]) * 100.0,
            number(&link["wire_loss_received"]) * 100.0,
            number(&link["residual_received"]),
            number(&link["overhead_sent"]) * 100.0,
        );
    }
    let _ = writeln!(
        out,
        "\n{:<32} {:<16} {:>5} {:>12} {:>10} {:>10} {:>8} {:>12}",
        "STREAM", "INGRESS", "SINKS", "PACKETS", "COPIES", "OTHER WAY", "LATE", "FORWARDED"
    );
    for stream in list(&report["streams"]) {
        let counters = &stream["counters"];
        let _ = writeln!(
            out,
            "{:<32} {:<16} {:>5} {:>12} {:>10} {:>10} {:>8} {:>12}",
            text(&stream["name"]),
            text(&stream["ingress"]),
            stream["subscribers"],
            counters["unique"],
            counters["duplicates"],
            counters["recovered_other_way"],
            counters["late"],
            counters["forwarded"],
        );
    }
    out
}

pub(super) use views::ts_words;

pub(super) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

pub(super) fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

fn rtt_ms(link: &Value) -> f64 {
    let rtt = &link["quality"]["rtt"];
    number(&rtt["secs"]) * 1e3 + number(&rtt["nanos"]) / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Report;

    #[test]
    fn sums_up_a_report() {
        let report = Report { name: "fra".into(), ready: true, uptime_s: 75.2, ..Report::default() };
        let value = serde_json::to_value(&report).expect("a report is JSON");
        let text = summary(&value);
        assert!(text.starts_with("relay fra ready, up 1m 15s; overlay: 0 relays, 0 links, 0 streams\n"), "{text}");
        assert!(text.contains("STREAM"));
    }
}
