//! Notices that a path has become smaller while a connection lives: large frames vanish, small ones pass.
//!
//! Where much is lost, or nothing is known to arrive any more, the link asks again whether the path carries its largest frame
//! ([`link::proof`]). Loss of all sizes, and an outage, are told apart from a path that has become smaller by the answers.

use crate::endpoint::Paths;
use crate::ports::{PortId, Ports};
use link::Instant;
use link::proof::Verdict;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Loss from which the size of the path is doubted.
const DOUBT: f64 = 0.4;

/// Time beyond the round trip without word of anything that arrived, from which it is doubted too.
const NO_WORD: Duration = Duration::from_millis(500);

/// Time between the beginnings of two proofs: one takes a second.
const PAUSE: Duration = Duration::from_millis(1500);

/// The watch over one connection, at the end that dialled.
#[derive(Debug)]
pub(super) struct PathWatch {
    paths: Arc<Paths>,
    /// When it was last asked.
    asked: Option<Instant>,
    /// Whether the verdict is still open.
    open: bool,
}

impl PathWatch {
    pub(super) fn new(paths: Arc<Paths>) -> PathWatch {
        PathWatch { paths, asked: None, open: false }
    }

    /// Whether the path has become too small; to be asked a few times a second.
    pub(super) fn finds_small(&mut self, now: Instant, port: PortId, ports: &mut Ports) -> bool {
        let Some(link) = ports.link(port) else { return false };
        let quality = link.quality(now);
        let lossy = quality.loss_sent_fast.max(quality.loss_received_fast) > DOUBT;
        let patience = NO_WORD.max(quality.heard_every * 2);
        let doubtful = lossy || quality.delivered_ago > patience + quality.rtt;
        if self.open {
            let verdict = link.path_verdict(now);
            self.open = verdict == Some(Verdict::Pending);
            return verdict == Some(Verdict::NotCarried);
        }
        if doubtful && self.asked.is_none_or(|asked| now - asked > PAUSE) {
            (self.asked, self.open) = (Some(now), true);
            if let Some(link) = ports.link_mut(port) {
                link.prove_path(now);
            }
        }
        false
    }

    pub(super) fn remember(&self, address: SocketAddr) {
        self.paths.remember_small(address);
    }
}
