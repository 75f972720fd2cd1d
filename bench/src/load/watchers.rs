//! Sinks as a relay sees them, many on one thread: each a connection with a link of its own that subscribes, reports, and sends
//! receipts, and none with playout or outputs, which would take more of the machine than the relay that is measured.

use super::round::failed;
use super::sinks::{SINKS_PER_SOCKET, Tally};
use crate::realtime::PATH_MTU;
use crate::rig::Trial;
use link::{Delivery, Instant, LinkConfig};
use node::control::{Control, Hello, RECEIPTS, Receipt, StreamOpen, VERSION};
use node::endpoint::{Endpoint, EndpointOptions};
use node::exit::Failure;
use node::trust::{Credentials, Direction, Role};
use node::host::block_on_local;
use node::{Closed, EndSystem, Host, Peer, PortId, Ports};
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use topology::StreamName;
use topology::lsdb::Incarnation;

/// How often a relay is told what became of the stream, as sinks do.
const RECEIPT_EVERY: Duration = Duration::from_secs(1);

/// How long the tokens of the sinks are valid.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// The thread of the sinks. It ends where this is dropped.
#[derive(Debug)]
pub(super) struct Watchers {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Watchers {
    /// Connects so many sinks to a relay, and has them ask for the stream.
    pub(super) fn start(
        trial: &Trial,
        relay: SocketAddr,
        sinks: u32,
        stream: &StreamName,
        tally: &Arc<Tally>,
    ) -> Result<Watchers, Failure> {
        let credentials = trial.bare().map_err(|error| failed(&error))?;
        let tokens: Vec<String> = (0..sinks)
            .map(|_| trial.token("**", Direction::Subscribe, LIFETIME))
            .collect::<Result<_, _>>()
            .map_err(|error| failed(&error))?;
        let ((stop, stopped), (connected, connection)) = (oneshot::channel::<()>(), mpsc::channel());
        let (tally, stream) = (tally.clone(), stream.clone());
        let run = move || {
            let watching = async {
                let host = Host::new(tally.clock(), Watching::new(stream, tally));
                let _ = connected.send(connect(&host, &credentials, relay, tokens).await);
                let _ = stopped.await;
                Ok(())
            };
            if let Err(failure) = block_on_local(watching) {
                tracing::warn!("the sinks ended: {failure}");
            }
        };
        let thread = std::thread::Builder::new().name("sinks".into()).spawn(run).map_err(|error| failed(&error))?;
        let watchers = Watchers { stop: Some(stop), thread: Some(thread) };
        connection.recv().map_err(|_| failed(&"the sinks' thread ended"))??;
        Ok(watchers)
    }
}

impl Drop for Watchers {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn connect(
    host: &Host<Watching>,
    credentials: &Credentials,
    relay: SocketAddr,
    tokens: Vec<String>,
) -> Result<(), Failure> {
    let options = EndpointOptions {
        listen: (Ipv4Addr::LOCALHOST, 0).into(),
        udp_payload: Some(PATH_MTU),
        ..EndpointOptions::default()
    };
    let relay = relay.to_string();
    for (group, tokens) in tokens.chunks(SINKS_PER_SOCKET).enumerate() {
        let endpoint = Endpoint::bind(&options, credentials.clone()).map_err(|error| failed(&error))?;
        for (index, token) in tokens.iter().enumerate() {
            let hello = Hello {
                version: VERSION,
                features: RECEIPTS,
                role: Role::Sink,
                tokens: vec![token.clone()],
                agent: "anabranch-bench".into(),
            };
            let session = endpoint.connect(&relay, hello).await.map_err(|error| failed(&error))?;
            let seed = (group * SINKS_PER_SOCKET + index) as u64;
            let idle_probe_interval = LinkConfig::LEAF_IDLE_PROBES;
            host.attach(session, LinkConfig { seed, idle_probe_interval, ..LinkConfig::default() });
        }
    }
    Ok(())
}

/// The sinks as one end system: what comes to any of them is counted.
#[derive(Debug)]
struct Watching {
    stream: StreamName,
    tally: Arc<Tally>,
    /// Of the ports at which the stream was announced.
    watched: HashMap<PortId, Watched>,
    receipts_due: Instant,
}

/// One sink.
#[derive(Debug)]
struct Watched {
    incarnation: Incarnation,
    /// Packets since the last receipt.
    came: u64,
}

impl Watching {
    fn new(stream: StreamName, tally: Arc<Tally>) -> Watching {
        let receipts_due = tally.clock().now() + RECEIPT_EVERY;
        Watching { stream, tally, watched: HashMap::new(), receipts_due }
    }
}

impl EndSystem for Watching {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        ports.control(port, Control::Subscribe { name: self.stream.clone() });
    }

    fn handle_delivery(&mut self, _: Instant, port: PortId, delivery: Delivery, _: &mut Ports) {
        self.tally.take(&delivery.payload);
        if let Some(watched) = self.watched.get_mut(&port) {
            watched.came += 1;
        }
    }

    fn handle_control(&mut self, _: Instant, port: PortId, message: Control, _: &mut Ports) {
        if let Control::StreamOpen(StreamOpen { incarnation, .. }) = message {
            self.watched.insert(port, Watched { incarnation, came: 0 });
        }
    }

    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        tracing::warn!("a sink was closed: {}", closed.reason);
        self.watched.remove(&port);
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.receipts_due = now + RECEIPT_EVERY;
        for (port, watched) in &mut self.watched {
            let receipt = Receipt {
                name: self.stream.clone(),
                incarnation: watched.incarnation,
                on_time: std::mem::take(&mut watched.came),
                late: 0,
                missing: 0,
                overflow: 0,
                missed: Vec::new(),
            };
            ports.control(*port, Control::Receipt(receipt));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.receipts_due)
    }
}
