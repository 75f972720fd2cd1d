//! Bounds on what peers can make a relay hold.

use link::Bitrate;
use node::config::optional_rate;
use node::control::Dissemination;
use serde::Deserialize;
use std::time::Duration;

/// Bounds on what peers can make this relay hold. What goes beyond is refused with `Overload` and its reason.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Most connections from sources and sinks.
    pub max_clients: usize,
    /// Of these, most from one address: of IPv4 one, of IPv6 a network of 64 bits.
    pub max_clients_per_address: usize,
    /// Of these, most that come by one token.
    pub max_clients_per_token: usize,
    /// Most relays in the overlay; a link-state database beyond is not learnt. A relay has 256 neighbours at most, however many there are:
    /// no advertisement may tell of more links.
    pub max_relays: usize,
    /// Most streams carried at once. Of these, 2048 may enter here: no advertisement may tell of more.
    pub max_streams: usize,
    /// Of these, most that one relay brings: as their ingress, or by its word alone. This relay is one as well.
    pub max_streams_per_relay: usize,
    /// Most streams published here by one token, and most that are watched here because one token asked for them first.
    pub max_streams_per_token: usize,
    /// Most streams one source may publish, or one sink watch, over one connection.
    pub max_streams_per_client: usize,
    /// Most subscribers of one stream here.
    pub max_subscribers: usize,
    /// Ceiling on the rate of any one published stream, whatever its token allows; none by default.
    #[serde(deserialize_with = "optional_rate")]
    pub max_stream_rate: Option<Bitrate>,
    /// Most bytes of media kept per link for repair, in each direction.
    pub max_history: usize,
    /// Bytes of media kept of all streams together, at most two seconds of each, for those who join at the start of one or
    /// ask again for what they lack.
    pub max_stream_history: usize,
    /// Share of a link's `capacity` that streams are admitted to (above 0, at most 1); the rest is for headers, feedback and
    /// repair.
    pub max_admitted_share: f64,
    /// What the link to each source or sink carries, where they are known to be alike: what is published or watched over one connection is admitted
    /// to `max_admitted_share` of it; not bounded by default.
    #[serde(deserialize_with = "optional_rate")]
    pub client_capacity: Option<Bitrate>,
    /// Whether sources may ask for high priority; otherwise such streams are refused.
    pub allow_high_priority: bool,
    /// The modes that sources may ask for; all where it is empty.
    pub allow_modes: Vec<Dissemination>,
    /// The shortest deadline that sources may ask for.
    #[serde(with = "humantime_serde")]
    pub min_deadline: Duration,
    /// The least share of packets left missing on a hop that sources may ask for.
    pub min_target_residual: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            max_clients: 10_000,
            max_clients_per_address: 1_000,
            max_clients_per_token: 5_000,
            max_relays: 1_000,
            max_streams: 1_000,
            max_streams_per_relay: 500,
            max_streams_per_token: 250,
            max_streams_per_client: 64,
            max_subscribers: 10_000,
            max_stream_rate: None,
            max_history: 16 << 20,
            max_stream_history: 256 << 20,
            max_admitted_share: 0.8,
            client_capacity: None,
            allow_high_priority: true,
            allow_modes: Vec::new(),
            min_deadline: Duration::from_millis(1),
            min_target_residual: 1e-9,
        }
    }
}
