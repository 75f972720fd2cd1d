//! Who may come to the operations port, as it is configured.

use super::Config;
use crate::ops::Guard;
use node::exit::{Exit, Failure};
use node::trust::OpsToken;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::PathBuf;

impl Config {
    /// Checks who may come to the operations port.
    pub(crate) fn check_ops(&self) -> Result<(), String> {
        let open = self.ops.filter(|ops| !ops.ip().to_canonical().is_loopback());
        if let Some(ops) = open.filter(|_| self.ops_token_file.is_none() && !self.ops_without_token) {
            return Err(format!(
                "ops: {ops} can be reached from other machines, and nobody would be asked for a token. Name a file with one in ops_token_file \
                 (`anabranch-relay keys ops-token FILE` makes it), listen at 127.0.0.1, or set ops_without_token = true where the network \
                 keeps strangers out"
            ));
        }
        let is_name = |host: &str| {
            !host.is_empty()
                && host.len() <= 253
                && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c))
        };
        for host in &self.ops_hosts {
            if !is_name(host) && host.parse::<IpAddr>().is_err() {
                return Err(format!(
                    "ops_hosts: {host:?} is no name or address, such as \"fra.example.net\" (without a port)"
                ));
            }
        }
        Ok(())
    }

    /// What requests to the operations port must bring; reads the file of the token.
    pub fn ops_guard(&self) -> Result<Guard, Failure> {
        let load = |path: &PathBuf| {
            OpsToken::load(path).map_err(|error| Failure::new(Exit::Config, format!("ops_token_file: {error}")))
        };
        Ok(Guard { token: self.ops_token_file.as_ref().map(load).transpose()?, hosts: self.ops_hosts.clone() })
    }
}

pub(super) fn one_or_several_names<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_operations_port_is_open_to_others_where_the_operator_says_so() {
        for right in [
            "ops = \"127.0.0.1:4480\"",
            "ops = \"[::1]:4480\"",
            "ops = \"[::ffff:127.0.0.1]:4480\"",
            "ops = \"0.0.0.0:4480\"\nops_token_file = \"ops.token\"",
            "ops = \"0.0.0.0:4480\"\nops_without_token = true",
            "ops_hosts = \"fra.example.net\"",
            "ops_hosts = [\"fra\", \"2001:db8::1\"]",
        ] {
            Config::parse(right).unwrap_or_else(|why| panic!("{right}: {why}"));
        }
    }

    #[test]
    fn says_what_is_missing_and_what_is_no_name() {
        for (text, parts) in [
            ("ops = \"0.0.0.0:4480\"", vec!["ops", "ops_token_file", "ops_without_token", "127.0.0.1"]),
            ("ops = \"[::]:4480\"", vec!["ops_token_file"]),
            ("ops = \"192.0.2.1:4480\"", vec!["ops_token_file"]),
            ("ops_hosts = [\"fra:4480\"]", vec!["ops_hosts", "fra:4480", "without a port"]),
            ("ops_hosts = [\"http://fra/\"]", vec!["ops_hosts"]),
            ("ops_hosts = 5", vec!["ops_hosts", "fra.example.net"]),
        ] {
            let why = Config::parse(text).expect_err("the text is wrong");
            for part in parts {
                assert!(why.contains(part), "{text}: {why}");
            }
        }
    }
}
