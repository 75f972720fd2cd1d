//! A stub relay on real sockets, on a thread of its own.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use link::{Delivery, Instant, LinkConfig};
use node::clock::{Clock, unix_seconds};
use node::control::{CloseCode, Control, Publish, Refusal};
use node::endpoint::{Endpoint, EndpointOptions};
use node::trust::{Authority, Credentials, Role};
use node::{Closed, EndSystem, Host, Peer, PortId, Ports};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::oneshot;

pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// What a stub relay has been told and sent.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) published: Vec<Publish>,
    pub(crate) delivered: Vec<Delivery>,
    pub(crate) unpublished: usize,
    pub(crate) closed: Vec<Closed>,
}

impl Heard {
    /// Payloads in the order of their numbers, each once, without the mark at the end.
    pub(crate) fn payloads(&self) -> Vec<Vec<u8>> {
        let mut all: Vec<_> = self.delivered.iter().map(|d| (d.seq.0, d.payload.to_vec())).collect();
        all.sort_unstable();
        all.dedup();
        all.into_iter().map(|(_, payload)| payload).filter(|payload| !payload.is_empty()).collect()
    }

    pub(crate) fn ended(&self) -> bool {
        self.delivered.iter().any(|delivery| delivery.flags.end)
    }
}

struct StubSystem {
    refuse: Option<CloseCode>,
    heard: Arc<Mutex<Heard>>,
}

impl EndSystem for StubSystem {
    fn handle_opened(&mut self, _: Instant, _: PortId, _: &mut Ports) {}
    fn handle_delivery(&mut self, _: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        self.heard.lock().unwrap().delivered.push(delivery);
    }
    fn handle_control(&mut self, _: Instant, port: PortId, message: Control, ports: &mut Ports) {
        let mut heard = self.heard.lock().unwrap();
        match message {
            Control::Publish(publish) => {
                let name = publish.name.clone();
                heard.published.push(publish);
                let answer = match self.refuse {
                    None => Control::Published { name, handle: heard.published.len() as u16 },
                    Some(code) => Control::StreamRefused {
                        name,
                        refusal: Refusal { code, reason: "another has that name".into() },
                    },
                };
                ports.control(port, answer);
            }
            Control::Unpublish { .. } => heard.unpublished += 1,
            other => panic!("a source does not say {other:?}"),
        }
    }
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, closed: &Closed, _: &mut Ports) {
        self.heard.lock().unwrap().closed.push(closed.clone());
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}

/// A stub relay that runs. Dropping it is like killing it: nobody is told.
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    /// Listens at `listen`; refuses every stream if told so.
    pub(crate) fn start(authority: &Authority, listen: SocketAddr, refuse: Option<CloseCode>) -> Stub {
        let identity = authority.issue(&"lon".parse().unwrap(), Role::Relay, unix_seconds(), DAY).unwrap();
        let credentials = authority.credentials(Some(&identity)).unwrap();
        let heard = Arc::<Mutex<Heard>>::default();
        let (stop, stopped) = oneshot::channel();
        let (bound, address) = std::sync::mpsc::channel();
        let system = StubSystem { refuse, heard: heard.clone() };
        let thread = std::thread::spawn(move || {
            node::host::block_on_local(async move {
                tokio::select! {
                    () = serve(listen, credentials, system, bound) => {}
                    _ = stopped => {}
                }
                Ok(())
            })
            .unwrap();
        });
        let address = address.recv().expect("the stub is bound");
        Stub { address, heard, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn heard<R>(&self, look: impl FnOnce(&Heard) -> R) -> R {
        look(&self.heard.lock().unwrap())
    }

    /// Waits until `wanted` holds of what was heard.
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&Heard) -> bool) {
        let patience = Clock::start();
        let begun = patience.now();
        while !self.heard(&wanted) {
            assert!(patience.now() - begun < Duration::from_secs(20), "waited in vain for {what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

async fn serve(
    listen: SocketAddr,
    credentials: Credentials,
    system: StubSystem,
    bound: std::sync::mpsc::Sender<SocketAddr>,
) {
    let verifier = credentials.verifier();
    let options = EndpointOptions { listen, ..EndpointOptions::default() };
    let endpoint = Endpoint::bind(&options, credentials).unwrap();
    bound.send(endpoint.local_address()).unwrap();
    let host = Host::new(Clock::start(), system);
    while let Some(session) = endpoint.accept(&verifier).await {
        host.attach(session, LinkConfig { seed: 3, ..LinkConfig::default() });
    }
}

/// Loopback, any port.
pub(crate) fn anywhere() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub(crate) fn authority() -> Authority {
    Authority::trial(unix_seconds()).unwrap()
}
