//! One scenario: everything started, offered, sampled.

use super::bulk::Bulk;
use super::plan::{BottleneckPlan, LinkOffer, Scenario, StreamOffer};
use super::report::{BulkReport, LinkReport, QueueReport, ScenarioReport, StreamReport};
use crate::emulator::{DirectionSnapshot, LinkPlan};
use crate::media::MediaSocket;
use crate::realtime::{Judge, Numbered, PATH_MTU, Receiver, Schedule, Sender, free_port};
use crate::rig::{PATIENCE, Rig, RigError, RigPlan, Running};
use hdrhistogram::Histogram;
use link::Bitrate;
use node::clock::Clock;
use node::control::Dissemination;
use node::exit::{Exit, Failure};
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;

const RELAY: &str = "relay";
const BOTTLENECK: &str = "bottleneck";
/// Bytes of a packet of media.
const SIZE: usize = 1316;
/// Between two looks at the queue.
const LOOK: Duration = Duration::from_millis(10);
/// What waking up for the release may take before a packet counts as late; a sink has dropped by then what reached it after its time.
const TOLERANCE: Duration = Duration::from_millis(50);
const REPORT: Duration = Duration::from_millis(50);

/// One of our links with its streams.
struct OwnLink {
    source: Running<source::Report>,
    streams: Vec<OwnStream>,
}

struct OwnStream {
    offer: StreamOffer,
    input: SocketAddr,
    receiver: Receiver,
    sender: Option<Sender>,
}

/// Runs a scenario.
pub(super) fn run(plan: &BottleneckPlan, scenario: &Scenario) -> Result<ScenarioReport, Failure> {
    let clock = Clock::start();
    let (rig, bottleneck) = rig(plan)?;
    let mut links = Vec::new();
    let mut outputs = Vec::new();
    for (index, offer) in scenario.links.iter().enumerate() {
        let receivers = offer.streams.iter().map(|_| Receiver::start(clock, Numbered::new(1, SIZE)));
        let receivers = receivers.collect::<std::io::Result<Vec<_>>>().map_err(socket)?;
        let names = (0..receivers.len()).map(|stream| name(index, stream));
        outputs.extend(names.zip(receivers.iter().map(Receiver::address)));
        links.push((offer, receivers));
    }
    let sink = sink(&rig, &outputs).map_err(failure)?;
    let links = links.into_iter().enumerate();
    let links = links.map(|(index, (offer, receivers))| OwnLink::start(plan, &rig, index, offer, receivers));
    let mut links = links.collect::<Result<Vec<_>, _>>().map_err(failure)?;
    links.iter().flat_map(|link| &link.streams).try_for_each(greet)?;
    let bulk =
        (0..scenario.bulk).map(|index| Bulk::start(|to| door(&rig, &format!("bulk-{index}"), to)).map_err(failure));
    let bulk = bulk.collect::<Result<Vec<_>, _>>()?;
    links.iter_mut().try_for_each(|link| link.feed(clock, plan))?;

    std::thread::sleep(plan.warmup);
    let before: Vec<source::Report> = links.iter().map(|link| link.source.report()).collect();
    let bulk_before: Vec<_> = bulk.iter().map(|flow| (flow.received(), flow.path().1)).collect();
    let queue = watch(clock, plan, &rig, &bottleneck)?;
    let bulk = bulk.iter().zip(bulk_before).map(|(flow, before)| BulkReport::new(plan.duration, flow, before));
    let bulk = bulk.collect();
    std::thread::sleep(plan.deadline + TOLERANCE);
    let links = links.into_iter().zip(before).map(|(link, before)| link.finish(plan, &before));
    let links = links.collect::<Result<Vec<_>, _>>()?;
    drop((sink, rig));
    Ok(ScenarioReport { scenario: scenario.name.clone(), offered: scenario.offered(), queue, links, bulk })
}

/// The relay, and the link that has the bottleneck. Nothing is carried by that link itself.
fn rig(plan: &BottleneckPlan) -> Result<(Rig, LinkPlan), Failure> {
    let tune = |_: &str, config: &mut relay::Config| config.path_mtu = Some(PATH_MTU);
    let rig = Rig::start_tuned(&RigPlan::new(1, &[RELAY], &[]), tune).map_err(failure)?;
    let [forward, backward] = plan.channels();
    let bottleneck = LinkPlan { backward: Some(backward), ..LinkPlan::new(BOTTLENECK, None, forward) };
    rig.emulator().add(bottleneck.clone()).map_err(|error| failure(error.into()))?;
    Ok((rig, bottleneck))
}

/// A way to `to` through the bottleneck.
fn door(rig: &Rig, name: &str, to: SocketAddr) -> Result<SocketAddr, RigError> {
    let link = LinkPlan::new(name, Some(to), crate::channel::ChannelConfig::default());
    Ok(rig.emulator().add(LinkPlan { through: Some(BOTTLENECK.into()), ..link })?)
}

fn name(link: usize, stream: usize) -> StreamName {
    format!("bench/link-{link}-{stream}").parse().expect("it is a stream name")
}

fn sink(rig: &Rig, outputs: &[(StreamName, SocketAddr)]) -> Result<Option<Running<sink::Report>>, RigError> {
    if outputs.is_empty() {
        return Ok(None);
    }
    let stream = |(name, to): &(StreamName, SocketAddr)| {
        let output = format!("udp://{to}").parse().expect("an address makes an output");
        sink::StreamConfig::new(name.clone(), vec![output])
    };
    let config = sink::Config {
        relays: vec![rig.relay_address(RELAY)?.to_string()],
        streams: outputs.iter().map(stream).collect(),
        wait: PATIENCE,
        path_mtu: Some(PATH_MTU),
        ..sink::Config::default()
    };
    rig.sink("sink", config).map(Some)
}

/// Sends greetings until one comes out.
fn greet(stream: &OwnStream) -> Result<(), Failure> {
    let from = MediaSocket::bind().map_err(socket)?;
    let mut greeting = Vec::new();
    Numbered::new(1, SIZE).greet(&mut greeting);
    let clock = Clock::start();
    let end = clock.now() + PATIENCE;
    while stream.receiver.greetings() == 0 {
        if clock.now() >= end {
            let message = format!("nothing came out of the sink within {PATIENCE:?}");
            return Err(Failure::new(Exit::Unavailable, message));
        }
        from.send(stream.input, &greeting).map_err(socket)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Looks at the queue again and again for the time that counts.
fn watch(clock: Clock, plan: &BottleneckPlan, rig: &Rig, bottleneck: &LinkPlan) -> Result<QueueReport, Failure> {
    let look = || -> Result<DirectionSnapshot, Failure> {
        let snapshot = rig.emulator().snapshot().map_err(|error| failure(error.into()))?;
        Ok(snapshot.link(&bottleneck.name).map(|link| link.forward).unwrap_or_default())
    };
    let mut delays = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
    let (start, before) = (clock.now(), look()?);
    let mut now = before;
    while clock.now() - start < plan.duration {
        std::thread::sleep(LOOK);
        now = look()?;
        delays.saturating_record(queue_delay(&now, plan.rate, plan.delay).as_micros() as u64);
    }
    Ok(QueueReport::new(&delays, &now.counters.since(&before.counters), clock.now() - start))
}

/// How long what is on the wire takes to leave the bottleneck, less what has left it and still propagates.
fn queue_delay(now: &DirectionSnapshot, rate: Bitrate, delay: Duration) -> Duration {
    // IP and UDP headers count at the bottleneck.
    let bytes = now.in_flight_bytes + 28 * now.in_flight;
    rate.time_for(bytes).saturating_sub(delay)
}

impl OwnLink {
    fn start(
        plan: &BottleneckPlan,
        rig: &Rig,
        index: usize,
        offer: &LinkOffer,
        receivers: Vec<Receiver>,
    ) -> Result<OwnLink, RigError> {
        let door = door(rig, &format!("link-{index}"), rig.relay_address(RELAY)?)?;
        let inputs = offer.streams.iter().map(|_| free_port()).collect::<Result<Vec<_>, _>>()?;
        let stream = |(number, (offer, input)): (usize, (&StreamOffer, &SocketAddr))| {
            let url = format!("udp://{input}").parse().expect("an address makes an input");
            source::Stream { priority: Some(offer.priority), ..source::Stream::new(name(index, number), url) }
        };
        let config = source::Config {
            relays: vec![door.to_string()],
            deadline: plan.deadline,
            mode: Dissemination::Tree,
            path_mtu: Some(PATH_MTU),
            streams: offer.streams.iter().zip(&inputs).enumerate().map(stream).collect(),
            report_interval: REPORT,
            ..source::Config::default()
        };
        let source = rig.source(&format!("source-{index}"), config)?;
        source.wait_for("publication", PATIENCE, |report| {
            !report.streams.is_empty()
                && report.streams.iter().all(|stream| stream.state == source::report::StreamState::Live)
        })?;
        let streams = offer.streams.iter().zip(inputs).zip(receivers);
        let streams =
            streams.map(|((offer, input), receiver)| OwnStream { offer: *offer, input, receiver, sender: None });
        Ok(OwnLink { source, streams: streams.collect() })
    }

    fn feed(&mut self, clock: Clock, plan: &BottleneckPlan) -> Result<(), Failure> {
        self.streams.iter_mut().try_for_each(|stream| {
            let schedule =
                Schedule { count: packets(stream.offer, plan.warmup + plan.duration), rate: stream.offer.rate };
            let sender = Sender::start(clock, Numbered::new(1, SIZE), schedule, vec![stream.input]).map_err(socket)?;
            stream.sender = Some(sender);
            Ok(())
        })
    }

    fn finish(self, plan: &BottleneckPlan, before: &source::Report) -> Result<LinkReport, Failure> {
        let after = self.source.report();
        let mut streams = Vec::new();
        for (number, stream) in self.streams.into_iter().enumerate() {
            let Some(sender) = stream.sender else { continue };
            let log = sender.join().map_err(socket)?;
            let judge = Judge {
                warmup: packets(stream.offer, plan.warmup),
                deadline: plan.deadline,
                tolerance: TOLERANCE,
                interval: stream.offer.rate.time_for(SIZE as u64),
            };
            let outcome = judge.judge(&log, &stream.receiver.stop());
            let counters = |report: &source::Report| report.streams.get(number).map(|stream| stream.counters);
            let counters = [counters(before), counters(&after)].map(Option::unwrap_or_default);
            streams.push(StreamReport::new(stream.offer, SIZE, plan.duration, outcome, counters));
        }
        Ok(LinkReport::new(before.link.as_ref(), after.link.as_ref(), streams))
    }
}

/// Packets of a stream in `span`.
fn packets(offer: StreamOffer, span: Duration) -> u64 {
    offer.rate.bytes_in(span) / SIZE as u64
}

fn socket(error: std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("a UDP socket on loopback: {error}"))
}

fn failure(error: RigError) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_propagates_is_no_queue() {
        let (rate, delay) = (Bitrate::mbps(20), Duration::from_millis(20));
        let on_the_wire = |packets: u64| DirectionSnapshot {
            in_flight: packets,
            in_flight_bytes: packets * 1222,
            ..DirectionSnapshot::default()
        };
        // 1250 bytes of IP packet are half a millisecond at 20 Mbit/s: 40 of them propagate.
        assert_eq!(queue_delay(&on_the_wire(40), rate, delay), Duration::ZERO);
        assert_eq!(queue_delay(&on_the_wire(10), rate, delay), Duration::ZERO);
        assert_eq!(queue_delay(&on_the_wire(240), rate, delay), Duration::from_millis(100));
    }
}
