//! The operations port: health, readiness, metrics, status. HTTP, for the operator's network alone.

use crate::metrics;
use crate::overrides::LinkOverride;
use crate::report::{LinkRepair, Reloaded, Report};
use axum::extract::{FromRef, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use node::trust::Role;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use topology::NodeName;

/// What the operator asks a running relay to do. The answer goes to `done`.
#[derive(Debug)]
pub enum Order {
    /// Takes streams off, or lets them on again; `false` where there is no such neighbour, or it is so already.
    Drain {
        /// The neighbour whose link is meant; without it, the relay as a whole.
        link: Option<NodeName>,
        /// Whether to take streams off.
        drain: bool,
        /// Whether it was done.
        done: oneshot::Sender<bool>,
    },
    /// Changes the repair of what this relay sends on one link.
    Repair {
        /// The neighbour at its other end.
        peer: NodeName,
        /// What to change.
        change: Change,
        /// Whether it is to outlast a restart.
        persist: bool,
        /// How the link is then.
        done: oneshot::Sender<Result<LinkRepair, Refused>>,
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

/// Why the repair of a link was not changed as asked. Each holds the words for the operator.
#[derive(Clone, Debug)]
pub enum Refused {
    /// There is no such link.
    Unknown(String),
    /// There is no file to keep it in; nothing was changed.
    NoState(String),
    /// A value that no link can have: the field, and what was expected.
    Wrong(String),
    /// It is in force, and could not be written to its file.
    NotKept(String),
}

#[derive(Clone)]
struct Relay {
    report: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
}

impl FromRef<Relay> for watch::Receiver<Report> {
    fn from_ref(relay: &Relay) -> watch::Receiver<Report> {
        relay.report.clone()
    }
}

/// Serves until it is dropped. `report` is read at each request, orders go to `orders`.
pub async fn serve(
    listener: TcpListener,
    report: watch::Receiver<Report>,
    orders: mpsc::Sender<Order>,
) -> std::io::Result<()> {
    axum::serve(listener, router(Relay { report, orders })).await
}

/// The routes:
///
/// | path | answer |
/// |---|---|
/// | `/healthz` | 200 while the process answers |
/// | `/readyz` | 200 while the relay serves, 503 while it starts or is about to stop |
/// | `/metrics` | [`crate::metrics`] in the text format of Prometheus |
/// | `/api/v1/status` | the [`Report`] as JSON |
/// | `POST /api/v1/drain` | takes streams off this relay, or with `?link=NEIGHBOUR` off one link; 404 where there is none |
/// | `POST /api/v1/resume` | lets them on again |
/// | `/api/v1/links` | a [`LinkRepair`] for each link to a relay: the policy in force, what it costs and brings |
/// | `PUT /api/v1/links/FROM/TO` | sets the repair of a link of this relay (`FROM`): a [`LinkOverride`], and `"persist": true` to keep it |
/// | `DELETE /api/v1/links/FROM/TO` | as configured again; `?persist=true` after a restart, too |
/// | `POST /api/v1/reload` | reads the configuration anew; [`Reloaded`], or 422 and file, field, expectation |
fn router(relay: Relay) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .route("/api/v1/status", get(status))
        .route("/api/v1/drain", post(|relay, link| order(relay, link, true)))
        .route("/api/v1/resume", post(|relay, link| order(relay, link, false)))
        .route("/api/v1/links", get(links))
        .route("/api/v1/links/{from}/{to}", get(link).put(set_link).delete(reset_link))
        .route("/api/v1/reload", post(reload))
        .with_state(relay)
}

#[derive(Deserialize)]
struct Meant {
    link: Option<NodeName>,
}

async fn order(State(relay): State<Relay>, Query(Meant { link }): Query<Meant>, drain: bool) -> Response {
    let (done, answer) = oneshot::channel();
    if relay.orders.send(Order::Drain { link, drain, done }).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match answer.await {
        Ok(true) => "done\n".into_response(),
        _ => (StatusCode::NOT_FOUND, "nothing to do: no such neighbour, or it is so already\n").into_response(),
    }
}

async fn links(State(report): State<watch::Receiver<Report>>) -> Json<Vec<LinkRepair>> {
    Json(report.borrow().link_repairs())
}

async fn link(State(relay): State<Relay>, Path((from, to)): Path<(NodeName, NodeName)>) -> Response {
    if let Some(elsewhere) = relay.elsewhere(&from) {
        return elsewhere;
    }
    match relay.report.borrow().link_repairs().into_iter().find(|link| link.to == to) {
        Some(link) => Json(link).into_response(),
        None => (StatusCode::NOT_FOUND, format!("relay {from} has no link to {to} now\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct Set {
    #[serde(default)]
    persist: bool,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

async fn set_link(
    State(relay): State<Relay>,
    Path((from, to)): Path<(NodeName, NodeName)>,
    Json(Set { persist, rest }): Json<Set>,
) -> Response {
    // In two steps, because serde cannot refuse unknown fields of what is flattened.
    match serde_json::from_value::<LinkOverride>(rest.into()) {
        Ok(set) => relay.repair(&from, to, Change::Set(set), persist).await,
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error}\n")).into_response(),
    }
}

#[derive(Deserialize)]
struct Reset {
    #[serde(default)]
    persist: bool,
}

async fn reset_link(
    State(relay): State<Relay>,
    Path((from, to)): Path<(NodeName, NodeName)>,
    Query(Reset { persist }): Query<Reset>,
) -> Response {
    relay.repair(&from, to, Change::Reset, persist).await
}

async fn reload(State(relay): State<Relay>) -> Response {
    let (done, answer) = oneshot::channel();
    match relay.ask(Order::Reload { done }, answer).await {
        Ok(Ok(reloaded)) => Json::<Reloaded>(reloaded).into_response(),
        Ok(Err(why)) => {
            (StatusCode::UNPROCESSABLE_ENTITY, format!("not reloaded: {why}\nthe old configuration stays in force\n"))
                .into_response()
        }
        Err(stopping) => stopping,
    }
}

impl Relay {
    /// Has an order carried out.
    async fn ask<T>(&self, order: Order, answer: oneshot::Receiver<T>) -> Result<T, Response> {
        let stopping = || (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
        self.orders.send(order).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// Only the relay that sends on a link can change its repair: the answer to who asks another.
    fn elsewhere(&self, from: &NodeName) -> Option<Response> {
        let name = self.report.borrow().name.clone();
        let what =
            format!("this is relay {name}: ask relay {from}, which sends on that link, at its own operations port\n");
        (name != from.as_str()).then(|| (StatusCode::MISDIRECTED_REQUEST, what).into_response())
    }

    async fn repair(&self, from: &NodeName, peer: NodeName, change: Change, persist: bool) -> Response {
        if let Some(elsewhere) = self.elsewhere(from) {
            return elsewhere;
        }
        let (done, answer) = oneshot::channel();
        let (status, why) = match self.ask(Order::Repair { peer, change, persist, done }, answer).await {
            Ok(Ok(link)) => return Json::<LinkRepair>(link).into_response(),
            Ok(Err(Refused::Unknown(why))) => (StatusCode::NOT_FOUND, why),
            Ok(Err(Refused::NoState(why))) => (StatusCode::CONFLICT, why),
            Ok(Err(Refused::Wrong(why))) => (StatusCode::UNPROCESSABLE_ENTITY, why),
            Ok(Err(Refused::NotKept(why))) => (StatusCode::INSUFFICIENT_STORAGE, why),
            Err(stopping) => return stopping,
        };
        (status, why + "\n").into_response()
    }
}

impl Report {
    /// The repair of each link to a relay that is up.
    pub fn link_repairs(&self) -> Vec<LinkRepair> {
        let relays = self.links.iter().filter(|link| link.role == Role::Relay);
        let repair = relays.map(|link| LinkRepair {
            from: self.name.clone(),
            to: link.peer.clone(),
            up: true,
            policy: link.policy,
            set_by: link.set_by,
            wire_loss_sent: link.wire_loss_sent,
            repair: link.repair,
        });
        repair.collect()
    }
}

async fn ready(State(report): State<watch::Receiver<Report>>) -> Response {
    let report = report.borrow();
    match (report.ready, report.draining) {
        (true, false) => "ready\n".into_response(),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

async fn prometheus(State(report): State<watch::Receiver<Report>>) -> Response {
    let text = metrics::render(&report.borrow());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(report): State<watch::Receiver<Report>>) -> Json<Report> {
    Json(report.borrow().clone())
}
