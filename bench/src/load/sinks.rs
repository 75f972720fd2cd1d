//! Who receives: a thread that counts, for plain datagrams and for those of bare connections.

use super::feed::stamp;
use super::process::transport;
use crate::media::MediaSocket;
use crate::realtime::quic;
use crate::rig::{RigError, Trial};
use hdrhistogram::Histogram;
use node::clock::Clock;
use quinn::{ClientConfig, Connection, Endpoint, EndpointConfig, TokioRuntime};
use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// What has been received.
#[derive(Debug)]
pub(super) struct Tally {
    clock: Clock,
    packets: AtomicU64,
    delays_us: Mutex<Histogram<u64>>,
}

impl Tally {
    pub(super) fn new(clock: Clock) -> Arc<Tally> {
        let delays = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are in order");
        Arc::new(Tally { clock, packets: AtomicU64::new(0), delays_us: Mutex::new(delays) })
    }

    pub(super) fn take(&self, packet: &[u8]) {
        self.packets.fetch_add(1, Ordering::Relaxed);
        if let Some(sent) = stamp(packet) {
            let took = (self.clock.now() - sent).as_micros() as u64;
            self.delays_us.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(took);
        }
    }

    /// By which delays are measured.
    pub(super) fn clock(&self) -> Clock {
        self.clock
    }

    /// Packets received by now.
    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Forgets the delays up to now.
    pub(super) fn forget(&self) {
        self.delays_us.lock().unwrap_or_else(PoisonError::into_inner).reset();
    }

    /// From feeding to receiving, in microseconds: median, 99 % and 99.9 % quantile.
    pub(super) fn delays_us(&self) -> [u64; 3] {
        let delays = self.delays_us.lock().unwrap_or_else(PoisonError::into_inner);
        [0.5, 0.99, 0.999].map(|at| delays.value_at_quantile(at))
    }
}

/// One UDP socket for all sinks of a plain forwarder.
#[derive(Debug)]
pub(super) struct UdpSink {
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpSink {
    pub(super) fn start(tally: Arc<Tally>) -> io::Result<UdpSink> {
        let socket = MediaSocket::bind()?;
        let (address, stop) = (socket.address(), Arc::new(AtomicBool::new(false)));
        let told = stop.clone();
        let thread = std::thread::Builder::new().name("udp-sink".into()).spawn(move || {
            let mut room = vec![0; 65536];
            while !told.load(Ordering::Relaxed) {
                if let Some(packet) = socket.receive(Duration::from_millis(50), &mut room) {
                    tally.take(packet);
                }
            }
        })?;
        Ok(UdpSink { address, stop, thread: Some(thread) })
    }
}

impl Drop for UdpSink {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Bare connections: one that publishes, and sinks that count.
#[derive(Debug)]
pub(super) struct QuinnSinks {
    pub(super) publisher: Connection,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl QuinnSinks {
    /// Connects the publisher and then the sinks, all from one thread.
    pub(super) fn start(trial: &Trial, to: SocketAddr, sinks: u32, tally: &Arc<Tally>) -> Result<QuinnSinks, RigError> {
        let client = quic::client(&trial.bare()?, transport())?;
        let ((stop, stopped), (connected, connection)) = (oneshot::channel::<()>(), mpsc::channel());
        let tally = tally.clone();
        let run = move || {
            let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
            runtime.block_on(async {
                let publisher = connect(client, to, sinks, tally).await;
                let _ = connected.send(publisher);
                let _ = stopped.await;
            });
        };
        let thread =
            std::thread::Builder::new().name("quinn-sinks".into()).spawn(run).map_err(|error| quic::failed(&error))?;
        let publisher = connection.recv().map_err(|_| quic::failed(&"the sinks' thread ended"))??;
        Ok(QuinnSinks { publisher, stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for QuinnSinks {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn connect(client: ClientConfig, to: SocketAddr, sinks: u32, tally: Arc<Tally>) -> Result<Connection, RigError> {
    let publisher = dial(&endpoint().map_err(|error| quic::failed(&error))?, &client, to).await?;
    for group in (0..sinks).collect::<Vec<_>>().chunks(SINKS_PER_SOCKET) {
        let endpoint = endpoint().map_err(|error| quic::failed(&error))?;
        for _ in group {
            let (sink, tally) = (dial(&endpoint, &client, to).await?, tally.clone());
            tokio::spawn(async move {
                while let Ok(packet) = sink.read_datagram().await {
                    tally.take(&packet);
                }
            });
        }
    }
    Ok(publisher)
}

/// A burst for all sinks of one socket has to find room in it.
pub(super) const SINKS_PER_SOCKET: usize = 16;

fn endpoint() -> io::Result<Endpoint> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    Endpoint::new(EndpointConfig::default(), None, socket.into(), Arc::new(TokioRuntime))
}

async fn dial(endpoint: &Endpoint, client: &ClientConfig, to: SocketAddr) -> Result<Connection, RigError> {
    let connecting = endpoint.connect_with(client.clone(), to, quic::SERVER_NAME);
    connecting.map_err(|error| quic::failed(&error))?.await.map_err(|error| quic::failed(&error))
}
