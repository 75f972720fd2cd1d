//! The operations port: health, readiness, metrics, status. HTTP, for the operator's network alone.

use crate::metrics;
use crate::report::Report;
use axum::extract::{FromRef, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use topology::NodeName;

/// What the operator asks a running relay to do.
#[derive(Debug)]
pub struct Order {
    /// The neighbour whose link is meant; without it, the relay as a whole.
    pub link: Option<NodeName>,
    /// Whether to take streams off, or to let them on again.
    pub drain: bool,
    /// Whether it was done.
    pub done: oneshot::Sender<bool>,
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
fn router(relay: Relay) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .route("/api/v1/status", get(status))
        .route("/api/v1/drain", post(|relay, link| order(relay, link, true)))
        .route("/api/v1/resume", post(|relay, link| order(relay, link, false)))
        .with_state(relay)
}

#[derive(Deserialize)]
struct Meant {
    link: Option<NodeName>,
}

async fn order(State(relay): State<Relay>, Query(Meant { link }): Query<Meant>, drain: bool) -> Response {
    let (done, answer) = oneshot::channel();
    if relay.orders.send(Order { link, drain, done }).await.is_err() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n").into_response();
    }
    match answer.await {
        Ok(true) => "done\n".into_response(),
        _ => (StatusCode::NOT_FOUND, "nothing to do: no such neighbour, or it is so already\n").into_response(),
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
