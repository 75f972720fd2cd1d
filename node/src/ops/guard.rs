//! Who may ask the operations port what: the host a request is meant for, and the token that comes with it. Pure.
//!
//! A browser sends a name with each request, and a page can have its own name point at this port (DNS rebinding): to the browser both are then one
//! site. So a request is answered only where its `Host` is one that the operator could have typed: a name of this machine for itself, the address that the
//! connection came to, or a configured name. The token keeps out everybody else, or a certificate does where the port speaks TLS.

use super::problem::Problem;
use super::tally::Tally;
use crate::trust::{OpsToken, WebServer};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::sync::watch;

/// What a request must bring.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Guard {
    /// The token; without it none is asked for.
    pub token: Option<OpsToken>,
    /// TLS, where the port speaks it. Who comes with a certificate that it takes needs no token, and where there is no token, all must.
    pub tls: Option<WebServer>,
    /// Names and addresses that the port is reached by, beside those it has of itself.
    pub hosts: Vec<String>,
    /// What the settings of this port begin with, for the words of a refusal.
    pub prefix: &'static str,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Refusal {
    /// It is meant for another host.
    Host(String),
    /// It comes without a token.
    NoToken,
    /// It comes with another token.
    WrongToken,
    /// It comes without a certificate, and there is no token that would do.
    NoCertificate,
    /// It changes something, and a page of another site asks for it.
    Foreign,
}

/// Whether a path is answered to everybody: it tells no more than that the node is there.
pub fn is_probe(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Whether a path is the same for every node of a version: the page that asks for the token has to come without one.
fn is_page(path: &str) -> bool {
    path == "/" || path.strip_prefix("/dashboard/").is_some_and(|part| !part.contains('/'))
}

/// Whether no token is asked for at a path.
pub fn is_open(path: &str) -> bool {
    is_probe(path) || is_page(path)
}

impl Guard {
    fn judge(&self, method: &Method, uri: &Uri, headers: &HeaderMap, came: Came) -> Result<(), Refusal> {
        let path = uri.path();
        if !is_probe(path) {
            self.check_host(uri, headers, came.to.ip())?;
        }
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        if !reads && is_foreign(headers) {
            return Err(Refusal::Foreign);
        }
        if is_open(path) || came.certified {
            return Ok(());
        }
        match &self.token {
            Some(token) => check_token(token, headers),
            None if self.tls.as_ref().is_some_and(WebServer::takes_certificates) => Err(Refusal::NoCertificate),
            None => Ok(()),
        }
    }

    /// A browser always sends one `Host`; programs of HTTP/1.0 may send none, and no page can make them.
    fn check_host(&self, uri: &Uri, headers: &HeaderMap, local: IpAddr) -> Result<(), Refusal> {
        let named = headers.get_all(header::HOST).iter().map(|value| value.to_str().unwrap_or_default());
        for host in named.chain(uri.authority().map(Authority::as_str)) {
            if !self.is_ours(host, local) {
                return Err(Refusal::Host(host.chars().take(100).collect()));
            }
        }
        Ok(())
    }

    /// Whatever the port: a tunnel or a container may give it another.
    fn is_ours(&self, host: &str, local: IpAddr) -> bool {
        let Ok(authority) = host.parse::<Authority>() else { return false };
        if authority.as_str().contains('@') {
            return false;
        }
        let name = authority.host().trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        if self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            return true;
        }
        match name.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                address.is_loopback() || address.is_unspecified() || address == local.to_canonical()
            }
            Err(_) => name.eq_ignore_ascii_case("localhost"),
        }
    }
}

fn check_token(token: &OpsToken, headers: &HeaderMap) -> Result<(), Refusal> {
    let mut shown = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(shown), None) = (shown.next(), shown.next()) else { return Err(Refusal::NoToken) };
    let shown = shown.as_bytes();
    // The scheme is written as one likes (RFC 9110, section 11.1).
    let bearer = shown.split_at_checked(7).filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "));
    match bearer {
        Some((_, shown)) if token.is(shown.trim_ascii()) => Ok(()),
        Some(_) => Err(Refusal::WrongToken),
        None => Err(Refusal::NoToken),
    }
}

/// Whether a browser says that a page of elsewhere asks. Programs say nothing of the kind.
fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap_or_default());
    match (text(header::ORIGIN), text(header::HOST)) {
        (None, _) => false,
        (Some(origin), host) => origin.split_once("://").map(|(_, authority)| authority) != host,
    }
}

/// What the port is guarded by, and who came to it where.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) guard: watch::Receiver<Guard>,
    pub(super) tally: Arc<Tally>,
}

/// Lets a request pass, or says why not.
pub(super) async fn admit(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let came = request.extensions().get::<Came>().copied().unwrap_or_default();
    let (judged, prefix) = {
        let guard = gate.guard.borrow();
        (guard.judge(request.method(), request.uri(), request.headers(), came), guard.prefix)
    };
    let Err(refusal) = judged else { return next.run(request).await };
    let (count, status, what) = match refusal {
        Refusal::Host(host) => (
            &gate.tally.host,
            StatusCode::MISDIRECTED_REQUEST,
            format!("{host:?} is no name of this port; it is told further ones in {prefix}hosts"),
        ),
        Refusal::Foreign => (
            &gate.tally.foreign,
            StatusCode::FORBIDDEN,
            "a page of another site asks for it; orders are taken from this port's own page, and from programs"
                .to_owned(),
        ),
        Refusal::NoToken => (
            &gate.tally.token,
            StatusCode::UNAUTHORIZED,
            format!("this port asks for the token of {prefix}token_file: Authorization: Bearer …"),
        ),
        Refusal::WrongToken => {
            (&gate.tally.token, StatusCode::UNAUTHORIZED, "this is not the token of this port".to_owned())
        }
        // No challenge of HTTP's would bring it: the handshake is over.
        Refusal::NoCertificate => (
            &gate.tally.token,
            StatusCode::FORBIDDEN,
            format!("this port asks for a certificate signed by an authority of {prefix}tls.clients"),
        ),
    };
    Tally::add(count);
    let mut response = Problem::new(status, what).into_response();
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"anabranch\""));
    }
    response
}

/// How a connection came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Came {
    /// The address it came to.
    pub(super) to: SocketAddr,
    /// Whether it showed a certificate that the port takes.
    pub(super) certified: bool,
}

impl Default for Came {
    /// As a test asks, without a connection.
    fn default() -> Came {
        Came { to: SocketAddr::from(([127, 0, 0, 1], 0)), certified: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    const TOKEN: &str = "0123456789-0123456789-0123456789";
    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 7));

    fn guard(token: bool) -> Guard {
        let token = token.then(|| OpsToken::parse(TOKEN).expect("a token"));
        Guard { token, tls: None, hosts: vec!["fra.example.net".to_owned(), "198.51.100.1".to_owned()], prefix: "ops_" }
    }

    fn judge(guard: &Guard, method: Method, uri: &str, fields: &[(HeaderName, &str)]) -> Result<(), Refusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(name, value.parse().expect("a value"));
        }
        let came = Came { to: SocketAddr::new(LOCAL, 4480), certified: false };
        guard.judge(&method, &uri.parse().expect("a path"), &headers, came)
    }

    #[test]
    fn hosts_that_are_not_ours_are_refused_whatever_they_point_at() {
        let host = |host: &str| judge(&guard(false), Method::GET, "/api/v1/status", &[(header::HOST, host)]);
        for ours in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1:4480",
            "127.0.0.2",
            "[::1]:4480",
            "0.0.0.0:4480",
            "192.0.2.7:4480",
            "[::ffff:192.0.2.7]",
            "fra.example.net",
            "FRA.example.net:443",
            "fra.example.net.:4480",
            "198.51.100.1",
        ] {
            assert_eq!(host(ours), Ok(()), "{ours}");
        }
        for other in [
            "evil.example",
            "evil.example:4480",
            "fra.example.net.evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.0.2.8",
            "10.0.0.1",
            "",
            "@localhost",
            "evil.example@localhost",
            "localhost@evil.example",
            "[::2]",
        ] {
            assert!(matches!(host(other), Err(Refusal::Host(_))), "{other}");
        }
        let twice = [(header::HOST, "localhost"), (header::HOST, "evil.example")];
        assert!(judge(&guard(false), Method::GET, "/", &twice).is_err());
        assert!(judge(&guard(false), Method::GET, "http://evil.example/", &[(header::HOST, "localhost")]).is_err());
        // Whoever asks only whether it is up may call it as they like; who sends no host is no browser.
        assert_eq!(judge(&guard(true), Method::GET, "/healthz", &[(header::HOST, "pod.example")]), Ok(()));
        assert_eq!(judge(&guard(false), Method::GET, "/metrics", &[]), Ok(()));
    }

    #[test]
    fn the_token_is_asked_for_everywhere_but_where_nothing_is_told() {
        let right = format!("Bearer {TOKEN}");
        let judge = |path: &str, shown: &[&str]| {
            let fields: Vec<_> = shown.iter().map(|shown| (header::AUTHORIZATION, *shown)).collect();
            judge(&guard(true), Method::GET, path, &fields)
        };
        for path in [
            "/metrics",
            "/api/v1/status",
            "/api/v1/events",
            "/nothing",
            "/dashboard",
            "/dashboard/a/b",
            "/healthz/",
            "//",
        ] {
            assert_eq!(judge(path, &[]), Err(Refusal::NoToken), "{path}");
            assert_eq!(judge(path, &[&right]), Ok(()), "{path}");
        }
        for path in ["/healthz", "/readyz", "/", "/dashboard/main.js"] {
            assert_eq!(judge(path, &[]), Ok(()), "{path}");
        }
        assert_eq!(judge("/metrics", &[&format!("bearer {TOKEN} ")]), Ok(()));
        for wrong in ["Bearer 0123456789-0123456789-012345678", "Bearer ", &format!("{right}x")] {
            assert_eq!(judge("/metrics", &[wrong]), Err(Refusal::WrongToken), "{wrong}");
        }
        for none in ["Basic dTpw", "Bearer", TOKEN, ""] {
            assert_eq!(judge("/metrics", &[none]), Err(Refusal::NoToken), "{none}");
        }
        assert_eq!(judge("/metrics", &[&right, &right]), Err(Refusal::NoToken), "which of two would be meant?");
    }

    #[test]
    fn orders_of_other_sites_are_told_from_our_own() {
        let order = |origin: Option<&str>| {
            let fields: Vec<_> = [(header::HOST, "127.0.0.1:4480")]
                .into_iter()
                .chain(origin.map(|origin| (header::ORIGIN, origin)))
                .collect();
            judge(&guard(false), Method::POST, "/api/v1/drain", &fields)
        };
        assert_eq!(order(None), Ok(()));
        assert_eq!(order(Some("http://127.0.0.1:4480")), Ok(()));
        for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", ""] {
            assert_eq!(order(Some(origin)), Err(Refusal::Foreign), "{origin}");
        }
    }
}
