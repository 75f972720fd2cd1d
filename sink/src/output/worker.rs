//! The thread of one output, and the queue before it.

use super::entry::Gate;
use super::pace;
use crate::playout::Release;
use crate::report::OutputReport;
use node::clock::Clock;
use node::control::Content;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use tokio::sync::{Notify, mpsc};

/// Packets that wait for an output at most: with the largest packets 32 MiB, at 10 Mbit/s some 17 s.
const QUEUE: usize = 16 * 1024;

/// What an output does with packets.
pub(super) trait Writer: Send + std::fmt::Debug {
    /// Writes one packet. An error stops the output where [`Writer::is_fatal`] says so, else it is counted.
    fn write(&mut self, release: &Release) -> io::Result<()>;
    /// Hands on what is held back. Called when nothing waits, and at the end.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// What was taken and is not written yet.
    fn waiting(&self) -> Waiting {
        Waiting::default()
    }
    /// Whether packets leave at [`Release::at`], not before.
    fn is_paced(&self) -> bool {
        false
    }
    /// Whether an error stops the output.
    fn is_fatal(&self, error: &io::Error) -> bool;
    /// Players connected, and players disconnected for being too slow.
    fn clients(&self) -> Option<Clients> {
        None
    }
}

/// What waits to be written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Waiting {
    pub(super) packets: u64,
    /// Of their payloads.
    pub(super) bytes: u64,
}

/// Counts of players, shared with the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Clients {
    pub(super) connected: Arc<AtomicU64>,
    pub(super) dropped: Arc<AtomicU64>,
}

/// Why an output stopped by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// Writing failed: the disk is full, the device is gone.
    Failed,
    /// Who read the pipe has closed it.
    Closed,
}

/// One output, seen from the playout.
#[derive(Debug)]
pub struct Outlet {
    name: String,
    /// `None` once it is closed.
    queue: Option<mpsc::Sender<Release>>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Packets dropped since the last one queued; the next one tells of them.
    dropped: u64,
}

#[derive(Debug, Default)]
struct Shared {
    packets: AtomicU64,
    bytes: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    clients: Option<Clients>,
    stopped: Mutex<Option<(StopReason, String)>>,
}

/// Starts the thread of an output.
pub(super) fn start(name: String, clock: Clock, writer: Box<dyn Writer>, gated: bool, stopped: Arc<Notify>) -> Outlet {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let shared = Arc::new(Shared { clients: writer.clients(), ..Shared::default() });
    let worker = Worker {
        name: name.clone(),
        clock,
        writer,
        gate: gated.then(Gate::default),
        shared: shared.clone(),
        stopped,
        taken: Waiting::default(),
        failing: false,
    };
    // Names of threads are cut to 15 bytes by the system.
    let thread = std::thread::Builder::new().name("output".into()).spawn(move || worker.run(receiver));
    let thread = match thread {
        Ok(thread) => Some(thread),
        Err(error) => {
            shared.stop(StopReason::Failed, format!("no thread for it: {error}"));
            None
        }
    };
    Outlet { name, queue: Some(sender), shared, thread, dropped: 0 }
}

impl Outlet {
    /// Queues a packet, or drops it where the output has fallen behind.
    pub fn push(&mut self, release: &Release) {
        let Some(queue) = &self.queue else { return };
        let mut release = release.clone();
        release.lost_before += self.dropped;
        match queue.try_send(release) {
            Ok(()) => self.dropped = 0,
            Err(mpsc::error::TrySendError::Full(release)) => {
                self.dropped = release.lost_before + 1;
                self.shared.dropped.fetch_add(1, Relaxed);
            }
            // The output has stopped; the report says why.
            Err(mpsc::error::TrySendError::Closed(_)) => self.queue = None,
        }
    }

    /// As configured; for a server on port 0, with the port that was picked.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Why it stopped by itself, if it did: for programs and for people.
    pub fn stopped(&self) -> Option<(StopReason, String)> {
        self.shared.stopped.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it has done.
    pub fn report(&self) -> OutputReport {
        let shared = &self.shared;
        let clients = shared.clients.as_ref();
        OutputReport {
            output: self.name.clone(),
            packets: shared.packets.load(Relaxed),
            bytes: shared.bytes.load(Relaxed),
            dropped: shared.dropped.load(Relaxed),
            errors: shared.errors.load(Relaxed),
            clients: clients.map_or(0, |clients| clients.connected.load(Relaxed)),
            clients_dropped: clients.map_or(0, |clients| clients.dropped.load(Relaxed)),
            stopped: self.stopped().map(|(_, why)| why),
        }
    }

    /// Takes no more; what is queued is still written and flushed.
    pub fn close(&mut self) {
        self.queue = None;
    }

    /// Whether everything queued before [`Outlet::close`] is written, or the output has stopped.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Shared {
    fn stop(&self, reason: StopReason, why: String) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some((reason, why));
    }
}

struct Worker {
    name: String,
    clock: Clock,
    writer: Box<dyn Writer>,
    gate: Option<Gate>,
    shared: Arc<Shared>,
    stopped: Arc<Notify>,
    /// What the writer has taken so far.
    taken: Waiting,
    /// Whether the last attempt failed; so that a run of failures is logged once.
    failing: bool,
}

impl Worker {
    fn run(mut self, mut queue: mpsc::Receiver<Release>) {
        let mut result = Ok(());
        while let Some(release) = queue.blocking_recv() {
            result = self.take(&release);
            if result.is_ok() && queue.is_empty() {
                result = self.writer.flush();
            }
            self.account();
            if result.is_err() {
                break;
            }
        }
        let result = result.and_then(|()| self.writer.flush());
        self.account();
        if let Err(error) = result {
            self.fail(&error);
        }
        self.stopped.notify_one();
    }

    /// Tells what has been written: all that was taken but what waits.
    fn account(&self) {
        let waiting = self.writer.waiting();
        self.shared.packets.store(self.taken.packets - waiting.packets, Relaxed);
        self.shared.bytes.store(self.taken.bytes - waiting.bytes, Relaxed);
    }

    fn take(&mut self, release: &Release) -> io::Result<()> {
        let Some(gate) = self.gate.as_mut().filter(|_| release.content == Content::Ts) else {
            return self.put(release);
        };
        let Some((tables, payload)) = gate.pass(release.at, &release.payload) else { return Ok(()) };
        if !tables.is_empty() {
            self.put(&Release { payload: tables, lost_before: 0, ..release.clone() })?;
        }
        self.put(&Release { payload, ..release.clone() })
    }

    fn put(&mut self, release: &Release) -> io::Result<()> {
        if self.writer.is_paced() {
            pace::wait_until(&self.clock, release.at);
        }
        match self.writer.write(release) {
            Ok(()) => {
                self.taken.packets += 1;
                self.taken.bytes += release.payload.len() as u64;
                self.failing = false;
                Ok(())
            }
            Err(error) if self.writer.is_fatal(&error) => Err(error),
            Err(error) => {
                self.shared.errors.fetch_add(1, Relaxed);
                if !std::mem::replace(&mut self.failing, true) {
                    tracing::warn!(output = self.name, %error, "cannot send; going on");
                }
                Ok(())
            }
        }
    }

    fn fail(&self, error: &io::Error) {
        self.shared.errors.fetch_add(1, Relaxed);
        let written = self.shared.bytes.load(Relaxed);
        match error.kind() {
            io::ErrorKind::BrokenPipe => {
                tracing::info!(output = self.name, written, "the reader has closed the pipe");
                self.shared.stop(StopReason::Closed, "the reader has closed the pipe".into());
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let why = format!("the disk is full, {written} bytes into the stream: {error}");
                tracing::error!(output = self.name, "{why}");
                self.shared.stop(StopReason::Failed, why);
            }
            _ => {
                let why = format!("writing failed, {written} bytes into the stream: {error}");
                tracing::error!(output = self.name, "{why}");
                self.shared.stop(StopReason::Failed, why);
            }
        }
    }
}

/// A packet of a stream of datagrams, for tests.
#[cfg(test)]
pub(super) fn release(payload: impl Into<bytes::Bytes>) -> Release {
    Release {
        at: link::Instant::ORIGIN,
        payload: payload.into(),
        lost_before: 0,
        restart: false,
        content: Content::Datagrams,
    }
}

#[cfg(test)]
mod tests {
    use super::super::stream::{ByteWriter, open_file};
    use super::super::{Framing, OutputSpec, Outputs};
    use super::*;
    use node::clock::Clock;
    use std::path::Path;
    use std::sync::mpsc::{Receiver, Sender, channel};

    fn opened(spec: &str) -> Outlet {
        let spec: OutputSpec = spec.parse().unwrap();
        Outputs::new(Clock::start(), Arc::default()).open(&spec, None, "demo/clip", false).unwrap()
    }

    fn finish(outlet: &mut Outlet) {
        outlet.close();
        outlet.thread.take().unwrap().join().unwrap();
    }

    /// Writes only when it is allowed to, and notes what it was given.
    #[derive(Debug)]
    struct Slow {
        go: Receiver<()>,
        lost: Sender<u64>,
    }

    impl Writer for Slow {
        fn write(&mut self, release: &Release) -> io::Result<()> {
            self.go.recv().map_err(|_| io::ErrorKind::BrokenPipe)?;
            self.lost.send(release.lost_before).map_err(|_| io::ErrorKind::BrokenPipe.into())
        }
        fn is_fatal(&self, _: &io::Error) -> bool {
            true
        }
    }

    #[test]
    fn a_slow_output_drops_and_tells_and_never_blocks() {
        let ((go, gone), (lost, told)) = (channel(), channel());
        let writer = Box::new(Slow { go: gone, lost });
        let mut outlet = start("slow".into(), Clock::start(), writer, false, Arc::default());
        // One may already be in the writer's hands.
        for _ in 0..QUEUE + 101 {
            outlet.push(&release(&b"x"[..]));
        }
        let dropped = outlet.report().dropped;
        assert!((100..=101).contains(&dropped), "{dropped}");
        (0..10).for_each(|_| go.send(()).unwrap());
        (0..10).for_each(|_| assert_eq!(told.recv().unwrap(), 0));
        outlet.push(&release(&b"y"[..]));
        (0..QUEUE).for_each(|_| go.send(()).unwrap());
        drop(go);
        finish(&mut outlet);
        assert_eq!(told.iter().max(), Some(dropped), "the next packet tells of those dropped before it");
    }

    #[test]
    fn what_was_accepted_is_written_at_the_end() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.bin");
        let mut outlet = opened(&format!("file:{}", path.display()));
        let expected: Vec<u8> = (0..10_000u32).flat_map(u32::to_be_bytes).collect();
        for number in 0..10_000u32 {
            outlet.push(&release(number.to_be_bytes().to_vec()));
        }
        finish(&mut outlet);
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        let report = outlet.report();
        assert_eq!((report.packets, report.bytes, report.dropped), (10_000, 40_000, 0));
    }

    #[test]
    fn a_full_disk_stops_the_output_and_says_so() {
        let notify = Arc::new(Notify::new());
        let file = open_file(Path::new("/dev/full")).unwrap();
        let writer = Box::new(ByteWriter::new(file, Framing::None));
        let mut outlet = start("file:/dev/full".into(), Clock::start(), writer, false, notify.clone());
        outlet.push(&release(vec![1; 1316]));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(notify.notified());
        let (reason, why) = outlet.stopped().unwrap();
        assert_eq!(reason, StopReason::Failed);
        assert!(why.contains("the disk is full"), "{why}");
        // It takes no more, and holds nobody up.
        outlet.push(&release(vec![1; 1316]));
        assert_eq!(outlet.report().stopped, Some(why));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let notify = Arc::new(Notify::new());
        let writer = Box::new(ByteWriter::new(file, Framing::None));
        let mut outlet = start("-".into(), Clock::start(), writer, false, notify.clone());
        outlet.push(&release(vec![1; 1316]));
        finish(&mut outlet);
        assert_eq!(outlet.stopped().unwrap().0, StopReason::Closed);
    }

    #[test]
    fn a_gated_output_begins_with_the_tables() {
        use super::super::entry::tests::{filler, pat, picture, pmt};
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.ts");
        let mut outlet = opened(&format!("file:{}?start=decodable", path.display()));
        let ts = |packets: &[Vec<u8>]| Release { content: Content::Ts, ..release(packets.concat()) };
        outlet.push(&ts(&[filler(), picture(true), pat(), pmt()]));
        outlet.push(&ts(&[filler(), picture(true)]));
        outlet.push(&ts(&[filler()]));
        finish(&mut outlet);
        assert_eq!(std::fs::read(&path).unwrap(), [pat(), pmt(), picture(true), filler()].concat());
    }

    /// Measures, on this machine, how evenly datagrams leave; asserts only that all do.
    #[test]
    #[ignore = "long: measures the pacing of this machine for ten seconds"]
    fn pacing_of_datagrams() {
        let receiver = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        receiver.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        let port = receiver.local_addr().unwrap().as_socket().unwrap().port();
        let clock = Clock::start();
        let spec: OutputSpec = format!("udp://127.0.0.1:{port}").parse().unwrap();
        let mut outlet = Outputs::new(clock, Arc::default()).open(&spec, None, "demo/clip", false).unwrap();
        let (count, gap) = (10_000u64, 1_000u64);
        let arrivals = std::thread::spawn(move || {
            let mut buffer = [0; 64];
            (0..count)
                .map(|_| (io::Read::read(&mut &receiver, &mut buffer), clock.now()).1.as_micros())
                .collect::<Vec<_>>()
        });
        let begin = clock.now().as_micros() + 10_000;
        for index in 0..count {
            let at = link::Instant::from_micros(begin + index * gap);
            // Handed over in millisecond ticks, some milliseconds ahead, as the playout does.
            let ahead = at.as_micros().saturating_sub(clock.now().as_micros() + 4_000);
            std::thread::sleep(std::time::Duration::from_micros(ahead));
            outlet.push(&Release { at, ..release(&b"x"[..]) });
        }
        let arrivals = arrivals.join().unwrap();
        assert_eq!(arrivals.len() as u64, count);
        let mut errors: Vec<u64> = arrivals.windows(2).map(|pair| (pair[1] - pair[0]).abs_diff(gap)).collect();
        errors.sort_unstable();
        let at = |share: f64| errors[(errors.len() as f64 * share) as usize];
        println!(
            "gap errors: p50 {} us, p99 {} us, p99.9 {} us, max {} us",
            at(0.5),
            at(0.99),
            at(0.999),
            errors[errors.len() - 1]
        );
        let mut late: Vec<u64> = arrivals.iter().enumerate().map(|(i, a)| a - (begin + i as u64 * gap)).collect();
        late.sort_unstable();
        println!("lateness: p50 {} us, p99 {} us", late[late.len() / 2], late[late.len() * 99 / 100]);
    }
}
