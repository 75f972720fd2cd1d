//! What changes at a relay, as its operator is told of it: in words and in data. Pure.

use crate::ops::schema;
use link::Instant;
use link::policy::Policy;
use node::trust::Role;
use serde::Serialize;
use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;
use topology::{LinkEnd, NodeName, StreamName};
use utoipa::ToSchema;

/// Most changes that wait to be told. Beyond it the oldest are let go, and counted.
const MOST: usize = 1024;

/// Something that changed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Event {
    /// Counts up by one with every event in the life of the relay's process.
    pub number: u64,
    /// When, in milliseconds since 1970 on the relay's wall clock.
    pub unix_ms: u64,
    /// What, in words.
    pub words: String,
    /// The same as data.
    #[serde(flatten)]
    pub what: What,
}

/// What changed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum What {
    /// A relay, source or sink connected.
    PeerConnected {
        /// Who, and over which link where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// As what.
        #[schema(value_type = schema::Role)]
        role: Role,
        /// From where.
        address: String,
    },
    /// Its connection is gone.
    PeerGone {
        /// Who, and over which link where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// As what.
        #[schema(value_type = schema::Role)]
        role: Role,
        /// Why.
        reason: String,
    },
    /// Streams may go over the link to a relay.
    LinkUp {
        /// The neighbour, and which link to it where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
    },
    /// Streams may no longer go over it.
    LinkDown {
        /// The neighbour, and which link to it where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// Its connection is gone, it is silent, or it is being drained.
        reason: String,
    },
    /// What comes from a neighbour is lost or late.
    LinkTroubled {
        /// The neighbour, and which link to it where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// Share lost, as the level that routes are chosen by.
        loss: f64,
        /// Whether it is later than usual.
        late: bool,
    },
    /// It comes well again.
    LinkRecovered {
        /// The neighbour, and which link to it where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// Seconds of trouble.
        after_s: f64,
    },
    /// A stream is carried from now on.
    StreamStarted {
        /// Its name.
        #[schema(value_type = schema::StreamName)]
        stream: StreamName,
        /// Its life.
        incarnation: u64,
        /// The relay its source publishes at.
        #[schema(value_type = schema::NodeName)]
        ingress: NodeName,
    },
    /// A stream is carried no more.
    StreamEnded {
        /// Its name.
        #[schema(value_type = schema::StreamName)]
        stream: StreamName,
        /// Its life.
        incarnation: u64,
        /// Whether its source ended it; else nobody wants it here any more, or nothing brings it.
        ended: bool,
    },
    /// A stream that enters here is not carried to a relay at which it is watched: a link is full.
    NotAdmitted {
        /// The stream.
        #[schema(value_type = schema::StreamName)]
        stream: StreamName,
        /// The relay.
        #[schema(value_type = schema::NodeName)]
        egress: NodeName,
        /// Which link, what it may carry, what is admitted, what was asked.
        reason: String,
    },
    /// A sink watches a stream here.
    Subscribed {
        /// The stream.
        #[schema(value_type = schema::StreamName)]
        stream: StreamName,
        /// The sink.
        #[schema(value_type = schema::NodeName)]
        sink: NodeName,
    },
    /// A sink watches it no more.
    Unsubscribed {
        /// The stream.
        #[schema(value_type = schema::StreamName)]
        stream: StreamName,
        /// The sink.
        #[schema(value_type = schema::NodeName)]
        sink: NodeName,
    },
    /// What this relay sends to a neighbour is repaired in another way.
    PolicyChanged {
        /// The neighbour, and which link to it where there are several.
        #[schema(value_type = schema::LinkEnd)]
        peer: LinkEnd,
        /// The policy in force now.
        #[schema(value_type = schema::Policy)]
        policy: Policy,
    },
    /// Streams are taken off this relay, or off one of its links.
    Draining {
        /// The link, by the neighbour at its other end; null: the relay as a whole.
        #[schema(value_type = Option<schema::LinkEnd>, required)]
        link: Option<LinkEnd>,
    },
    /// Streams may come again.
    Resumed {
        /// The link, by the neighbour at its other end; null: the relay as a whole.
        #[schema(value_type = Option<schema::LinkEnd>, required)]
        link: Option<LinkEnd>,
    },
    /// The configuration was read anew.
    Reloaded {
        /// In force now.
        applied: Vec<String>,
        /// Changed in the file, in force after a restart only.
        restart: Vec<String>,
    },
    /// The configuration was read anew, has a mistake, and changed nothing.
    ReloadRefused {
        /// File, field, and what was expected.
        reason: String,
    },
    /// Events that this listener was too slow for.
    Missed {
        /// How many.
        count: u64,
    },
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = |link: &Option<LinkEnd>| match link {
            Some(link) => format!("the link to {link}"),
            None => "this relay".to_owned(),
        };
        match self {
            What::PeerConnected { peer, role, address } => write!(f, "{role} {peer} connected from {address}"),
            What::PeerGone { peer, role, reason } => write!(f, "{role} {peer} is gone: {reason}"),
            What::LinkUp { peer } => write!(f, "link to {peer} up"),
            What::LinkDown { peer, reason } => write!(f, "link to {peer} down: {reason}"),
            What::LinkTroubled { peer, loss, late } => {
                let late = if *late { ", later than usual" } else { "" };
                write!(f, "link from {peer} in trouble: {:.1} % lost{late}", loss * 100.0)
            }
            What::LinkRecovered { peer, after_s } => write!(f, "link from {peer} well again after {after_s:.1} s"),
            What::StreamStarted { stream, ingress, .. } => write!(f, "stream {stream} started, from relay {ingress}"),
            What::StreamEnded { stream, ended: true, .. } => write!(f, "stream {stream} ended"),
            What::StreamEnded { stream, .. } => write!(f, "stream {stream} no longer carried here"),
            What::NotAdmitted { stream, egress, reason } => {
                write!(f, "stream {stream} is not carried to {egress}: {reason}")
            }
            What::Subscribed { stream, sink } => write!(f, "sink {sink} watches {stream}"),
            What::Unsubscribed { stream, sink } => write!(f, "sink {sink} no longer watches {stream}"),
            What::PolicyChanged { peer, policy } => {
                let mode = format!("{:?}", policy.mode).to_lowercase();
                let (target, most) = (policy.target_residual, policy.max_overhead * 100.0);
                write!(f, "repair towards {peer}: {mode}, target {target:e}, at most {most} %")
            }
            What::Draining { link } => write!(f, "streams are taken off {}", whole(link)),
            What::Resumed { link } => write!(f, "streams may come over {} again", whole(link)),
            What::Reloaded { applied, .. } if applied.is_empty() => {
                write!(f, "configuration read anew: nothing changed")
            }
            What::Reloaded { applied, .. } => write!(f, "configuration read anew: {}", applied.join("; ")),
            What::ReloadRefused { reason } => write!(f, "configuration refused: {reason}"),
            What::Missed { count } => write!(f, "{count} events missed"),
        }
    }
}

/// What is still to be told.
#[derive(Debug, Default)]
pub struct Log {
    waiting: VecDeque<(Instant, What)>,
    lost: u64,
}

impl Log {
    /// Notes a change.
    pub fn note(&mut self, now: Instant, what: What) {
        if self.waiting.len() == MOST {
            self.waiting.pop_front();
            self.lost += 1;
        }
        self.waiting.push_back((now, what));
    }

    /// What was noted since the last time, with its age.
    pub fn take(&mut self, now: Instant) -> Vec<(Duration, What)> {
        let count = std::mem::take(&mut self.lost);
        let missed = (count > 0).then_some((Duration::ZERO, What::Missed { count }));
        let noted = std::mem::take(&mut self.waiting).into_iter();
        missed.into_iter().chain(noted.map(|(at, what)| (now.saturating_since(at), what))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_what_is_let_go_is_counted() {
        let mut log = Log::default();
        let up = || What::LinkUp { peer: "lon".parse().expect("valid") };
        for _ in 0..MOST + 3 {
            log.note(Instant::ORIGIN, up());
        }
        let told = log.take(Instant::ORIGIN + Duration::from_secs(1));
        assert_eq!(told[0].1, What::Missed { count: 3 });
        assert_eq!((told.len(), &told[1]), (MOST + 1, &(Duration::from_secs(1), up())));
        assert!(log.take(Instant::ORIGIN).is_empty());
    }

    #[test]
    fn an_event_is_words_and_data_in_one() {
        let what = What::LinkTroubled { peer: "lon".parse().expect("valid"), loss: 0.05, late: true };
        let event = Event { number: 7, unix_ms: 1, words: what.to_string(), what };
        let value = serde_json::to_value(event).expect("an event is JSON");
        assert_eq!(value["words"], "link from lon in trouble: 5.0 % lost, later than usual");
        assert_eq!(
            (&value["kind"], &value["peer"], &value["late"]),
            (&"link-troubled".into(), &"lon".into(), &true.into())
        );
    }
}
