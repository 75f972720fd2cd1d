//! quinn's settings, for live media.

use crate::rate::{INITIAL_RATE, LinkControllerFactory};
use quinn::{AckFrequencyConfig, TransportConfig, VarInt};
use std::sync::Arc;
use std::time::Duration;

/// A connection without a sign of life for this long is lost.
pub(super) const IDLE_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of datagrams that quinn could queue before it drops the oldest in silence. The driver of a link keeps far below.
pub(crate) const DATAGRAM_BUFFER: usize = 16 << 20;

/// Bytes of arrived datagrams that wait for their reader: 30 ms at 1 Gbit/s.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Unread control messages that a peer may have under way to us.
const CONTROL_WINDOW: u32 = 512 * 1024;

/// Smallest UDP payload that QUIC requires of a path (RFC 9000 section 14).
const LEAST_PAYLOAD: u16 = 1200;

/// The settings of every connection of an endpoint; `udp_payload` as in [`super::EndpointOptions`].
pub(super) fn config(udp_payload: Option<u16>, segmentation_offload: bool) -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        // One stream, opened by the dialling end, carries all control messages.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(CONTROL_WINDOW))
        .receive_window(VarInt::from_u32(2 * CONTROL_WINDOW))
        .send_window(u64::from(2 * CONTROL_WINDOW))
        .datagram_receive_buffer_size(Some(RECEIVE_BUFFER))
        .datagram_send_buffer_size(DATAGRAM_BUFFER)
        .max_idle_timeout(Some(VarInt::from_u32(IDLE_TIMEOUT.as_millis() as u32).into()))
        // A link probes by itself; this keeps a connection alive where its driver does not.
        .keep_alive_interval(Some(IDLE_TIMEOUT / 4))
        // RFC 9002 assumes 333 ms; a lost handshake packet would then cost a second.
        .initial_rtt(Duration::from_millis(100))
        // Media is repaired by the link; only control messages wait for QUIC's loss detection, so it may be patient with
        // reordering.
        .packet_threshold(8)
        // Three would call an outage of 200 ms congestion.
        .persistent_congestion_threshold(10)
        .ack_frequency_config(Some(ack_frequency()))
        .congestion_controller_factory(Arc::new(LinkControllerFactory { initial: INITIAL_RATE }))
        .enable_segmentation_offload(segmentation_offload);
    // Nothing is discovered. quinn's black-hole detection takes bursts of lost packets of several sizes for a path that has
    // become smaller: at 5 % bursty loss it did so every few seconds, and each time threw away what no longer fitted. A
    // least payload equal to the current one leaves it nothing to fall back to. Where the path is not known to carry more, packets
    // larger than one frame travel in two.
    let payload = udp_payload.unwrap_or(LEAST_PAYLOAD);
    config.initial_mtu(payload).min_mtu(payload).mtu_discovery_config(None);
    config
}

/// Fewer acknowledgements: a packet in 25, or every 25 ms. Both ends ask for it.
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(VarInt::from_u32(25))
        .max_ack_delay(Some(Duration::from_millis(25)))
        .reordering_threshold(VarInt::from_u32(7));
    config
}
