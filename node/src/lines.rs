//! What a running program writes to its standard output and standard error: by threads of their own, because who reads these may stop
//! reading, and live media must not wait for them.
//!
//! What finds no room is thrown away whole, counted, and told in the log once there is room again. A reader that has gone away is no reason to
//! end either: from then on everything is thrown away.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

/// Bytes that may wait for a reader; a single longer piece may, too, where nothing else waits.
const ROOM: usize = 256 * 1024;

/// Lines that are kept while an output is held.
const MOST_HELD: usize = 500;

/// How long a program that ends waits for its last words to be read.
pub const LAST_WORDS: Duration = Duration::from_millis(500);

/// A queue of whole lines before a writer that may block. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    name: &'static str,
    room: usize,
    waiting: Mutex<Waiting>,
    /// Something waits, or is written.
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Whether the thread is about to write one more.
    writing: bool,
    /// The reader has gone away.
    closed: bool,
    /// Dropped since one was last written.
    dropped: u64,
    /// What was put while the output is held: something else is shown there.
    held: Option<VecDeque<Vec<u8>>>,
}

/// Pieces thrown away in this process, of all outputs.
static DROPPED: AtomicU64 = AtomicU64::new(0);

/// Lines of statistics and of the log that were thrown away in this process because nobody read them.
pub fn dropped() -> u64 {
    DROPPED.load(Ordering::Relaxed)
}

static STDOUT: OnceLock<Lines> = OnceLock::new();
static STDERR: OnceLock<Lines> = OnceLock::new();

/// The standard output of this process.
pub fn stdout() -> &'static Lines {
    STDOUT.get_or_init(|| Lines::of("standard output", io::stdout().as_fd().try_clone_to_owned()))
}

/// The standard error of this process.
pub fn stderr() -> &'static Lines {
    STDERR.get_or_init(|| Lines::of("standard error", io::stderr().as_fd().try_clone_to_owned()))
}

/// Waits a little for what was written to either. To be called by a program that ends.
pub fn finish() {
    for lines in [&STDOUT, &STDERR] {
        lines.get().map(|lines| lines.flush(LAST_WORDS));
    }
}

impl Lines {
    /// Writes to `to`, in a thread of its own. `name` says in the log what it is.
    pub fn new(name: &'static str, room: usize, to: impl Write + Send + 'static) -> Lines {
        let shared = Arc::new(Shared { name, room, waiting: Mutex::default(), changed: Condvar::new() });
        let writer = shared.clone();
        let thread = std::thread::Builder::new().name("lines".into()).spawn(move || writer.write(to));
        if thread.is_err() {
            shared.lock().closed = true;
        }
        Lines(shared)
    }

    /// Without the buffers and locks of the standard library, which a program that ends would wait for. An output that is closed takes nothing.
    fn of(name: &'static str, output: io::Result<std::os::fd::OwnedFd>) -> Lines {
        match output {
            Ok(output) => Lines::new(name, ROOM, File::from(output)),
            Err(_) => Lines::new(name, ROOM, io::sink()),
        }
    }

    /// Hands over a line, its end included, or several that belong together. Never waits: where there is no room it is thrown away.
    pub fn put(&self, line: impl Into<Vec<u8>>) {
        let line = line.into();
        let mut waiting = self.0.lock();
        if let Some(held) = &mut waiting.held {
            if held.len() == MOST_HELD {
                held.pop_front();
            }
            held.push_back(line);
            return;
        }
        let fits = waiting.lines.is_empty() || waiting.bytes + line.len() <= self.0.room;
        if waiting.closed || !fits {
            waiting.dropped += 1;
            DROPPED.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        self.0.changed.notify_all();
    }

    /// From now on nothing is written: the newest lines are kept, to be looked at ([`Lines::held`]) and to be written by [`Lines::release`].
    pub fn hold(&self) {
        self.0.lock().held.get_or_insert_default();
    }

    /// The newest of the lines held, at most so many, oldest first.
    pub fn held(&self, most: usize) -> Vec<String> {
        let waiting = self.0.lock();
        let held = waiting.held.iter().flatten();
        let newest = held.skip(waiting.held.as_ref().map_or(0, VecDeque::len).saturating_sub(most));
        newest.map(|line| String::from_utf8_lossy(line).into_owned()).collect()
    }

    /// Writes what was held, and is as before.
    pub fn release(&self) {
        let held = self.0.lock().held.take();
        held.into_iter().flatten().for_each(|line| self.put(line));
    }

    /// Waits until all is written, at most so long; whether it is.
    pub fn flush(&self, patience: Duration) -> bool {
        let busy = |waiting: &mut Waiting| !waiting.closed && (waiting.writing || !waiting.lines.is_empty());
        let (waiting, _) =
            self.0.changed.wait_timeout_while(self.0.lock(), patience, busy).unwrap_or_else(PoisonError::into_inner);
        !waiting.writing && waiting.lines.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: writes one after the other, for as long as somebody reads.
    fn write(&self, mut to: impl Write) {
        loop {
            let line = self.next();
            let written = to.write_all(&line).and_then(|()| to.flush());
            let dropped = {
                let mut waiting = self.lock();
                waiting.writing = false;
                if written.is_err() {
                    *waiting = Waiting { closed: true, ..Waiting::default() };
                }
                self.changed.notify_all();
                std::mem::take(&mut waiting.dropped)
            };
            // Outside the lock: the log may be what is written here.
            if let Err(error) = written {
                tracing::warn!(%error, "{} takes nothing any more; going on without it", self.name);
                return;
            }
            if dropped > 0 {
                tracing::warn!(dropped, "{} was not read for a while: lines were thrown away", self.name);
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        loop {
            if let Some(line) = waiting.lines.pop_front() {
                waiting.bytes -= line.len();
                waiting.writing = true;
                return line;
            }
            waiting = self.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// A log writer: each event is written by one call.
impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.put(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    /// A reader that reads a byte for each permission it is given.
    struct Slow {
        permitted: mpsc::Receiver<usize>,
        left: usize,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.left == 0 {
                self.left = self.permitted.recv().map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            }
            let taken = bytes.len().min(self.left);
            self.left -= taken;
            self.read.lock().unwrap().extend_from_slice(&bytes[..taken]);
            Ok(taken)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow(room: usize) -> (Lines, mpsc::Sender<usize>, Arc<Mutex<Vec<u8>>>) {
        let (permit, permitted) = mpsc::channel();
        let read = Arc::new(Mutex::new(Vec::new()));
        (Lines::new("a test", room, Slow { permitted, left: 0, read: read.clone() }), permit, read)
    }

    #[test]
    fn whoever_reads_slowly_gets_fewer_lines_all_of_them_whole_and_in_order() {
        let (lines, permit, read) = slow(1000);
        for n in 0..10_000 {
            lines.put(format!("line {n}\n"));
        }
        assert!(!lines.flush(Duration::from_millis(10)));
        // A byte at a time, then as much as there is.
        for _ in 0..100 {
            permit.send(1).expect("it is read");
        }
        permit.send(1_000_000).expect("it is read");
        assert!(lines.flush(Duration::from_secs(10)));
        lines.put("the last\n");
        assert!(lines.flush(Duration::from_secs(10)));
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        let (last, numbers) = text.lines().collect::<Vec<_>>().split_last().map(|(a, b)| (*a, b.to_vec())).unwrap();
        let numbers: Vec<u64> =
            numbers.iter().map(|line| line.strip_prefix("line ").unwrap().parse().unwrap()).collect();
        assert_eq!((last, numbers[0]), ("the last", 0));
        assert!(numbers.is_sorted() && (50..1000).contains(&numbers.len()), "{numbers:?}");
        assert!(dropped() > 9000);
    }

    #[test]
    fn a_long_line_passes_whole_where_nothing_else_waits() {
        let (lines, permit, read) = slow(10);
        permit.send(1000).expect("it is read");
        lines.put([b'x'; 500]);
        assert!(lines.flush(Duration::from_secs(10)));
        assert_eq!(read.lock().unwrap().len(), 500);
    }

    #[test]
    fn what_is_held_is_kept_and_written_later() {
        let (lines, permit, read) = slow(100_000);
        permit.send(100_000).expect("it is read");
        lines.put("before\n");
        assert!(lines.flush(Duration::from_secs(10)));
        lines.hold();
        for n in 0..MOST_HELD + 2 {
            lines.put(format!("{n}\n"));
        }
        assert!(lines.flush(Duration::from_secs(10)));
        assert_eq!(*read.lock().unwrap(), b"before\n", "nothing is written meanwhile");
        assert_eq!(lines.held(2), [format!("{MOST_HELD}\n"), format!("{}\n", MOST_HELD + 1)]);
        lines.release();
        lines.put("after\n");
        assert!(lines.flush(Duration::from_secs(10)));
        let text = String::from_utf8(read.lock().unwrap().clone()).unwrap();
        assert!(text.starts_with("before\n2\n3\n") && text.ends_with("after\n"), "{text}");
        assert!(lines.held(5).is_empty());
    }

    #[test]
    fn who_has_gone_away_is_not_waited_for() {
        let (lines, permit, _) = slow(1000);
        drop(permit);
        lines.put("nobody hears\n");
        while !lines.0.lock().closed {
            std::thread::yield_now();
        }
        for _ in 0..1000 {
            lines.put("nobody hears\n");
        }
        assert!(lines.flush(Duration::from_secs(10)));
        assert_eq!(lines.0.lock().bytes, 0);
    }
}
