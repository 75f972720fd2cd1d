//! One case with real programs over real sockets.

use super::report::Real;
use crate::emulator::{LinkSnapshot, Snapshot};
use crate::media::MediaSocket;
use crate::peers::Own;
use crate::realtime::{HopPlan, HopStats, Judge, Numbered, OwnHop, Receiver, Schedule, Sender, UdpDrops, WireCost};
use crate::rig::{PATIENCE, RigError};
use crate::sim::Case;
use link::Instant;
use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::time::Duration;

/// What a datagram of the link's connection carries on the paths of [`OwnHop`], as the simulator's default has it.
pub(super) const MAX_FRAME: usize = 1414;
/// What the sink's output may take beyond the deadline before a packet counts as late. A sink drops what reaches it after its time, so that what comes
/// out did come in in time; how much later than its time it was woken to let it out is the machine's doing, and shows in the latency.
const TOLERANCE: Duration = Duration::from_millis(50);
/// After the last deadline, for what is late.
const AFTER: Duration = Duration::from_millis(500);

/// What is counted at one moment.
struct Counted {
    link: LinkSnapshot,
    emulator: Snapshot,
    own: HopStats,
    sent: u64,
}

/// The seed of a case; a plan that was loaded has one.
fn seed(case: &Case) -> u64 {
    case.seeds.first().copied().unwrap_or(1)
}

/// Runs a case.
pub(super) fn run(case: &Case) -> Result<Real, Failure> {
    let (clock, datagrams) = (Clock::start(), Numbered::new(seed(case), case.size));
    let receiver = Receiver::start(clock, datagrams).map_err(socket)?;
    let hop = OwnHop::start(&plan(case)?, receiver.address()).map_err(rig)?;
    greet(clock, datagrams, &hop, &receiver)?;

    let judge = judge(case);
    let drops = UdpDrops::now();
    let schedule = Schedule { count: case.packets, rate: case.rate };
    let sender = Sender::start(clock, datagrams, schedule, vec![hop.input()]).map_err(socket)?;
    while sender.sent() < judge.warmup && !sender.is_done() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = count(&hop, sender.sent())?;
    while !sender.is_done() {
        std::thread::sleep(Duration::from_millis(20));
        if let Some(program) = hop.ended() {
            return Err(Failure::new(Exit::Software, format!("case {}: the {program} ended on the way", case.name)));
        }
    }
    let log = sender.join().map_err(socket)?;
    let last = log.sent.last().copied().unwrap_or(Instant::ORIGIN);
    std::thread::sleep(last + case.deadline + AFTER - clock.now());
    let after = count(&hop, log.sent.len() as u64)?;
    drop(hop);
    let arrivals = receiver.stop();
    let packets = after.sent - before.sent;
    let [forward, backward] = [
        after.link.forward.counters.since(&before.link.forward.counters),
        after.link.backward.counters.since(&before.link.backward.counters),
    ];
    Ok(Real {
        outcome: judge.judge(&log, &arrivals),
        own: Own::new(&before.own, &after.own, case.size),
        forward: WireCost::forward(&forward, packets, case.size),
        backward: WireCost::backward(&backward, packets, case.size),
        emulator_lag_p99_ms: after.emulator.lag_p99.as_secs_f64() * 1e3,
        emulator_lag_max_ms: after.emulator.lag_max.as_secs_f64() * 1e3,
        sender_lag_p99_ms: log.lag_p99.as_secs_f64() * 1e3,
        sender_lag_max_ms: log.lag_max.as_secs_f64() * 1e3,
        kernel_dropped: after.emulator.kernel_dropped + UdpDrops::now().since(drops),
    })
}

fn plan(case: &Case) -> Result<HopPlan, Failure> {
    let [forward, backward] =
        case.channels().next().ok_or_else(|| Failure::new(Exit::Config, format!("case {}: no hop", case.name)))?;
    Ok(HopPlan {
        seed: seed(case),
        forward: forward.clone(),
        backward: Some(backward.clone()),
        deadline: case.deadline,
    })
}

fn judge(case: &Case) -> Judge {
    let interval = case.interval();
    // As the simulator counts it.
    let warmup = (case.warmup.as_secs_f64() / interval.as_secs_f64()) as u64;
    Judge { warmup, deadline: case.deadline, tolerance: TOLERANCE, interval }
}

/// Sends greetings until one comes through: the graph is in force and the sink plays.
fn greet(clock: Clock, datagrams: Numbered, hop: &OwnHop, receiver: &Receiver) -> Result<(), Failure> {
    let from = MediaSocket::bind().map_err(socket)?;
    let mut greeting = Vec::new();
    datagrams.greet(&mut greeting);
    let end = clock.now() + PATIENCE;
    while receiver.greetings() == 0 {
        if clock.now() >= end {
            let message = format!("nothing came out of the sink within {PATIENCE:?}");
            return Err(Failure::new(Exit::Unavailable, message));
        }
        from.send(hop.input(), &greeting).map_err(socket)?;
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn count(hop: &OwnHop, sent: u64) -> Result<Counted, Failure> {
    let (link, emulator) = hop.wire().map_err(rig)?;
    Ok(Counted { link, emulator, own: hop.stats(), sent })
}

fn socket(error: std::io::Error) -> Failure {
    Failure::new(Exit::Unavailable, format!("a UDP socket on loopback: {error}"))
}

fn rig(error: RigError) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}
