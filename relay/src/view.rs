//! What an operator is shown of the overlay and of the past of a link: the JSON of `/api/v1/overlay`,
//! `/api/v1/streams/…` and `/api/v1/links/…/history`.

use crate::ops::schema;
use crate::report::{NeighbourReport, StreamReport, TsReport};
use crate::sla::SinkSla;
use serde::Serialize;
use topology::{LinkEnd, NodeName, StreamName};
use utoipa::ToSchema;

/// The overlay as this relay knows it, from its database.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Overview {
    /// This relay.
    #[schema(value_type = schema::NodeName)]
    pub name: NodeName,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// Whether it is about to stop, or lets no streams pass.
    pub draining: bool,
    /// Sources and sinks connected to it.
    pub clients: usize,
    /// Every relay known, this one included, by name.
    pub relays: Vec<RelayView>,
    /// Every direction of every link known between them, and those that went away in the last fifteen minutes.
    pub links: Vec<LinkView>,
    /// Every stream known, by name.
    pub streams: Vec<StreamView>,
    /// The neighbours this relay was told of, and how it stands with each.
    pub neighbours: Vec<NeighbourReport>,
}

/// A relay of the overlay.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RelayView {
    /// Its name.
    #[schema(value_type = schema::NodeName)]
    pub name: NodeName,
    /// Where it stands; null where its operator does not say.
    #[schema(required)]
    pub location: Option<LocationView>,
    /// Whether no streams pass through it.
    pub draining: bool,
    /// What it is marked with: `kind:value`.
    pub tags: Vec<String>,
}

/// A place on Earth, in degrees.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct LocationView {
    /// North positive.
    #[schema(minimum = -90, maximum = 90)]
    pub latitude: f64,
    /// East positive.
    #[schema(minimum = -180, maximum = 180)]
    pub longitude: f64,
}

/// One direction of a link of the overlay. What an end has not told is null.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LinkView {
    /// The relay that sends.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The link as that relay calls it: the relay that receives, and the link's name where several join the two.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// Seconds since it went away; null while it is up.
    #[schema(required)]
    pub gone_s: Option<f64>,
    /// One-way delay in milliseconds: as configured, or half of the smallest round trip, which is right to within itself.
    pub delay_ms: f64,
    /// Share of transmissions lost on the wire, as the level that routes are chosen by.
    pub loss: f64,
    /// Whether it is later than usual.
    pub late: bool,
    /// Share of the media packets that was lost and that repair brought, lately; told by the receiving end.
    #[schema(required)]
    pub saved: Option<f64>,
    /// Share of the media packets that stayed lost after repair, lately; told by the receiving end.
    #[schema(required)]
    pub residual: Option<f64>,
    /// Media sent, in bits per second; told by the sending end.
    #[schema(required)]
    pub rate: Option<u64>,
    /// Repair bytes as a share of media bytes, lately; told by the sending end.
    #[schema(required)]
    pub overhead: Option<f64>,
}

/// A stream of the overlay.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct StreamView {
    /// Its name.
    #[schema(value_type = schema::StreamName)]
    pub name: StreamName,
    /// The relay its source publishes at.
    #[schema(value_type = schema::NodeName)]
    pub ingress: NodeName,
    /// One-way deadline in milliseconds.
    pub deadline_ms: f64,
    /// The relays at which sinks watch it, by name; the first 64.
    #[schema(value_type = Vec<schema::NodeName>)]
    pub egresses: Vec<NodeName>,
    /// Whether it passes through this relay.
    pub carried: bool,
    /// How the transport stream in it is here; null where it does not pass.
    #[schema(required)]
    pub ts: Option<TsReport>,
}

/// A stream that passes through this relay, with what its sinks here had of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct StreamDetail {
    /// The stream, its graph and its counters.
    pub report: StreamReport,
    /// Each sink that watches it here, or did in the last day.
    pub sinks: Vec<SinkSla>,
}

/// What a link of this relay was like over the last fifteen minutes.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct LinkPast {
    /// This relay.
    #[schema(value_type = schema::NodeName)]
    pub from: NodeName,
    /// The neighbour, and which link to it where there are several.
    #[schema(value_type = schema::LinkEnd)]
    pub to: LinkEnd,
    /// Seconds that each point stands for.
    pub step_s: f64,
    /// The oldest first. While the link was down there are none.
    pub points: Vec<PastPoint>,
}

/// What a link was like over one step of time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct PastPoint {
    /// Seconds since its end.
    pub ago_s: f64,
    /// Round trip in milliseconds, smoothed.
    pub rtt_ms: f64,
    /// Share of our transmissions lost on the wire.
    pub loss_sent: f64,
    /// Share of the neighbour's transmissions lost on the wire.
    pub loss_received: f64,
    /// Share of our media packets that stayed lost after repair, as the neighbour tells it; null before it has.
    #[schema(required)]
    pub residual_sent: Option<f64>,
    /// Share of the neighbour's media packets that stayed lost after repair.
    pub residual_received: f64,
    /// Repair bytes that we sent, as a share of media bytes.
    pub overhead_sent: f64,
    /// Media that we sent, in bits per second.
    pub rate_sent: u64,
}

/// How a stream is at every relay of its graph, at this moment.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TraceView {
    /// Its name.
    #[schema(value_type = schema::StreamName)]
    pub stream: StreamName,
    /// The relay its source publishes at.
    #[schema(value_type = schema::NodeName)]
    pub ingress: NodeName,
    /// One-way deadline in milliseconds.
    pub deadline_ms: f64,
    /// The relays that have answered, by name.
    pub relays: Vec<TraceRelay>,
    /// The relays of the graph that have not: they are silent, cannot be reached, or speak an older protocol.
    #[schema(value_type = Vec<schema::NodeName>)]
    pub silent: Vec<NodeName>,
}

/// How a stream is at one relay, as that relay has measured it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TraceRelay {
    /// Its name.
    #[schema(value_type = schema::NodeName)]
    pub relay: NodeName,
    /// Each way by which the stream comes to it.
    pub hops: Vec<TraceHop>,
}

/// How a stream comes over one hop.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct TraceHop {
    /// Who sends: a relay, and over which link where there are several, or the source.
    #[schema(value_type = schema::LinkEnd)]
    pub from: LinkEnd,
    /// One-way delay in milliseconds, bare transit.
    pub transit_ms: f64,
    /// Half-width of what is certain of it.
    pub bound_ms: f64,
    /// Share of transmissions lost on the wire, over some seconds.
    pub loss: f64,
    /// Packets of the stream that came over the hop.
    pub received: u64,
    /// Of these, brought by repair.
    pub repaired: u64,
    /// Of these, copies of what had come another way.
    pub duplicates: u64,
    /// Of these, after the deadline.
    pub late: u64,
    /// Age on arrival of those of the last two seconds that came first this way, median, in milliseconds; null where none did.
    #[schema(required)]
    pub age_ms: Option<f64>,
    /// The largest of these.
    #[schema(required)]
    pub most_age_ms: Option<f64>,
    /// What the oldest of these had left beyond the bare transit to the farthest receiver; less than nothing where it would be late.
    #[schema(required)]
    pub slack_ms: Option<f64>,
}
