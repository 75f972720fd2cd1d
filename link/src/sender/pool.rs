//! The last answer: all losses that have no further round, repaired together.
//!
//! While any is open, combinations of *all* of them leave at even distances until the earliest of their last
//! moments. How many is decided anew whenever a loss joins or a combination has left, from what may have arrived so far
//! ([`Belief`]): a loss that joins late shares the combinations still to come with those that came before it.

use super::agenda::{Cause, Task};
use super::{REPAIR_ROOM, Sender};
use crate::frame::MAX_SET;
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
    /// In rising order, with the last moment at which sending is of use.
    members: Vec<(u64, Instant)>,
    belief: Belief,
    /// The task that will send the next combination.
    ticket: Option<u32>,
    last_sent: Option<Instant>,
    /// Combinations sent.
    sent: usize,
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
    /// Adds a loss: to a pool that has room and time, else to a new one.
    fn join(&mut self, symbol: u64, now: Instant, latest: Instant) {
        let least = now + (latest - now).mul_f64(SHARED);
        let fits =
            |pool: &Pool| pool.members.len() < MAX_MEMBERS && pool.latest().is_some_and(|latest| latest >= least);
        let place = match self.pools.iter().position(fits) {
            Some(place) => place,
            None => self.open(),
        };
        let pool = &mut self.pools[place];
        if let Err(place) = pool.members.binary_search_by_key(&symbol, |member| member.0) {
            pool.members.insert(place, (symbol, latest));
            pool.belief.widen();
            pool.unplanned = true;
        }
    }

    fn open(&mut self) -> usize {
        if self.pools.len() >= MAX_POOLS {
            self.close(0);
        }
        self.pools.push(Pool {
            members: self.spare.pop().unwrap_or_default(),
            belief: Belief::new(),
            ticket: None,
            last_sent: None,
            sent: 0,
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
    /// Gives a loss its last answer; [`Sender::plan_pools`] must follow.
    pub(super) fn pool(&mut self, now: Instant, symbol: u64, latest: Instant) {
        self.critical_share.add(1.0);
        self.pools.join(symbol, now, latest);
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
        let written = self.write_repair(now, out, &set, Cause::Answer);
        self.pools.set = set;
        let loss = self.path.loss_planned();
        let pool = &mut self.pools.pools[place];
        let gap = pool.last_sent.map_or(Duration::MAX, |last| now - last);
        pool.belief.send(loss, self.path.after_loss_at(gap));
        pool.last_sent = Some(now);
        pool.sent += 1;
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
        let target = self.target_among(self.critical_share.get());
        let pool = &mut self.pools.pools[place];
        pool.unplanned = false;
        pool.ticket = None;
        let Some(latest) = pool.latest() else { return false };
        let (more, apart) = plan_spread(&self.path, &pool.belief, latest - now, target);
        let more = more.min((MAX_PLANNED + pool.members.len()).saturating_sub(pool.sent));
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

/// How many more combinations it takes, and how far apart they are when spread evenly over `time`: the further, the less they share
/// a burst, and the likelier is it that a report makes some of them unnecessary.
fn plan_spread(path: &crate::path::Path, belief: &Belief, time: Duration, target: f64) -> (usize, Duration) {
    let loss = path.loss_planned();
    let mut more = belief.more(loss, loss, target);
    let mut apart = time;
    for _ in 0..3 {
        apart = time / more.max(1) as u32;
        let planned = belief.more(loss, path.after_loss_at(apart), target);
        if planned == more {
            break;
        }
        more = planned;
    }
    (more, apart)
}
