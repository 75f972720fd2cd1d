//! A receive buffer may hold several datagrams of one sender (GRO, `udp(7)`): picking some of them.

use quinn::udp::RecvMeta;

/// Keeps of a buffer the datagrams that `keep` holds for, in their order and closed up, and makes `meta` say so.
pub fn retain_datagrams(buffer: &mut [u8], meta: &mut RecvMeta, mut keep: impl FnMut(&[u8]) -> bool) {
    let (mut kept, mut at) = (0, 0);
    while at < meta.len {
        let end = meta.len.min(at + meta.stride.max(1));
        if keep(&buffer[at..end]) {
            if kept < at {
                buffer.copy_within(at..end, kept);
            }
            kept += end - at;
        }
        at = end;
    }
    meta.len = kept;
}
