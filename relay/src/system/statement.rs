//! What relays say to all others, told apart by what it is about: of two statements about the same the newer one is enough.

use super::carried::StreamId;
use crate::forward::label;
use node::control::{self, Control};
use topology::NodeName;

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// The links, streams and wishes of a relay.
    Links(NodeName),
    /// The trouble on the links into a relay.
    Trouble(NodeName),
    /// The graphs of a stream.
    Graph(StreamId),
}

impl Topic {
    /// Of a statement, signed or not; `None` of any other message.
    pub(super) fn of(message: &Control) -> Option<Topic> {
        match message {
            // It was opened, or made, here: nothing signed stands in it.
            Control::Signed(signed) => Topic::of_plain(&control::decode(&signed.body).ok()?),
            plain => Topic::of_plain(plain),
        }
    }

    fn of_plain(message: &Control) -> Option<Topic> {
        match message {
            Control::Advertise(ad) => Some(Topic::Links(ad.origin.clone())),
            Control::Trouble(report) => Some(Topic::Trouble(report.origin.clone())),
            Control::Install(install) => Some(Topic::Graph(StreamId::from(install))),
            _ => None,
        }
    }
}

/// Whether the first of two statements about the same is newer.
pub(super) fn is_newer(statement: &Control, than: &Control) -> bool {
    match (statement, than) {
        (Control::Advertise(new), Control::Advertise(old)) => new.number() > old.number(),
        (Control::Trouble(new), Control::Trouble(old)) => (new.boot, new.seq) > (old.boot, old.seq),
        (Control::Install(new), Control::Install(old)) => {
            new.boot > old.boot || new.boot == old.boot && label::later(new.epoch, old.epoch)
        }
        _ => false,
    }
}

/// What it takes to keep or to send a statement, about.
pub(super) fn bytes(message: &Control) -> usize {
    match message {
        Control::Signed(signed) => signed.body.len() + signed.certificate.len() + signed.signature.len(),
        plain => control::encoded_size(plain).unwrap_or_default(),
    }
}
