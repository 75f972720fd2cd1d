//! One stream for any number of players: each starts at the latest decodable point, none holds up another.

use super::entry::{Entry, EntryFinder};
use super::spec::Start;
use super::worker::Clients;
use crate::playout::Release;
use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use link::Instant;
use node::control::Content;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// Most bytes kept from the latest decodable point on. A stream with a longer way between such points makes players wait, or begin with any picture ([`Entry::accepted`]).
const MAX_BACKLOG: usize = 32 << 20;
/// A player is dropped when this many bytes wait for it …
const MAX_QUEUE_BYTES: usize = 32 << 20;
/// … or when the oldest of them have waited this long.
const MAX_QUEUE_AGE: Duration = Duration::from_secs(5);
/// Bytes written at once: what fits a socket's buffer.
const BATCH: usize = 64 << 10;
/// Chunks that a queue keeps room for.
const ROOM_KEPT: usize = 1024;

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
    queue: Arc<Queue>,
    /// Whether it waits for a decodable point.
    waiting: bool,
    /// When the first packet came for which it waited.
    since: Option<Instant>,
}

/// The player's end: what it is to be sent.
#[derive(Debug)]
pub(super) struct Feed {
    queue: Arc<Queue>,
    connected: Arc<AtomicU64>,
}

/// The player took too long; what it did not take is thrown away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the player is too slow")]
pub(super) struct TooSlow;

/// Between the hub and one player. The hub has hold of it, so that who is dropped holds nothing more.
#[derive(Debug, Default)]
struct Queue(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    chunks: VecDeque<(Instant, Bytes)>,
    bytes: usize,
    /// The time of the packet last taken, or of the first to wait.
    taken_at: Instant,
    end: Option<End>,
    taker: Option<Waker>,
}

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The stream will not go on; what waits is still for the player.
    Over,
    /// The player was dropped.
    TooSlow,
    /// The player has gone.
    Gone,
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
            let queue = &player.queue;
            let queued = if !player.waiting || !has_entries {
                player.waiting = false;
                queue.offer(release.at, release.payload.clone())
            } else {
                let since = *player.since.get_or_insert(release.at);
                match Entry::accepted(entry, release.at.saturating_since(since)) {
                    Some(from) => {
                        player.waiting = false;
                        let tables = queue.offer(release.at, prefix.clone());
                        tables.and_then(|()| queue.offer(release.at, release.payload.slice(from..)))
                    }
                    None => queue.check(),
                }
            };
            if queued == Err(End::TooSlow) {
                self.clients.dropped.fetch_add(1, Relaxed);
            }
            queued.is_ok()
        });
    }

    /// Lets a player join.
    pub(super) fn join(&self) -> Feed {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = Arc::<Queue>::default();
        let mut player = Player { queue: queue.clone(), waiting: self.start == Start::Decodable, since: None };
        if player.waiting && !state.backlog.is_empty() {
            player.waiting = false;
            let mut waiting = queue.lock();
            state.backlog.iter().for_each(|chunk| waiting.put(state.latest, chunk.clone()));
        }
        if state.closed {
            queue.end(End::Over);
        } else {
            state.players.push(player);
        }
        self.clients.connected.fetch_add(1, Relaxed);
        Feed { queue, connected: self.clients.connected.clone() }
    }

    /// Whether the stream will not go on.
    pub(super) fn is_closed(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed
    }

    /// The stream will not go on: players get what is queued for them, then the end.
    pub(super) fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.players.drain(..).for_each(|player| player.queue.end(End::Over));
    }
}

impl State {
    /// Keeps what a player that joins needs; gives where a decoder may start in the packet.
    fn remember(&mut self, release: &Release) -> Option<Entry> {
        self.latest = release.at;
        if release.restart {
            self.finder = EntryFinder::default();
            self.forget();
        }
        self.has_entries = release.content == Content::Ts;
        if !self.has_entries {
            return None;
        }
        let entry = self.finder.scan(&release.payload);
        if let Some(Entry::Decodable(from)) = entry {
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

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues a chunk, unless the player is gone or too slow. Who is too slow is dropped, and what waits for it with it.
    fn offer(&self, at: Instant, chunk: Bytes) -> Result<(), End> {
        let mut waiting = self.lock();
        if let Some(end) = waiting.end {
            return Err(end);
        }
        if waiting.is_too_much(at) {
            drop(waiting);
            self.end(End::TooSlow);
            return Err(End::TooSlow);
        }
        waiting.put(at, chunk);
        let taker = waiting.taker.take();
        drop(waiting);
        taker.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// Whether the player is there.
    fn check(&self) -> Result<(), End> {
        self.lock().end.map_or(Ok(()), Err)
    }

    /// Nothing more comes. What waits is given back at once, unless it is still for the player.
    fn end(&self, end: End) {
        let mut waiting = self.lock();
        waiting.end = Some(end);
        let thrown_away = match end {
            End::Over => VecDeque::new(),
            End::TooSlow | End::Gone => std::mem::take(&mut waiting.chunks),
        };
        let taker = waiting.taker.take();
        drop(waiting);
        drop(thrown_away);
        taker.into_iter().for_each(Waker::wake);
    }
}

impl Waiting {
    fn is_too_much(&self, at: Instant) -> bool {
        let too_old = !self.chunks.is_empty() && at.saturating_since(self.taken_at) > MAX_QUEUE_AGE;
        too_old || self.bytes > MAX_QUEUE_BYTES
    }

    fn put(&mut self, at: Instant, chunk: Bytes) {
        if self.chunks.is_empty() {
            self.taken_at = at;
        }
        self.bytes += chunk.len();
        self.chunks.push_back((at, chunk));
    }

    /// Takes chunks for one write.
    fn take(&mut self) -> Vec<Bytes> {
        let mut taken = Vec::new();
        let mut bytes = 0;
        while bytes < BATCH
            && let Some((at, chunk)) = self.chunks.pop_front()
        {
            self.taken_at = at;
            bytes += chunk.len();
            taken.push(chunk);
        }
        self.bytes -= bytes;
        if self.chunks.is_empty() && self.chunks.capacity() > ROOM_KEPT {
            self.chunks = VecDeque::new();
        }
        taken
    }
}

impl Stream for Feed {
    type Item = Result<Bytes, TooSlow>;

    /// The next bytes for the player, several packets in one.
    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut waiting = self.queue.lock();
        if waiting.chunks.is_empty() {
            return match waiting.end {
                None => {
                    waiting.taker = Some(context.waker().clone());
                    Poll::Pending
                }
                Some(End::TooSlow) => Poll::Ready(Some(Err(TooSlow))),
                Some(End::Over | End::Gone) => Poll::Ready(None),
            };
        }
        let mut chunks = waiting.take();
        drop(waiting);
        if chunks.len() == 1 {
            return Poll::Ready(chunks.pop().map(Ok));
        }
        let mut joined = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
        chunks.iter().for_each(|chunk| joined.extend_from_slice(chunk));
        Poll::Ready(Some(Ok(joined.freeze())))
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.queue.end(End::Gone);
        self.connected.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::tests::{filler, pat, picture, pmt};
    use super::super::worker::release;
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    fn ts(at_ms: u64, packets: &[Vec<u8>]) -> Release {
        Release { at: Instant::from_micros(at_ms * 1_000), content: Content::Ts, ..release(packets.concat()) }
    }

    fn drain(feed: &mut Feed) -> Vec<u8> {
        let mut all = Vec::new();
        while let Some(Some(Ok(some))) = feed.next().now_or_never() {
            all.extend(some);
        }
        all
    }

    /// A payload, and who knows whether anybody holds it.
    fn watched(bytes: usize) -> (Bytes, std::sync::Weak<Vec<u8>>) {
        struct Held(Arc<Vec<u8>>);
        impl AsRef<[u8]> for Held {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }
        let held = Arc::new(vec![0; bytes]);
        let watch = Arc::downgrade(&held);
        (Bytes::from_owner(Held(held)), watch)
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
    fn where_no_such_point_comes_a_picture_will_do_and_in_the_end_anything() {
        let hub = Hub::new(Start::Decodable);
        let mut player = hub.join();
        hub.publish(&ts(60_000, &[pat(), pmt(), picture(false)]));
        hub.publish(&ts(62_499, &[picture(false)]));
        assert_eq!(drain(&mut player), b"");
        hub.publish(&ts(62_500, &[filler(), picture(false)]));
        assert_eq!(drain(&mut player), [pat(), pmt(), picture(false)].concat());

        let hub = Hub::new(Start::Decodable);
        let mut player = hub.join();
        hub.publish(&ts(60_000, &[filler()]));
        hub.publish(&ts(69_999, &[filler()]));
        assert_eq!(drain(&mut player), b"");
        hub.publish(&ts(70_000, &[filler()]));
        assert_eq!(drain(&mut player), filler());
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
        let mut slow = hub.join();
        let mut quick = hub.join();
        let (payload, held) = watched(1316);
        for second in 0..6 {
            let at = Instant::from_micros(second * 1_000_000);
            hub.publish(&Release { at, ..release(payload.clone()) });
            assert_eq!(drain(&mut quick), payload);
        }
        drop(payload);
        assert_eq!(slow.queue.lock().chunks.len(), 6, "what was queued within five seconds");
        for second in 6..10 {
            hub.publish(&ts(second * 1_000, &[filler()]));
            assert_eq!(drain(&mut quick), filler());
        }
        assert_eq!(hub.clients().dropped.load(Relaxed), 1);
        assert_eq!(held.strong_count(), 0, "what waited is given back, though the player is still there");
        assert_eq!(slow.next().now_or_never(), Some(Some(Err(TooSlow))));
        // A pause of the stream is not the player's fault.
        hub.publish(&ts(60_000, &[filler()]));
        hub.publish(&ts(60_001, &[filler()]));
        assert_eq!(drain(&mut quick), [filler(), filler()].concat());
        assert_eq!(hub.clients().dropped.load(Relaxed), 1);
    }

    #[test]
    fn so_much_and_no_more_waits_for_a_player() {
        let hub = Hub::new(Start::Now);
        let mut slow = hub.join();
        let payload = Bytes::from(vec![0; 1 << 20]);
        for _ in 0..100 {
            let waits = slow.queue.lock().bytes;
            assert!(waits <= MAX_QUEUE_BYTES + payload.len(), "{waits}");
            hub.publish(&release(payload.clone()));
        }
        assert_eq!(hub.clients().dropped.load(Relaxed), 1);
        assert!(slow.queue.lock().chunks.is_empty());
        assert_eq!(slow.next().now_or_never(), Some(Some(Err(TooSlow))));
    }

    #[test]
    fn a_player_that_has_just_come_is_not_late() {
        let hub = Hub::new(Start::Decodable);
        hub.publish(&ts(60_000, &[pat(), pmt(), picture(true)]));
        let mut player = hub.join();
        hub.publish(&ts(60_001, &[filler()]));
        assert_eq!(hub.clients().dropped.load(Relaxed), 0);
        assert_eq!(drain(&mut player), [pat(), pmt(), picture(true), filler()].concat());
    }

    #[test]
    fn who_has_gone_is_forgotten_and_is_not_one_who_was_too_slow() {
        let hub = Hub::new(Start::Now);
        drop(hub.join());
        hub.publish(&ts(0, &[filler()]));
        assert!(hub.state.lock().unwrap().players.is_empty());
        assert_eq!(hub.clients().dropped.load(Relaxed), 0);
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
        assert_eq!(player.next().now_or_never(), Some(None));
        assert_eq!(hub.join().next().now_or_never(), Some(None));
    }
}
