//! Who may come to an operations port, as it is configured.

use super::{Guard, Tls};
use crate::exit::{Exit, Failure};
use crate::trust::{OpsToken, WebServer};
use serde::{Deserialize, Deserializer};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

/// The settings of a port.
#[derive(Clone, Copy, Debug)]
pub struct Access<'a> {
    /// The setting that holds the address.
    pub listen: &'static str,
    /// What the names of the others begin with.
    pub prefix: &'static str,
    /// The file of the token.
    pub token_file: Option<&'a Path>,
    /// The files of TLS.
    pub tls: Option<&'a Tls>,
    /// Names and addresses that the port is reached by, beside those it has of itself.
    pub hosts: &'a [String],
    /// Whether others than this machine may come without a token or a certificate.
    pub without_token: bool,
}

impl Access<'_> {
    /// Checks who may come to a port that listens there. The error names the setting and what was expected.
    pub fn check(&self, address: Option<SocketAddr>) -> Result<(), String> {
        let Access { listen, prefix, .. } = self;
        let open = address.filter(|address| !address.ip().to_canonical().is_loopback());
        let asks = self.token_file.is_some() || self.tls.is_some_and(|tls| tls.clients.is_some());
        if let Some(address) = open.filter(|_| !asks && !self.without_token) {
            return Err(format!(
                "{listen}: {address} can be reached from other machines, and nobody would be asked for a token. Name a file with one in \
                 {prefix}token_file (`anabranch-relay keys ops-token FILE` makes it) or authorities whose certificates are taken in \
                 {prefix}tls.clients, listen at 127.0.0.1, or set {prefix}without_token = true where the network keeps strangers out"
            ));
        }
        let is_name = |host: &str| {
            !host.is_empty()
                && host.len() <= 253
                && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        match self.hosts.iter().find(|host| !is_name(host) && host.parse::<IpAddr>().is_err()) {
            Some(host) => Err(format!(
                "{prefix}hosts: {host:?} is no name or address, such as \"fra.example.net\" (without a port)"
            )),
            None => Ok(()),
        }
    }

    /// What requests must bring; reads the files of the token and of TLS.
    pub fn guard(&self) -> Result<Guard, Failure> {
        let load = |path: &Path| {
            OpsToken::load(path)
                .map_err(|error| Failure::new(Exit::Config, format!("{}token_file: {error}", self.prefix)))
        };
        let token = self.token_file.map(load).transpose()?;
        let tls = self.tls.map(|tls| tls.load(&format!("{}tls", self.prefix))).transpose()?;
        Ok(Guard { token, tls, hosts: self.hosts.to_vec(), prefix: self.prefix })
    }

    /// What is to be known of a port that listens there: whom it asks for nothing, or what it is told in clear.
    pub fn warning(&self, address: SocketAddr, guard: &Guard) -> Option<String> {
        let Access { listen, prefix, .. } = self;
        if address.ip().to_canonical().is_loopback() {
            return None;
        }
        let takes_certificates = guard.tls.as_ref().is_some_and(WebServer::takes_certificates);
        if guard.token.is_none() && !takes_certificates {
            return Some(format!(
                "{listen} is not on loopback, and nobody is asked for a token ({prefix}without_token)"
            ));
        }
        let in_clear = guard.tls.is_none();
        in_clear.then(|| {
            format!("{listen} is not on loopback: its token, and what it tells, travel in clear ({prefix}tls)")
        })
    }
}

/// Reads where a port listens: an address with a port, or a port alone, which is one of this machine for itself.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    match text.parse::<u16>() {
        Ok(port) => Ok((Ipv4Addr::LOCALHOST, port).into()),
        Err(_) => text
            .parse()
            .map_err(|_| format!("{text:?} is no address with a port, such as \"127.0.0.1:9464\", and no port alone")),
    }
}

/// Reads a field that may hold a name, or a list of them.
///
/// # Errors
/// Where it holds something else; the error says what was expected.
pub fn one_or_several_names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a name, such as \"fra.example.net\", or a list of them")]
    enum Names {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Names::deserialize(from)? {
        Names::One(name) => vec![name],
        Names::Several(names) => names,
    })
}
