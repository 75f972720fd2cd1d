//! The configuration of a relay. `deploy/relay.toml` is the same with every field shown.

mod limits;
mod neighbour;
mod ops;

pub use limits::Limits;
pub use neighbour::Neighbour;
pub(crate) use neighbour::{check_policy, default_cost};

use crate::system::Traits;
use neighbour::{check_mtu, check_tags, is_host_port, listed_or_auto};
pub use node::config::parse_rate;
use node::endpoint::MOST_THREADS;
use node::exit::{Exit, Failure};
use node::trust::{Credentials, Verifier};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use topology::NodeName;
use topology::about::Place;
use topology::terms::{MOST_ADDRESS, Tag};

/// The least time between two reports.
pub(crate) const LEAST_INTERVAL: Duration = Duration::from_millis(10);

/// What a relay is told by its operator.
///
/// Durations are written with their unit (`"20ms"`, `"1m 30s"`), rates as `"20 Mbit/s"`, `"500 kbit/s"` or a bare number
/// of bits per second. A field that does not exist is an error.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// The name this relay must have. It is always taken from the certificate; where this is set and differs, the relay
    /// refuses to start. It also picks the certificate: `NAME.crt` and `NAME.key` in `keys`.
    pub name: Option<NodeName>,
    /// Directory with `authority.crt`, `NAME.crt` and `NAME.key`, as `anabranch-relay keys` makes them.
    pub keys: Option<PathBuf>,
    /// Where to listen for relays, sources and sinks (UDP): one address or several. Port 0 picks a free one.
    #[serde(deserialize_with = "one_or_several")]
    pub listen: Vec<SocketAddr>,
    /// Largest UDP payload that every path of this relay is known to carry (1200 to 65527). Without it each
    /// connection finds out whether its path carries 1452, and makes do with 1200 where it does not.
    pub path_mtu: Option<u16>,
    /// Generic segmentation offload: cheaper sending; some network cards fail with it.
    pub segmentation_offload: bool,
    /// Threads that carry connections, 1 to 32: the first of them also decides, so one is enough below about a gigabit per second. More than
    /// there are cores make it slower.
    pub threads: usize,
    /// Where the operations port listens (TCP, HTTP): health, metrics, status. Without it there is none. Beyond loopback it needs
    /// `ops_token_file` or `ops_tls.clients`, unless `ops_without_token` says otherwise.
    pub ops: Option<SocketAddr>,
    /// File with the token that requests to the operations port must bring, all but `/healthz` and `/readyz`. Its owner alone may read it.
    pub ops_token_file: Option<PathBuf>,
    /// Has the operations port speak TLS, by these files.
    pub ops_tls: Option<node::ops::Tls>,
    /// Names and addresses that the operations port is reached by, beside `localhost` and the addresses that it has: what a request may say
    /// in `Host`.
    #[serde(deserialize_with = "node::ops::one_or_several_names")]
    pub ops_hosts: Vec<String>,
    /// Lets the operations port listen beyond loopback without a token, for networks that keep strangers out.
    pub ops_without_token: bool,
    /// Where `ctl link set --persist` keeps what it sets of links, above this configuration; the relay writes it, the operator
    /// need not. Without it nothing is kept over a restart.
    pub state: Option<PathBuf>,
    /// Where this relay stands, for the dashboard's map; told to the whole overlay. No route depends on it.
    pub location: Option<Location>,
    /// What this relay is marked with: `kind:value`, such as `site:fra-2` or `region:eu`. The whole overlay is told. Two ways of a
    /// stream share no `site` and no `carrier` where that can be.
    pub tags: Vec<Tag>,
    /// Where other relays can dial this one, `host:port`; told to the whole overlay. Needed where relays choose their neighbours
    /// themselves, for others to choose this one.
    pub address: Option<String>,
    /// Lets the relay choose neighbours by itself, beside those that are listed.
    pub auto: Option<Auto>,
    /// What streams that enter here would rather use.
    pub routing: Routing,
    /// Relays to keep a link to. A pair of relays needs the entry on one side; with an entry on both, each side's
    /// `delay`, `cost` and policy hold for what that side sends.
    #[serde(deserialize_with = "listed_or_auto")]
    pub neighbours: Vec<Neighbour>,
    /// Looks at the transport streams that pass, after they have: sync, tables, continuity, clock references (ETSI TR 101 290).
    pub ts_health: bool,
    /// Bounds on what peers can make this relay hold.
    pub limits: Limits,
    /// How long a stopping relay goes on forwarding, so that the overlay can route around it.
    #[serde(with = "humantime_serde")]
    pub drain: Duration,
    /// How long a stream whose source vanished without a word is kept for it to return.
    #[serde(with = "humantime_serde")]
    pub source_grace: Duration,
    /// How often the report is renewed.
    #[serde(with = "humantime_serde")]
    pub report_interval: Duration,
    /// Identity given by a program that embeds the relay, in place of `keys`.
    #[serde(skip)]
    pub identity: Option<Identity>,
}

/// How a relay chooses its neighbours.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Auto {
    /// Relays of the overlay to join it through, `host:port`: the first that answers serves. None for its first relay.
    #[serde(default)]
    pub join: Vec<String>,
    /// Most links to relays, configured ones included (4 to 64).
    #[serde(default = "default_degree")]
    pub degree: usize,
}

/// What streams would rather use, where they are as well off with it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields, default)]
pub struct Routing {
    /// Links and relays with one of these tags are passed by, unless a receiver would be served worse.
    pub avoid: Vec<Tag>,
    /// Links and relays with one of these are taken before others with a tag of the same kind, unless a receiver would be
    /// served worse.
    pub prefer: Vec<Tag>,
}

/// Who the relay is and whom it trusts, where that does not come from files.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The relay's name, as in its certificate.
    pub name: NodeName,
    /// What its endpoint shows, and whom it trusts.
    pub credentials: Credentials,
    /// What checks those who dial it.
    pub verifier: Verifier,
}

/// A place on Earth, in degrees.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Location {
    /// North positive.
    pub latitude: f64,
    /// East positive.
    pub longitude: f64,
}

impl Location {
    /// The place, where it is one. The error names the field and what was expected.
    pub fn place(&self) -> Result<Place, String> {
        Place::degrees(self.latitude, self.longitude).map_err(|what| format!("location: {what}"))
    }
}

impl Default for Config {
    fn default() -> Self {
        Config {
            name: None,
            keys: None,
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 4400))],
            path_mtu: None,
            segmentation_offload: true,
            threads: 1,
            ops: None,
            ops_token_file: None,
            ops_tls: None,
            ops_hosts: Vec::new(),
            ops_without_token: false,
            state: None,
            location: None,
            tags: Vec::new(),
            address: None,
            auto: None,
            routing: Routing::default(),
            neighbours: Vec::new(),
            ts_health: true,
            limits: Limits::default(),
            drain: Duration::from_secs(2),
            source_grace: Duration::from_secs(10),
            report_interval: Duration::from_secs(1),
            identity: None,
        }
    }
}

impl Config {
    /// Reads and checks a TOML file. The failure names the file, the field and what was expected.
    pub fn load(file: &Path) -> Result<Config, Failure> {
        let text = std::fs::read_to_string(file)
            .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", file.display())))?;
        Config::parse(&text).map_err(|what| Failure::new(Exit::Config, format!("{}: {what}", file.display())))
    }

    /// Reads and checks a TOML text. The error names the field, the line and what was expected.
    pub fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string().trim_end().to_string())?;
        config.check()?;
        Ok(config)
    }

    /// Where the relay stands; [`Config::check`] has seen to it that it is on Earth.
    pub(crate) fn place(&self) -> Option<Place> {
        self.location.and_then(|location| location.place().ok())
    }

    /// What routes follow of this relay, and what its own streams would rather use.
    pub(crate) fn traits(&self) -> Traits {
        let Routing { avoid, prefer } = self.routing.clone();
        let (tags, address, auto) =
            (self.tags.clone(), self.address.clone(), self.auto.as_ref().map(|auto| auto.degree));
        Traits { tags, address, auto, policy: topology::sieve::Policy { avoid, prefer } }
    }

    /// Checks what types cannot say. The error names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        if self.listen.is_empty() {
            return Err("listen: expected at least one address, such as \"0.0.0.0:4400\"".into());
        }
        check_mtu("path_mtu", self.path_mtu)?;
        if !(1..=MOST_THREADS).contains(&self.threads) {
            return Err(format!("threads: expected 1 to {MOST_THREADS}, not {}", self.threads));
        }
        if self.report_interval < LEAST_INTERVAL {
            return Err("report_interval: expected at least 10ms".into());
        }
        if let Some(location) = &self.location {
            location.place()?;
        }
        self.check_ops()?;
        self.check_overlay()?;
        for (index, neighbour) in self.neighbours.iter().enumerate() {
            neighbour.check(&format!("neighbours[{index}]"))?;
            let twin = self.neighbours[..index].iter().position(|other| {
                let same_name = other.name.is_some() && other.name == neighbour.name;
                let same_address = other.address.is_some() && other.address == neighbour.address;
                (same_name || same_address) && other.link == neighbour.link
            });
            if let Some(twin) = twin {
                return Err(format!(
                    "neighbours[{index}]: the same name or address as neighbours[{twin}]; several links to one relay need a \
                     `link` each, with the name by which both ends tell them apart"
                ));
            }
        }
        Ok(())
    }

    /// Checks what the overlay is told, and how neighbours are chosen.
    fn check_overlay(&self) -> Result<(), String> {
        check_tags("tags", &self.tags)?;
        check_tags("routing.avoid", &self.routing.avoid)?;
        check_tags("routing.prefer", &self.routing.prefer)?;
        let announced = self.address.iter().map(|address| ("address", address));
        let joined = self.auto.iter().flat_map(|auto| &auto.join).map(|address| ("auto.join", address));
        for (field, address) in announced.chain(joined) {
            if !is_host_port(address) || address.len() > MOST_ADDRESS {
                return Err(format!("{field}: {address:?} is not host:port, such as \"lon.example.net:4400\""));
            }
        }
        if let Some(auto) = self.auto.as_ref().filter(|auto| !(4..=64).contains(&auto.degree)) {
            return Err(format!("auto.degree: expected 4 to 64 links, not {}", auto.degree));
        }
        let share = self.limits.max_admitted_share;
        if !(share > 0.0 && share <= 1.0) {
            return Err(format!("limits.max_admitted_share: expected a share above 0, at most 1, not {share}"));
        }
        Ok(())
    }
}

fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<SocketAddr>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected an address, such as \"0.0.0.0:4400\", or a list of them")]
    enum Listen {
        One(String),
        Several(Vec<String>),
    }
    let texts = match Listen::deserialize(from)? {
        Listen::One(text) => vec![text],
        Listen::Several(texts) => texts,
    };
    let parse = |text: String| {
        text.parse().map_err(|_| {
            D::Error::custom(format!(
                "{text:?} is not an address; expected one such as \"0.0.0.0:4400\" or \"[::]:4400\""
            ))
        })
    };
    texts.into_iter().map(parse).collect()
}

fn default_degree() -> usize {
    8
}

#[cfg(test)]
mod tests {
    use super::*;
    use link::Bitrate;
    use link::policy::Policy;
    use std::collections::BTreeSet;

    const SAMPLE: &str = include_str!("../../deploy/relay.toml");

    /// The sample with every field that has a value in a comment.
    fn uncommented() -> String {
        let field = |line: &str| {
            let rest = line.strip_prefix("# ")?;
            let (name, value) = rest.split_once(" = ")?;
            let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            (is_name && !value.is_empty()).then(|| rest.to_string())
        };
        SAMPLE.lines().map(|line| field(line).unwrap_or_else(|| line.to_string()) + "\n").collect()
    }

    fn error(text: &str) -> String {
        Config::parse(text).expect_err("the text is wrong")
    }

    #[test]
    fn the_sample_parses_as_it_stands_and_uncommented() {
        let config = Config::parse(SAMPLE).expect("the sample is right");
        assert_eq!(config.neighbours.len(), 1);
        let full = Config::parse(&uncommented()).expect("the sample's comments are right");
        assert_eq!(full.neighbours[0].capacity, Some(Bitrate::mbps(200)));
    }

    /// What the sample shows as a default is the default.
    #[test]
    fn the_sample_tells_the_defaults() {
        let config = Config::parse(&uncommented()).expect("right");
        let default = Config::default();
        assert_eq!(config.drain, default.drain);
        assert_eq!(config.ts_health, default.ts_health);
        assert_eq!(config.source_grace, default.source_grace);
        assert_eq!(config.report_interval, default.report_interval);
        assert_eq!(config.segmentation_offload, default.segmentation_offload);
        assert_eq!(config.threads, default.threads);
        assert_eq!(config.listen, default.listen);
        assert_eq!(Limits { max_stream_rate: None, client_capacity: None, ..config.limits }, default.limits);
        let neighbour = &config.neighbours[0];
        assert_eq!(neighbour.policy(), Policy { capacity: Some(Bitrate::mbps(200)), ..Policy::default() });
        assert_eq!(neighbour.cost, default_cost());
    }

    /// serde names the fields it expects when it meets one that does not exist: the sample must have them all.
    #[test]
    fn the_sample_is_complete() {
        let sample = uncommented();
        let shown: BTreeSet<&str> = sample.lines().filter_map(|line| Some(line.split_once(" = ")?.0)).collect();
        let asked = ["nonsense = 1", "[limits]\nnonsense = 1", "[[neighbours]]\nnonsense = 1"];
        for message in asked.map(error) {
            let (_, fields) = message.split_once("expected one of ").expect("serde lists the fields");
            for field in fields.split('`').skip(1).step_by(2) {
                let shown = shown.contains(field) || sample.contains(&format!("[{field}]"));
                assert!(shown || field == "neighbours", "{field} is not in the sample");
            }
        }
    }

    #[test]
    fn says_which_field_is_wrong_and_what_was_expected() {
        for (text, parts) in [
            ("threads = 0", vec!["threads", "1 to 32"]),
            ("listen = 5", vec!["listen", "0.0.0.0:4400"]),
            ("listen = \"here\"", vec!["here", "0.0.0.0:4400"]),
            ("listen = []", vec!["listen", "at least one"]),
            ("path_mtu = 900", vec!["path_mtu", "1200"]),
            ("drain = 5", vec!["drain"]),
            ("name = \"FRA\"", vec!["FRA", "a-z"]),
            ("location = { latitude = 91, longitude = 0 }", vec!["location", "-90 to 90"]),
            ("location = { latitude = 50 }", vec!["location", "longitude"]),
            ("[[neighbours]]\ncost = 3", vec!["neighbours[0]", "address"]),
            ("[[neighbours]]\naddress = \"lon\"", vec!["neighbours[0].address", "host:port"]),
            ("[[neighbours]]\nname = \"a\"\nrepair = \"magic\"", vec!["repair", "duplicate"]),
            ("[[neighbours]]\nname = \"a\"\ncapacity = \"fast\"", vec!["fast", "Mbit/s"]),
            ("[[neighbours]]\nname = \"a\"\ntarget_residual = 2.0", vec!["target_residual", "below 1"]),
            (
                "[[neighbours]]\nname = \"a\"\n[[neighbours]]\nname = \"a\"",
                vec!["neighbours[1]", "neighbours[0]", "`link`"],
            ),
            ("[[neighbours]]\nname = \"a\"\nlink = \"the sky\"", vec!["the sky", "a-z 0-9 -"]),
            ("[[neighbours]]\nname = \"a\"\nbind = \"eth0\"", vec!["eth0", "192.0.2.7"]),
        ] {
            let message = error(text);
            for part in parts {
                assert!(message.contains(part), "{text:?}: {message}");
            }
        }
    }

    #[test]
    fn several_links_to_one_relay_are_told_apart_by_name() {
        let entry = |link: &str| format!("[[neighbours]]\nname = \"a\"\naddress = \"a.example:4400\"\n{link}\n");
        let both = entry("") + &entry("link = \"sat\"\nbind = \"192.0.2.7\"");
        let config = Config::parse(&both).expect("two links");
        let ends: Vec<String> =
            config.neighbours.iter().filter_map(Neighbour::end).map(|end| end.to_string()).collect();
        assert_eq!(ends, ["a", "a~sat"]);
        assert!(error(&(both.clone() + &entry("link = \"sat\""))).contains("neighbours[2]"));
    }

    #[test]
    fn a_file_that_is_wrong_is_named() {
        let failure = Config::load(Path::new("/nonexistent/relay.toml")).expect_err("no such file");
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.contains("/nonexistent/relay.toml"));
    }
}
