//! The routes of the operations port.

use super::problem::{Foreign, Misread, MisreadBody, NoLink, NotKept, Problem, Stopping, stopping};
use super::{Change, Order, Relay, schema};
use crate::metrics;
use crate::overrides::{Capacity, LinkOverride};
use crate::report::{LinkCapacity, LinkRepair, Reloaded, Report, TokenUsage};
use crate::sla::Sla;
use crate::view::{LinkPast, Overview, StreamDetail, TraceView};
use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use link::policy::RepairMode;
use node::trust::Role;
use serde::{Deserialize, Serialize};
use std::sync::LazyLock;
use tokio::sync::oneshot;
use topology::{LinkEnd, NodeName, StreamName};
use utoipa::{IntoParams, ToSchema};

/// Whether the process answers
#[utoipa::path(get, path = "/healthz", tag = "health", responses(
    (status = 200, description = "It does.", body = String, content_type = "text/plain; charset=utf-8", example = "ok\n")
))]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether the relay serves
#[utoipa::path(get, path = "/readyz", tag = "health", responses(
    (status = 200, description = "It does.", body = String, content_type = "text/plain; charset=utf-8", example = "ready\n"),
    (status = 503, description = "It starts, or takes no new streams because it drains.", body = String,
        content_type = "text/plain; charset=utf-8", example = "draining\n")
))]
pub(super) async fn readyz(State(relay): State<Relay>) -> Response {
    let report = relay.report.borrow();
    match (report.ready, report.draining) {
        (true, false) => "ready\n".into_response(),
        (_, true) => (StatusCode::SERVICE_UNAVAILABLE, "draining\n").into_response(),
        (false, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
    }
}

/// Every metric, for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "health", responses(
    (status = 200, description = "The text format of Prometheus.", body = String,
        content_type = "text/plain; version=0.0.4; charset=utf-8")
))]
pub(super) async fn metrics(State(relay): State<Relay>) -> Response {
    let text = metrics::render(&relay.report.borrow());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

/// This document
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "health", responses(
    (status = 200, description = "OpenAPI 3.1.", body = serde_json::Value)
))]
pub(super) async fn openapi() -> Response {
    // It is the same for the life of the process.
    static TEXT: LazyLock<String> = LazyLock::new(|| super::document().to_json().unwrap_or_default());
    ([(header::CONTENT_TYPE, "application/json")], TEXT.as_str()).into_response()
}

/// Links, streams, counters: all there is
#[utoipa::path(get, path = "/api/v1/status", tag = "relay", responses(
    (status = 200, description = "The relay at this moment.", body = Report)
))]
pub(super) async fn status(State(relay): State<Relay>) -> Json<Report> {
    Json(relay.report.borrow().clone())
}

/// What is to be drained.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Meant {
    /// The neighbour at the other end of a link, and which link to it where there are several; without it, the relay as a whole.
    #[param(value_type = Option<schema::LinkEnd>, required = false, nullable = false)]
    link: Option<LinkEnd>,
}

/// What came of it.
#[derive(Serialize, ToSchema)]
pub(super) struct Drained {
    /// Whether streams are taken off now.
    draining: bool,
    /// The link that is meant; null: the relay as a whole.
    #[schema(value_type = Option<schema::LinkEnd>, required)]
    link: Option<LinkEnd>,
    /// Whether it was otherwise before.
    changed: bool,
}

/// Takes streams off this relay or one of its links, make before break
#[utoipa::path(post, path = "/api/v1/drain", tag = "relay", params(Meant), responses(
    (status = 200, description = "Streams are being taken off.", body = Drained),
    (status = 404, description = "There is no such link.", body = Problem, content_type = "application/problem+json"),
    Misread, Foreign, Stopping
))]
pub(super) async fn drain(
    State(relay): State<Relay>,
    meant: Result<Query<Meant>, QueryRejection>,
) -> Result<Json<Drained>, Problem> {
    relay.drain(meant?.0.link, true).await
}

/// Lets streams on again
#[utoipa::path(post, path = "/api/v1/resume", tag = "relay", params(Meant), responses(
    (status = 200, description = "Streams may come again.", body = Drained),
    (status = 404, description = "There is no such link.", body = Problem, content_type = "application/problem+json"),
    Misread, Foreign, Stopping
))]
pub(super) async fn resume(
    State(relay): State<Relay>,
    meant: Result<Query<Meant>, QueryRejection>,
) -> Result<Json<Drained>, Problem> {
    relay.drain(meant?.0.link, false).await
}

/// Reads the configuration anew
#[utoipa::path(post, path = "/api/v1/reload", tag = "relay", responses(
    (status = 200, description = "What that changed.", body = Reloaded),
    (status = 422, description = "The file has a mistake: file, field, and what was expected. The old one stays in force.",
        body = Problem, content_type = "application/problem+json"),
    Foreign, Stopping
))]
pub(super) async fn reload(State(relay): State<Relay>) -> Result<Json<Reloaded>, Problem> {
    let (done, answer) = oneshot::channel();
    relay.ask(Order::Reload { done }, answer).await?.map(Json).map_err(|why| {
        let what = format!("not reloaded: {why}\nthe old configuration stays in force");
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what)
    })
}

/// A stream by the parts of its name.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Channel {
    /// The first part of its name.
    #[param(value_type = schema::Part)]
    tenant: String,
    /// The second part of its name.
    #[param(value_type = schema::Part)]
    channel: String,
}

/// A stream by the parts of its name.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Rendition {
    /// The first part of its name.
    #[param(value_type = schema::Part)]
    tenant: String,
    /// The second part of its name.
    #[param(value_type = schema::Part)]
    channel: String,
    /// The third part of its name.
    #[param(value_type = schema::Part)]
    rendition: String,
}

/// The overlay as this relay knows it: relays, links, streams
#[utoipa::path(get, path = "/api/v1/overlay", tag = "relay", responses(
    (status = 200, description = "Of links elsewhere, what their ends tell: seconds old.", body = Overview),
    Stopping
))]
pub(super) async fn overlay(State(relay): State<Relay>) -> Result<Json<Overview>, Problem> {
    let (done, answer) = oneshot::channel();
    relay.ask(Order::Overview { done }, answer).await.map(Json)
}

/// A stream that this relay carries: its graph, whence it comes and where it goes
#[utoipa::path(get, path = "/api/v1/streams/{tenant}/{channel}", tag = "streams", params(Channel), responses(
    (status = 200, description = "The stream at this moment.", body = StreamDetail),
    (status = 404, description = "It does not pass through this relay.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn stream(
    State(relay): State<Relay>,
    channel: Result<Path<Channel>, PathRejection>,
) -> Result<Json<StreamDetail>, Problem> {
    let Path(Channel { tenant, channel }) = channel?;
    relay.stream(&format!("{tenant}/{channel}")).await
}

/// A stream that this relay carries and that is a rendition
#[utoipa::path(get, path = "/api/v1/streams/{tenant}/{channel}/{rendition}", tag = "streams", params(Rendition), responses(
    (status = 200, description = "The stream at this moment.", body = StreamDetail),
    (status = 404, description = "It does not pass through this relay.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn rendition(
    State(relay): State<Relay>,
    rendition: Result<Path<Rendition>, PathRejection>,
) -> Result<Json<StreamDetail>, Problem> {
    let Path(Rendition { tenant, channel, rendition }) = rendition?;
    relay.stream(&format!("{tenant}/{channel}/{rendition}")).await
}

/// What each sink of this relay had of a stream
#[utoipa::path(get, path = "/api/v1/sla/{tenant}/{channel}", tag = "streams", params(Channel), responses(
    (status = 200, description = "Per sink: the share on time over the last minute, hour and day, and where the rest was lost.", body = Sla),
    (status = 404, description = "No sink here has reported of that stream in the last day.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn sla(
    State(relay): State<Relay>,
    channel: Result<Path<Channel>, PathRejection>,
) -> Result<Json<Sla>, Problem> {
    let Path(Channel { tenant, channel }) = channel?;
    relay.sla(format!("{tenant}/{channel}")).await
}

/// What each sink of this relay had of a stream that is a rendition
#[utoipa::path(get, path = "/api/v1/sla/{tenant}/{channel}/{rendition}", tag = "streams", params(Rendition), responses(
    (status = 200, description = "Per sink: the share on time over the last minute, hour and day, and where the rest was lost.", body = Sla),
    (status = 404, description = "No sink here has reported of that stream in the last day.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn sla_of_rendition(
    State(relay): State<Relay>,
    rendition: Result<Path<Rendition>, PathRejection>,
) -> Result<Json<Sla>, Problem> {
    let Path(Rendition { tenant, channel, rendition }) = rendition?;
    relay.sla(format!("{tenant}/{channel}/{rendition}")).await
}

/// How a stream is at every relay of its graph, measured by each
#[utoipa::path(get, path = "/api/v1/trace/{tenant}/{channel}", tag = "streams", params(Channel), responses(
    (status = 200, description = "What relays have answered within a second, and who has not.", body = TraceView),
    (status = 404, description = "It does not pass through this relay.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn trace(
    State(relay): State<Relay>,
    channel: Result<Path<Channel>, PathRejection>,
) -> Result<Json<TraceView>, Problem> {
    let Path(Channel { tenant, channel }) = channel?;
    relay.trace(&format!("{tenant}/{channel}")).await
}

/// How a stream that is a rendition is at every relay of its graph
#[utoipa::path(get, path = "/api/v1/trace/{tenant}/{channel}/{rendition}", tag = "streams", params(Rendition), responses(
    (status = 200, description = "What relays have answered within a second, and who has not.", body = TraceView),
    (status = 404, description = "It does not pass through this relay.", body = Problem,
        content_type = "application/problem+json"),
    Misread, Stopping
))]
pub(super) async fn trace_of_rendition(
    State(relay): State<Relay>,
    rendition: Result<Path<Rendition>, PathRejection>,
) -> Result<Json<TraceView>, Problem> {
    let Path(Rendition { tenant, channel, rendition }) = rendition?;
    relay.trace(&format!("{tenant}/{channel}/{rendition}")).await
}

/// What is left on each link of the overlay that bounds what is admitted to it
#[utoipa::path(get, path = "/api/v1/capacity", tag = "links", responses(
    (status = 200, description = "Every link whose sender has a capacity configured, or set; the others refuse nothing.", body = Vec<LinkCapacity>)
))]
pub(super) async fn capacity(State(relay): State<Relay>) -> Json<Vec<LinkCapacity>> {
    Json(relay.report.borrow().capacity.clone())
}

/// What came in at this relay by each token
#[utoipa::path(get, path = "/api/v1/usage", tag = "streams", responses(
    (status = 200, description = "Since the relay started, by the id of the token; streams one by one are in the status.", body = Vec<TokenUsage>)
))]
pub(super) async fn usage(State(relay): State<Relay>) -> Json<Vec<TokenUsage>> {
    Json(relay.report.borrow().usage.clone())
}

/// The repair in force on each link to a relay, what it costs and brings
#[utoipa::path(get, path = "/api/v1/links", tag = "links", responses(
    (status = 200, description = "The links that are up, away from this relay.", body = Vec<LinkRepair>)
))]
pub(super) async fn links(State(relay): State<Relay>) -> Json<Vec<LinkRepair>> {
    Json(relay.report.borrow().link_repairs())
}

/// The ends of a link.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Ends {
    /// The relay that sends: this one.
    #[param(value_type = schema::NodeName)]
    from: NodeName,
    /// The neighbour that receives, and which link to it where there are several.
    #[param(value_type = schema::LinkEnd)]
    to: LinkEnd,
}

/// The repair in force on one link
#[utoipa::path(get, path = "/api/v1/links/{from}/{to}", tag = "links", params(Ends), responses(
    (status = 200, description = "The link as it is.", body = LinkRepair),
    Misread, NoLink, Stopping
))]
pub(super) async fn link(
    State(relay): State<Relay>,
    ends: Result<Path<Ends>, PathRejection>,
) -> Result<Json<LinkRepair>, Problem> {
    let Path(Ends { from, to }) = ends?;
    relay.is_here(&from)?;
    let (done, answer) = oneshot::channel();
    Ok(Json(relay.ask(Order::Link { peer: to, done }, answer).await??))
}

/// What a link was like over the last fifteen minutes
#[utoipa::path(get, path = "/api/v1/links/{from}/{to}/history", tag = "links", params(Ends), responses(
    (status = 200, description = "A point for each five seconds in which it was up.", body = LinkPast),
    Misread, NoLink, Stopping
))]
pub(super) async fn history(
    State(relay): State<Relay>,
    ends: Result<Path<Ends>, PathRejection>,
) -> Result<Json<LinkPast>, Problem> {
    let Path(Ends { from, to }) = ends?;
    relay.is_here(&from)?;
    let (done, answer) = oneshot::channel();
    Ok(Json(relay.ask(Order::Past { peer: to, done }, answer).await??))
}

/// A change of the repair of a link. What is left out, or null, stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LinkChange {
    /// How losses are repaired.
    #[schema(value_type = Option<schema::RepairMode>)]
    mode: Option<RepairMode>,
    /// Share of packets that may remain lost or late after repair.
    #[schema(exclusive_minimum = 0, exclusive_maximum = 1)]
    target_residual: Option<f64>,
    /// Ceiling on repair bytes sent, as a share of media bytes sent.
    #[schema(minimum = 0, maximum = 10)]
    max_overhead: Option<f64>,
    /// What the link may carry, media and repair together: a rate, or `auto` to have it estimated.
    #[schema(value_type = Option<String>, example = "20 Mbit/s")]
    capacity: Option<Capacity>,
    /// Whether it is to outlast a restart.
    #[serde(default)]
    persist: bool,
}

/// Sets the repair of one link; in force with the next packet
#[utoipa::path(put, path = "/api/v1/links/{from}/{to}", tag = "links", params(Ends), request_body = LinkChange, responses(
    (status = 200, description = "The link as it then is.", body = LinkRepair),
    Misread, MisreadBody, NoLink, NotKept, Foreign, Stopping
))]
pub(super) async fn set_link(
    State(relay): State<Relay>,
    ends: Result<Path<Ends>, PathRejection>,
    change: Result<Json<serde_json::Value>, JsonRejection>,
) -> Result<Json<LinkRepair>, Problem> {
    let Path(ends) = ends?;
    // In two steps: what is JSON, but none that is expected, is told from what is none.
    let LinkChange { mode, target_residual, max_overhead, capacity, persist } =
        serde_path_to_error::deserialize(change?.0)
            .map_err(|wrong| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, wrong.to_string()))?;
    let set = LinkOverride { mode, target_residual, max_overhead, capacity };
    relay.repair(ends, Change::Set(set), persist).await
}

/// Whether to forget for ever.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Reset {
    /// Also forget what was kept for the next start.
    #[serde(default)]
    persist: bool,
}

/// Puts the repair of one link back as the configuration says
#[utoipa::path(delete, path = "/api/v1/links/{from}/{to}", tag = "links", params(Ends, Reset), responses(
    (status = 200, description = "The link as it then is.", body = LinkRepair),
    Misread, NoLink, NotKept, Foreign, Stopping
))]
pub(super) async fn reset_link(
    State(relay): State<Relay>,
    ends: Result<Path<Ends>, PathRejection>,
    reset: Result<Query<Reset>, QueryRejection>,
) -> Result<Json<LinkRepair>, Problem> {
    let (Path(ends), Query(Reset { persist })) = (ends?, reset?);
    relay.repair(ends, Change::Reset, persist).await
}

impl Relay {
    /// Has an order carried out.
    pub(super) async fn ask<T>(&self, order: Order, answer: oneshot::Receiver<T>) -> Result<T, Problem> {
        self.orders.send(order).await.map_err(|_| stopping())?;
        answer.await.map_err(|_| stopping())
    }

    /// The newest life of a stream that is carried here.
    async fn stream(&self, stream: &str) -> Result<Json<StreamDetail>, Problem> {
        let stream = stream_name(stream)?;
        let found = {
            let report = self.report.borrow();
            let lives = report.streams.iter().filter(|found| found.name == stream);
            let none = || {
                let what =
                    format!("{stream} does not pass through relay {}; /api/v1/overlay says where it is", report.name);
                Problem::new(StatusCode::NOT_FOUND, what)
            };
            lives.max_by_key(|found| found.epoch).cloned().ok_or_else(none)?
        };
        let (done, answer) = oneshot::channel();
        let sla = self.ask(Order::Sla { stream, done }, answer).await?;
        Ok(Json(StreamDetail { report: found, sinks: sla.map(|sla| sla.sinks).unwrap_or_default() }))
    }

    async fn sla(&self, stream: String) -> Result<Json<Sla>, Problem> {
        let stream = stream_name(&stream)?;
        let (done, answer) = oneshot::channel();
        let sla = self.ask(Order::Sla { stream: stream.clone(), done }, answer).await?;
        let none = || {
            let what = format!(
                "no sink at this relay has reported of {stream} in the last day; ask the relay its sinks are at"
            );
            Problem::new(StatusCode::NOT_FOUND, what)
        };
        sla.map(Json).ok_or_else(none)
    }

    async fn trace(&self, stream: &str) -> Result<Json<TraceView>, Problem> {
        let stream = stream_name(stream)?;
        let (done, answer) = oneshot::channel();
        let traced = self.ask(Order::Trace { stream: stream.clone(), done }, answer).await?;
        let name = self.report.borrow().name.clone();
        let what = format!("{stream} does not pass through relay {name}; /api/v1/overlay says where it is");
        traced.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, what))
    }

    async fn drain(&self, link: Option<LinkEnd>, drain: bool) -> Result<Json<Drained>, Problem> {
        let (done, answer) = oneshot::channel();
        let order = Order::Drain { link: link.clone(), drain, done };
        let changed = self.ask(order, answer).await??;
        Ok(Json(Drained { draining: drain, link, changed }))
    }

    /// Only the relay that sends on a link can say and change how it is repaired.
    fn is_here(&self, from: &NodeName) -> Result<(), Problem> {
        let name = self.report.borrow().name.clone();
        let what =
            format!("this is relay {name}: ask relay {from}, which sends on that link, at its own operations port");
        if name == from.as_str() { Ok(()) } else { Err(Problem::new(StatusCode::MISDIRECTED_REQUEST, what)) }
    }

    async fn repair(
        &self,
        Ends { from, to }: Ends,
        change: Change,
        persist: bool,
    ) -> Result<Json<LinkRepair>, Problem> {
        self.is_here(&from)?;
        let (done, answer) = oneshot::channel();
        let order = Order::Repair { peer: to, change, persist, done };
        Ok(Json(self.ask(order, answer).await??))
    }
}

fn stream_name(text: &str) -> Result<StreamName, Problem> {
    text.parse().map_err(|wrong| Problem::new(StatusCode::BAD_REQUEST, format!("{wrong}")))
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
