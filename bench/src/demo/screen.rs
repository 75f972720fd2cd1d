//! The demo on the terminal: one screen redrawn in place, lines where there is no terminal, JSON where asked.

use super::collect::{Frame, LinkRow, SinkRow};
use std::io::{IsTerminal, Write};

/// Where frames go.
pub(super) struct Screen {
    style: Style,
    drawn: usize,
    events: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Live,
    Lines,
    Json,
}

impl Screen {
    pub(super) fn new(json: bool) -> Screen {
        let live = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let style = match (json, live) {
            (true, _) => Style::Json,
            (false, true) => Style::Live,
            (false, false) => Style::Lines,
        };
        Screen { style, drawn: 0, events: 0 }
    }

    /// Whether it is redrawn in place.
    pub(super) fn is_live(&self) -> bool {
        self.style == Style::Live
    }

    /// Shows a frame. A reader that went away is no reason to stop.
    pub(super) fn show(&mut self, frame: &Frame) {
        let _ = match self.style {
            Style::Live => self.draw(&render(frame)),
            Style::Lines => self.lines(frame),
            Style::Json => json(frame, "interval"),
        };
    }

    /// Shows the last frame, to stay.
    pub(super) fn finish(&mut self, frame: &Frame) {
        let _ = match self.style {
            Style::Live => self.draw(&render(frame)),
            Style::Lines => print(&render(frame)),
            Style::Json => json(frame, "summary"),
        };
        if self.style != Style::Json && frame.trouble().is_none() {
            println!("\nEvery packet arrived in time at every sink: nothing lost, nothing late.");
        }
    }

    fn draw(&mut self, lines: &[String]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.drawn > 0 {
            write!(out, "\x1b[{}A", self.drawn)?;
        }
        for line in lines {
            writeln!(out, "{line}\x1b[K")?;
        }
        // A shorter frame leaves nothing of the longer one before it.
        write!(out, "\x1b[J")?;
        self.drawn = lines.len();
        out.flush()
    }

    fn lines(&mut self, frame: &Frame) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        if self.drawn == 0
            && let Some(url) = &frame.url
        {
            writeln!(out, "Watch it: {url}  (VLC, ffplay or a browser)")?;
            self.drawn = 1;
        }
        for (at, what) in frame.events.iter().skip(self.events) {
            writeln!(out, "{at:7.1} s  {what}")?;
        }
        self.events = frame.events.len();
        for sink in &frame.sinks {
            let SinkRow { name, on_time, lost, late, p50_ms, p99_ms, .. } = sink;
            writeln!(
                out,
                "{:7.1} s  {name}: {on_time} on time, {lost} lost, {late} late; latency {p50_ms:.0} ms, 99 % {p99_ms:.0} ms",
                frame.seconds
            )?;
        }
        out.flush()
    }
}

fn print(lines: &[String]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

fn json(frame: &Frame, kind: &str) -> std::io::Result<()> {
    #[derive(serde::Serialize)]
    struct Line<'a> {
        kind: &'a str,
        #[serde(flatten)]
        frame: &'a Frame,
        complete: bool,
    }
    let mut out = std::io::stdout().lock();
    serde_json::to_writer(&mut out, &Line { kind, frame, complete: frame.trouble().is_none() })?;
    writeln!(out)
}

/// The screen, in lines of at most 79 characters.
pub(super) fn render(frame: &Frame) -> Vec<String> {
    let mut lines = vec![
        format!(
            "Anabranch: {} packets sent in {:.0} s, to be played {:.0} ms later",
            frame.sent, frame.seconds, frame.deadline_ms
        ),
        String::new(),
        "link            delay  lost on    media lost after    repair    recovered".into(),
        "                      the wire   frames     repair  overhead   asked/ahead".into(),
    ];
    lines.extend(frame.links.iter().map(link_line));
    lines.push(String::new());
    lines.push("sink       on time  lost  late  latency p50/p99  last hop asked/ahead  breaks".into());
    lines.extend(frame.sinks.iter().map(sink_line));
    lines.push(String::new());
    if let Some(url) = &frame.url {
        lines.push(format!("Watch it: {url}  (VLC, ffplay or a browser)"));
    }
    if frame.emulator_lag_ms > 5.0 {
        let lag = frame.emulator_lag_ms;
        lines.push(format!("This machine is busy: emulated links add up to {lag:.0} ms of their own."));
    }
    lines.push("Script: par-mil goes dead for 5 s at 10 s, 30 s, 50 s, … Ctrl-C ends it.".into());
    let happened = frame.events.iter().rev().take(3).rev();
    lines.extend(happened.map(|(at, what)| format!("{at:7.1} s  {what}")));
    for line in &mut lines {
        if line.chars().count() > 79 {
            *line = line.chars().take(79).collect();
        }
    }
    lines
}

fn link_line(link: &LinkRow) -> String {
    let name = format!("{} > {}", link.from, link.to);
    let delay = if link.dead { "DEAD ".into() } else { format!("{:2.0} ms", link.delay_ms) };
    format!(
        "{name:<15} {delay:>5} {:>6.2} % {:>8} {:>8.4} % {:>7.2} % {:>7}/{:<6}",
        link.wire_loss * 100.0,
        link.media,
        link.residual * 100.0,
        link.overhead * 100.0,
        link.recovered_arq,
        link.recovered_fec
    )
}

fn sink_line(sink: &SinkRow) -> String {
    format!(
        "{:<9}{:>8.3} % {:>5} {:>5}  {:>5.1}/{:<5.1} ms {:>12}/{:<7} {:>7}",
        sink.name,
        sink.on_time_share * 100.0,
        sink.lost,
        sink.late,
        sink.p50_ms,
        sink.p99_ms,
        sink.recovered_arq,
        sink.recovered_fec,
        sink.ts.discontinuities + sink.ts.malformed
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tscheck::TsReport;

    fn frame() -> Frame {
        let link = LinkRow {
            from: "fra".into(),
            to: "sink-fra".into(),
            delay_ms: 10.0,
            wire_loss: 0.0312,
            media: 1_234_567,
            residual: 0.0,
            overhead: 0.1234,
            recovered_arq: 123_456,
            recovered_fec: 12_345,
            ..LinkRow::default()
        };
        let sink = SinkRow {
            name: "sink-fra".into(),
            on_time: 1_234_567,
            on_time_share: 1.0,
            p50_ms: 32.1,
            p99_ms: 178.9,
            recovered_arq: 123_456,
            recovered_fec: 1234,
            ts: TsReport { packets: 10_000_000, ..TsReport::default() },
            ..SinkRow::default()
        };
        Frame {
            seconds: 3600.0,
            sent: 1_234_567,
            deadline_ms: 200.0,
            links: vec![link; 9],
            sinks: vec![sink.clone(), sink],
            events: vec![(10.0, "par-mil goes dead".into()); 9],
            url: Some("http://127.0.0.1:8080/live.ts".into()),
            emulator_lag_ms: 0.1,
        }
    }

    #[test]
    fn it_fits_a_terminal_of_80_by_24_and_aligns() {
        let lines = render(&frame());
        assert!(lines.len() <= 24, "{}", lines.len());
        let long: Vec<_> = lines.iter().filter(|line| line.chars().count() > 78).collect();
        assert!(long.is_empty(), "{long:#?}");
        let widths: Vec<_> = lines[4..13].iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]));
    }

    #[test]
    fn trouble_says_where() {
        let mut frame = frame();
        assert_eq!(frame.trouble(), None);
        frame.sinks[1].lost = 3;
        frame.links[2].unrecovered = 5;
        frame.links[2].from = "lon".into();
        frame.links[2].to = "par".into();
        let said = frame.trouble().unwrap();
        assert_eq!(said, "not whole. sink-fra: 3 packets lost, 0 late. Given up by hops: 5 on lon > par");
    }
}
