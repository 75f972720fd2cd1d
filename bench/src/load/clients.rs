//! A source and sinks as a relay sees them, on one thread: each a connection with a link of its own that publishes, or subscribes, reports,
//! and sends receipts; and none with inputs, playout or outputs, which would take more of the machine than the relay that is measured.

use super::Traffic;
use super::lossy::LossySocket;
use super::round::failed;
use super::sinks::{SINKS_PER_SOCKET, Tally};
use crate::realtime::PATH_MTU;
use crate::rig::{PATIENCE, Trial};
use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{
    CloseCode, Content, Control, Dissemination, Hello, Publish, RECEIPTS, Receipt, StreamOpen, VERSION, Wants,
};
use node::endpoint::{Endpoint, EndpointOptions};
use node::exit::Failure;
use node::host::block_on_local;
use node::trust::{Credentials, Direction, Role};
use node::{Closed, EndSystem, Host, Peer, PortId, Ports};
use quinn::AsyncUdpSocket;
use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use topology::StreamName;
use topology::lsdb::Incarnation;

/// How often a relay is told what became of the stream, as sinks do.
const RECEIPT_EVERY: Duration = Duration::from_secs(1);

/// How long the tokens are valid.
const LIFETIME: Duration = Duration::from_secs(86_400);

/// Times that a client dials before it gives up.
const ATTEMPTS: u32 = 3;

const DEADLINE: Duration = Duration::from_millis(200);

/// The thread of the clients. It ends where this is dropped.
#[derive(Debug)]
pub(super) struct Clients {
    bursts: Option<UnboundedSender<Burst>>,
    collected: Vec<Bytes>,
    burst: usize,
    /// Of sinks that come and go.
    pub(super) churn: Arc<Churn>,
    thread: Option<JoinHandle<()>>,
}

/// Packets that are published back to back, all of one stream.
type Burst = Vec<Bytes>;

impl Clients {
    /// Connects a source of so many streams, and so many sinks, each of which asks for one of them in turn.
    pub(super) fn start(
        trial: &Trial,
        (ingress, egress): (SocketAddr, SocketAddr),
        traffic: Traffic,
        tally: &Arc<Tally>,
    ) -> Result<Clients, Failure> {
        let credentials = trial.bare().map_err(|error| failed(&error))?;
        let token = |direction| trial.token("**", direction, LIFETIME).map_err(|error| failed(&error));
        let publisher = token(Direction::Publish)?;
        let sinks =
            (0..traffic.fan_out).map(|_| token(Direction::Subscribe)).collect::<Result<Vec<String>, Failure>>()?;
        let ((bursts, fed), (connected, connection)) = (unbounded_channel(), mpsc::channel());
        let (tally, churn) = (tally.clone(), Arc::<Churn>::default());
        let guests = churn.clone();
        let run = move || {
            let serving = async {
                let host = Host::new(tally.clock(), System::new(traffic.streams, tally));
                let (ingress, egress) = (ingress.to_string(), egress.to_string());
                let dialling = Dialling { host: host.clone(), credentials, ingress, egress, loss: traffic.loss };
                let guest = sinks[0].clone();
                let _ = connected.send(dialling.all(&publisher, &sinks).await);
                tokio::task::spawn_local(dialling.guests(guest, guests));
                publish(&host, fed).await;
                Ok(())
            };
            if let Err(failure) = block_on_local(serving) {
                tracing::warn!("the clients ended: {failure}");
            }
        };
        let thread = std::thread::Builder::new().name("clients".into()).spawn(run).map_err(|error| failed(&error))?;
        let burst = traffic.burst as usize;
        let clients = Clients { bursts: Some(bursts), collected: Vec::new(), burst, churn, thread: Some(thread) };
        connection.recv().map_err(|_| failed(&"the clients' thread ended"))??;
        Ok(clients)
    }

    /// Publishes a packet together with the others of its burst, each burst on the next of the streams.
    pub(super) fn send(&mut self, packet: &[u8]) {
        self.collected.push(Bytes::copy_from_slice(packet));
        if self.collected.len() == self.burst
            && let Some(bursts) = &self.bursts
        {
            let _ = bursts.send(std::mem::take(&mut self.collected));
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.bursts.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn publish(host: &Host<System>, mut fed: UnboundedReceiver<Burst>) {
    while let Some(burst) = fed.recv().await {
        host.with(|now, system, ports| system.publish(now, burst, ports));
    }
}

/// Whether sinks shall come and go, one a second, and how many have.
#[derive(Debug, Default)]
pub(super) struct Churn {
    pub(super) wanted: AtomicBool,
    pub(super) came: AtomicU64,
}

struct Dialling {
    host: Host<System>,
    credentials: Credentials,
    /// Where the source goes, and where the sinks do.
    ingress: String,
    egress: String,
    /// Before each sink.
    loss: f64,
}

impl Dialling {
    async fn all(&self, publisher: &str, sinks: &[String]) -> Result<(), Failure> {
        self.dial(&self.endpoint(0, 0.0)?, &self.ingress, Role::Source, publisher, 0).await?;
        // A burst for all sinks of one socket has to find room in it; where there is loss, each has its own.
        let per_socket = if self.loss > 0.0 { 1 } else { SINKS_PER_SOCKET };
        for (group, tokens) in sinks.chunks(per_socket).enumerate() {
            let endpoint = self.endpoint(group as u64 + 1, self.loss)?;
            for (index, token) in tokens.iter().enumerate() {
                self.dial(&endpoint, &self.egress, Role::Sink, token, group * per_socket + index).await?;
            }
        }
        let ready = async {
            while !self.host.with(|_, system, _| system.is_ready()) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.map_err(|_| failed(&"the relay did not take the streams"))
    }

    /// Where it is wanted, has a further sink come every second and go again; they are not counted among the others.
    async fn guests(self, token: String, churn: Arc<Churn>) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        for nth in 0.. {
            seconds.tick().await;
            if !churn.wanted.load(Ordering::Relaxed) {
                continue;
            }
            let Ok(endpoint) = self.endpoint(1_000_000 + nth, self.loss) else { continue };
            self.host.with(|_, system, _| system.guests_next = true);
            let dialled = self.dial(&endpoint, &self.egress, Role::Sink, &token, nth as usize).await;
            self.host.with(|_, system, _| system.guests_next = false);
            if let Ok(port) = dialled {
                tokio::time::sleep(Duration::from_millis(500)).await;
                self.host.with(|_, _, ports| ports.close(port, CloseCode::Done, "gone"));
                churn.came.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn endpoint(&self, seed: u64, loss: f64) -> Result<Endpoint, Failure> {
        let options = EndpointOptions {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            udp_payload: Some(PATH_MTU),
            ..EndpointOptions::default()
        };
        let lossy = |socket: Arc<dyn AsyncUdpSocket>| -> Arc<dyn AsyncUdpSocket> {
            if loss > 0.0 { Arc::new(LossySocket::new(socket, loss, seed)) } else { socket }
        };
        Endpoint::bind_over(&options, self.credentials.clone(), lossy).map_err(|error| failed(&error))
    }

    async fn dial(
        &self,
        endpoint: &Endpoint,
        relay: &str,
        role: Role,
        token: &str,
        place: usize,
    ) -> Result<PortId, Failure> {
        let hello = Hello {
            version: VERSION,
            features: RECEIPTS,
            role,
            tokens: vec![token.to_owned()],
            agent: "anabranch-bench".into(),
            link: None,
        };
        // As programs do: with loss, one attempt may fail.
        let mut dialled = endpoint.connect(relay, hello.clone()).await;
        for _ in 1..ATTEMPTS {
            if dialled.is_ok() {
                break;
            }
            dialled = endpoint.connect(relay, hello.clone()).await;
        }
        let session = dialled.map_err(|error| failed(&error))?;
        let config = LinkConfig { seed: place as u64, ..LinkConfig::leaf() };
        self.host.with(|_, system, _| system.next = role);
        Ok(self.host.attach(session, config))
    }
}

/// All clients as one end system: what comes to any of the sinks is counted.
#[derive(Debug)]
struct System {
    tally: Arc<Tally>,
    /// What the next port is.
    next: Role,
    source: Option<PortId>,
    streams: Vec<Published>,
    /// The stream of the next burst.
    turn: usize,
    sinks: u64,
    /// Whether the next sink is one that soon goes, and is not counted.
    guests_next: bool,
    guests: HashSet<PortId>,
    /// The sinks at whose ports their stream was announced.
    watched: HashMap<PortId, Watched>,
    receipts_due: Instant,
}

#[derive(Debug)]
struct Published {
    name: StreamName,
    handle: Option<StreamHandle>,
    seq: u32,
}

/// One sink.
#[derive(Debug)]
struct Watched {
    name: StreamName,
    incarnation: Incarnation,
    /// Packets since the last receipt.
    came: u64,
}

impl System {
    fn new(streams: u32, tally: Arc<Tally>) -> System {
        let published = |n: u32| {
            let name = format!("bench/load-{n}").parse().expect("it is a stream name");
            Published { name, handle: None, seq: 0 }
        };
        System {
            next: Role::Source,
            source: None,
            streams: (0..streams).map(published).collect(),
            turn: 0,
            sinks: 0,
            guests_next: false,
            guests: HashSet::new(),
            watched: HashMap::new(),
            receipts_due: tally.clock().now() + RECEIPT_EVERY,
            tally,
        }
    }

    fn is_ready(&self) -> bool {
        self.streams.iter().all(|stream| stream.handle.is_some())
    }

    fn publish(&mut self, now: Instant, burst: Burst, ports: &mut Ports) {
        let turn = self.turn;
        self.turn = (turn + 1) % self.streams.len();
        let stream = &mut self.streams[turn];
        let (Some(port), Some(handle)) = (self.source, stream.handle) else { return };
        for payload in burst {
            let packet = Packet {
                target: None,
                stream: handle,
                seq: StreamSeq(stream.seq),
                media_time: MediaTime(now.as_micros() as u32),
                age: Duration::ZERO,
                label: Label(0),
                flags: Flags::default(),
                payload,
                recover_until: now + DEADLINE,
            };
            stream.seq = stream.seq.wrapping_add(1);
            // What the link does not take is lost, and the sinks' counts show it.
            let _ = ports.send(now, port, packet);
        }
    }
}

impl EndSystem for System {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        if self.next == Role::Sink {
            let stream = &self.streams[(self.sinks % self.streams.len() as u64) as usize];
            if self.guests_next {
                self.guests.insert(port);
            } else {
                self.sinks += 1;
            }
            ports.control(port, Control::Subscribe { name: stream.name.clone() });
            return;
        }
        self.source = Some(port);
        for (place, stream) in self.streams.iter().enumerate() {
            let publish = Publish {
                name: stream.name.clone(),
                incarnation: Incarnation(place as u64 + 1),
                deadline_us: DEADLINE.as_micros() as u32,
                high_priority: false,
                mode: Dissemination::Tree,
                content: Content::Datagrams,
                sealed: false,
                wants: Wants::default(),
            };
            ports.control(port, Control::Publish(publish));
        }
    }

    fn handle_delivery(&mut self, _: Instant, port: PortId, delivery: Delivery, _: &mut Ports) {
        if self.guests.contains(&port) {
            return;
        }
        self.tally.take(&delivery.payload);
        if let Some(watched) = self.watched.get_mut(&port) {
            watched.came += 1;
        }
    }

    fn handle_control(&mut self, _: Instant, port: PortId, message: Control, _: &mut Ports) {
        match message {
            Control::StreamOpen(StreamOpen { name, incarnation, .. }) => {
                self.watched.insert(port, Watched { name, incarnation, came: 0 });
            }
            Control::Published { name, handle } => {
                if let Some(stream) = self.streams.iter_mut().find(|stream| stream.name == name) {
                    stream.handle = Some(StreamHandle(handle));
                }
            }
            _ => {}
        }
    }

    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        if !self.guests.remove(&port) {
            tracing::warn!("a client was closed: {}", closed.reason);
        }
        self.watched.remove(&port);
    }

    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.receipts_due = now + RECEIPT_EVERY;
        for (port, watched) in &mut self.watched {
            let receipt = Receipt {
                name: watched.name.clone(),
                incarnation: watched.incarnation,
                on_time: std::mem::take(&mut watched.came),
                late: 0,
                missing: 0,
                overflow: 0,
                missed: Vec::new(),
                ages: Vec::new(),
            };
            ports.control(*port, Control::Receipt(receipt));
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Some(self.receipts_due)
    }
}
