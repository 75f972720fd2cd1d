//! The last answer: all losses that have no further round, repaired together.

use super::agenda::{Agenda, Cause, Task};
use super::{REPAIR_ROOM, Sender};
use crate::frame::MAX_SET;
use crate::plan;
use crate::time::Instant;
use bytes::BytesMut;
use std::time::Duration;

/// Most pools at a time; beyond, losses join the newest.
const MAX_POOLS: usize = 64;
/// Most members of a pool: what the prefix of a repair frame has room for, with far gaps.
const MAX_MEMBERS: usize = REPAIR_ROOM - 24;
const _: () = assert!(MAX_MEMBERS <= MAX_SET);

/// Losses that are repaired by combinations of all of them.
#[derive(Debug)]
pub(crate) struct Pool {
    id: u32,
    members: Vec<u64>,
    /// The earliest of the members' last moments.
    latest: Instant,
    /// Combinations still to be sent; `None` while more losses may join.
    left: Option<usize>,
    apart: Duration,
}

/// The pools of a link.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    pools: Vec<Pool>,
    next: u32,
    spare: Vec<Vec<u64>>,
}

impl Pools {
    /// Adds a loss to the pool that is still open, or opens one that closes after `wait`.
    pub(super) fn join(&mut self, symbol: u64, now: Instant, wait: Duration, latest: Instant, agenda: &mut Agenda) {
        let full = self.pools.len() >= MAX_POOLS;
        let open = self.pools.last_mut().filter(|pool| pool.left.is_none() && pool.members.len() < MAX_MEMBERS);
        if let Some(pool) = open {
            if let Err(place) = pool.members.binary_search(&symbol) {
                pool.members.insert(place, symbol);
            }
            pool.latest = pool.latest.min(latest);
            return;
        }
        if full {
            self.pools.remove(0);
        }
        self.next = self.next.wrapping_add(1);
        let mut members = self.spare.pop().unwrap_or_default();
        members.push(symbol);
        self.pools.push(Pool { id: self.next, members, latest, left: None, apart: Duration::ZERO });
        agenda.add(now + wait, Task::Pool { id: self.next });
    }

    fn take(&mut self, id: u32) -> Option<Pool> {
        let place = self.pools.iter().position(|pool| pool.id == id)?;
        Some(self.pools.remove(place))
    }

    fn put_back(&mut self, pool: Pool) {
        let place = self.pools.iter().position(|other| other.left.is_none()).unwrap_or(self.pools.len());
        self.pools.insert(place, pool);
    }

    fn retire(&mut self, mut pool: Pool) {
        pool.members.clear();
        if self.spare.len() < 8 {
            self.spare.push(pool.members);
        }
    }
}

impl Sender {
    /// Writes the next combination of a pool, and plans the one after it.
    pub(super) fn write_pooled(&mut self, now: Instant, out: &mut BytesMut, id: u32) -> Option<usize> {
        let mut pool = self.pools.take(id)?;
        pool.members.retain(|symbol| self.history.get(*symbol).is_some_and(|sent| !sent.acked));
        if pool.members.is_empty() {
            self.pools.retire(pool);
            return None;
        }
        let left = match pool.left {
            Some(left) => left,
            None => self.plan_pool(now, &mut pool),
        };
        let written = self.write_repair(now, out, &pool.members, Cause::Answer);
        let next = now + pool.apart;
        if left > 1 && next <= pool.latest + Duration::from_millis(1) {
            pool.left = Some(left - 1);
            self.agenda.add(next, Task::Pool { id });
            self.pools.put_back(pool);
        } else {
            for symbol in &pool.members {
                if let Some(sent) = self.history.get_mut(*symbol) {
                    (sent.planned, sent.assured) = (false, true);
                }
            }
            self.pools.retire(pool);
        }
        written
    }

    /// Decides how many combinations the pool gets, and how far apart.
    fn plan_pool(&self, now: Instant, pool: &mut Pool) -> usize {
        let time = pool.latest - now;
        let loss = self.path.loss_planned();
        let target = self.target_among(self.pooled_share.get());
        let mut count = pool.members.len() + 3;
        for _ in 0..3 {
            // As far apart as there is time: the likelier is it that a report makes some of them unnecessary.
            pool.apart = time / count.max(1) as u32;
            count = plan::transmissions(pool.members.len(), loss, self.path.after_loss_at(pool.apart), target);
        }
        pool.apart = time / count.max(1) as u32;
        count
    }
}
