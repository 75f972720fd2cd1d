//! The port of a source or a sink: health, metrics, status. It takes no orders.

use super::{Access, Guard, Tally, Tls, address, guarded, one_or_several_names, tally};
use crate::exit::{Exit, Failure};
use crate::metrics::family;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Where such a port listens, and who may come; part of the configuration of a source and of a sink.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// Where it listens (TCP, HTTP): an address, or a port of this machine for itself. Without it there is none. Beyond loopback it needs a token,
    /// unless `without_token` says otherwise.
    #[serde(deserialize_with = "optional_address")]
    pub listen: Option<SocketAddr>,
    /// File with the token that requests must bring, all but `/healthz` and `/readyz`. Its owner alone may read it.
    pub token_file: Option<PathBuf>,
    /// Has it speak TLS, by these files; read at the start.
    pub tls: Option<Tls>,
    /// Names and addresses that it is reached by, beside `localhost` and the addresses that it has: what a request may say in `Host`.
    #[serde(deserialize_with = "one_or_several_names")]
    pub hosts: Vec<String>,
    /// Lets it listen beyond loopback without a token, for networks that keep strangers out.
    pub without_token: bool,
}

impl Metrics {
    /// Checks who may come. The error names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        self.access().check(self.listen)
    }

    fn access(&self) -> Access<'_> {
        let Metrics { token_file, tls, hosts, without_token, .. } = self;
        Access {
            listen: "metrics.listen",
            prefix: "metrics.",
            token_file: token_file.as_deref(),
            tls: tls.as_ref(),
            hosts,
            without_token: *without_token,
        }
    }

    /// Begins to serve a report, where a port is configured, until the handle is dropped.
    pub async fn serve<R: Report>(&self, report: watch::Receiver<R>) -> Result<Watched, Failure> {
        let Some(listen) = self.listen else { return Ok(Watched::default()) };
        let guard = self.access().guard()?;
        let unavailable =
            |error| Failure::new(Exit::Unavailable, format!("metrics.listen: cannot listen at {listen}: {error}"));
        let listener = TcpListener::bind(listen).await.map_err(unavailable)?;
        let at = listener.local_addr().map_err(unavailable)?;
        if let Some(warning) = self.access().warning(listen, &guard) {
            tracing::warn!("{warning}");
        }
        tracing::info!(%at, "metrics at /metrics, /healthz, /readyz and /api/v1/status");
        let (guard, tally) = (watch::Sender::new(guard), Arc::new(Tally::default()));
        let (router, served) = (router(report, guard.subscribe(), tally.clone()), guard.subscribe());
        let serving = async move {
            let _guard = guard;
            if let Err(error) = super::serve(listener, router, served, tally).await {
                tracing::error!(%error, "metrics are served no more");
            }
        };
        Ok(Watched { at: Some(at), task: Some(tokio::task::spawn_local(serving)) })
    }
}

/// A port that is served until this is dropped.
#[derive(Debug, Default)]
pub struct Watched {
    at: Option<SocketAddr>,
    task: Option<JoinHandle<()>>,
}

impl Watched {
    /// Where it listens, with the port that was picked.
    pub fn address(&self) -> Option<SocketAddr> {
        self.at
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// What such a port tells of.
pub trait Report: Serialize + Clone + Send + Sync + 'static {
    /// Every metric, in the text format of Prometheus.
    fn metrics(&self) -> String;
    /// Whether there is a link to a relay; if not, how it stands, in a word.
    fn ready(&self) -> Result<(), &'static str>;
}

/// What is told, and what the port itself has refused.
#[derive(Clone, Debug)]
struct Told<R> {
    report: watch::Receiver<R>,
    tally: Arc<Tally>,
}

fn router<R: Report>(report: watch::Receiver<R>, guard: watch::Receiver<Guard>, tally: Arc<Tally>) -> Router {
    let routes = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz::<R>))
        .route("/metrics", get(metrics::<R>))
        .route("/api/v1/status", get(status::<R>));
    let hint = "there are /metrics, /healthz, /readyz and /api/v1/status";
    guarded(routes, hint, guard, tally.clone()).with_state(Told { report, tally })
}

async fn readyz<R: Report>(State(told): State<Told<R>>) -> Response {
    match told.report.borrow().ready() {
        Ok(()) => "ready\n".into_response(),
        Err(state) => (StatusCode::SERVICE_UNAVAILABLE, format!("{state}\n")).into_response(),
    }
}

async fn metrics<R: Report>(State(Told { report, tally }): State<Told<R>>) -> Response {
    let mut text = report.borrow().metrics();
    family(&mut text, tally::METRICS, &[(String::new(), &tally.refusals())]);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status<R: Report>(State(told): State<Told<R>>) -> Json<R> {
    Json(told.report.borrow().clone())
}

fn optional_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an address with a port, such as \"127.0.0.1:9464\", or a port")]
    enum Where {
        Port(u16),
        Text(String),
    }
    let text = match Where::deserialize(from)? {
        Where::Port(port) => port.to_string(),
        Where::Text(text) => text,
    };
    address(&text).map(Some).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[derive(Clone, Serialize)]
    struct Standing {
        up: bool,
    }

    impl Report for Standing {
        fn metrics(&self) -> String {
            format!("told_up {}\n", u8::from(self.up))
        }
        fn ready(&self) -> Result<(), &'static str> {
            if self.up { Ok(()) } else { Err("connecting") }
        }
    }

    /// The status and the body of an answer.
    async fn ask(at: SocketAddr, path: &str, head: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(at).await.expect("it listens");
        let request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{head}\r\n");
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        let status = answer.get(9..12).and_then(|status| status.parse().ok()).expect("a status");
        (status, answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
    }

    async fn told(metrics: Metrics) {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("token");
        std::fs::write(&file, "0123456789-0123456789-0123456789\n").expect("it is written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("it is ours");
        let asks_for_token = metrics.token_file.is_some();
        let metrics = Metrics { token_file: metrics.token_file.and(Some(file)), ..metrics };
        let (report, reports) = watch::channel(Standing { up: false });
        let served = metrics.serve(reports).await.expect("a free port");
        let at = served.address().expect("it is served");
        let (host, token) = ("Host: localhost\r\n", "Authorization: Bearer 0123456789-0123456789-0123456789\r\n");
        let bare = ask(at, "/metrics", host).await;
        assert_eq!(bare.0, if asks_for_token { 401 } else { 200 }, "{bare:?}");
        assert_eq!(ask(at, "/metrics", &format!("Host: evil.example\r\n{token}")).await.0, 421);
        let both = format!("{host}{token}");
        let (status, text) = ask(at, "/metrics", &both).await;
        assert!(status == 200 && text.starts_with("told_up 0\n"), "{status} {text}");
        for (what, count) in [("token_refused", u8::from(asks_for_token)), ("host_refused", 1), ("slow_closed", 0)] {
            let line = format!("\nanabranch_metrics_port_{what}_total {count}\n");
            assert!(text.contains(&line), "{line} in {text}");
        }
        assert_eq!(ask(at, "/healthz", "").await, (200, "ok\n".into()));
        assert_eq!(ask(at, "/readyz", "").await, (503, "connecting\n".into()));
        report.send_replace(Standing { up: true });
        assert_eq!(ask(at, "/readyz", "").await, (200, "ready\n".into()));
        assert_eq!(ask(at, "/api/v1/status", &both).await, (200, "{\"up\":true}".into()));
        assert_eq!(ask(at, "/nothing", &both).await.0, 404);
        drop(served);
        tokio::task::yield_now().await;
        assert!(tokio::net::TcpStream::connect(at).await.is_err(), "it is served no more");
    }

    #[tokio::test]
    async fn what_is_told_is_told_to_whom_it_may() {
        let listen = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
        let local = Metrics { listen, ..Metrics::default() };
        let set = tokio::task::LocalSet::new();
        set.run_until(async {
            told(local.clone()).await;
            told(Metrics { token_file: Some("token".into()), ..local }).await;
            assert_eq!(
                Metrics::default().serve(watch::channel(Standing { up: true }).1).await.map(|w| w.address()).ok(),
                Some(None)
            );
        })
        .await;
    }

    #[test]
    fn what_the_port_refuses_is_documented() {
        let page = include_str!("../../../docs/metrics.md");
        let said: Vec<_> = crate::metrics::documented(page, &["anabranch_metrics_port_"]).collect();
        let said: Vec<_> = said.iter().map(|[name, kind, _, meaning]| (*name, *kind, *meaning)).collect();
        let exist: Vec<_> = tally::METRICS.iter().map(|(metric, _)| (metric.name, "counter", metric.help)).collect();
        assert_eq!(said, exist);
    }

    #[test]
    fn a_port_alone_is_for_this_machine_and_others_need_a_token() {
        let read = |text: &str| toml::from_str::<Metrics>(text).map_err(|error| error.to_string());
        let at = |text: &str| read(text).map(|metrics| metrics.listen.map(|at| at.to_string()));
        assert_eq!(at("listen = 9464"), Ok(Some("127.0.0.1:9464".into())));
        assert_eq!(at("listen = \"9464\""), Ok(Some("127.0.0.1:9464".into())));
        assert_eq!(at("listen = \"[::1]:9464\""), Ok(Some("[::1]:9464".into())));
        assert!(at("listen = \"here\"").is_err_and(|why| why.contains("listen") && why.contains("127.0.0.1:9464")));
        assert!(at("listen = 70000").is_err());
        let open = read("listen = \"0.0.0.0:9464\"").expect("it is an address").check().expect_err("anybody may come");
        assert!(
            ["metrics.listen", "metrics.token_file", "metrics.without_token"].iter().all(|part| open.contains(part)),
            "{open}"
        );
        assert!(read("listen = \"0.0.0.0:9464\"\nwithout_token = true").expect("right").check().is_ok());
        let host = read("hosts = \"a:1\"").expect("a text").check().expect_err("no name");
        assert!(host.contains("metrics.hosts"), "{host}");
    }
}
