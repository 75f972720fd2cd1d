//! What the demo shows: one [`Frame`] per look, made from the reports of all programs and the emulator's counters.

use super::{Demo, DemoSink, INGRESS, LINKS, STREAM};
use crate::emulator::{DirectionSnapshot, Snapshot};
use crate::rig::Rig;
use crate::tscheck::TsReport;
use link::stats::LinkStats;
use node::exit::{Exit, Failure};
use serde::Serialize;
use std::collections::BTreeMap;

/// Everything at one moment. Counters run since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Frame {
    pub(super) seconds: f64,
    /// Packets the source has sent.
    pub(super) sent: u64,
    pub(super) deadline_ms: f64,
    pub(super) links: Vec<LinkRow>,
    pub(super) sinks: Vec<SinkRow>,
    /// What has happened, with the time of it.
    pub(super) events: Vec<(f64, String)>,
    /// Where players fetch the stream.
    pub(super) url: Option<String>,
    /// How late the emulator itself is, 99 % quantile: figures of a starved machine say little.
    pub(super) emulator_lag_ms: f64,
}

/// One direction of one link: the one that carries the stream.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct LinkRow {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) delay_ms: f64,
    /// Whether the script has it dead now.
    pub(super) dead: bool,
    /// Datagrams offered to the wire, and share of them that did not come out, dead times apart.
    pub(super) datagrams: u64,
    pub(super) wire_loss: f64,
    /// Media packets first sent on it.
    pub(super) media: u64,
    /// Media packets that stayed lost after repair, and their share.
    pub(super) unrecovered: u64,
    pub(super) residual: f64,
    /// Repair bytes as a share of media bytes.
    pub(super) overhead: f64,
    pub(super) recovered_arq: u64,
    pub(super) recovered_fec: u64,
}

/// One sink.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct SinkRow {
    pub(super) name: String,
    pub(super) on_time: u64,
    pub(super) lost: u64,
    pub(super) late: u64,
    pub(super) on_time_share: f64,
    /// From the source's receipt to the arrival here.
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// From the source's receipt to playout.
    pub(super) release_ms: f64,
    /// Repaired on its last hop.
    pub(super) recovered_arq: u64,
    pub(super) recovered_fec: u64,
    /// What a checker found in what the sink put out.
    pub(super) ts: TsReport,
    pub(super) connections: u64,
}

impl Frame {
    /// What went wrong, in a sentence; `None` where every packet arrived in time.
    pub(super) fn trouble(&self) -> Option<String> {
        let mut said = Vec::new();
        for sink in &self.sinks {
            let SinkRow { name, lost, late, ts, .. } = sink;
            if lost + late > 0 {
                said.push(format!("{name}: {lost} packets lost, {late} late"));
            } else if sink.on_time < self.sent {
                said.push(format!("{name}: {} of {} packets never came", self.sent - sink.on_time, self.sent));
            } else if sink.on_time == 0 {
                said.push(format!("{name}: nothing came"));
            }
            if !ts.is_whole() {
                said.push(format!("{name}: {} breaks in the transport stream", ts.discontinuities + ts.malformed));
            }
        }
        if said.is_empty() {
            return None;
        }
        let lossy = self.links.iter().filter(|link| link.unrecovered > 0);
        let hops: Vec<_> = lossy.map(|link| format!("{} on {} > {}", link.unrecovered, link.from, link.to)).collect();
        let hops = if hops.is_empty() { "no hop gave up on any".into() } else { hops.join(", ") };
        Some(format!("not whole. {}. Given up by hops: {hops}", said.join("; ")))
    }
}

/// Adds up link counters over reconnections.
#[derive(Debug, Default)]
pub(super) struct Collector {
    /// Newest counters by who counts, who is at the other end, and which connection.
    links: BTreeMap<(String, String, u64), LinkStats>,
}

impl Collector {
    /// A look while everything runs.
    pub(super) fn collect(&mut self, demo: &Demo) -> Result<Frame, Failure> {
        self.frame(&demo.source.report(), &demo.sinks, &demo.rig)
    }

    /// The last look, after the source has stopped.
    pub(super) fn last(&mut self, sent: &source::Report, sinks: &[DemoSink], rig: &Rig) -> Result<Frame, Failure> {
        self.frame(sent, sinks, rig)
    }

    fn frame(&mut self, source: &source::Report, sinks: &[DemoSink], rig: &Rig) -> Result<Frame, Failure> {
        let snapshot = rig.emulator().snapshot().map_err(|error| Failure::new(Exit::Software, error.to_string()))?;
        self.take(source, sinks, rig);
        let stream = source.streams.first();
        Ok(Frame {
            seconds: snapshot.at.as_secs_f64(),
            sent: stream.map_or(0, |stream| stream.counters.sent),
            deadline_ms: stream.map_or(0.0, |stream| stream.deadline_ms),
            links: self.links(&snapshot),
            sinks: sinks.iter().map(sink_row).collect(),
            events: snapshot.happened.iter().map(|(at, what)| (at.as_secs_f64(), what.clone())).collect(),
            url: sinks.iter().find_map(url),
            emulator_lag_ms: snapshot.lag_p99.as_secs_f64() * 1e3,
        })
    }

    fn take(&mut self, source: &source::Report, sinks: &[DemoSink], rig: &Rig) {
        let links = &mut self.links;
        if let Some(link) = &source.link {
            links.insert(("source".into(), INGRESS.into(), source.connection.connections), link.stats);
        }
        for sink in sinks {
            let report = sink.running.report();
            if let Some(link) = &report.link {
                let stats = LinkStats {
                    unrecovered: link.unrecovered,
                    recovered_by_arq: link.recovered_arq,
                    recovered_by_fec: link.recovered_fec,
                    ..LinkStats::default()
                };
                let name = sink.running.name().to_owned();
                links.insert((name, sink.relay.into(), report.connection.connections), stats);
            }
        }
        for (name, relay) in rig.relays() {
            for link in relay.report().links {
                links.insert((name.to_owned(), link.peer.to_string(), link.port), link.stats);
            }
        }
    }

    /// What `at` has counted of its link with `peer`, over all connections.
    fn sum(&self, at: &str, peer: &str) -> LinkStats {
        let range = (at.to_owned(), peer.to_owned(), 0)..=(at.to_owned(), peer.to_owned(), u64::MAX);
        self.links.range(range).fold(LinkStats::default(), |sum, (_, link)| LinkStats {
            media_packets_sent: sum.media_packets_sent + link.media_packets_sent,
            media_bytes_sent: sum.media_bytes_sent + link.media_bytes_sent,
            arq_bytes_sent: sum.arq_bytes_sent + link.arq_bytes_sent,
            fec_bytes_sent: sum.fec_bytes_sent + link.fec_bytes_sent,
            recovered_by_arq: sum.recovered_by_arq + link.recovered_by_arq,
            recovered_by_fec: sum.recovered_by_fec + link.recovered_by_fec,
            unrecovered: sum.unrecovered + link.unrecovered,
            ..sum
        })
    }

    fn links(&self, snapshot: &Snapshot) -> Vec<LinkRow> {
        let first = std::iter::once(("source".to_owned(), INGRESS.to_owned()));
        let overlay = LINKS.iter().map(|&(from, to, _, _)| (from.to_owned(), to.to_owned()));
        let last = super::SINKS.iter().map(|&relay| (relay.to_owned(), format!("sink-{relay}")));
        first.chain(overlay).chain(last).map(|(from, to)| self.row(&from, &to, snapshot)).collect()
    }

    fn row(&self, a: &str, b: &str, snapshot: &Snapshot) -> LinkRow {
        // The direction that carries more of the stream is the one to show.
        let (there, back) = (self.sum(a, b), self.sum(b, a));
        let turned = back.media_packets_sent > there.media_packets_sent;
        let (from, to, sent, got) = if turned { (b, a, back, there) } else { (a, b, there, back) };
        let (way, delay_ms) = wire(snapshot, a, b, turned);
        let random = way.counters.offered - way.counters.outage;
        let repair = sent.arq_bytes_sent + sent.fec_bytes_sent;
        LinkRow {
            from: from.into(),
            to: to.into(),
            delay_ms,
            dead: way.cut,
            datagrams: way.counters.offered,
            wire_loss: share(way.counters.lost, random),
            media: sent.media_packets_sent,
            unrecovered: got.unrecovered,
            residual: share(got.unrecovered, sent.media_packets_sent),
            overhead: share(repair, sent.media_bytes_sent),
            recovered_arq: got.recovered_by_arq,
            recovered_fec: got.recovered_by_fec,
        }
    }
}

/// The emulated direction from `a` to `b`, or back, and its delay.
fn wire(snapshot: &Snapshot, a: &str, b: &str, turned: bool) -> (DirectionSnapshot, f64) {
    let configured = LINKS.iter().find(|(from, to, _, _)| (*from, *to) == (a, b));
    // A sink dials its relay: towards the sink is backward on its link.
    let last_mile = b.strip_prefix("sink-").map(|relay| format!("{relay}-sink"));
    let forward = last_mile.is_none() != turned;
    let name = last_mile.unwrap_or_else(|| format!("{a}-{b}"));
    let way = snapshot.link(&name).map(|link| if forward { link.forward } else { link.backward });
    (way.unwrap_or_default(), configured.map_or(10.0, |link| link.2 as f64))
}

fn sink_row(sink: &DemoSink) -> SinkRow {
    let report = sink.running.report();
    let connections = report.connection.connections;
    let ts = sink.watch.report();
    let name = sink.running.name().to_owned();
    let Some(stream) = report.streams.iter().find(|stream| stream.name.as_str() == STREAM) else {
        return SinkRow { name, ts, connections, on_time_share: 1.0, ..SinkRow::default() };
    };
    SinkRow {
        name,
        on_time: stream.packets.on_time,
        lost: stream.packets.missing + stream.packets.overflow,
        late: stream.packets.late,
        on_time_share: stream.on_time_share,
        p50_ms: stream.arrival.p50_ms,
        p99_ms: stream.arrival.p99_ms,
        release_ms: stream.release.p50_ms,
        recovered_arq: stream.packets.recovered_arq,
        recovered_fec: stream.packets.recovered_fec,
        ts,
        connections,
    }
}

fn url(sink: &DemoSink) -> Option<String> {
    let report = sink.running.report();
    let outputs = report.streams.into_iter().flat_map(|stream| stream.outputs);
    outputs.map(|output| output.output).find(|output| output.starts_with("http://"))
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
