//! The configuration of a sink. `deploy/sink.toml` is the same with every field shown.

use crate::output::{OutputSpec, Start};
use node::exit::{Exit, Failure};
use node::trust::Credentials;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::time::Duration;
use topology::{NodeName, StreamName};

/// What a sink is told by its operator.
///
/// Durations are written with their unit (`"200ms"`, `"1m 30s"`). A field that does not exist is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Relays to receive from, each `host:port`, in order of preference. One is used at a time; when it is lost, the next.
    pub relays: Vec<String>,
    /// Directory with `authority.crt` and, for a sink with a certificate, `NAME.crt` and `NAME.key`.
    pub keys: Option<PathBuf>,
    /// Which certificate in `keys` to show. Without it the sink shows none and needs a token.
    pub name: Option<NodeName>,
    /// A file with one or several tokens, one per line. The environment variable `ANABRANCH_TOKEN` adds to it.
    pub token_file: Option<PathBuf>,
    /// The streams to receive, each with its outputs.
    pub streams: Vec<StreamConfig>,
    /// How long to wait, from the start, for a relay to answer and for the first packet of a stream. A stream that has
    /// been seen is waited for without end.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Stop, with exit code 0, when every stream has ended and everything is written; else wait for it to return.
    pub until_end: bool,
    /// Largest UDP payload that the path to the relay is known to carry (1200 to 65527); without it, it is probed.
    pub path_mtu: Option<u16>,
    /// How often the report is renewed, and a line of `--json` printed.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Identity given by a program that embeds the sink, in place of `keys` and `token_file`.
    #[serde(skip)]
    pub identity: Option<Identity>,
}

/// One stream to receive.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct StreamConfig {
    /// Its name, `tenant/channel` or `tenant/channel/rendition`.
    pub name: StreamName,
    /// Where it goes.
    #[serde(default)]
    pub outputs: Vec<OutputSpec>,
    /// Release packets this long after the source received them, where that is more than the stream's own deadline:
    /// sinks set to the same figure play in step.
    #[serde(default, with = "humantime_serde")]
    pub latency: Option<Duration>,
    /// Where outputs begin that do not say so themselves.
    #[serde(default)]
    pub start: Option<Start>,
}

/// Who the sink is, where that does not come from files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// What its endpoint shows, and whom it trusts.
    pub credentials: Credentials,
    /// Tokens, in their text form.
    pub tokens: Vec<String>,
}

impl StreamConfig {
    /// A stream with its outputs, all else by default.
    pub fn new(name: StreamName, outputs: Vec<OutputSpec>) -> StreamConfig {
        StreamConfig { name, outputs, latency: None, start: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            relays: Vec::new(),
            keys: None,
            name: None,
            token_file: None,
            streams: Vec::new(),
            wait: Duration::from_secs(10),
            until_end: false,
            path_mtu: None,
            report_interval: Duration::from_secs(1),
            identity: None,
        }
    }
}

impl Config {
    /// Reads a TOML file. The failure names the file, the field and what was expected. What is missing may still come
    /// from the environment and the command line: [`Config::check`] sees to that.
    pub fn load(file: &Path) -> Result<Config, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", file.display())))?;
        Config::parse(&text).map_err(|what| Failure::new(Exit::Config, format!("{}: {what}", file.display())))
    }

    /// Reads a TOML text. The error names the field, the line and what was expected.
    pub fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_string())
    }

    /// Checks what types cannot say. The error names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        if self.relays.is_empty() {
            return Err("relays: expected at least one relay, as host:port".into());
        }
        if let Some(relay) = self.relays.iter().find(|relay| !is_host_port(relay)) {
            return Err(format!("relays: {relay:?} is not host:port"));
        }
        if self.streams.is_empty() {
            return Err("streams: expected at least one stream".into());
        }
        if let Some(stream) = self.streams.iter().find(|stream| stream.outputs.is_empty()) {
            return Err(format!("streams: {} has no output", stream.name));
        }
        if self.path_mtu.is_some_and(|mtu| mtu < 1200) {
            return Err("path_mtu: expected 1200 to 65527".into());
        }
        if self.report_interval < Duration::from_millis(10) {
            return Err("report_interval: expected at least 10ms".into());
        }
        if self.streams.iter().filter_map(|stream| stream.latency).any(|latency| latency > MAX_LATENCY) {
            return Err("latency: expected at most 30s".into());
        }
        self.check_twins()
    }

    fn check_twins(&self) -> Result<(), String> {
        for (index, stream) in self.streams.iter().enumerate() {
            if self.streams[..index].iter().any(|other| other.name == stream.name) {
                return Err(format!("streams: {} is there twice; give it several outputs instead", stream.name));
            }
        }
        let outputs: Vec<&str> = self.streams.iter().flat_map(|s| &s.outputs).map(OutputSpec::as_str).collect();
        let twin = outputs.iter().enumerate().find(|(index, output)| outputs[..*index].contains(output));
        match twin {
            Some((_, output)) => Err(format!("outputs: {output} is there twice")),
            None => Ok(()),
        }
    }
}

/// Longest extra latency that can be asked for; it bounds what a stream holds in memory.
pub const MAX_LATENCY: Duration = Duration::from_secs(30);

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port > 0)
}
