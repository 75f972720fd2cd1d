//! The line test over HTTP.

use super::problem::{Foreign, Misread, MisreadBody, Problem, Stopping};
use super::{Order, Relay, schema};
use crate::config::parse_rate;
use crate::line::{Ask, LineTest};
use axum::Json;
use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::oneshot;
use topology::NodeName;
use utoipa::ToSchema;

/// What is to be tested.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// The relay at the other end.
    #[schema(value_type = schema::NodeName)]
    to: NodeName,
    /// Payload to send: 10 kbit/s to 1 Gbit/s.
    #[schema(example = "20 Mbit/s")]
    rate: String,
    /// For how many seconds.
    #[schema(minimum = 1, maximum = 600)]
    duration_s: f64,
    /// The one-way deadline that routes and repair work for, in milliseconds; 200 where nothing is said.
    #[schema(minimum = 1, maximum = 10_000)]
    deadline_ms: Option<f64>,
    /// Bytes of each payload; 1316 where nothing is said.
    #[schema(minimum = 64, maximum = 2048)]
    packet_size: Option<u16>,
}

impl TryFrom<Wanted> for Ask {
    type Error = String;

    fn try_from(wanted: Wanted) -> Result<Ask, String> {
        let span = |field: &str, seconds: f64| {
            Duration::try_from_secs_f64(seconds).map_err(|_| format!("{field}: {seconds} s is no span of time"))
        };
        let deadline = wanted.deadline_ms.map(|ms| span("deadline_ms", ms / 1e3)).transpose()?;
        let ask = Ask {
            to: wanted.to,
            rate: parse_rate(&wanted.rate).map_err(|why| format!("rate: {why}"))?,
            duration: span("duration_s", wanted.duration_s)?,
            deadline: deadline.unwrap_or(Ask::DEADLINE),
            packet_size: wanted.packet_size.unwrap_or(Ask::PACKET_SIZE),
        };
        ask.check()?;
        Ok(ask)
    }
}

/// How the line test from this relay goes, or what came of the last one
#[utoipa::path(get, path = "/api/v1/test", tag = "test", responses(
    (status = 200, description = "The test as it is.", body = LineTest),
    (status = 404, description = "There has been none since this relay started.", body = Problem,
        content_type = "application/problem+json"),
    Stopping
))]
pub(super) async fn test(State(relay): State<Relay>) -> Result<Json<LineTest>, Problem> {
    relay.line_test(false).await
}

/// Begins a line test: packets from this relay to another, over the graph that a stream would take
#[utoipa::path(post, path = "/api/v1/test", tag = "test", request_body = Wanted, responses(
    (status = 200, description = "It begins; ask again how it goes.", body = LineTest),
    (status = 404, description = "This relay knows of no relay of that name.", body = Problem,
        content_type = "application/problem+json"),
    (status = 409, description = "Another test is under way, or the relay drains.", body = Problem,
        content_type = "application/problem+json"),
    Misread, MisreadBody, Foreign, Stopping
))]
pub(super) async fn start(
    State(relay): State<Relay>,
    wanted: Result<Json<serde_json::Value>, JsonRejection>,
) -> Result<Json<LineTest>, Problem> {
    let wrong = |what: String| Problem::new(StatusCode::UNPROCESSABLE_ENTITY, what);
    // In two steps: what is JSON, but none that is expected, is told from what is none.
    let wanted: Wanted = serde_path_to_error::deserialize(wanted?.0).map_err(|error| wrong(error.to_string()))?;
    let ask = Ask::try_from(wanted).map_err(wrong)?;
    let (done, answer) = oneshot::channel();
    Ok(Json(relay.ask(Order::StartTest { ask, done }, answer).await??))
}

/// Ends the line test that is under way; what was sent until then is accounted for
#[utoipa::path(delete, path = "/api/v1/test", tag = "test", responses(
    (status = 200, description = "The test as it is; the last packets are waited for. One that was over stays as it was.", body = LineTest),
    (status = 404, description = "There has been none since this relay started.", body = Problem,
        content_type = "application/problem+json"),
    Foreign, Stopping
))]
pub(super) async fn stop(State(relay): State<Relay>) -> Result<Json<LineTest>, Problem> {
    relay.line_test(true).await
}

impl Relay {
    async fn line_test(&self, stop: bool) -> Result<Json<LineTest>, Problem> {
        let (done, answer) = oneshot::channel();
        let test = self.ask(Order::Test { stop, done }, answer).await?;
        let none =
            || Problem::new(StatusCode::NOT_FOUND, "no line test has been made from this relay since it started");
        test.map(Json).ok_or_else(none)
    }
}
