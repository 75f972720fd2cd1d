//! One stream for any number of players: each starts at the latest decodable point, none holds up another.

use super::entry::{Entry, EntryFinder};
use super::spec::Start;
use super::worker::Clients;
use crate::playout::Release;
use bytes::{Bytes, BytesMut};
use link::Instant;
use node::control::Content;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// Most bytes kept from the latest decodable point on. A stream with a longer way between such points makes players wait.
const MAX_BACKLOG: usize = 32 << 20;
/// A player is dropped when this many bytes wait for it …
const MAX_QUEUE_BYTES: usize = 32 << 20;
/// … or when the oldest of them have waited this long.
const MAX_QUEUE_AGE: Duration = Duration::from_secs(5);

/// A stream as players get it.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    clients: Clients,
    start: Start,
}

#[derive(Debug, Default)]
struct State {
    finder: EntryFinder,
    /// Everything since the latest decodable point, the program tables first; empty where there is none.
    backlog: Vec<Bytes>,
    backlog_bytes: usize,
    /// Whether the stream has points to wait for.
    has_entries: bool,
    players: Vec<Player>,
    /// When the latest packet was released.
    latest: Instant,
    closed: bool,
}

/// What the hub knows of a player.
#[derive(Debug)]
struct Player {
    queue: mpsc::UnboundedSender<(Instant, Bytes)>,
    gauge: Arc<Gauge>,
    /// Whether it waits for a decodable point.
    waiting: bool,
}

#[derive(Debug, Default)]
struct Gauge {
    /// Bytes that wait for the player.
    bytes: AtomicUsize,
    /// The time of the packet last taken by it, or of the first to wait, in microseconds.
    taken_at: AtomicU64,
}

/// The player's end.
#[derive(Debug)]
pub(super) struct Feed {
    queue: mpsc::UnboundedReceiver<(Instant, Bytes)>,
    gauge: Arc<Gauge>,
    connected: Arc<AtomicU64>,
}

impl Hub {
    pub(super) fn new(start: Start) -> Hub {
        Hub { state: Mutex::default(), clients: Clients::default(), start }
    }

    pub(super) fn clients(&self) -> Clients {
        self.clients.clone()
    }

    /// Gives a packet to every player.
    pub(super) fn publish(&self, release: &Release) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = state.remember(release);
        let prefix = state.finder.tables();
        let has_entries = state.has_entries;
        state.players.retain_mut(|player| {
            let kept = match (player.waiting, entry) {
                (false, _) => player.offer(release.at, release.payload.clone()),
                (true, Some(from)) => {
                    player.waiting = false;
                    player.offer(release.at, prefix.clone()) && player.offer(release.at, release.payload.slice(from..))
                }
                (true, None) if !has_entries => {
                    player.waiting = false;
                    player.offer(release.at, release.payload.clone())
                }
                (true, None) => !player.queue.is_closed(),
            };
            if !kept && !player.queue.is_closed() {
                self.clients.dropped.fetch_add(1, Relaxed);
            }
            kept
        });
    }

    /// Lets a player join.
    pub(super) fn join(&self) -> Feed {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (sender, queue) = mpsc::unbounded_channel();
        let gauge = Arc::new(Gauge::default());
        let mut player = Player { queue: sender, gauge: gauge.clone(), waiting: self.start == Start::Decodable };
        if player.waiting && !state.backlog.is_empty() {
            player.waiting = false;
            for chunk in &state.backlog {
                player.queue_up(state.latest, chunk.clone());
            }
        }
        if !state.closed {
            state.players.push(player);
        }
        self.clients.connected.fetch_add(1, Relaxed);
        Feed { queue, gauge, connected: self.clients.connected.clone() }
    }

    /// Whether the stream will not go on.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// The stream will not go on: players get what is queued for them, then the end.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.players.clear();
    }
}

impl State {
    /// Keeps what a player that joins needs; gives where a decoder may start in the packet.
    fn remember(&mut self, release: &Release) -> Option<usize> {
        self.latest = release.at;
        if release.restart {
            self.finder = EntryFinder::default();
            self.forget();
        }
        self.has_entries = release.content == Content::Ts;
        if !self.has_entries {
            return None;
        }
        let entry = match self.finder.scan(&release.payload) {
            Some(Entry::Decodable(from)) => Some(from),
            _ => None,
        };
        if let Some(from) = entry {
            self.forget();
            self.keep(self.finder.tables());
            self.keep(release.payload.slice(from..));
        } else if !self.backlog.is_empty() {
            self.keep(release.payload.clone());
        }
        entry
    }

    fn keep(&mut self, chunk: Bytes) {
        self.backlog_bytes += chunk.len();
        self.backlog.push(chunk);
        if self.backlog_bytes > MAX_BACKLOG {
            self.forget();
        }
    }

    fn forget(&mut self) {
        self.backlog.clear();
        self.backlog_bytes = 0;
    }
}

impl Player {
    /// Queues a chunk; false where the player is gone or too slow.
    fn offer(&mut self, at: Instant, chunk: Bytes) -> bool {
        let waiting = self.gauge.bytes.load(Relaxed);
        if waiting == 0 {
            self.gauge.taken_at.store(at.as_micros(), Relaxed);
        }
        let since = at.saturating_since(Instant::from_micros(self.gauge.taken_at.load(Relaxed)));
        if waiting > MAX_QUEUE_BYTES || since > MAX_QUEUE_AGE {
            return false;
        }
        self.queue_up(at, chunk)
    }

    fn queue_up(&self, at: Instant, chunk: Bytes) -> bool {
        self.gauge.bytes.fetch_add(chunk.len(), Relaxed);
        self.queue.send((at, chunk)).is_ok()
    }
}

impl Feed {
    /// The next bytes for the player, several packets in one; `None` at the end.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        /// Packets written at once: what fits a socket's buffer.
        const BATCH: usize = 48;
        let mut chunks = Vec::with_capacity(BATCH);
        if self.queue.recv_many(&mut chunks, BATCH).await == 0 {
            return None;
        }
        let bytes: usize = chunks.iter().map(|(_, chunk)| chunk.len()).sum();
        let taken_at = chunks.last().map_or(0, |(at, _)| at.as_micros());
        self.gauge.taken_at.store(taken_at, Relaxed);
        self.gauge.bytes.fetch_sub(bytes, Relaxed);
        if chunks.len() == 1 {
            return chunks.pop().map(|(_, chunk)| chunk);
        }
        let mut joined = BytesMut::with_capacity(bytes);
        chunks.iter().for_each(|(_, chunk)| joined.extend_from_slice(chunk));
        Some(joined.freeze())
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.connected.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{filler, pat, picture, pmt};
    use super::super::worker::release;
    use super::*;

    fn ts(at_ms: u64, packets: &[Vec<u8>]) -> Release {
        Release { at: Instant::from_micros(at_ms * 1_000), content: Content::Ts, ..release(packets.concat()) }
    }

    fn drain(feed: &mut Feed) -> Vec<u8> {
        let mut all = Vec::new();
        while !feed.queue.is_empty() {
            all.extend(futures_util::FutureExt::now_or_never(feed.next()).flatten().unwrap());
        }
        all
    }

    #[test]
    fn a_player_starts_at_the_latest_decodable_point_with_the_tables_first() {
        let hub = Hub::new(Start::Decodable);
        hub.publish(&ts(0, &[pat(), pmt(), picture(true), filler()]));
        hub.publish(&ts(1, &[filler(), picture(false)]));
        let mut late = hub.join();
        let tables = [pat(), pmt()].concat();
        let expected = [tables.clone(), picture(true), filler(), filler(), picture(false)].concat();
        assert_eq!(drain(&mut late), expected);
        hub.publish(&ts(2, &[filler(), picture(true)]));
        assert_eq!(drain(&mut late), [filler(), picture(true)].concat());
        let mut later = hub.join();
        assert_eq!(drain(&mut later), [tables, picture(true)].concat());
        assert_eq!(hub.clients().connected.load(Relaxed), 2);
        drop((late, later));
        assert_eq!(hub.clients().connected.load(Relaxed), 0);
    }

    #[test]
    fn a_player_that_comes_before_the_first_such_point_waits_for_it() {
        let hub = Hub::new(Start::Decodable);
        let mut early = hub.join();
        hub.publish(&ts(0, &[pat(), pmt(), picture(false)]));
        assert_eq!(drain(&mut early), b"");
        hub.publish(&ts(1, &[filler(), picture(true)]));
        assert_eq!(drain(&mut early), [pat(), pmt(), picture(true)].concat());
    }

    #[test]
    fn a_stream_without_such_points_and_a_player_that_will_not_wait_start_at_once() {
        let hub = Hub::new(Start::Decodable);
        let mut player = hub.join();
        hub.publish(&release(&b"anything"[..]));
        assert_eq!(drain(&mut player), b"anything");
        let hub = Hub::new(Start::Now);
        let mut player = hub.join();
        hub.publish(&ts(0, &[filler()]));
        assert_eq!(drain(&mut player), filler());
    }

    #[test]
    fn a_slow_player_is_dropped_and_the_others_go_on() {
        let hub = Hub::new(Start::Now);
        let slow = hub.join();
        let mut quick = hub.join();
        for second in 0..10 {
            hub.publish(&ts(second * 1_000, &[filler()]));
            assert_eq!(drain(&mut quick), filler());
        }
        assert_eq!(hub.clients().dropped.load(Relaxed), 1);
        assert_eq!(slow.queue.len(), 6, "what was queued within five seconds");
        // A pause of the stream is not the player's fault.
        hub.publish(&ts(60_000, &[filler()]));
        hub.publish(&ts(60_001, &[filler()]));
        assert_eq!(drain(&mut quick), [filler(), filler()].concat());
        assert_eq!(hub.clients().dropped.load(Relaxed), 1);
    }

    #[test]
    fn a_restarted_source_makes_what_was_kept_void() {
        let hub = Hub::new(Start::Decodable);
        hub.publish(&ts(0, &[pat(), pmt(), picture(true)]));
        hub.publish(&Release { restart: true, ..ts(1, &[filler()]) });
        assert_eq!(drain(&mut hub.join()), b"");
    }

    #[test]
    fn the_end_reaches_the_players() {
        let hub = Hub::new(Start::Now);
        let mut player = hub.join();
        hub.publish(&release(&b"last"[..]));
        hub.close();
        assert_eq!(drain(&mut player), b"last");
        assert_eq!(futures_util::FutureExt::now_or_never(player.next()), Some(None));
        assert_eq!(futures_util::FutureExt::now_or_never(hub.join().next()), Some(None));
    }
}
