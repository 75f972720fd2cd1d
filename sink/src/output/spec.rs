//! Where a stream goes: the address forms of an output.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// One output as the operator writes it: `udp://host:port`, `rtp://host:port`, `file:PATH`, `-` or
/// `http://addr:port/name.ts`, with options after a `?`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OutputSpec {
    text: String,
    /// Where to.
    pub target: Target,
    /// Where in the stream to begin; `None`: as suits the target ([`OutputSpec::start`]).
    pub start: Option<Start>,
}

/// The kinds of output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Datagrams, one per packet of the stream.
    Udp(DatagramTarget),
    /// RTP (RFC 3550), one packet per packet of the stream; a transport stream as RFC 2250 has it.
    Rtp {
        /// Where to.
        to: DatagramTarget,
        /// The payload type; `None`: 33 (MP2T) for a transport stream, 96 for anything else.
        payload_type: Option<u8>,
    },
    /// A file, byte by byte.
    File {
        /// Which.
        path: PathBuf,
        /// Write behind what it holds instead of replacing it.
        append: bool,
        /// How packets are told apart in it.
        framing: Framing,
    },
    /// Standard output.
    Stdout {
        /// How packets are told apart in it.
        framing: Framing,
    },
    /// An HTTP server of our own, for any number of players.
    Http {
        /// Where to listen.
        listen: SocketAddr,
        /// The path of the stream, with its leading slash.
        path: String,
    },
}

/// Where datagrams go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatagramTarget {
    /// `host:port`; resolved when the output is made.
    pub address: String,
    /// The interface to send on: its name, or one of its addresses.
    pub iface: Option<String>,
    /// Hops a datagram may travel; `None`: the system's choice for unicast, 1 for multicast.
    pub ttl: Option<u8>,
}

/// Where in the stream an output begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Start {
    /// With the first packet, whatever it holds.
    Now,
    /// At the first point a decoder can start from: program tables, then a random access point of the video.
    Decodable,
}

/// How the packets of a stream are told apart in a file or pipe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Framing {
    /// Not at all: one after the other.
    #[default]
    None,
    /// Each behind its length, a big-endian u32.
    Length,
}

/// Why a text is no output.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an output: {reason}")]
pub struct SpecError {
    text: String,
    reason: String,
}

impl Target {
    /// Whether two write to one and the same file, to standard output, or serve at one path: whatever their options, it is for one of them at a time.
    pub fn is_same_place(&self, other: &Target) -> bool {
        match (self, other) {
            (Target::File { path, .. }, Target::File { path: other, .. }) => {
                let absolute = |path| std::path::absolute(path).unwrap_or_else(|_| PathBuf::from(path));
                absolute(path) == absolute(other)
            }
            (Target::Stdout { .. }, Target::Stdout { .. }) => true,
            (Target::Http { listen, path }, Target::Http { listen: at, path: other }) => {
                listen.port() != 0 && (listen, path) == (at, other)
            }
            _ => false,
        }
    }
}

impl OutputSpec {
    /// Where this output begins: what the operator said, else at a decodable point for players (`http:`) and at once for
    /// what records or passes on (all others).
    pub fn start(&self) -> Start {
        self.start.unwrap_or(match self.target {
            Target::Http { .. } => Start::Decodable,
            _ => Start::Now,
        })
    }

    /// The text it was made from.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for OutputSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<OutputSpec> for String {
    fn from(spec: OutputSpec) -> String {
        spec.text
    }
}

impl TryFrom<String> for OutputSpec {
    type Error = SpecError;
    fn try_from(text: String) -> Result<Self, SpecError> {
        text.parse()
    }
}

impl FromStr for OutputSpec {
    type Err = SpecError;
    fn from_str(text: &str) -> Result<Self, SpecError> {
        parse(text).map_err(|reason| SpecError { text: text.into(), reason })
    }
}

fn parse(text: &str) -> Result<OutputSpec, String> {
    let (address, query) = text.split_once('?').unwrap_or((text, ""));
    let mut options = Options::parse(query)?;
    let start = options.choice("start", &[("now", Start::Now), ("decodable", Start::Decodable)])?;
    let target = if address == "-" {
        Target::Stdout { framing: options.framing()? }
    } else if let Some(path) = address.strip_prefix("file:") {
        parse_file(path, &mut options)?
    } else if let Some(rest) = address.strip_prefix("udp://") {
        Target::Udp(parse_datagram(rest, &mut options)?)
    } else if let Some(rest) = address.strip_prefix("rtp://") {
        let payload_type = options.number("pt", 127)?;
        Target::Rtp { to: parse_datagram(rest, &mut options)?, payload_type }
    } else if let Some(rest) = address.strip_prefix("http://") {
        parse_http(rest)?
    } else {
        return Err(
            "expected udp://host:port, rtp://host:port, file:PATH, http://address:port/name.ts, or - for standard output"
                .into(),
        );
    };
    options.finish()?;
    Ok(OutputSpec { text: text.into(), target, start })
}

fn parse_file(path: &str, options: &mut Options<'_>) -> Result<Target, String> {
    // file:///var/x and file:/var/x name the same file; file:x is relative.
    let path = path.strip_prefix("//").unwrap_or(path);
    if path.is_empty() {
        return Err("expected a path behind file:".into());
    }
    let append = options.choice("append", &[("true", true), ("false", false)])?.unwrap_or(false);
    Ok(Target::File { path: path.into(), append, framing: options.framing()? })
}

fn parse_datagram(rest: &str, options: &mut Options<'_>) -> Result<DatagramTarget, String> {
    // Players write udp://@group:port; the @ adds nothing for a sender.
    let address = rest.strip_prefix('@').unwrap_or(rest).trim_end_matches('/');
    let (host, port) = address.rsplit_once(':').ok_or("expected host:port")?;
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err("expected host:port; an IPv6 address goes in brackets, as in [ff15::1]:5000".into());
    }
    if !port.parse::<u16>().is_ok_and(|port| port > 0) {
        return Err(format!("{port:?} is not a port: expected 1 to 65535"));
    }
    let ttl = options.number("ttl", 255)?;
    Ok(DatagramTarget { address: address.into(), iface: options.take("iface").map(str::to_owned), ttl })
}

fn parse_http(rest: &str) -> Result<Target, String> {
    let (authority, path) = rest.split_once('/').ok_or("expected a path, as in http://0.0.0.0:8080/live.ts")?;
    let listen = authority.replace("localhost", "127.0.0.1").parse().map_err(|_| {
        format!("{authority:?} is not an address to listen at: expected an IP address and a port, as in 0.0.0.0:8080")
    })?;
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if path.is_empty() || !path.chars().all(plain) || path.contains("//") || path.ends_with('/') {
        return Err(format!("{path:?} is not a path: expected letters, digits and - _ . / as in live.ts"));
    }
    Ok(Target::Http { listen, path: format!("/{path}") })
}

/// The options behind the `?`; each may be taken once, and none may remain.
struct Options<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Options<'a> {
    fn parse(query: &'a str) -> Result<Options<'a>, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        pairs
            .map(|pair| pair.split_once('=').ok_or_else(|| format!("option {pair:?}: expected name=value")))
            .collect::<Result<_, _>>()
            .map(Options)
    }

    fn take(&mut self, name: &str) -> Option<&'a str> {
        let at = self.0.iter().position(|(key, _)| *key == name)?;
        Some(self.0.remove(at).1)
    }

    fn choice<T: Copy>(&mut self, name: &str, choices: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = choices.iter().find(|(text, _)| *text == value);
        let names = || choices.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(" or ");
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| format!("{name}={value}: expected {}", names()))
    }

    fn number(&mut self, name: &str, most: u8) -> Result<Option<u8>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let number = value.parse().ok().filter(|number| *number <= most);
        number.map(Some).ok_or_else(|| format!("{name}={value}: expected a number up to {most}"))
    }

    fn framing(&mut self) -> Result<Framing, String> {
        Ok(self.choice("framing", &[("none", Framing::None), ("length", Framing::Length)])?.unwrap_or_default())
    }

    fn finish(self) -> Result<(), String> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => Err(format!(
                "option {name:?} is not known here: udp and rtp take iface, ttl; rtp pt; file append; \
                 file and - framing; all start"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Target {
        text.parse::<OutputSpec>().unwrap().target
    }

    fn reason(text: &str) -> String {
        text.parse::<OutputSpec>().unwrap_err().to_string()
    }

    #[test]
    fn every_form_is_understood() {
        let plain = DatagramTarget { address: "10.0.0.1:5000".into(), iface: None, ttl: None };
        assert_eq!(target("udp://10.0.0.1:5000"), Target::Udp(plain.clone()));
        assert_eq!(target("udp://@10.0.0.1:5000"), Target::Udp(plain.clone()));
        assert_eq!(target("rtp://10.0.0.1:5000/"), Target::Rtp { to: plain, payload_type: None });
        let group = DatagramTarget { address: "[ff15::1]:5000".into(), iface: Some("eth1".into()), ttl: Some(3) };
        assert_eq!(
            target("rtp://[ff15::1]:5000?iface=eth1&ttl=3&pt=98"),
            Target::Rtp { to: group, payload_type: Some(98) }
        );
        let file = |path: &str, append, framing| Target::File { path: path.into(), append, framing };
        assert_eq!(target("file:x.ts"), file("x.ts", false, Framing::None));
        assert_eq!(target("file:///a/x.ts"), file("/a/x.ts", false, Framing::None));
        assert_eq!(target("file:/a/x?append=true&framing=length"), file("/a/x", true, Framing::Length));
        assert_eq!(target("-"), Target::Stdout { framing: Framing::None });
        let listen = "0.0.0.0:8080".parse().unwrap();
        assert_eq!(target("http://0.0.0.0:8080/live.ts"), Target::Http { listen, path: "/live.ts".into() });
    }

    #[test]
    fn players_start_at_a_decodable_point_and_the_rest_at_once() {
        let start = |text: &str| text.parse::<OutputSpec>().unwrap().start();
        assert_eq!(start("http://127.0.0.1:8080/live.ts"), Start::Decodable);
        assert_eq!(start("file:x.ts"), Start::Now);
        assert_eq!(start("udp://127.0.0.1:5000"), Start::Now);
        assert_eq!(start("udp://127.0.0.1:5000?start=decodable"), Start::Decodable);
        assert_eq!(start("http://127.0.0.1:8080/live.ts?start=now"), Start::Now);
    }

    #[test]
    fn what_is_wrong_is_said() {
        assert!(reason("srt://h:1").contains("expected udp://"));
        assert!(reason("udp://host").contains("expected host:port"));
        assert!(reason("udp://host:0").contains("not a port"));
        assert!(reason("udp://ff15::1:5000").contains("brackets"));
        assert!(reason("udp://h:1?ttl=300").contains("up to 255"));
        assert!(reason("udp://h:1?color=red").contains("not known"));
        assert!(reason("udp://h:1?append=true").contains("not known"));
        assert!(reason("file:").contains("path"));
        assert!(reason("-?framing=cobs").contains("none or length"));
        assert!(reason("http://0.0.0.0:8080").contains("path"));
        assert!(reason("http://example.com:8080/x.ts").contains("IP address"));
        assert!(reason("http://0.0.0.0:8080/<x>").contains("not a path"));
    }
}
