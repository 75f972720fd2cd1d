//! What one way should have brought and did not, and another one brought.
//!
//! It is looked for where packets are kept, when whatever is in time must have come: once for each packet, off the way of the packets.

use super::history::History;
use super::window::Marks;
use link::{Instant, Label};
use node::PortId;
use std::time::Duration;

/// How far ages may be wrong.
const ERROR: Duration = Duration::from_millis(20);

/// Of a stream with a longer deadline, copies that come later than this are taken for lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// The numbers that came in time by each way. A way keeps its place while the stream is carried, whatever handle it has.
#[derive(Debug, Default)]
pub struct Came(Vec<(PortId, Marks)>);

impl Came {
    /// The place of a way.
    pub fn way(&mut self, port: PortId, in_use: impl Fn(PortId) -> bool) -> u32 {
        let known = self.0.iter().position(|(known, _)| *known == port);
        let at = known.or_else(|| {
            let free = self.0.iter().position(|(known, _)| !in_use(*known))?;
            self.0[free] = (port, Marks::default());
            Some(free)
        });
        let at = at.unwrap_or_else(|| {
            self.0.push((port, Marks::default()));
            self.0.len() - 1
        });
        at as u32
    }

    /// The numbers that came by the way at a place.
    #[inline]
    pub fn marks(&mut self, way: u32) -> Option<&mut Marks> {
        self.0.get_mut(way as usize).map(|(_, marks)| marks)
    }

    fn has(&self, port: PortId, seq: link::StreamSeq) -> bool {
        self.0.iter().any(|(known, marks)| *known == port && marks.contains(seq))
    }
}

/// How far the packets kept have been looked through.
#[derive(Debug, Default)]
pub struct Rescue {
    next: u64,
}

impl Rescue {
    /// How many packets that are due at `now` came though a way that should have brought them did not; looks at `room` at most, and takes them off.
    /// `expected` says of a label which ways should: `None` is one whose link is gone.
    pub fn count(
        &mut self,
        now: Instant,
        history: &History,
        came: &Came,
        deadline: Duration,
        room: &mut usize,
        mut expected: impl FnMut(Label) -> Vec<Option<PortId>>,
    ) -> u64 {
        let lag = deadline.min(PATIENCE) + ERROR;
        let mut known: Option<(Label, Vec<Option<PortId>>)> = None;
        let mut rescued = 0;
        self.next = self.next.max(history.places().start);
        while *room > 0
            && let Some(kept) = history.at(self.next).filter(|kept| kept.born + lag <= now)
        {
            self.next += 1;
            *room -= 1;
            if known.as_ref().is_none_or(|(label, _)| *label != kept.label) {
                known = Some((kept.label, expected(kept.label)));
            }
            let Some((_, ways)) = &known else { continue };
            let brought = |port: PortId| port == kept.from || came.has(port, kept.seq);
            rescued += u64::from(ways.iter().any(|way| !way.is_some_and(brought)));
        }
        rescued
    }
}
