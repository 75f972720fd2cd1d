//! The operations port: health, readiness, metrics, status, orders. HTTP, for the operator alone.
//!
//! | file | what it holds |
//! |---|---|
//! | `api` | each route: what it takes, what it answers, and both in the words of OpenAPI |
//! | `dashboard` | the page for people |
//! | `line` | the line test |
//! | [`events`] | what changes, told as it changes |
//! | `problem` | what is answered where it is not done |
//! | `schema` | how what comes from other rooms looks in JSON |
//!
//! Who may ask, and what one client can make the port hold, is the same at sources and sinks: [`node::ops`].

mod api;
mod dashboard;
pub mod events;
mod line;
mod problem;
pub(crate) mod schema;

pub use node::ops::{Guard, OpsRefusals, Tally};

use crate::events::Event;
use crate::line::{Ask, LineTest};
use crate::overrides::LinkOverride;
use crate::report::{LinkRepair, Reloaded, Report};
use crate::sla::Sla;
use crate::view::{LinkPast, Overview, TraceView};
use axum::Router;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::broadcast::WeakSender;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use topology::{LinkEnd, StreamName};
use utoipa::OpenApi as _;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

/// What the operator asks a running relay to do. The answer goes to `done`.
#[derive(Debug)]
pub enum Order {
    /// Takes streams off, or lets them on again.
    Drain {
        /// The link that is meant; without it, the relay as a whole.
        link: Option<LinkEnd>,
        /// Whether to take streams off.
        drain: bool,
        /// Whether that changed anything.
        done: oneshot::Sender<Result<bool, Refused>>,
    },
    /// Changes the repair of what this relay sends on one link.
    Repair {
        /// The neighbour at its other end, and which link to it where there are several.
        peer: LinkEnd,
        /// What to change.
        change: Change,
        /// Whether it is to outlast a restart.
        persist: bool,
        /// How the link is then.
        done: oneshot::Sender<Result<LinkRepair, Refused>>,
    },
    /// Tells how what this relay sends on one link is repaired, whether it is up or not.
    Link {
        /// The neighbour at its other end, and which link to it where there are several.
        peer: LinkEnd,
        /// How it is.
        done: oneshot::Sender<Result<LinkRepair, Refused>>,
    },
    /// Tells what is known of the overlay.
    Overview {
        /// How it is.
        done: oneshot::Sender<Overview>,
    },
    /// Tells what the link to a neighbour was like.
    Past {
        /// The neighbour at its other end, and which link to it where there are several.
        peer: LinkEnd,
        /// What it was like.
        done: oneshot::Sender<Result<LinkPast, Refused>>,
    },
    /// Tells what the sinks of a stream had of it.
    Sla {
        /// The stream.
        stream: StreamName,
        /// What they had; `None` where no sink here has reported of it.
        done: oneshot::Sender<Option<Sla>>,
    },
    /// Asks every relay on the graph of a stream how it is there.
    Trace {
        /// The stream.
        stream: StreamName,
        /// What they answer within a second; `None` where it does not pass through this relay.
        done: oneshot::Sender<Option<TraceView>>,
    },
    /// Begins a line test.
    StartTest {
        /// Of what.
        ask: Ask,
        /// How it stands then.
        done: oneshot::Sender<Result<LineTest, Refused>>,
    },
    /// Tells how the line test goes, or what came of the last one.
    Test {
        /// Whether to end it, where one is under way.
        stop: bool,
        /// How it stands; `None` where there has been none.
        done: oneshot::Sender<Option<LineTest>>,
    },
    /// Reads the configuration anew.
    Reload {
        /// What that changed, or why it was refused.
        done: oneshot::Sender<Result<Reloaded, String>>,
    },
}

/// A change of the repair of a link.
#[derive(Clone, Copy, Debug)]
pub enum Change {
    /// Sets the fields that are given, above the configuration; the others stay as they are.
    Set(LinkOverride),
    /// As configured again.
    Reset,
}

/// Why something was not done as asked. Each holds the words for the operator.
#[derive(Clone, Debug)]
pub enum Refused {
    /// There is no such link, or no such relay.
    Unknown(String),
    /// There is no file to keep it in; nothing was changed.
    NoState(String),
    /// Not now: something else is under way.
    Busy(String),
    /// Not any more.
    Stopping(String),
    /// A value that cannot be: the field, and what was expected.
    Wrong(String),
    /// It is in force, and could not be written to its file.
    NotKept(String),
}

/// What a request is answered from.
#[derive(Clone)]
struct Relay {
    report: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
    /// Weak, so that the streams of listeners end with the relay.
    events: WeakSender<Arc<Event>>,
    /// Free places for listeners.
    listeners: Arc<Semaphore>,
    guard: watch::Receiver<Guard>,
}

/// What the operations port is made of.
pub struct Port {
    /// Read at each request.
    pub report: watch::Receiver<Report>,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
    /// Listeners hear what is sent there.
    pub events: WeakSender<Arc<Event>>,
    /// What a request must bring. Listeners are let go where it changes.
    pub guard: watch::Receiver<Guard>,
    /// What is refused is counted there.
    pub tally: Arc<Tally>,
}

/// Serves until it is dropped.
pub async fn serve(listener: TcpListener, port: Port) -> std::io::Result<()> {
    let (guard, tally) = (port.guard.clone(), port.tally.clone());
    node::ops::serve(listener, router(port), guard, tally).await
}

fn router(Port { report, orders, events, guard, tally }: Port) -> Router {
    let listeners = Arc::new(Semaphore::new(events::LISTENERS));
    let relay = Relay { report, orders, events, listeners, guard: guard.clone() };
    let (router, _) = routes().split_for_parts();
    node::ops::guarded(router, "/api/v1/openapi.json says what there is", guard, tally).with_state(relay)
}

/// Every route with its documentation. Nothing is routed but by this list, so that nothing goes undocumented.
fn routes() -> OpenApiRouter<Relay> {
    OpenApiRouter::with_openapi(schema::Document::openapi())
        .routes(routes!(api::healthz))
        .routes(routes!(api::readyz))
        .routes(routes!(api::metrics))
        .routes(routes!(api::openapi))
        .routes(routes!(api::status))
        .routes(routes!(events::events))
        .routes(routes!(api::overlay))
        .routes(routes!(api::stream))
        .routes(routes!(api::rendition))
        .routes(routes!(api::drain))
        .routes(routes!(api::resume))
        .routes(routes!(api::reload))
        .routes(routes!(api::sla))
        .routes(routes!(api::sla_of_rendition))
        .routes(routes!(api::trace))
        .routes(routes!(api::trace_of_rendition))
        .routes(routes!(line::test, line::start, line::stop))
        .routes(routes!(api::links))
        .routes(routes!(api::capacity))
        .routes(routes!(api::usage))
        .routes(routes!(api::link, api::set_link, api::reset_link))
        .routes(routes!(api::history))
        .routes(routes!(dashboard::page))
        .routes(routes!(dashboard::part))
}

/// The document of the operations port: OpenAPI 3.1, as `/api/v1/openapi.json` answers it.
pub fn document() -> OpenApi {
    let mut document = routes().split_for_parts().1;
    schema::guard(&mut document);
    document
}

#[cfg(test)]
mod tests {
    /// What the gates before all routes answer is documented with each.
    #[test]
    fn every_operation_names_what_the_gates_before_it_answer() {
        let document = serde_json::to_value(super::document()).expect("it is JSON");
        let paths = document["paths"].as_object().expect("there are some");
        let mut operations = 0;
        for (path, item) in paths {
            let methods =
                ["get", "put", "post", "delete"].into_iter().filter_map(|method| Some((method, item.get(method)?)));
            for (method, operation) in methods {
                operations += 1;
                let answers = operation["responses"].as_object().expect("there are some");
                assert!(answers.contains_key("408"), "{method} {path} can be too slow");
            }
        }
        assert!(operations > 20, "{operations}");
    }
}
