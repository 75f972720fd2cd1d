//! The configuration of a source. `deploy/source.toml` is the same with every field shown.

use crate::url::{Input, InputError};
use link::{Bitrate, Residual};
use node::config::optional_rate;
use node::control::{Dissemination, Wants};
use node::exit::{Exit, Failure};
use node::ops::Metrics;
use node::trust::{Credentials, TokenFile};
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use topology::{NodeName, StreamName};

/// What a source is told by its operator.
///
/// Durations are written with their unit (`"200ms"`, `"1m 30s"`). A field that does not exist is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Relays to publish at, `host:port`, in order of preference: the first that answers serves until it is lost. One, a
    /// list, or several in one text with commas between them.
    #[serde(deserialize_with = "one_or_several")]
    pub relays: Vec<String>,
    /// Directory with `authority.crt` and, unless a token is all this source has, `NAME.crt` and `NAME.key`, as
    /// `anabranch-relay keys` makes them.
    pub keys: Option<PathBuf>,
    /// Which certificate in `keys`: `NAME.crt` and `NAME.key`. Without it this source comes with a token alone.
    pub name: Option<NodeName>,
    /// File with stream tokens (`abt1.…`), one or several, a line each. The variable `ANABRANCH_TOKEN` adds to them. There is
    /// no flag for a token: every user of a machine can read command lines.
    pub token_file: Option<PathBuf>,
    /// The token itself, given by a program that embeds the source.
    #[serde(skip)]
    pub token: Option<String>,
    /// File of payload keys, as `anabranch-relay keys stream-key` makes it: the streams are sealed from source to sink. Followed
    /// while the source runs. There is no other way to give a key.
    pub payload_key: Option<PathBuf>,
    /// Address of this machine to send from; any by default.
    pub bind: Option<IpAddr>,
    /// Largest UDP payload that the path to every relay is known to carry (1200 to 65527). Without it
    /// each connection finds out whether its path carries 1452, and makes do with 1200 where it does not.
    pub path_mtu: Option<u16>,
    /// Generic segmentation offload: cheaper sending; some network cards fail with it.
    pub segmentation_offload: bool,
    /// How long to try before giving up at the first start: for a relay, and where all streams are refused for a reason that can pass, as for
    /// want of room. A relay lost later is dialled again for ever.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// How long a file or the standard input waits, once published, before it begins: the overlay spreads the word.
    #[serde(with = "humantime_serde")]
    pub start_delay: Duration,
    /// Time from the arrival of a packet here to its playout at every sink.
    #[serde(with = "humantime_serde")]
    pub deadline: Duration,
    /// Before others, where a link has too much to send.
    pub priority: Priority,
    /// How the streams are spread over the overlay.
    pub mode: Dissemination,
    /// The highest rate of the payloads of each stream: so much is asked of the links, and a stream is held to it. Without it,
    /// what its token allows.
    #[serde(deserialize_with = "optional_rate")]
    pub rate: Option<Bitrate>,
    /// Ceiling on the links that a packet takes, as a multiple of those of the cheapest tree (1 to 100); none by default.
    pub max_cost: Option<f64>,
    /// What share of packets each hop may leave missing; without it, what each link's own policy says.
    pub target_residual: Option<f64>,
    /// How often the report is renewed, and a line printed.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Where metrics and the report are served over HTTP.
    pub metrics: Metrics,
    /// What is published; at least one.
    pub streams: Vec<Stream>,
    /// Identity given by a program that embeds the source, in place of `keys` and `name`.
    #[serde(skip)]
    pub identity: Option<Credentials>,
}

/// One stream and where it comes from.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stream {
    /// The name it is published under.
    pub name: StreamName,
    /// Where it comes from: see [`Input`].
    pub input: Input,
    /// Of a file: play it again and again, as one endless stream.
    #[serde(default, rename = "loop")]
    pub endless: bool,
    /// In place of the deadline of all.
    #[serde(default, with = "humantime_serde")]
    pub deadline: Option<Duration>,
    /// In place of the priority of all.
    #[serde(default)]
    pub priority: Option<Priority>,
    /// In place of the mode of all.
    #[serde(default)]
    pub mode: Option<Dissemination>,
    /// In place of the rate of all.
    #[serde(default, deserialize_with = "optional_rate")]
    pub rate: Option<Bitrate>,
    /// In place of the ceiling of all.
    #[serde(default)]
    pub max_cost: Option<f64>,
    /// In place of the target of all.
    #[serde(default)]
    pub target_residual: Option<f64>,
    /// In place of the payload keys of all.
    #[serde(default)]
    pub payload_key: Option<PathBuf>,
}

/// Which streams go first where there is too much to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// After the others.
    #[default]
    Normal,
    /// Before the others.
    High,
}

impl Stream {
    /// A stream from `input`, all else by default.
    pub fn new(name: StreamName, input: Input) -> Stream {
        Stream {
            name,
            input,
            endless: false,
            deadline: None,
            priority: None,
            mode: None,
            rate: None,
            max_cost: None,
            target_residual: None,
            payload_key: None,
        }
    }

    /// Reads `STREAM=URL`, or a URL alone where `default_name` says how its stream is called.
    pub fn parse(text: &str, default_name: Option<&StreamName>) -> Result<Stream, InputError> {
        let (name, url) = crate::url::split_name(text)?;
        let name = match (name, default_name) {
            (Some(name), _) => name,
            (None, Some(name)) => name.clone(),
            (None, None) => return Err(InputError::nameless(text)),
        };
        Ok(Stream::new(name, url.parse()?))
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            relays: Vec::new(),
            keys: None,
            name: None,
            token_file: None,
            token: None,
            payload_key: None,
            bind: None,
            path_mtu: None,
            segmentation_offload: true,
            connect_timeout: Duration::from_secs(10),
            start_delay: Duration::from_millis(500),
            deadline: Duration::from_millis(200),
            priority: Priority::Normal,
            mode: Dissemination::Auto,
            rate: None,
            max_cost: None,
            target_residual: None,
            report_interval: Duration::from_secs(1),
            metrics: Metrics::default(),
            streams: Vec::new(),
            identity: None,
        }
    }
}

impl Config {
    /// Checks what types cannot say. The failure names the field and what was expected.
    pub fn check(&self) -> Result<(), Failure> {
        self.wrong().map_or(Ok(()), |what| Err(Failure::new(Exit::Config, what)))
    }

    /// What a stream asks for beside deadline, priority and mode.
    pub(crate) fn wants_of(&self, stream: &Stream) -> Wants {
        let rate = stream.rate.or(self.rate).map_or(0, |rate| rate.as_bps().div_ceil(1000));
        let max_cost = stream.max_cost.or(self.max_cost).map_or(0.0, |times| times * 100.0);
        let target = stream.target_residual.or(self.target_residual).and_then(Residual::share);
        Wants {
            rate_kbps: u32::try_from(rate).unwrap_or(u32::MAX),
            max_cost: max_cost.round() as u16,
            target_ppb: target.map_or(0, Residual::as_ppb),
        }
    }

    /// What to show a relay and whom to trust.
    pub(crate) fn credentials(&self) -> Result<Credentials, Failure> {
        if let Some(identity) = &self.identity {
            return Ok(identity.clone());
        }
        let keys = self.keys.as_ref().ok_or_else(|| {
            let message =
                "keys: expected the directory with authority.crt, as `anabranch-relay keys` makes it (--keys DIR)";
            Failure::new(Exit::Config, message)
        })?;
        Credentials::load(keys, self.name.as_ref()).map_err(|error| Failure::new(Exit::Config, error.to_string()))
    }

    /// The tokens to show: from the file, from the environment, from an embedding program.
    pub(crate) fn tokens(&self) -> Result<TokenFile, Failure> {
        let mut fixed: Vec<String> = self.token.iter().cloned().collect();
        if self.identity.is_none() {
            fixed.extend(std::env::var("ANABRANCH_TOKEN"));
        }
        let tokens = TokenFile::open(self.token_file.as_deref(), fixed)
            .map_err(|error| Failure::new(Exit::Config, format!("token_file {error}")))?;
        if tokens.tokens().is_empty() && self.identity.is_none() && self.name.is_none() {
            let message =
                "expected a certificate (name, --name) or a token (token_file, --token-file, ANABRANCH_TOKEN)";
            return Err(Failure::new(Exit::Config, message));
        }
        Ok(tokens)
    }

    /// The deadline of a stream: its own or that of all.
    pub fn deadline_of(&self, stream: &Stream) -> Duration {
        stream.deadline.unwrap_or(self.deadline)
    }

    /// The file of a stream's payload keys: its own or that of all.
    pub fn payload_key_of<'a>(&'a self, stream: &'a Stream) -> Option<&'a Path> {
        stream.payload_key.as_deref().or(self.payload_key.as_deref())
    }

    fn wrong(&self) -> Option<String> {
        if self.relays.is_empty() {
            return Some("relays: expected at least one address, such as \"lon.example.net:4400\"".into());
        }
        if let Some(relay) = self.relays.iter().find(|relay| !is_host_port(relay)) {
            return Some(format!("relays: {relay:?} is not host:port, such as \"lon.example.net:4400\""));
        }
        if self.path_mtu.is_some_and(|mtu| mtu < 1200) {
            return Some("path_mtu: expected 1200 to 65527 bytes".into());
        }
        if self.report_interval < Duration::from_millis(10) {
            return Some("report_interval: expected at least 10ms".into());
        }
        if let Err(what) = self.metrics.check() {
            return Some(what);
        }
        if self.streams.is_empty() {
            return Some("streams: expected at least one, such as news/main=udp://@239.1.1.1:5000".into());
        }
        self.streams.iter().enumerate().find_map(|(index, stream)| self.wrong_stream(index, stream))
    }

    fn wrong_stream(&self, index: usize, stream: &Stream) -> Option<String> {
        let earlier = &self.streams[..index];
        let deadline = self.deadline_of(stream);
        if !(MIN_DEADLINE..=MAX_DEADLINE).contains(&deadline) {
            return Some(format!("{}: deadline: expected 5ms to 60s", stream.name));
        }
        if earlier.iter().any(|other| other.name == stream.name) {
            return Some(format!("{}: published twice; each stream needs a name of its own", stream.name));
        }
        if stream.input.is_stdin() && earlier.iter().any(|other| other.input.is_stdin()) {
            return Some(format!("{}: there is only one standard input", stream.name));
        }
        if stream.max_cost.or(self.max_cost).is_some_and(|times| !(1.0..=100.0).contains(&times)) {
            return Some(format!("{}: max_cost: expected 1 to 100 times the cheapest tree", stream.name));
        }
        let target = stream.target_residual.or(self.target_residual);
        if target.is_some_and(|share| !(1e-9..1.0).contains(&share)) {
            return Some(format!("{}: target_residual: expected a share from 1e-9 to less than 1", stream.name));
        }
        if stream.rate.or(self.rate) == Some(Bitrate::ZERO) {
            return Some(format!("{}: rate: expected more than 0", stream.name));
        }
        if stream.endless && !stream.input.is_file() {
            return Some(format!("{}: only a file can be looped, not {}", stream.name, stream.input));
        }
        None
    }
}

/// Less than this no wide-area hop can meet.
const MIN_DEADLINE: Duration = Duration::from_millis(5);
/// More than this would fill the memory of every relay on the way.
const MAX_DEADLINE: Duration = Duration::from_secs(60);

fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected host:port, or a list of them")]
    enum Relays {
        Text(String),
        List(Vec<String>),
    }
    Ok(match Relays::deserialize(from)? {
        Relays::Text(text) => text.split(',').map(|relay| relay.trim().to_owned()).filter(|r| !r.is_empty()).collect(),
        Relays::List(list) => list,
    })
}

fn is_host_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}
