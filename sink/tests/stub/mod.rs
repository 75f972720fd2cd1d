//! A relay that does just enough for a sink: real sockets, a thread of its own, one script for every stream.

use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, LinkConfig, MediaTime, Packet, StreamHandle, StreamSeq};
use node::clock::{Clock, unix_seconds};
use node::control::{CloseCode, Content, Control, Refusal, StreamOpen};
use node::endpoint::{Endpoint, EndpointOptions};
use node::trust::{Authority, Claims, Credentials, Direction, Role, TokenIssuer};
use node::{Closed, EndSystem, Host, Peer, PortId, Ports};
use std::net::SocketAddr;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;
use topology::StreamName;
use topology::lsdb::Incarnation;

const DAY: Duration = Duration::from_secs(86_400);
const DEADLINE: Duration = Duration::from_millis(200);

/// What the stub sends to whoever subscribes to `demo/clip`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Script {
    /// Packets, one a millisecond; then the end.
    pub(crate) packets: u32,
    pub(crate) first: u32,
    pub(crate) content: Content,
}

/// An overlay's authority, and what it issues.
pub(crate) struct Overlay {
    authority: Authority,
    tokens: TokenIssuer,
}

impl Overlay {
    pub(crate) fn new() -> Overlay {
        let authority = Authority::trial(unix_seconds()).unwrap();
        let tokens = authority.token_issuer(unix_seconds(), DAY).unwrap();
        Overlay { authority, tokens }
    }

    /// Saves the authority and a token to watch demo/*, which expired or expires that many seconds from now.
    pub(crate) fn save(&self, directory: &Path, expires_in: i64) {
        self.authority.save(directory).unwrap();
        self.save_token(directory, expires_in);
    }

    pub(crate) fn save_token(&self, directory: &Path, expires_in: i64) {
        std::fs::write(directory.join("watch.token"), self.token(expires_in)).unwrap();
    }

    pub(crate) fn token(&self, expires_in: i64) -> String {
        let claims = Claims {
            id: "watcher".into(),
            streams: "demo/*".parse().unwrap(),
            direction: Direction::Subscribe,
            max_rate: None,
            expires: unix_seconds().saturating_add_signed(expires_in),
        };
        self.tokens.issue(&claims).unwrap()
    }

    pub(crate) fn bare(&self) -> Credentials {
        self.authority.credentials(None).unwrap()
    }

    /// Starts a relay of this overlay.
    pub(crate) fn relay(&self, listen: SocketAddr, script: Script) -> StubRelay {
        let name = "stub".parse().unwrap();
        let identity = self.authority.issue(&name, Role::Relay, unix_seconds(), DAY).unwrap();
        let credentials = self.authority.credentials(Some(&identity)).unwrap();
        let (stop, stopped) = oneshot::channel::<CloseCode>();
        let (bound, address) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let serve = async move {
                let options = EndpointOptions { listen, udp_payload: Some(1452), ..EndpointOptions::default() };
                let verifier = credentials.verifier();
                let endpoint = Endpoint::bind(&options, credentials).unwrap();
                bound.send(endpoint.local_address()).unwrap();
                let host = Host::new(Clock::start(), Server::new(script));
                let accept = async {
                    while let Some(session) = endpoint.accept(&verifier).await {
                        host.attach(session, LinkConfig::default());
                    }
                };
                let code = tokio::select! {
                    () = accept => CloseCode::Stopping,
                    code = stopped => code.unwrap_or(CloseCode::Stopping),
                };
                endpoint.close(code, "the stub is stopping").await;
                Ok(())
            };
            node::host::block_on_local(serve).unwrap();
        });
        StubRelay { address: address.recv().unwrap(), stop: Some(stop), thread: Some(thread) }
    }
}

/// A stub relay that runs until it is dropped.
pub(crate) struct StubRelay {
    pub(crate) address: SocketAddr,
    stop: Option<oneshot::Sender<CloseCode>>,
    thread: Option<JoinHandle<()>>,
}

impl StubRelay {
    /// Ends it, and tells whoever is connected that it has no right to be.
    pub(crate) fn cut_off(mut self) {
        let told = self.stop.take().map(|stop| stop.send(CloseCode::Forbidden));
        assert_eq!(told, Some(Ok(())), "it runs");
    }
}

impl Drop for StubRelay {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Packet `index` of the stub's stream: of no two sizes alike in a row, and all its own.
pub(crate) fn payload(index: u32) -> Bytes {
    let mut payload = index.to_be_bytes().to_vec();
    payload.resize(4 + (index as usize * 37) % 1_300, index as u8);
    payload.into()
}

/// All that a script sends, one after the other.
pub(crate) fn everything(script: Script) -> Vec<u8> {
    (script.first..script.first + script.packets).flat_map(payload).collect()
}

struct Server {
    script: Script,
    watchers: Vec<Watcher>,
}

struct Watcher {
    port: PortId,
    next: u32,
    due: Instant,
}

impl Server {
    fn new(script: Script) -> Server {
        Server { script, watchers: Vec::new() }
    }

    fn subscribe(&mut self, now: Instant, port: PortId, name: StreamName, ports: &mut Ports) {
        match name.as_str() {
            "demo/clip" => {
                ports.control(port, Control::Subscribed { name: name.clone(), live: true });
                let open = StreamOpen {
                    handle: 1,
                    name,
                    incarnation: Incarnation(7),
                    ingress: "stub".parse().unwrap(),
                    deadline_us: DEADLINE.as_micros() as u32,
                    content: self.script.content,
                    sealed: false,
                    target_ppb: 0,
                };
                ports.control(port, Control::StreamOpen(open));
                self.watchers.push(Watcher { port, next: 0, due: now });
            }
            "demo/forbidden" => {
                let refusal = Refusal { code: CloseCode::Forbidden, reason: "not for you".into() };
                ports.control(port, Control::StreamRefused { name, refusal });
            }
            _ => ports.control(port, Control::Subscribed { name, live: false }),
        }
    }
}

impl Watcher {
    /// Sends the next packet, or the end marker; false when all is sent.
    fn step(&mut self, now: Instant, script: Script, ports: &mut Ports) -> bool {
        let end = self.next == script.packets;
        let packet = Packet {
            target: None,
            stream: StreamHandle(1),
            seq: StreamSeq(script.first + self.next),
            media_time: MediaTime(self.due.as_micros() as u32),
            age: now.saturating_since(self.due),
            label: Label(0),
            flags: Flags { end, ..Flags::default() },
            payload: if end { Bytes::new() } else { payload(script.first + self.next) },
            recover_until: self.due + DEADLINE,
        };
        ports.send(now, self.port, packet).unwrap();
        if end {
            ports.control(self.port, Control::StreamClose { handle: 1, ended: true });
        }
        self.next += 1;
        self.due += Duration::from_millis(1);
        !end
    }
}

impl EndSystem for Server {
    fn handle_opened(&mut self, _: Instant, _: PortId, _: &mut Ports) {}
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, now: Instant, port: PortId, message: Control, ports: &mut Ports) {
        match message {
            Control::Subscribe { name } => self.subscribe(now, port, name, ports),
            Control::Unsubscribe { .. } => self.watchers.retain(|watcher| watcher.port != port),
            _ => {}
        }
    }
    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        self.watchers.retain(|watcher| watcher.port != port);
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        let script = self.script;
        self.watchers.retain_mut(|watcher| {
            while watcher.due <= now {
                if !watcher.step(now, script, ports) {
                    return false;
                }
            }
            true
        });
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.watchers.iter().map(|watcher| watcher.due).min()
    }
}
