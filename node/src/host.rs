//! Runs an end system over real connections, on one thread.

use crate::clock::Clock;
use crate::endpoint::Session;
use crate::ports::{Closed, EndSystem, PortId, Ports};
use link::{Instant, LinkConfig};
use std::rc::Rc;

/// An end system with its ports, shared by the tasks of one thread. Must be used inside a [`tokio::task::LocalSet`].
#[derive(Debug)]
pub struct Host<S> {
    system: Rc<S>,
}

impl<S> Clone for Host<S> {
    fn clone(&self) -> Self {
        Host { system: self.system.clone() }
    }
}

#[expect(unused_variables, clippy::unused_async, reason = "contract only")]
impl<S: EndSystem + 'static> Host<S> {
    /// Starts the timer task; `system` has no ports yet.
    pub fn new(clock: Clock, system: S) -> Host<S> {
        todo!()
    }

    /// Gives a connection to the end system as a new port and drives it until it closes. `config.max_frame` follows the
    /// path's MTU from then on.
    pub fn attach(&self, session: Session, config: LinkConfig) -> PortId {
        todo!()
    }

    /// Lets `act` use the end system for something that comes from outside the ports (a datagram to publish, a
    /// command), then drains what it did. Must not be called from within itself.
    pub fn with<R>(&self, act: impl FnOnce(Instant, &mut S, &mut Ports) -> R) -> R {
        todo!()
    }

    /// Waits until a port has closed, and says why. At once where it has already.
    pub async fn closed(&self, port: PortId) -> Closed {
        todo!()
    }
}
