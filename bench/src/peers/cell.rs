//! One cell: every carrier over its link, side by side or one after another.

use super::carrier::{Carrier, CarrierError};
use super::plan::{CarrierPlan, CellPlan, PeersPlan};
use super::report::{CarrierReport, CellReport, Measured, Own};
use crate::channel::ChannelCounters;
use crate::media::MediaSocket;
use crate::realtime::{HopStats, Judge, Numbered, Receiver, Schedule, SendLog, Sender, UdpDrops, WireCost};
use link::Instant;
use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::time::Duration;

/// How long a carrier may take until something comes through.
const PATIENCE: Duration = Duration::from_secs(15);
/// Between two greetings.
const GREET: Duration = Duration::from_millis(20);
/// After the first greeting has come, until the run begins.
const SETTLE: Duration = Duration::from_millis(1000);
/// After the last deadline, for what is late.
const AFTER: Duration = Duration::from_millis(500);

/// A carrier with what receives from it.
struct Entrant<'a> {
    plan: &'a CarrierPlan,
    receiver: Receiver,
    /// The error is why it takes no part any more.
    carrier: Result<Carrier, CarrierError>,
    before: Option<Counted>,
    after: Option<Counted>,
}

/// What is counted at one moment.
#[derive(Clone)]
struct Counted {
    forward: ChannelCounters,
    backward: ChannelCounters,
    own: Option<HopStats>,
    /// Datagrams that the sender had sent.
    sent: u64,
    lag: [Duration; 2],
    kernel_dropped: u64,
}

/// Runs all carriers of the plan over one cell.
pub(super) fn run(plan: &PeersPlan, cell: &CellPlan, together: bool) -> Result<CellReport, Failure> {
    let carriers: Vec<&CarrierPlan> = plan.carriers.iter().collect();
    let at_once = if together { carriers.len() } else { 1 };
    let mut reports = Vec::new();
    for group in carriers.chunks(at_once) {
        reports.extend(run_group(plan, cell, group)?);
    }
    Ok(CellReport {
        cell: cell.name.clone(),
        seed: plan.seed,
        delay: cell.forward.delay,
        lossless: cell.forward.loss.mean() == 0.0,
        carriers: reports,
    })
}

fn run_group(plan: &PeersPlan, cell: &CellPlan, group: &[&CarrierPlan]) -> Result<Vec<CarrierReport>, Failure> {
    let (clock, datagrams) = (Clock::start(), Numbered::new(plan.seed, plan.size));
    let drops = UdpDrops::now();
    let mut entrants = Vec::new();
    for carrier in group {
        let receiver = Receiver::start(clock, datagrams).map_err(socket)?;
        let running = Carrier::start(plan, cell, carrier, receiver.address());
        entrants.push(Entrant { plan: carrier, receiver, carrier: running, before: None, after: None });
    }
    greet(clock, datagrams, &mut entrants)?;
    let log = feed(clock, datagrams, plan, &mut entrants)?;
    let drops = UdpDrops::now().since(drops);
    Ok(entrants.into_iter().map(|entrant| entrant.report(plan, &log, drops)).collect())
}

/// Sends greetings until one has come through every carrier, or its time is up.
fn greet(clock: Clock, datagrams: Numbered, entrants: &mut [Entrant<'_>]) -> Result<(), Failure> {
    let socket = MediaSocket::bind().map_err(socket)?;
    let mut greeting = Vec::new();
    datagrams.greet(&mut greeting);
    let end = clock.now() + PATIENCE;
    loop {
        let mut waiting = 0;
        for entrant in entrants.iter_mut().filter(|entrant| entrant.receiver.greetings() == 0) {
            entrant.check();
            let Ok(carrier) = &mut entrant.carrier else { continue };
            if clock.now() >= end {
                entrant.carrier = Err(carrier.silent(PATIENCE));
                continue;
            }
            waiting += 1;
            // A socket that is not open yet is no error.
            let _ = socket.send(carrier.input(), &greeting);
        }
        if waiting == 0 {
            std::thread::sleep(SETTLE);
            return Ok(());
        }
        std::thread::sleep(GREET);
    }
}

/// Sends everything to all that take part, and counts at the end of the warm-up and at the end.
fn feed(clock: Clock, datagrams: Numbered, plan: &PeersPlan, entrants: &mut [Entrant<'_>]) -> Result<SendLog, Failure> {
    let warmup = plan.warmup_packets();
    let schedule = Schedule { count: warmup + plan.packets, rate: plan.rate };
    let targets = entrants.iter().filter_map(|entrant| Some(entrant.carrier.as_ref().ok()?.input())).collect();
    let sender = Sender::start(clock, datagrams, schedule, targets).map_err(socket)?;
    while sender.sent() < warmup && !sender.is_done() {
        std::thread::sleep(Duration::from_millis(1));
    }
    for entrant in entrants.iter_mut() {
        entrant.before = entrant.count(sender.sent());
    }
    while !sender.is_done() {
        std::thread::sleep(Duration::from_millis(20));
        entrants.iter_mut().for_each(Entrant::check);
    }
    let log = sender.join().map_err(socket)?;
    let last = log.sent.last().copied().unwrap_or(Instant::ORIGIN);
    sleep_until(clock, last + plan.deadline);
    for entrant in entrants.iter_mut() {
        entrant.after = entrant.count(log.sent.len() as u64);
    }
    sleep_until(clock, last + plan.deadline + plan.tolerance + AFTER);
    Ok(log)
}

fn sleep_until(clock: Clock, at: Instant) {
    std::thread::sleep(at - clock.now());
}

impl Entrant<'_> {
    /// Takes it out where one of its programs has ended.
    fn check(&mut self) {
        if let Ok(carrier) = &mut self.carrier
            && let Err(error) = carrier.check()
        {
            self.carrier = Err(error);
        }
    }

    fn count(&mut self, sent: u64) -> Option<Counted> {
        let carrier = self.carrier.as_ref().ok()?;
        match carrier.wire() {
            Ok((link, emulator)) => Some(Counted {
                forward: link.forward.counters,
                backward: link.backward.counters,
                own: carrier.own(),
                sent,
                lag: [emulator.lag_p99, emulator.lag_max],
                kernel_dropped: emulator.kernel_dropped,
            }),
            Err(error) => {
                self.carrier = Err(error);
                None
            }
        }
    }

    fn report(self, plan: &PeersPlan, log: &SendLog, udp_drops: u64) -> CarrierReport {
        // Its programs end before what they send to is closed.
        let failed = self.carrier.map(drop).err().map(|error| error.to_string());
        let arrivals = self.receiver.stop();
        let (name, kind) = (self.plan.name.clone(), self.plan.kind);
        let (None, Some(before), Some(after)) = (&failed, self.before, self.after) else {
            let failed = failed.or_else(|| Some("the run ended before its end".into()));
            return CarrierReport { name, kind, failed, measured: None };
        };
        let judge = Judge {
            warmup: plan.warmup_packets(),
            deadline: plan.deadline,
            tolerance: plan.tolerance,
            interval: plan.interval(),
        };
        let packets = after.sent - before.sent;
        let measured = Measured {
            outcome: judge.judge(log, &arrivals),
            forward: WireCost::forward(&after.forward.since(&before.forward), packets, plan.size),
            backward: WireCost::backward(&after.backward.since(&before.backward), packets, plan.size),
            own: before.own.zip(after.own).map(|(before, after)| Own::new(&before, &after, plan.size)),
            emulator_lag_p99_ms: after.lag[0].as_secs_f64() * 1e3,
            emulator_lag_max_ms: after.lag[1].as_secs_f64() * 1e3,
            sender_lag_p99_ms: log.lag_p99.as_secs_f64() * 1e3,
            sender_lag_max_ms: log.lag_max.as_secs_f64() * 1e3,
            kernel_dropped: after.kernel_dropped + udp_drops,
        };
        CarrierReport { name, kind, failed: None, measured: Some(measured) }
    }
}

fn socket(error: std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("a UDP socket on loopback: {error}"))
}
