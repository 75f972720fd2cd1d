//! A socket that loses datagrams in bursts, before a sink: loss without a process in between that would take a core of its own.

use crate::channel::{Draws, gilbert_entry};
use node::endpoint::retain_datagrams;
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use std::io::{Error, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

/// P(lost | the one before was lost), as on the paths of the papers: bursts of three on average.
const BURST: f64 = 0.66;

/// Loses a share of what arrives, and of what is sent, each by a Gilbert model of its own.
#[derive(Debug)]
pub(super) struct LossySocket {
    socket: Arc<dyn AsyncUdpSocket>,
    arriving: Mutex<Gilbert>,
    leaving: Mutex<Gilbert>,
}

#[derive(Debug)]
struct Gilbert {
    draws: Draws,
    enter: f64,
    lost: bool,
}

impl Gilbert {
    fn new(mean: f64, seed: u64) -> Gilbert {
        Gilbert { draws: Draws::new(seed), enter: gilbert_entry(mean, BURST), lost: false }
    }

    fn loses(&mut self) -> bool {
        self.lost = self.draws.chance(if self.lost { BURST } else { self.enter });
        self.lost
    }

    /// Keeps of a receive buffer what is not lost.
    fn thin(&mut self, buffer: &mut [u8], meta: &mut RecvMeta) {
        retain_datagrams(buffer, meta, |_| !self.loses());
    }
}

impl LossySocket {
    /// Before `socket`, with a mean loss of 0 to 0.5 in either direction.
    pub(super) fn new(socket: Arc<dyn AsyncUdpSocket>, mean: f64, seed: u64) -> LossySocket {
        let gilbert = |way| Mutex::new(Gilbert::new(mean, 2 * seed + way));
        LossySocket { socket, arriving: gilbert(0), leaving: gilbert(1) }
    }
}

impl AsyncUdpSocket for LossySocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> Result<(), Error> {
        // What a sink sends are single datagrams.
        let lost = self.leaving.lock().unwrap_or_else(PoisonError::into_inner).loses();
        if lost { Ok(()) } else { self.socket.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        metas: &mut [RecvMeta],
    ) -> Poll<Result<usize, Error>> {
        loop {
            let count = ready!(self.socket.poll_recv(context, buffers, metas))?;
            let mut gilbert = self.arriving.lock().unwrap_or_else(PoisonError::into_inner);
            for (buffer, meta) in buffers.iter_mut().zip(metas.iter_mut()).take(count) {
                gilbert.thin(buffer, meta);
            }
            if metas[..count].iter().any(|meta| meta.len > 0) {
                return Poll::Ready(Ok(count));
            }
        }
    }

    fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_lost_in_bursts_and_the_rest_closes_up() {
        let mut gilbert = Gilbert::new(0.05, 7);
        let (mut kept, mut runs, mut next) = (0, 0, 0);
        for batch in 0..20_000_u32 {
            let mut buffer: Vec<u8> = (0..10_u32).flat_map(|nth| (10 * batch + nth).to_be_bytes()).collect();
            let mut meta = RecvMeta { len: 40, stride: 4, ..RecvMeta::default() };
            gilbert.thin(&mut buffer, &mut meta);
            for number in buffer[..meta.len].as_chunks::<4>().0 {
                let number = u32::from_be_bytes(*number);
                assert!(number >= next, "in order, and none twice");
                runs += u32::from(number > next);
                (kept, next) = (kept + 1, number + 1);
            }
        }
        let lost = 200_000 - kept;
        assert!((8_000..12_000).contains(&lost), "{lost} of 200,000");
        assert!((lost / 4..lost / 2).contains(&runs), "{lost} in {runs} bursts");
    }
}
