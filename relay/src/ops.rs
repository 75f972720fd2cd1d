//! The operations port: health, readiness, metrics, status. HTTP, for the operator's network alone.

use crate::metrics;
use crate::report::Report;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// Serves until it is dropped. `report` is read at each request.
pub async fn serve(listener: TcpListener, report: watch::Receiver<Report>) -> std::io::Result<()> {
    axum::serve(listener, router(report)).await
}

/// The routes:
///
/// | path | answer |
/// |---|---|
/// | `/healthz` | 200 while the process answers |
/// | `/readyz` | 200 while the relay serves, 503 while it starts or is about to stop |
/// | `/metrics` | [`crate::metrics`] in the text format of Prometheus |
/// | `/api/v1/status` | the [`Report`] as JSON |
fn router(report: watch::Receiver<Report>) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(prometheus))
        .route("/api/v1/status", get(status))
        .with_state(report)
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
