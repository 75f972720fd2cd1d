//! Who may come to the operations port, as it is configured.

use super::Config;
use crate::ops::Guard;
use node::exit::Failure;
use node::ops::Access;

impl Config {
    /// Checks who may come to the operations port.
    pub(crate) fn check_ops(&self) -> Result<(), String> {
        self.access().check(self.ops)
    }

    /// What requests to the operations port must bring; reads the files of the token and of TLS.
    pub fn ops_guard(&self) -> Result<Guard, Failure> {
        self.access().guard()
    }

    pub(crate) fn access(&self) -> Access<'_> {
        Access {
            listen: "ops",
            prefix: "ops_",
            token_file: self.ops_token_file.as_deref(),
            tls: self.ops_tls.as_ref(),
            hosts: &self.ops_hosts,
            without_token: self.ops_without_token,
        }
    }
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
            "ops = \"0.0.0.0:4480\"\nops_tls = { certificate = \"a\", key = \"b\", clients = \"c\" }",
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
            ("ops = \"[::]:4480\"", vec!["ops_token_file", "ops_tls.clients"]),
            ("ops = \"[::]:4480\"\nops_tls = { certificate = \"a\", key = \"b\" }", vec!["ops_token_file"]),
            ("ops_tls = { certificate = \"a\" }", vec!["ops_tls", "key"]),
            ("ops_tls = { certificate = \"a\", key = \"b\", client = \"c\" }", vec!["ops_tls", "clients"]),
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
