//! Asking a running relay over its operations port.

use clap::Args;
use node::exit::{Exit, Failure};
use node::trust::{OpsToken, web_client};
use serde_json::Value;
use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// How long a relay may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A longer answer is none of ours.
const MOST: u64 = 64 << 20;

#[derive(Debug, Args)]
pub(super) struct At {
    /// The relay's operations port: HOST:PORT
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:4480", env = "ANABRANCH_OPS", value_parser = host_port)]
    ops: String,
    /// File with the token that the operations port asks for, where it does
    #[arg(long, value_name = "FILE", env = "ANABRANCH_OPS_TOKEN_FILE")]
    ops_token_file: Option<PathBuf>,
    /// Speak TLS: file (PEM) with the authorities that may have signed the certificate of the operations port
    #[arg(long, value_name = "FILE", env = "ANABRANCH_OPS_TLS_AUTHORITY")]
    ops_tls_authority: Option<PathBuf>,
    /// What the certificate of the operations port is made out to, where that is not the address
    #[arg(long, value_name = "NAME", env = "ANABRANCH_OPS_TLS_NAME", requires = "ops_tls_authority")]
    ops_tls_name: Option<String>,
    /// File (PEM) with a certificate to show to the operations port, and those between it and its authority
    #[arg(long, value_name = "FILE", env = "ANABRANCH_OPS_TLS_CERTIFICATE", requires_all = ["ops_tls_authority", "ops_tls_key"])]
    ops_tls_certificate: Option<PathBuf>,
    /// File (PEM) with the private key of that certificate
    #[arg(long, value_name = "FILE", env = "ANABRANCH_OPS_TLS_KEY", requires = "ops_tls_certificate")]
    ops_tls_key: Option<PathBuf>,
}

impl At {
    /// The operations port, with what it asks for.
    pub(super) fn open(&self) -> Result<Ops, Failure> {
        let wrong = |what: String| Failure::new(Exit::Config, what);
        let load = |path: &PathBuf| OpsToken::load(path).map_err(|error| wrong(error.to_string()));
        let token = self.ops_token_file.as_ref().map(load).transpose()?;
        let tls = self.tls().map_err(wrong)?;
        let unknown = |error: io::Error| Failure::new(Exit::Unavailable, format!("--ops {}: {error}", self.ops));
        let addresses = self.ops.to_socket_addrs().map_err(unknown)?.collect();
        Ok(Ops { shown: self.ops.clone(), addresses, token, tls })
    }

    fn tls(&self) -> Result<Option<Tls>, String> {
        let Some(authority) = &self.ops_tls_authority else { return Ok(None) };
        let own = self.ops_tls_certificate.as_deref().zip(self.ops_tls_key.as_deref());
        let config = web_client(authority, own).map_err(|error| error.to_string())?;
        let name = match &self.ops_tls_name {
            None => ServerName::try_from(host(&self.ops).to_owned())
                .map_err(|_| format!("--ops: {:?} is not host:port, such as fra.example.net:4480", self.ops))?,
            Some(name) => ServerName::try_from(name.clone())
                .map_err(|_| format!("--ops-tls-name: {name:?} is no name or address, such as fra.example.net"))?,
        };
        Ok(Some(Tls { connector: TlsConnector::from(Arc::<ClientConfig>::new(config)), name }))
    }
}

/// What names a port: the host need not be known yet.
fn host_port(text: &str) -> Result<String, String> {
    let expected = || "expected host:port, such as 10.0.0.5:4480 or fra.example.net:4480".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(expected)?;
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    if host.is_empty() || !is_port { Err(expected()) } else { Ok(text.to_owned()) }
}

/// The host of `host:port`.
fn host(ops: &str) -> &str {
    let host = ops.rsplit_once(':').map_or(ops, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

/// An operations port.
#[derive(Clone)]
pub(super) struct Ops {
    /// As it was given.
    pub(super) shown: String,
    addresses: Vec<SocketAddr>,
    token: Option<OpsToken>,
    tls: Option<Tls>,
}

/// How to check, and to be checked by, an operations port.
#[derive(Clone)]
struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

/// A connection to an operations port.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl fmt::Display for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// What a relay answers.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

impl Answer {
    /// The relay's own words, where it did not do as asked (RFC 9457).
    pub(super) fn why(&self) -> String {
        let problem: Value = serde_json::from_str(&self.body).unwrap_or_default();
        problem["detail"].as_str().unwrap_or_else(|| self.body.trim_end()).to_owned()
    }

    /// The answer, where it is what was asked for; else the relay's own words.
    pub(super) fn good(self, ops: &Ops) -> Result<Answer, Failure> {
        if self.status == 200 {
            return Ok(self);
        }
        let why = self.why();
        match self.status {
            401 if ops.token.is_none() => {
                Err(Failure::new(Exit::Refused, format!("operations port {ops}: {why}; here: --ops-token-file FILE")))
            }
            404 | 503 => Err(ops.unavailable(&why)),
            400..500 => Err(Failure::new(Exit::Refused, format!("operations port {ops}: {why}"))),
            507 => Err(Failure::new(Exit::Io, format!("operations port {ops}: {why}"))),
            status => Err(ops.unavailable(&format!("it answers with status {status}: {why}"))),
        }
    }
}

impl Ops {
    /// What it answers at a path, as JSON.
    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.parse(&self.ask("GET", path)?)
    }

    /// What it answers at a path.
    pub(super) fn ask(&self, method: &str, path: &str) -> Result<String, Failure> {
        Ok(node::host::block_on_local(self.request(method, path, None))?.good(self)?.body)
    }

    /// An answer as JSON.
    pub(super) fn parse(&self, body: &str) -> Result<Value, Failure> {
        serde_json::from_str(body).map_err(|error| self.unavailable(&format!("its answer is not a relay's: {error}")))
    }

    /// A request, whose answer ends with the connection.
    pub(super) async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Answer, Failure> {
        let exchange = async {
            let mut answer = String::new();
            self.send(method, path, body).await?.take(MOST).read_to_string(&mut answer).await?;
            io::Result::Ok(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, exchange)
            .await
            .map_err(|_| self.unavailable(&format!("no answer in {PATIENCE:?}")))?
            .map_err(|error| self.unavailable(&error.to_string()))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        match head.split_whitespace().nth(1).and_then(|status| status.parse().ok()) {
            Some(status) => Ok(Answer { status, body: body.to_owned() }),
            None => Err(self.unavailable(&format!("it answers {:?}", head.lines().next().unwrap_or_default()))),
        }
    }

    /// Sends a request of HTTP/1.0, whose answer ends with the connection (RFC 1945).
    pub(super) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Box<dyn Stream>> {
        let (kind, body) = match body {
            Some(body) => ("Content-Type: application/json\r\n", body.to_string()),
            None => ("", String::new()),
        };
        let (mut stream, host) = self.connect().await?;
        let head = format!("{method} {path} HTTP/1.0\r\nHost: {host}\r\n{kind}Content-Length: {}\r\n", body.len());
        stream.write_all(head.as_bytes()).await?;
        if let Some(token) = &self.token {
            stream.write_all(b"Authorization: ").await?;
            stream.write_all(token.authorization().as_bytes()).await?;
            stream.write_all(b"\r\n").await?;
        }
        stream.write_all(format!("\r\n{body}").as_bytes()).await?;
        Ok(stream)
    }

    /// A connection, and to which address of the port: a name need not be known to the relay as one of its own.
    async fn connect(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let stream = TcpStream::connect(&self.addresses[..]).await?;
        let address = stream.peer_addr()?;
        let Some(Tls { connector, name }) = &self.tls else { return Ok((Box::new(stream), address)) };
        let wrong = |error: io::Error| io::Error::new(error.kind(), format!("no TLS with {}: {error}", name.to_str()));
        Ok((Box::new(connector.connect(name.clone(), stream).await.map_err(wrong)?), address))
    }

    pub(super) fn unavailable(&self, what: &str) -> Failure {
        Failure::new(Exit::Unavailable, format!("operations port {self}: {what}"))
    }
}
