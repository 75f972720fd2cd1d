//! The live view: what a sink says of itself, on one screen. Pure but for where the reports come from.

use crate::report::{ConnectionState, LinkReport, Report, StreamReport, StreamState};
use node::terminal::page::{mbps, percent, span, ts_words};
use node::terminal::{Page, Panel, Tone};
use std::collections::BTreeMap;

/// Over less time than this a rate says nothing.
const RATE_SPAN_S: f64 = 0.5;

/// What is shown, and what has to be remembered for it.
#[derive(Debug, Default)]
pub struct Screen {
    report: Report,
    /// Bytes released of each stream, and the rate since, as of `rated_s`.
    rates: BTreeMap<String, (u64, f64)>,
    rated_s: f64,
}

impl Screen {
    /// A newer report.
    pub fn take(&mut self, report: Report) {
        let over = report.uptime_s - self.rated_s;
        if over >= RATE_SPAN_S {
            let rate = |stream: &StreamReport| {
                let before = self.rates.get(stream.name.as_str()).map_or(0, |(bytes, _)| *bytes);
                let bytes = stream.packets.bytes;
                (stream.name.to_string(), (bytes, bytes.saturating_sub(before) as f64 * 8.0 / over))
            };
            self.rates = report.streams.iter().map(rate).collect();
            self.rated_s = report.uptime_s;
        }
        self.report = report;
    }

    /// All of it.
    pub fn page(&self) -> Page {
        let mut head = vec![connection(&self.report)];
        head.extend(self.report.link.as_ref().map(|link| (last_hop(link), Tone::Plain)));
        if let Some(why) = &self.report.connection.last_error {
            head.push((format!("last trouble: {why}"), Tone::Doubtful));
        }
        let keys = "q stop".to_owned();
        Page { head, tables: vec![self.streams(), self.losses(), outputs(&self.report)], keys }
    }

    fn streams(&self) -> Panel {
        let row = |stream: &StreamReport| {
            let rate = self.rates.get(stream.name.as_str()).map_or(0.0, |(_, rate)| *rate);
            let state = match &stream.trouble {
                Some(trouble) => format!("{}: {trouble}", state(stream)),
                None => state(stream).to_owned(),
            };
            let cells = vec![
                stream.name.to_string(),
                mbps(rate),
                percent(stream.on_time_share),
                format!("{:.0} / {:.0} of {:.0} ms", stream.arrival.p50_ms, stream.arrival.p99_ms, stream.latency_ms),
                ts_words(stream.ts.as_ref()),
                state,
            ];
            (cells, tone(stream))
        };
        let heads = vec!["STREAM", "MBIT/S", "ON TIME", "ARRIVES p50 / p99", "TRANSPORT STREAM", "STATE"];
        Panel { title: "Streams".into(), heads, rows: self.report.streams.iter().map(row).collect() }
    }

    fn losses(&self) -> Panel {
        let row = |stream: &StreamReport| {
            let packets = &stream.packets;
            let counts = [
                packets.received,
                packets.recovered_arq,
                packets.recovered_fec,
                packets.duplicates,
                packets.late,
                packets.missing,
                packets.overflow,
                packets.tampered + packets.no_key + packets.clear + packets.replayed,
            ];
            let cells = std::iter::once(stream.name.to_string()).chain(counts.map(|count| count.to_string())).collect();
            (cells, tone(stream))
        };
        let heads = vec![
            "STREAM",
            "RECEIVED",
            "BY RETRANS.",
            "BY FEC",
            "COPIES",
            "LATE",
            "UNRECOVERED",
            "NO ROOM",
            "NOT OPENED",
        ];
        Panel { title: "Packets".into(), heads, rows: self.report.streams.iter().map(row).collect() }
    }
}

fn connection(report: &Report) -> (String, Tone) {
    let connection = &report.connection;
    let relay = connection.relay.as_deref().unwrap_or("no relay");
    let since = span(connection.since_s);
    let (state, tone) = match connection.state {
        ConnectionState::Up => {
            let name = connection.name.as_deref().unwrap_or("?");
            (format!("connected to {name} ({relay}) for {since}"), Tone::Good)
        }
        ConnectionState::Connecting => (format!("connecting to {relay} for {since}"), Tone::Bad),
        ConnectionState::Stopped => ("stopped".to_owned(), Tone::Plain),
    };
    let again = connection.connections.saturating_sub(1);
    (format!("{state}; {again} reconnections; running {}", span(report.uptime_s)), tone)
}

fn last_hop(link: &LinkReport) -> String {
    format!(
        "last hop: rtt {:.1} ms, jitter p99 {:.1} ms; lost on the wire {} ({}), recovered by retransmission {}, by FEC {}, not {}",
        link.rtt_ms,
        link.jitter_p99_ms,
        percent(link.loss),
        link.wire_lost,
        link.recovered_arq,
        link.recovered_fec,
        link.unrecovered,
    )
}

fn outputs(report: &Report) -> Panel {
    let each = report.streams.iter().flat_map(|stream| stream.outputs.iter().map(move |output| (stream, output)));
    let row = |(stream, output): (&StreamReport, &crate::report::OutputReport)| {
        let (state, tone) = match (&output.stopped, output.dropped + output.errors + output.clients_dropped) {
            (Some(why), _) => (why.clone(), Tone::Bad),
            (None, 0) => ("ok".to_owned(), Tone::Plain),
            (None, _) => ("slow or failing".to_owned(), Tone::Doubtful),
        };
        let counts = [output.packets, output.dropped, output.errors, output.clients].map(|count| count.to_string());
        let cells = [output.output.clone(), stream.name.to_string()].into_iter().chain(counts).chain([state]);
        (cells.collect(), tone)
    };
    let heads = vec!["OUTPUT", "STREAM", "WRITTEN", "DROPPED", "ERRORS", "PLAYERS", "STATE"];
    Panel { title: "Outputs".into(), heads, rows: each.map(row).collect() }
}

fn state(stream: &StreamReport) -> &'static str {
    match stream.state {
        StreamState::Waiting => "waiting",
        StreamState::Live => "live",
        StreamState::Silent => "silent",
        StreamState::Ended => "ended",
        StreamState::Refused => "refused",
    }
}

fn tone(stream: &StreamReport) -> Tone {
    let missed = stream.packets.late + stream.packets.missing + stream.packets.overflow;
    match stream.state {
        StreamState::Refused | StreamState::Silent => Tone::Bad,
        _ if stream.trouble.is_some() => Tone::Bad,
        StreamState::Live if missed > 0 => Tone::Doubtful,
        StreamState::Live => Tone::Good,
        StreamState::Waiting | StreamState::Ended => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counters, OutputReport, Quantiles};
    use node::terminal::page::rendered;
    use node::ts::TsHealth;

    fn report(uptime_s: f64, bytes: u64) -> Report {
        let packets = Counters {
            received: 1000,
            bytes,
            on_time: 997,
            late: 1,
            missing: 2,
            recovered_arq: 31,
            recovered_fec: 7,
            duplicates: 5,
            ..Counters::default()
        };
        let output = |output: &str, stopped: Option<&str>| OutputReport {
            output: output.into(),
            packets: 997,
            stopped: stopped.map(str::to_owned),
            ..OutputReport::default()
        };
        let stream = StreamReport {
            name: "news/main".parse().unwrap(),
            state: StreamState::Live,
            content: Some(node::control::Content::Ts),
            latency_ms: 200.0,
            packets,
            on_time_share: packets.on_time_share(),
            release: Quantiles::default(),
            arrival: Quantiles { p50_ms: 42.0, p99_ms: 88.0, ..Quantiles::default() },
            sealed: Some(false),
            trouble: None,
            ts: Some(TsHealth { continuity_errors: 2, ..TsHealth::default() }),
            outputs: vec![output("udp://10.0.0.7:5000", None), output("file:x.ts", Some("disk full"))],
        };
        let mut report = Report { uptime_s, streams: vec![stream], ..Report::default() };
        report.connection.relay = Some("lon.example.net:4400".into());
        report
    }

    fn up(mut report: Report) -> Report {
        report.connection.state = ConnectionState::Up;
        report.connection.name = Some("lon".into());
        report.connection.connections = 2;
        report.link = Some(LinkReport {
            rtt_ms: 20.5,
            loss: 0.031,
            wire_lost: 40,
            recovered_arq: 31,
            recovered_fec: 7,
            unrecovered: 2,
            ..LinkReport::default()
        });
        report
    }

    #[test]
    fn losses_are_told_apart_and_outputs_by_their_state() {
        let mut screen = Screen::default();
        screen.take(up(report(1.0, 1_000_000)));
        screen.take(up(report(2.0, 2_000_000)));
        let shown = rendered(&screen.page(), &["a line of the log\n".into()], (130, 24)).join("\n");
        for part in [
            "connected to lon (lon.example.net:4400) for 0s; 1 reconnections; running 2s",
            "lost on the wire 3.10 % (40), recovered by retransmission 31, by FEC 7, not 2",
            "news/main  8.00    99.7000 %  42 / 88 of 200 ms  2 continuity      live",
            "news/main  1000      31           7       5       1     2            0        0",
            "udp://10.0.0.7:5000  news/main  997      0        0       0        ok",
            "file:x.ts            news/main  997      0        0       0        disk full",
            "a line of the log",
            "q stop",
        ] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }

    #[test]
    fn without_a_relay_that_stands_on_top() {
        let mut screen = Screen::default();
        let mut gone = report(5.0, 0);
        gone.connection.last_error = Some("no answer".into());
        gone.streams[0].state = StreamState::Silent;
        screen.take(gone);
        let page = screen.page();
        assert_eq!(
            page.head[0],
            ("connecting to lon.example.net:4400 for 0s; 0 reconnections; running 5s".into(), Tone::Bad)
        );
        assert_eq!(page.head[1], ("last trouble: no answer".into(), Tone::Doubtful));
        assert_eq!(page.tables[0].rows[0].1, Tone::Bad);
        Screen::default().page();
    }
}
