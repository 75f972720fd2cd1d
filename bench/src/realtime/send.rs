//! The sender: numbered datagrams at an even pace, to one or several inputs at once.

use super::datagram::Numbered;
use crate::media::MediaSocket;
use hdrhistogram::Histogram;
use link::{Bitrate, Instant};
use node::clock::Clock;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// When what is sent.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    /// How many datagrams, those of the warm-up included.
    pub count: u64,
    /// Rate of their bytes.
    pub rate: Bitrate,
}

/// When each datagram was sent.
#[derive(Clone, Debug)]
pub struct SendLog {
    /// By number.
    pub sent: Vec<Instant>,
    /// How much later than planned: the 99 % quantile.
    pub lag_p99: Duration,
    /// The same: the worst.
    pub lag_max: Duration,
}

/// Sends on a thread of its own.
#[derive(Debug)]
pub struct Sender {
    sent: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<SendLog>>,
}

impl Schedule {
    /// Time from one datagram of `size` bytes to the next.
    pub fn interval(&self, size: usize) -> Duration {
        self.rate.time_for(size as u64)
    }

    /// When datagram `number` is due after the first.
    pub fn offset(&self, number: u64, size: usize) -> Duration {
        let nanos = self.interval(size).as_nanos() * u128::from(number);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Sender {
    /// Begins to send; every target gets every datagram.
    pub fn start(
        clock: Clock,
        datagrams: Numbered,
        schedule: Schedule,
        targets: Vec<SocketAddr>,
    ) -> io::Result<Sender> {
        let (sent, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, told) = (sent.clone(), stop.clone());
        let socket = MediaSocket::bind()?;
        let thread = std::thread::Builder::new()
            .name("sender".into())
            .spawn(move || run(clock, &socket, datagrams, schedule, &targets, &count, &told))?;
        Ok(Sender { sent, stop, thread })
    }

    /// How many datagrams are sent by now.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether it is through.
    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    /// Ends it before its time.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Waits until it is through.
    pub fn join(self) -> io::Result<SendLog> {
        self.thread.join().unwrap_or_else(|_| Err(io::Error::other("the sender panicked")))
    }
}

fn run(
    clock: Clock,
    socket: &MediaSocket,
    datagrams: Numbered,
    schedule: Schedule,
    targets: &[SocketAddr],
    count: &AtomicU64,
    stop: &AtomicBool,
) -> io::Result<SendLog> {
    let mut sent = Vec::with_capacity(schedule.count as usize);
    let mut lag = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
    let mut room = Vec::with_capacity(datagrams.size() + 8);
    let start = clock.now();
    for number in 0..schedule.count {
        datagrams.write(number, &mut room);
        let due = start + schedule.offset(number, datagrams.size());
        // Behind schedule this is no sleep, and what is due leaves at once.
        std::thread::sleep(due - clock.now());
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let now = clock.now();
        lag.saturating_record((now - due).as_micros() as u64);
        sent.push(now);
        for target in targets {
            socket.send(*target, &room)?;
        }
        count.store(number + 1, Ordering::Relaxed);
    }
    let quantile = |at| Duration::from_micros(lag.value_at_quantile(at));
    Ok(SendLog { sent, lag_p99: quantile(0.99), lag_max: Duration::from_micros(lag.max()) })
}

#[cfg(test)]
mod tests {
    use super::super::receive::Receiver;
    use super::*;

    #[test]
    fn what_is_sent_is_received() {
        let (clock, datagrams) = (Clock::start(), Numbered::new(1, 200));
        let receivers = [Receiver::start(clock, datagrams).unwrap(), Receiver::start(clock, datagrams).unwrap()];
        let schedule = Schedule { count: 100, rate: Bitrate::mbps(2) };
        let targets = receivers.iter().map(Receiver::address).collect();
        let log = Sender::start(clock, datagrams, schedule, targets).unwrap().join().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(log.sent.len(), 100);
        assert_eq!(schedule.offset(100, 200), Duration::from_millis(80));
        for receiver in receivers {
            let arrivals = receiver.stop();
            assert_eq!(arrivals.foreign, 0);
            assert!(arrivals.times.iter().map(|(number, _)| *number).eq(0..100));
        }
    }
}
