//! The configuration of a sink. `deploy/sink.toml` is the same with every field shown.

use crate::output::{OutputSpec, Start};
use node::config::Layers;
use node::exit::Failure;
use node::ops::Metrics;
use node::trust::Credentials;
use serde::{Deserialize, Deserializer};
use std::path::{Path, PathBuf};
use std::time::Duration;
use topology::{NodeName, StreamName};

/// What a sink is told by its operator.
///
/// Durations are written with their unit (`"200ms"`, `"1m 30s"`). A field that does not exist is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Relays to receive from, each `host:port`, in order of preference: a list, or one text with commas between them.
    /// One is used at a time; when it is lost, the next.
    #[serde(deserialize_with = "list_or_text")]
    pub relays: Vec<String>,
    /// Directory with `authority.crt` and, for a sink with a certificate, `NAME.crt` and `NAME.key`.
    pub keys: Option<PathBuf>,
    /// Which certificate in `keys` to show. Without it the sink shows none and needs a token.
    pub name: Option<NodeName>,
    /// A file with one or several tokens, one per line. The environment variable `ANABRANCH_TOKEN` adds to it.
    pub token_file: Option<PathBuf>,
    /// File of payload keys, as `anabranch-relay keys stream-key` makes it, for streams that are sealed from source to sink. Followed
    /// while the sink runs. There is no other way to give a key.
    pub payload_key: Option<PathBuf>,
    /// Play streams in the clear too for which there is a payload key. Whoever carries such a stream can then put anything in its place.
    pub allow_clear: bool,
    /// The streams to receive, each with its outputs.
    pub streams: Vec<StreamConfig>,
    /// How long to wait for a relay that serves, and from then on for the first packet of a stream. A stream that has been
    /// seen is waited for without end, and so is a relay that has served.
    #[serde(with = "humantime_serde")]
    pub wait: Duration,
    /// Stop, with exit code 0, when every stream has ended and everything is written; else wait for it to return.
    pub until_end: bool,
    /// Largest UDP payload that the path to the relay is known to carry (1200 to 65527). Without it each
    /// connection finds out whether its path carries 1452, and makes do with 1200 where it does not.
    pub path_mtu: Option<u16>,
    /// How often the report is renewed, and a line of `--json` printed.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Where metrics and the report are served over HTTP.
    pub metrics: Metrics,
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
    /// In place of the payload keys of all.
    #[serde(default)]
    pub payload_key: Option<PathBuf>,
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
        StreamConfig { name, outputs, latency: None, start: None, payload_key: None }
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            relays: Vec::new(),
            keys: None,
            name: None,
            token_file: None,
            payload_key: None,
            allow_clear: false,
            streams: Vec::new(),
            wait: Duration::from_secs(10),
            until_end: false,
            path_mtu: None,
            report_interval: Duration::from_secs(1),
            metrics: Metrics::default(),
            identity: None,
        }
    }
}

impl Config {
    /// Reads a TOML file, if one is given, and what the environment (`ANABRANCH_SINK_…`) sets over it. The failure names
    /// the file, the field and what was expected. What is missing may still come from the command line:
    /// [`Config::check`] sees to that.
    pub fn load(file: Option<&Path>) -> Result<Config, Failure> {
        Layers { file, prefix: "ANABRANCH_SINK", ..Layers::default() }.load()
    }

    /// Reads a TOML text. The error names the field, the line and what was expected.
    pub fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string().trim_end().to_string())
    }

    /// The file of a stream's payload keys: its own or that of all.
    pub fn payload_key_of<'a>(&'a self, stream: &'a StreamConfig) -> Option<&'a Path> {
        stream.payload_key.as_deref().or(self.payload_key.as_deref())
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
        self.metrics.check()?;
        self.check_twins()
    }

    fn check_twins(&self) -> Result<(), String> {
        for (index, stream) in self.streams.iter().enumerate() {
            if self.streams[..index].iter().any(|other| other.name == stream.name) {
                return Err(format!("streams: {} is there twice; give it several outputs instead", stream.name));
            }
        }
        let outputs: Vec<&OutputSpec> = self.streams.iter().flat_map(|stream| &stream.outputs).collect();
        for (index, output) in outputs.iter().enumerate() {
            let twin = |other: &&&OutputSpec| other == &output || other.target.is_same_place(&output.target);
            match outputs[..index].iter().find(twin) {
                Some(other) if other == output => return Err(format!("outputs: {output} is there twice")),
                Some(other) => return Err(format!("outputs: {other} and {output} are one and the same place")),
                None => {}
            }
        }
        Ok(())
    }
}

/// Longest extra latency that can be asked for; it bounds what a stream holds in memory.
pub const MAX_LATENCY: Duration = Duration::from_secs(30);

fn is_host_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    !host.is_empty() && !bare_v6 && port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// A list, or one text with commas, as environment variables have it.
fn list_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected host:port or a list of them")]
    enum Either {
        List(Vec<String>),
        Text(String),
    }
    Ok(match Either::deserialize(deserializer)? {
        Either::List(list) => list,
        Either::Text(text) => text.split(',').map(|part| part.trim().to_owned()).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = include_str!("../../deploy/sink.toml");

    #[test]
    fn the_sample_parses_and_passes_the_checks() {
        let config = Config::parse(SAMPLE).unwrap();
        config.check().unwrap();
        assert_eq!(config.wait, Config::default().wait);
    }

    /// Every field is there, set or commented out, so that the sample is the reference.
    #[test]
    fn the_sample_shows_every_field() {
        let error = Config::parse("nonsense = 1").unwrap_err();
        let inner = Config::parse("[[streams]]\nname = \"a/b\"\nnonsense = 1").unwrap_err();
        let metrics = Config::parse("[metrics]\nnonsense = 1").unwrap_err();
        for error in [error, inner, metrics] {
            let fields = error.split_once("expected one of ").unwrap().1;
            for field in fields.lines().next().unwrap().split(", ").map(|field| field.trim_matches('`')) {
                let is_shown = SAMPLE.lines().any(|line| {
                    let line = line.trim_start_matches(['#', ' ', '[']);
                    line.starts_with(&format!("{field} =")) || line.starts_with(&format!("{field}]"))
                });
                assert!(is_shown, "{field} is not in deploy/sink.toml");
            }
        }
        let bare: String = SAMPLE
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.contains(" = ") && !rest.contains('.') => rest,
                _ => line,
            })
            .map(|line| format!("{line}\n"))
            .collect();
        Config::parse(&bare).unwrap_or_else(|error| panic!("the commented settings do not parse: {error}\n{bare}"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let parsed = |text: &str| Config::parse(text).unwrap_err();
        assert!(parsed("relay = \"x\"").contains("unknown field `relay`"));
        assert!(parsed("wait = 10").contains("wait"));
        assert!(parsed("[[streams]]\nname = \"nameless\"").contains("tenant/channel"));
        assert!(parsed("[[streams]]\nname = \"a/b\"\noutputs = [\"srt://h:1\"]").contains("expected udp://"));
        let checked = |text: &str| Config::parse(text).unwrap().check().unwrap_err();
        let stream = "[[streams]]\nname = \"a/b\"\noutputs = [\"-\"]\n";
        assert!(checked(stream).contains("relays"));
        assert!(checked("relays = \"h:1, k\"").contains("\"k\" is not host:port"));
        assert!(checked("relays = [\"h:1\"]").contains("streams"));
        assert!(checked("relays = [\"h:1\"]\n[[streams]]\nname = \"a/b\"").contains("no output"));
        assert!(checked(&format!("relays = [\"h:1\"]\npath_mtu = 500\n{stream}")).contains("path_mtu"));
        assert!(
            checked(&format!("relays = [\"h:1\"]\nreport_interval = \"1ms\"\n{stream}")).contains("report_interval")
        );
        assert!(checked(&format!("relays = [\"h:1\"]\n{stream}latency = \"1h\"")).contains("latency"));
        assert!(checked(&format!("relays = [\"h:1\"]\n{stream}{stream}")).contains("twice"));
        let other = stream.replace("a/b", "a/c");
        assert!(checked(&format!("relays = [\"h:1\"]\n{stream}{other}")).contains("- is there twice"));
    }
}
