//! The last answer: all losses that have no further round, repaired together.
//!
//! While any is open, combinations of *all* of them leave at even distances until the earliest of their last
//! moments. How many is decided anew whenever a loss joins or a combination has left, from what may have arrived so far
//! ([`Belief`]): a loss that joins late shares the combinations still to come with those that came before it.
//!
//! A packet that has, when it is first sent, no time for any answer joins in the same way. Whether it is lost is not
//! known; its first transmission counts as a combination that may have arrived.

use super::agenda::{Cause, Task};
use super::{REPAIR_ROOM, Sender};
use crate::frame::{COPY_PREFIX, MAX_SET, gap_len};
use crate::path::Path;
use crate::plan::{Belief, MAX_PLANNED};
use crate::time::Instant;
use bytes::BytesMut;
use std::time::Duration;

/// Most pools at a time.
const MAX_POOLS: usize = 64;
/// A loss joins a pool that must be done no sooner than after this share of the loss's own time: one that must hurry had better
/// not be held up.
const SHARED: f64 = 0.5;
/// Most members of a pool, and most bytes of the gaps between them: what the prefix of a repair frame has room for.
const MAX_MEMBERS: usize = REPAIR_ROOM - 24;
const MAX_GAP_BYTES: usize = REPAIR_ROOM - COPY_PREFIX;
const _: () = assert!(MAX_MEMBERS <= MAX_SET && MAX_MEMBERS <= MAX_PLANNED);

/// Losses that are repaired by combinations of all of them.
#[derive(Debug)]
struct Pool {
    cause: Cause,
    /// In rising order, with the last moment at which sending is of use.
    members: Vec<(u64, Instant)>,
    belief: Belief,
    /// The task that will send the next combination.
    ticket: Option<u32>,
    last_sent: Option<Instant>,
    /// Combinations sent, and the most that may be, as seen when the last member joined.
    sent: usize,
    most: usize,
    /// Some of them could not be sent.
    suppressed: bool,
    /// Members have come since the last plan.
    unplanned: bool,
}

/// The pools of a link.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    tickets: u32,
    spare: Vec<Vec<(u64, Instant)>>,
    set: Vec<u64>,
}

impl Pools {
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pools.len()
    }

    /// The pool that a loss joins: one that has room and time. Known losses and what may be lost share combinations, which yield to a crowd where
    /// the first was of the second kind: on a full path more of them would only be lost as well, and a known loss is asked for again.
    fn fitting(&self, symbol: u64, now: Instant, latest: Instant) -> Option<usize> {
        let least = now + (latest - now).mul_f64(SHARED);
        self.pools.iter().position(|pool| pool.has_room(symbol) && pool.latest().is_some_and(|latest| latest >= least))
    }

    /// Adds a loss to a pool.
    fn join(&mut self, place: usize, symbol: u64, latest: Instant) {
        let pool = &mut self.pools[place];
        if let Err(place) = pool.members.binary_search_by_key(&symbol, |member| member.0) {
            pool.members.insert(place, (symbol, latest));
            pool.belief.widen();
            pool.unplanned = true;
        }
    }

    fn open(&mut self, cause: Cause) -> usize {
        self.pools.push(Pool {
            cause,
            members: self.spare.pop().unwrap_or_default(),
            belief: Belief::new(),
            ticket: None,
            last_sent: None,
            sent: 0,
            most: 0,
            suppressed: false,
            unplanned: true,
        });
        self.pools.len() - 1
    }

    fn close(&mut self, place: usize) {
        let mut members = self.pools.remove(place).members;
        members.clear();
        if self.spare.len() < MAX_POOLS {
            self.spare.push(members);
        }
    }
}

impl Pool {
    /// The earliest of the members' last moments.
    fn latest(&self) -> Option<Instant> {
        self.members.iter().map(|member| member.1).min()
    }

    /// Whether a frame has room for the members and `symbol`.
    fn has_room(&self, symbol: u64) -> bool {
        let (Some(first), Some(last)) = (self.members.first(), self.members.last()) else { return true };
        if self.members.len() == MAX_MEMBERS {
            return false;
        }
        let span = last.0.max(symbol) - first.0.min(symbol);
        gap_len(span) == 1 || self.gap_bytes(symbol) <= MAX_GAP_BYTES
    }

    /// Bytes of the gaps between the members and `symbol`.
    fn gap_bytes(&self, symbol: u64) -> usize {
        let place = self.members.partition_point(|member| member.0 < symbol);
        let (below, above) = self.members.split_at(place);
        let number = |member: &(u64, Instant)| member.0;
        let numbers = below.iter().map(number).chain([symbol]).chain(above.iter().map(number));
        numbers.clone().zip(numbers.skip(1)).map(|(before, after)| gap_len(after - before)).sum()
    }
}

impl Sender {
    /// Gives a loss, or a packet just `sent` that may be one, its last answer; [`Sender::plan_pools`] must follow.
    pub(super) fn pool(&mut self, now: Instant, symbol: u64, latest: Instant, sent: bool) {
        self.critical_share.add(1.0);
        let place = self.pools.fitting(symbol, now, latest).unwrap_or_else(|| {
            if self.pools.pools.len() == MAX_POOLS {
                self.abandon_pool(0);
            }
            self.pools.open(if sent { Cause::Ahead } else { Cause::Answer })
        });
        self.pools.join(place, symbol, latest);
        if sent {
            self.note_sent(now, place);
        }
    }

    /// Gives a pool's place to another. Its members are left to the next report, and to their fail-safe copies.
    fn abandon_pool(&mut self, place: usize) {
        for (symbol, _) in &self.pools.pools[place].members {
            if let Some(sent) = self.history.get_mut(*symbol) {
                sent.planned = false;
            }
        }
        self.pools.close(place);
    }

    /// A transmission that may serve a pool has left.
    fn note_sent(&mut self, now: Instant, place: usize) {
        let pool = &mut self.pools.pools[place];
        let gap = pool.last_sent.map_or(Duration::MAX, |last| now - last);
        pool.belief.send(self.path.loss_planned(), self.path.after_loss_at(gap));
        pool.last_sent = Some(now);
    }

    /// Plans what has become different in any pool.
    pub(super) fn plan_pools(&mut self, now: Instant) {
        let mut place = 0;
        while place < self.pools.pools.len() {
            if self.pools.pools[place].unplanned && !self.plan_pool(now, place) {
                self.pools.close(place);
            } else {
                place += 1;
            }
        }
    }

    /// Writes the next combination of a pool, and plans the one after it.
    pub(super) fn write_pooled(&mut self, now: Instant, out: &mut BytesMut, ticket: u32) -> Option<usize> {
        let place = self.pools.pools.iter().position(|pool| pool.ticket == Some(ticket))?;
        self.prune_pool(now, place);
        if self.pools.pools[place].members.is_empty() {
            self.pools.close(place);
            return None;
        }
        let mut set = std::mem::take(&mut self.pools.set);
        set.clear();
        set.extend(self.pools.pools[place].members.iter().map(|member| member.0));
        let written = self.write_repair(now, out, &set, self.pools.pools[place].cause);
        self.pools.set = set;
        let pool = &mut self.pools.pools[place];
        pool.sent += 1;
        if written.is_some() {
            self.note_sent(now, place);
        } else {
            // It has had its turn, so that this ends, but nothing of it may arrive.
            pool.last_sent = Some(now);
            pool.suppressed = true;
        }
        if !self.plan_pool(now, place) {
            self.pools.close(place);
        }
        written
    }

    /// Takes out what needs no repair any more, or can get none.
    fn prune_pool(&mut self, now: Instant, place: usize) {
        let pool = &mut self.pools.pools[place];
        let before = pool.members.len();
        let history = &mut self.history;
        pool.members.retain(|(symbol, latest)| match history.get_mut(*symbol) {
            Some(sent) if *latest < now => {
                (sent.planned, sent.assured) = (false, true);
                false
            }
            Some(sent) => !sent.acked,
            None => false,
        });
        pool.belief.narrow(before - pool.members.len());
    }

    /// Decides when the next combination of a pool leaves. Returns whether there need be one.
    fn plan_pool(&mut self, now: Instant, place: usize) -> bool {
        self.prune_pool(now, place);
        let members = self.pools.pools[place].members.iter();
        let targets = members.map(|(symbol, _)| self.residual(self.history.get(*symbol).and_then(|sent| sent.target)));
        let strictest = targets.fold(f64::INFINITY, f64::min);
        let target = self.target_among(self.critical_share.get(), strictest);
        let pool = &mut self.pools.pools[place];
        pool.ticket = None;
        let Some(latest) = pool.latest() else { return false };
        if std::mem::take(&mut pool.unplanned) {
            pool.most = pool.sent + most_needed(&self.path, &pool.belief, latest - now, target);
        }
        let (more, apart) = plan_spread(&self.path, pool, latest - now, target);
        let loss = self.path.loss_planned();
        let assured = more == 0 && (!pool.suppressed || pool.belief.more(loss, loss, target) == 0);
        for (symbol, _) in &pool.members {
            if let Some(sent) = self.history.get_mut(*symbol) {
                (sent.planned, sent.assured) = (more > 0, assured);
            }
        }
        if more > 0 {
            let due = pool.last_sent.map_or(now + apart / 2, |last| (last + apart).max(now));
            self.pools.tickets = self.pools.tickets.wrapping_add(1);
            pool.ticket = Some(self.pools.tickets);
            self.agenda.add(due.min(latest), Task::Pool { id: self.pools.tickets });
        }
        more > 0
    }
}

/// How many more combinations a pool takes, and how far apart they are when spread evenly over `time`: the further, the less they
/// share a burst, and the likelier is it that a report makes some of them unnecessary.
fn plan_spread(path: &Path, pool: &Pool, time: Duration, target: f64) -> (usize, Duration) {
    let loss = path.loss_planned();
    let most = pool.most.saturating_sub(pool.sent);
    let mut more = pool.belief.more(loss, loss, target).min(most);
    let mut apart = time;
    for _ in 0..3 {
        apart = time / more.max(1) as u32;
        let planned = pool.belief.more(loss, path.after_loss_at(apart), target).min(most);
        if planned == more {
            break;
        }
        more = planned;
    }
    (more, apart)
}

/// How many combinations suffice where two whole bursts fall into `time`: as much as is reckoned with, while a chain of losses has no
/// end, least of all when little time is left.
fn most_needed(path: &Path, belief: &Belief, time: Duration, target: f64) -> usize {
    let loss = path.loss_planned();
    let alone = belief.more(loss, loss, target);
    let hit = (2.0 * path.spacing().as_secs_f64() / time.as_secs_f64().max(1e-6)).min(0.75);
    (((alone + 1) as f64 / (1.0 - hit)) as usize + 1).min(MAX_PLANNED)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::Packet;
    use crate::frame::{self, Frame};
    use crate::ids::{Flags, Label, MediaTime, StreamHandle, StreamSeq};
    use crate::policy::Policy;
    use bytes::Bytes;

    const NOW: Instant = Instant::from_micros(1_000_000);
    const FIRST: u64 = (1 << 32) + 100;
    const MAX_FRAME: usize = 1162;

    /// A sender that has sent so many packets of the greatest size that goes whole, of use until `until`.
    fn sender(policy: Policy, packets: u32, until: Instant) -> Sender {
        let mut sender = Sender::new(NOW, policy, MAX_FRAME, 64 << 20, [FIRST as u32, 7]);
        let payload = Bytes::from(vec![5; sender.half_limit()]);
        for seq in 0..packets {
            let packet = Packet {
                stream: StreamHandle(1),
                seq: StreamSeq(seq),
                media_time: MediaTime(0),
                age: Duration::ZERO,
                label: Label(0),
                flags: Flags::default(),
                payload: payload.clone(),
                recover_until: until,
                target: None,
            };
            sender.send(NOW, packet).expect("there is room");
            sender.poll_media(NOW, &mut BytesMut::new()).expect("it waits");
        }
        sender
    }

    fn planned(sender: &mut Sender, symbol: u64, latest: Instant) {
        sender.pool(NOW, symbol, latest, false);
        sender.history.get_mut(symbol).expect("it was sent").planned = true;
    }

    #[test]
    fn what_a_pool_leaves_to_another_may_be_answered_again() {
        let until = NOW + Duration::from_secs(3600);
        let count = (MAX_POOLS * MAX_MEMBERS) as u64;
        let mut sender = sender(Policy::default(), count as u32 + 1, until);
        for symbol in FIRST..FIRST + count {
            planned(&mut sender, symbol, until);
        }
        assert_eq!(sender.pools.len(), MAX_POOLS);
        planned(&mut sender, FIRST + count, until);
        assert_eq!(sender.pools.len(), MAX_POOLS);
        let pooled =
            |symbol| sender.pools.pools.iter().any(|pool| pool.members.iter().any(|member| member.0 == symbol));
        for symbol in FIRST..=FIRST + count {
            let sent = sender.history.get(symbol).expect("it was sent");
            assert_eq!((sent.planned, sent.assured), (pooled(symbol), false), "{}", symbol - FIRST);
        }
    }

    #[test]
    fn what_could_not_be_sent_assures_nobody() {
        let until = NOW + Duration::from_millis(50);
        for (max_overhead, assured) in [(0.0, false), (2.0, true)] {
            let mut sender = sender(Policy { max_overhead, ..Policy::default() }, 20, until);
            planned(&mut sender, FIRST, until);
            sender.plan_pools(NOW);
            let mut turns = 0;
            while let Some(id) = sender.pools.pools.first().and_then(|pool| pool.ticket) {
                let written = sender.write_pooled(NOW + Duration::from_millis(turns), &mut BytesMut::new(), id);
                assert_eq!(written.is_some(), assured);
                turns += 1;
                assert!(turns <= MAX_PLANNED as u64, "it does not end");
            }
            let sent = sender.history.get(FIRST).expect("it was sent");
            assert_eq!((sent.planned, sent.assured), (false, assured), "after {turns} turns");
        }
    }

    #[test]
    fn members_far_apart_fit_into_a_frame() {
        let until = NOW + Duration::from_secs(3600);
        let mut sender = sender(Policy::default(), 200 * MAX_MEMBERS as u32, until);
        for place in 0..MAX_MEMBERS as u64 {
            // From both ends towards the middle.
            let place = if place % 2 == 0 { place / 2 } else { MAX_MEMBERS as u64 - 1 - place / 2 };
            planned(&mut sender, FIRST + 200 * place, until);
        }
        sender.plan_pools(NOW);
        let mut told = 0;
        for id in sender.pools.pools.iter().filter_map(|pool| pool.ticket).collect::<Vec<_>>() {
            let mut out = BytesMut::new();
            sender.write_pooled(NOW, &mut out, id).expect("it fits");
            assert!(out.len() <= MAX_FRAME, "{} bytes", out.len());
            let Ok(Frame::Repair(repair)) = frame::decode(&out) else { panic!("no repair: {out:?}") };
            told += repair.symbols.count();
        }
        assert_eq!(told, MAX_MEMBERS);
        assert!(sender.pools.len() <= 2, "{} pools", sender.pools.len());
    }
}
