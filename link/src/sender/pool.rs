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
use crate::frame::MAX_SET;
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
/// Most members of a pool: what the prefix of a repair frame has room for, with far gaps.
const MAX_MEMBERS: usize = REPAIR_ROOM - 24;
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

    /// Adds a loss: to a pool of its kind that has room and time, else to a new one. Returns which.
    fn join(&mut self, symbol: u64, now: Instant, latest: Instant, ahead: bool) -> usize {
        let cause = if ahead { Cause::Ahead } else { Cause::Answer };
        let least = now + (latest - now).mul_f64(SHARED);
        let fits =
            |pool: &Pool| pool.members.len() < MAX_MEMBERS && pool.latest().is_some_and(|latest| latest >= least);
        let place_of_pool = match self.pools.iter().position(fits) {
            Some(place) => place,
            None => self.open(cause),
        };
        let pool = &mut self.pools[place_of_pool];
        if let Err(place) = pool.members.binary_search_by_key(&symbol, |member| member.0) {
            pool.members.insert(place, (symbol, latest));
            pool.belief.widen();
            pool.unplanned = true;
        }
        place_of_pool
    }

    fn open(&mut self, cause: Cause) -> usize {
        if self.pools.len() >= MAX_POOLS {
            self.close(0);
        }
        self.pools.push(Pool {
            cause,
            members: self.spare.pop().unwrap_or_default(),
            belief: Belief::new(),
            ticket: None,
            last_sent: None,
            sent: 0,
            most: 0,
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
}

impl Sender {
    /// Gives a loss, or a packet just `sent` that may be one, its last answer; [`Sender::plan_pools`] must follow.
    pub(super) fn pool(&mut self, now: Instant, symbol: u64, latest: Instant, sent: bool) {
        self.critical_share.add(1.0);
        let place = self.pools.join(symbol, now, latest, sent);
        if sent {
            self.note_sent(now, place);
        }
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
        self.note_sent(now, place);
        self.pools.pools[place].sent += 1;
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
        for (symbol, _) in &pool.members {
            if let Some(sent) = self.history.get_mut(*symbol) {
                (sent.planned, sent.assured) = (more > 0, more == 0);
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
