//! The live view: what a source says of itself, on one screen. Pure.

use crate::report::{ConnectionState, LinkReport, Report, StreamReport, StreamState};
use node::terminal::page::{mbps, percent, span, ts_words};
use node::terminal::{Page, Panel, Tone};

/// A source without input for so long has none.
const SILENT_S: f64 = 1.0;

/// All of a report.
pub fn page(report: &Report) -> Page {
    let mut head = vec![connection(report)];
    head.extend(report.link.iter().flat_map(first_hop).map(|line| (line, Tone::Plain)));
    if let Some(why) = &report.connection.last_error {
        head.push((format!("last trouble: {why}"), Tone::Doubtful));
    }
    Page { head, tables: vec![streams(report), inputs(report)], keys: "q stop: the streams end for their sinks".into() }
}

fn connection(report: &Report) -> (String, Tone) {
    let connection = &report.connection;
    let address = connection.address.as_deref().unwrap_or("no relay");
    let since = span(connection.since_s);
    let (state, tone) = match connection.state {
        ConnectionState::Connected => {
            let name = connection.relay.as_ref().map_or("?", |name| name.as_str());
            (format!("connected to {name} ({address}) for {since}"), Tone::Good)
        }
        ConnectionState::Connecting => (format!("connecting to {address} for {since}"), Tone::Bad),
        ConnectionState::Reconnecting => (format!("connecting again to {address} for {since}"), Tone::Bad),
        ConnectionState::Closed => ("stopped".to_owned(), Tone::Plain),
    };
    let again = connection.connections.saturating_sub(1);
    (format!("{state}; {again} reconnections; running {}", span(report.uptime_s)), tone)
}

fn first_hop(link: &LinkReport) -> [String; 2] {
    let stats = &link.stats;
    let wire = format!(
        "first hop: rtt {:.1} ms; lost on the wire {}; repair sent: {} retransmissions, {} of FEC, {} of the media",
        link.quality.rtt.as_secs_f64() * 1e3,
        percent(link.wire_loss_sent),
        stats.arq_packets_sent,
        stats.fec_packets_sent,
        percent(link.overhead_sent),
    );
    let [late, standing, full] = [stats.dropped_late, stats.dropped_standing, stats.dropped_queue_full];
    [wire, format!("not sent on it: {late} late, {standing} in a queue that stands, {full} without room")]
}

fn streams(report: &Report) -> Panel {
    let row = |stream: &StreamReport| {
        let counters = &stream.counters;
        let state = match &stream.trouble {
            Some(trouble) => format!("{}: {trouble}", state(stream)),
            None => state(stream).to_owned(),
        };
        let counts =
            [counters.sent, counters.resent, counters.late, counters.queue_full].map(|count| count.to_string());
        let deadline = format!("{:.0} ms", stream.deadline_ms);
        let cells = [stream.name.to_string(), mbps(stream.sent_bps as f64)].into_iter().chain(counts);
        (cells.chain([deadline, state]).collect(), tone(stream))
    };
    let heads = vec!["STREAM", "MBIT/S", "SENT", "SENT AGAIN", "LATE HERE", "NO ROOM", "DEADLINE", "STATE"];
    Panel { title: "Streams".into(), heads, rows: report.streams.iter().map(row).collect() }
}

fn inputs(report: &Report) -> Panel {
    let row = |stream: &StreamReport| {
        let input = &stream.input_counters;
        let lost = input.kernel_dropped + input.rtp_lost;
        let (silent, tone) = match stream.silent_s {
            None => ("nothing yet".to_owned(), Tone::Doubtful),
            Some(seconds) if seconds >= SILENT_S => (format!("silent for {}", span(seconds)), Tone::Bad),
            Some(_) if lost + input.oversized > 0 => ("flows".to_owned(), Tone::Doubtful),
            Some(_) => ("flows".to_owned(), Tone::Good),
        };
        let counts = [input.packets, lost, input.oversized].map(|count| count.to_string());
        let cells = [stream.input.clone(), mbps(stream.input_bps as f64)].into_iter().chain(counts);
        (cells.chain([ts_words(stream.ts.as_ref()), silent]).collect(), tone)
    };
    let heads = vec!["INPUT", "MBIT/S", "CAME", "LOST BEFORE", "TOO LARGE", "TRANSPORT STREAM", "STATE"];
    Panel { title: "Inputs".into(), heads, rows: report.streams.iter().map(row).collect() }
}

fn state(stream: &StreamReport) -> &'static str {
    match stream.state {
        StreamState::Waiting => "waiting",
        StreamState::Live => "live",
        StreamState::Refused => "refused",
        StreamState::Ended => "ended",
    }
}

fn tone(stream: &StreamReport) -> Tone {
    match stream.state {
        StreamState::Refused => Tone::Bad,
        _ if stream.trouble.is_some() => Tone::Bad,
        StreamState::Live if stream.counters.late + stream.counters.queue_full > 0 => Tone::Doubtful,
        StreamState::Live => Tone::Good,
        StreamState::Waiting | StreamState::Ended => Tone::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{InputCounters, StreamCounters};
    use node::control::{Content, Dissemination};
    use node::terminal::page::rendered;
    use node::ts::TsHealth;

    fn report() -> Report {
        let stream = StreamReport {
            name: "news/main".parse().unwrap(),
            input: "udp://:5000".into(),
            listen: None,
            state: StreamState::Live,
            trouble: None,
            incarnation: 1,
            content: Content::Ts,
            payload_epoch: None,
            mode: Dissemination::Auto,
            deadline_ms: 200.0,
            input_bps: 5_200_000,
            sent_bps: 5_100_000,
            silent_s: Some(0.01),
            input_counters: InputCounters { packets: 1000, kernel_dropped: 3, ..InputCounters::default() },
            ts: Some(TsHealth { pcr_interval_ms: Some(40.0), pcr_jitter_ms: Some(2.5), ..TsHealth::default() }),
            counters: StreamCounters { sent: 990, late: 4, ..StreamCounters::default() },
        };
        let mut report = Report { uptime_s: 75.0, streams: vec![stream], ..Report::default() };
        report.connection.address = Some("lon.example.net:4400".into());
        report
    }

    #[test]
    fn streams_and_inputs_stand_with_what_is_wrong_with_them() {
        let mut report = report();
        report.connection.state = ConnectionState::Connected;
        report.connection.relay = Some("lon".parse().unwrap());
        let shown = rendered(&page(&report), &[], (120, 20)).join("\n");
        for part in [
            "connected to lon (lon.example.net:4400) for 0s; 0 reconnections; running 1m 15s",
            "news/main  5.10    990   0           4          0        200 ms    live",
            "udp://:5000  5.20    1000  3            0          ok, PCR ≤ 40 ms ± 2.5  flows",
        ] {
            assert!(shown.contains(part), "{part:?} is not in\n{shown}");
        }
    }

    #[test]
    fn what_stands_still_is_told() {
        let mut report = report();
        report.connection.state = ConnectionState::Reconnecting;
        report.connection.last_error = Some("the relay is gone".into());
        (report.streams[0].silent_s, report.streams[0].state) = (Some(90.0), StreamState::Refused);
        report.streams[0].trouble = Some("name taken".into());
        let page = page(&report);
        assert_eq!(page.head[0].1, Tone::Bad);
        assert!(page.head[1].0.contains("the relay is gone"));
        assert_eq!((page.tables[0].rows[0].1, page.tables[1].rows[0].1), (Tone::Bad, Tone::Bad));
        assert_eq!(page.tables[0].rows[0].0[7], "refused: name taken");
        assert_eq!(page.tables[1].rows[0].0[6], "silent for 1m 30s");
        super::page(&Report::default());
    }
}
