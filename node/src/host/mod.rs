//! Runs an end system over real connections, on one thread.
//!
//! Every event (datagrams, a control message, a timer, a call from outside) is one synchronous turn: feed the
//! [`Engine`](crate::engine::Engine), then drain all that it left on the ports into quinn, then note when the next timer is due. The state is borrowed within a
//! turn only, never across an await, so turns cannot overlap.
//!
//! quinn's datagram queue drops its oldest in silence when it is full. It is therefore never filled: at most 25 ms of the link's
//! rate may wait there, what does not fit stays in the link's own queue, which drops by deadline and counts. As quinn sends
//! datagrams before streams, that bound is also what lets control messages through: see `drive`.

mod carriage;
mod control_pace;
mod core;
mod drive;
pub(crate) mod lag;
mod path_watch;

use crate::clock::Clock;
use crate::control::{Control, TOKENS};
use crate::endpoint::Session;
use crate::exit::{Exit, Failure};
use crate::ports::{Closed, EndSystem, PortId, Ports};
use carriage::Arrivals;
use control_pace::SharedPaces;
use core::Core;
use link::{Bitrate, Instant, LinkConfig};
use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{LocalOptions, LocalRuntime};
use tokio::sync::Notify;

/// An end system with its ports, shared by the tasks of one thread. Must be used inside a [`LocalRuntime`].
pub struct Host<S> {
    inner: Rc<Inner<S>>,
}

impl<S> Clone for Host<S> {
    fn clone(&self) -> Self {
        Host { inner: self.inner.clone() }
    }
}

/// What the connection under a port is doing, beside what its link measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transport {
    /// quinn's estimate of the round-trip time.
    pub rtt: Duration,
    /// UDP payload that the path carries, as far as is known.
    pub path_payload: u16,
    /// UDP bytes sent and received, repair, acknowledgements and encryption included.
    pub udp_sent_bytes: u64,
    /// See [`Transport::udp_sent_bytes`].
    pub udp_received_bytes: u64,
    /// UDP datagrams sent and received.
    pub udp_sent: u64,
    /// See [`Transport::udp_sent`].
    pub udp_received: u64,
    /// The rate that the connection's window is made for.
    pub rate: Bitrate,
    /// The share of that window that overload has left; 1 where there is none.
    pub backoff: f64,
    /// Datagrams of the link that did not fit the path, because it had just shrunk.
    pub too_large: u64,
    /// Times that datagrams had to wait because quinn held as many as it may.
    pub held_back: u64,
}

struct Inner<S> {
    clock: Clock,
    core: RefCell<Core<S>>,
    /// Wakes the timer task: something is due earlier than it sleeps.
    timer: Rc<Notify>,
    /// When the timer task wakes by itself.
    armed: Cell<Option<Instant>>,
    /// Wakes the task that goes on where quinn had no room.
    pump: Rc<Notify>,
    /// From connections on other threads.
    arrivals: Arc<Arrivals>,
    gates: RefCell<Gates>,
    /// Times that a peer's next control message was read later, because it sends more than one may.
    control_held_back: Cell<u64>,
    /// How fast those of all sources and sinks of a network or a token are read.
    control_paces: RefCell<SharedPaces>,
}

/// Who waits for which port to close, and why the last ones did.
#[derive(Default)]
struct Gates {
    open: HashMap<PortId, Rc<Gate>>,
    past: VecDeque<(PortId, Closed)>,
}

#[derive(Default)]
struct Gate {
    closed: OnceCell<Closed>,
    notify: Notify,
}

/// Closed ports that are remembered for a late [`Host::closed`].
const REMEMBERED: usize = 1024;

impl<S: EndSystem + 'static> Host<S> {
    /// Starts the timer task; `system` has no ports yet.
    pub fn new(clock: Clock, system: S) -> Host<S> {
        let inner = Rc::new(Inner {
            clock,
            core: RefCell::new(Core::new(system)),
            timer: Rc::default(),
            armed: Cell::new(None),
            pump: Rc::default(),
            arrivals: Arc::default(),
            gates: RefCell::default(),
            control_held_back: Cell::new(0),
            control_paces: RefCell::default(),
        });
        drive::start(&inner);
        let host = Host { inner };
        host.with(|_, _, _| ());
        host
    }

    /// Gives a connection to the end system as a new port and drives it until it closes. `config.max_frame` follows the
    /// path's MTU from then on.
    pub fn attach(&self, session: Session, mut config: LinkConfig) -> PortId {
        let Session { peer, mut wire, .. } = session;
        if let Some(max_frame) = wire.connection.max_datagram_size() {
            config.max_frame = max_frame;
        }
        let (notify, connection, carrier) = (Rc::new(Notify::new()), wire.connection.clone(), wire.carrier.clone());
        let port = self.inner.turn(|core, now| {
            let port = core.engine.ports.open(now, peer, config);
            core.attach(port, (wire.connection, wire.carrier), wire.rate, wire.paths, config.max_frame, notify.clone());
            core.opened(now, port);
            core.receive(now, port, &mut wire.early);
            port
        });
        self.inner.gates.borrow_mut().open.insert(port, Rc::default());
        drive::connection(
            &self.inner,
            port,
            (connection, carrier),
            (wire.send, wire.receive),
            (notify, wire.standing, wire.renewal),
        );
        port
    }

    /// Lets `act` use the end system for something that comes from outside the ports (a datagram to publish, a
    /// command), then drains what it did.
    ///
    /// # Panics
    /// Where it is called from within itself.
    pub fn with<R>(&self, act: impl FnOnce(Instant, &mut S, &mut Ports) -> R) -> R {
        self.inner.turn(|core, now| act(now, &mut core.engine.system, &mut core.engine.ports))
    }

    /// Shows tokens to every neighbour that was dialled and understands it, in place of those that they were shown; returns how many do not, and
    /// will see the new ones at the next connection.
    pub fn show_tokens(&self, tokens: &[String]) -> usize {
        self.with(|_, _, ports| {
            let dialled: Vec<(PortId, bool)> = ports
                .iter()
                .filter(|(_, peer, _)| peer.dialled)
                .map(|(port, peer, _)| (port, peer.features & TOKENS != 0))
                .collect();
            for (port, _) in dialled.iter().filter(|(_, understands)| *understands) {
                ports.control(*port, Control::Tokens { tokens: tokens.to_vec() });
            }
            dialled.iter().filter(|(_, understands)| !understands).count()
        })
    }

    /// Waits until a port has closed, and says why. At once where it has already.
    pub async fn closed(&self, port: PortId) -> Closed {
        let gate = match self.inner.gates.borrow().open.get(&port) {
            Some(gate) => gate.clone(),
            None => return self.inner.gates.borrow().remembered(port),
        };
        loop {
            let notified = gate.notify.notified();
            if let Some(closed) = gate.closed.get() {
                return closed.clone();
            }
            notified.await;
        }
    }

    /// What the connection under a port is doing.
    pub fn transport(&self, port: PortId) -> Option<Transport> {
        self.inner.core.borrow().transport(port)
    }

    /// Times that a peer's next control message was read later, because it sends more of them than a node that works.
    pub fn control_held_back(&self) -> u64 {
        self.inner.control_held_back.get()
    }

    /// Time that this node has been behind with what came to it, by [`Link::BEHIND`](link::Link::BEHIND) or more.
    pub fn time_behind(&self) -> Duration {
        self.inner.core.borrow().time_behind()
    }

    /// The time as the end system is told it.
    pub fn now(&self) -> Instant {
        self.inner.clock.now()
    }

    /// Asks every port to close, and waits until all have, for a second at most.
    pub async fn close_all(&self, code: crate::control::CloseCode, reason: &str) {
        let ports: Vec<PortId> = self.with(|_, _, ports| {
            let open: Vec<PortId> = ports.iter().map(|(port, ..)| port).collect();
            for port in &open {
                ports.close(*port, code, reason);
            }
            open
        });
        let all = async {
            for port in ports {
                self.closed(port).await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }
}

impl<S: EndSystem> Inner<S> {
    /// One turn; see the module's documentation.
    fn turn<R>(&self, act: impl FnOnce(&mut Core<S>, Instant) -> R) -> R {
        let now = self.clock.now();
        let mut core = self.core.try_borrow_mut().expect("a turn of a host began within another one");
        if let Some(due) = self.armed.get()
            && due < now
        {
            lag::waits_since(self.clock.to_tokio(due).into_std());
        }
        core.set_lag(now, lag::caught_up().map_or(Duration::ZERO, |at| now - self.clock.at(at)));
        let result = act(&mut core, now);
        core.drain(now);
        let due = core.engine.poll_timeout();
        if core.has_stuck() {
            self.pump.notify_one();
        }
        drop(core);
        if let Some(due) = due
            && self.armed.get().is_none_or(|armed| due < armed)
        {
            self.armed.set(Some(due));
            self.timer.notify_one();
        }
        result
    }

    fn finished(&self, port: PortId, closed: Closed) {
        let mut gates = self.gates.borrow_mut();
        if let Some(gate) = gates.open.remove(&port) {
            let _ = gate.closed.set(closed.clone());
            gate.notify.notify_waiters();
        }
        if gates.past.len() == REMEMBERED {
            gates.past.pop_front();
        }
        gates.past.push_back((port, closed));
    }
}

impl Gates {
    fn remembered(&self, port: PortId) -> Closed {
        let unknown = || Closed { code: crate::control::CloseCode::Done, reason: "closed long ago".to_owned() };
        self.past.iter().rev().find(|(past, _)| *past == port).map_or_else(unknown, |(_, closed)| closed.clone())
    }
}

impl<S> Drop for Inner<S> {
    fn drop(&mut self) {
        // Their tasks hold this weakly: they find it gone, and end.
        self.timer.notify_one();
        self.pump.notify_one();
        self.arrivals.wake();
    }
}

impl<S: fmt::Debug> fmt::Debug for Host<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").finish_non_exhaustive()
    }
}

/// Runs a program on this thread, as a [`Host`] needs it.
pub fn block_on_local<T>(program: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime =
        local_runtime().map_err(|error| Failure::new(Exit::Software, format!("cannot start the runtime: {error}")))?;
    let result = runtime.block_on(program);
    // What another thread is still asked for, a name of a resolver that does not answer or a file that does not open, is not waited for.
    runtime.shutdown_background();
    result
}

/// A runtime whose tasks are all of one thread. They share one queue with quinn's: in a [`LocalSet`](tokio::task::LocalSet) every packet would
/// cost another look at the kernel's events, on its way from one queue to the other.
pub fn local_runtime() -> Result<LocalRuntime, std::io::Error> {
    lag::noted(tokio::runtime::Builder::new_current_thread().enable_all()).build_local(LocalOptions::default())
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod threads_tests;
