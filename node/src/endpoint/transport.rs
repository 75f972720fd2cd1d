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

/// The settings of a connection whose packets are of `payload` bytes at most.
pub(super) fn config(payload: u16, segmentation_offload: bool) -> TransportConfig {
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
    // Nothing is discovered by quinn (see `path`): a least payload equal to the current one leaves it nothing to fall back to.
    config.initial_mtu(payload).min_mtu(payload).mtu_discovery_config(None);
    config
}

/// Fewer acknowledgements: every 25 ms, or one for 200 packets where more than that come meanwhile. Both ends ask for it. A link's reports carry
/// them along, so that while media flows few travel alone.
fn ack_frequency() -> AckFrequencyConfig {
    let mut config = AckFrequencyConfig::default();
    config
        .ack_eliciting_threshold(VarInt::from_u32(200))
        .max_ack_delay(Some(Duration::from_millis(25)))
        .reordering_threshold(VarInt::from_u32(7));
    config
}
