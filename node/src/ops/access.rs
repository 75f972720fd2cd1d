//! Who may come to an operations port, as it is configured.

use super::Guard;
use crate::exit::{Exit, Failure};
use crate::trust::OpsToken;
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
    /// Names and addresses that the port is reached by, beside those it has of itself.
    pub hosts: &'a [String],
    /// Whether others than this machine may come without a token.
    pub without_token: bool,
}

impl Access<'_> {
    /// Checks who may come to a port that listens there. The error names the setting and what was expected.
    pub fn check(&self, address: Option<SocketAddr>) -> Result<(), String> {
        let Access { listen, prefix, .. } = self;
        let open = address.filter(|address| !address.ip().to_canonical().is_loopback());
        if let Some(address) = open.filter(|_| self.token_file.is_none() && !self.without_token) {
            return Err(format!(
                "{listen}: {address} can be reached from other machines, and nobody would be asked for a token. Name a file with one in \
                 {prefix}token_file (`anabranch-relay keys ops-token FILE` makes it), listen at 127.0.0.1, or set {prefix}without_token = true \
                 where the network keeps strangers out"
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

    /// What requests must bring; reads the file of the token.
    pub fn guard(&self) -> Result<Guard, Failure> {
        let load = |path: &Path| {
            OpsToken::load(path)
                .map_err(|error| Failure::new(Exit::Config, format!("{}token_file: {error}", self.prefix)))
        };
        let token = self.token_file.map(load).transpose()?;
        Ok(Guard { token, hosts: self.hosts.to_vec(), prefix: self.prefix })
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
