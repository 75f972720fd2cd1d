//! A bulk flow: one QUIC stream as fast as CUBIC lets it.

use crate::realtime::quic;
use crate::rig::RigError;
use quinn::{Connection, Endpoint, TransportConfig};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

/// A flow that runs until it is dropped.
#[derive(Debug)]
pub(super) struct Bulk {
    received: Arc<AtomicU64>,
    connection: Connection,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// How long the handshake may take through the bottleneck.
const PATIENCE: Duration = Duration::from_secs(10);
const CHUNK: usize = 64 << 10;

impl Bulk {
    /// Starts a flow. `path` is given the receiver's address and returns where to dial it through the bottleneck.
    pub(super) fn start(path: impl FnOnce(SocketAddr) -> Result<SocketAddr, RigError>) -> Result<Bulk, RigError> {
        let (server, client) = quic::configs(TransportConfig::default)?;
        let received = Arc::new(AtomicU64::new(0));
        let (count, (stop, stopped)) = (received.clone(), oneshot::channel());
        let (address, bound) = mpsc::channel();
        let (dial, to_dial) = oneshot::channel();
        let (connected, connection) = mpsc::channel();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let flow = async move {
            let endpoint = Endpoint::server(server, any).map_err(|error| quic::failed(&error))?;
            let _ = address.send(endpoint.local_addr().map_err(|error| quic::failed(&error))?);
            let Ok(to) = to_dial.await else { return Ok(()) };
            tokio::spawn(receive(endpoint, count));
            let near = Endpoint::client(any).map_err(|error| quic::failed(&error))?;
            let connecting = near.connect_with(client, to, quic::SERVER_NAME).map_err(|error| quic::failed(&error))?;
            let connection = connecting.await.map_err(|error| quic::failed(&error))?;
            let _ = connected.send(connection.clone());
            send(connection).await;
            Ok::<(), RigError>(())
        };
        let thread = std::thread::Builder::new()
            .name("bulk".into())
            .spawn(move || run(flow, stopped))
            .map_err(|error| quic::failed(&error))?;
        let mut bulk = Starting { stop: Some(stop), thread: Some(thread) };
        let silent = |_| quic::failed(&format!("no connection through the bottleneck within {PATIENCE:?}"));
        let to = path(bound.recv_timeout(PATIENCE).map_err(silent)?)?;
        let _ = dial.send(to);
        let connection = connection.recv_timeout(PATIENCE).map_err(silent)?;
        Ok(Bulk { received, connection, stop: bulk.stop.take(), thread: bulk.thread.take() })
    }

    /// Bytes of the stream received by now.
    pub(super) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    /// Its round trip as quinn has it now, and packets lost up to now.
    pub(super) fn path(&self) -> (Duration, u64) {
        let path = self.connection.stats().path;
        (path.rtt, path.lost_packets)
    }
}

/// Ends the thread of a flow that did not come about.
struct Starting {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Starting {
    fn drop(&mut self) {
        halt(&mut self.stop, &mut self.thread);
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        halt(&mut self.stop, &mut self.thread);
    }
}

fn halt(stop: &mut Option<oneshot::Sender<()>>, thread: &mut Option<JoinHandle<()>>) {
    drop(stop.take());
    if let Some(thread) = thread.take() {
        let _ = thread.join();
    }
}

fn run(flow: impl Future<Output = Result<(), RigError>>, stopped: oneshot::Receiver<()>) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
    runtime.block_on(async {
        tokio::select! {
            result = flow => {
                if let Err(error) = result {
                    tracing::warn!("the bulk flow ended: {error}");
                }
            }
            _ = stopped => {}
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

async fn send(connection: Connection) {
    let Ok(mut stream) = connection.open_uni().await else { return };
    let chunk = vec![0x55; CHUNK];
    while stream.write_all(&chunk).await.is_ok() {}
}

async fn receive(endpoint: Endpoint, count: Arc<AtomicU64>) {
    let Some(incoming) = endpoint.accept().await else { return };
    let Ok(connection) = incoming.await else { return };
    let Ok(mut stream) = connection.accept_uni().await else { return };
    while let Ok(Some(chunk)) = stream.read_chunk(CHUNK, false).await {
        count.fetch_add(chunk.bytes.len() as u64, Ordering::Relaxed);
    }
}
