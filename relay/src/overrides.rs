//! What the operator sets of links while the relay runs, and where it is kept.
//!
//! The configuration is the operator's own file, with comments in it: the relay never writes to it. What is set over the operations port
//! stands above the configuration, field by field, until it is taken back. What is to outlast a restart is kept in a file of its own, the
//! `state` of the configuration.

use crate::config;
use link::Bitrate;
use link::policy::{Policy, RepairMode};
use node::exit::{Exit, Failure};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use topology::LinkEnd;

/// What stands above the configuration of one link, for what this relay sends on it. What is `None` is as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkOverride {
    /// How losses are repaired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<RepairMode>,
    /// Share of packets that may remain lost or late after repair.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_residual: Option<f64>,
    /// Ceiling on repair bytes sent, as a share of media bytes sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_overhead: Option<f64>,
    /// What the link may carry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capacity: Option<Capacity>,
}

/// What a link may carry, all frames together. Written `"auto"`, or as a rate: `"20 Mbit/s"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capacity {
    /// Estimated from delay and loss.
    Estimated,
    /// So much.
    Fixed(Bitrate),
}

/// What stands above the configuration, by the neighbour at the other end of the link.
pub type Overrides = BTreeMap<LinkEnd, LinkOverride>;

/// Who had the last word on the repair of a link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetBy {
    /// The configuration, or the defaults.
    #[default]
    Config,
    /// The operations port, until the relay is restarted.
    Live,
    /// The operations port, and kept for the next start.
    Kept,
}

impl LinkOverride {
    /// Whether nothing stands above the configuration.
    pub fn is_empty(&self) -> bool {
        *self == LinkOverride::default()
    }

    /// `self`, where it says something, above `below`.
    #[must_use]
    pub fn above(self, below: LinkOverride) -> LinkOverride {
        LinkOverride {
            mode: self.mode.or(below.mode),
            target_residual: self.target_residual.or(below.target_residual),
            max_overhead: self.max_overhead.or(below.max_overhead),
            capacity: self.capacity.or(below.capacity),
        }
    }

    /// The policy in force above a configured one.
    #[must_use]
    pub fn apply(self, configured: Policy) -> Policy {
        Policy {
            mode: self.mode.unwrap_or(configured.mode),
            target_residual: self.target_residual.unwrap_or(configured.target_residual),
            max_overhead: self.max_overhead.unwrap_or(configured.max_overhead),
            capacity: match self.capacity {
                None => configured.capacity,
                Some(Capacity::Estimated) => None,
                Some(Capacity::Fixed(rate)) => Some(rate),
            },
        }
    }

    /// Which fields of a neighbour's entry it hides, of those named.
    pub(crate) fn covers<'a>(&self, fields: &[&'a str]) -> Vec<&'a str> {
        let hides = |field: &str| match field {
            "repair" => self.mode.is_some(),
            "target_residual" => self.target_residual.is_some(),
            "max_overhead" => self.max_overhead.is_some(),
            "capacity" => self.capacity.is_some(),
            _ => false,
        };
        fields.iter().copied().filter(|field| hides(field)).collect()
    }

    /// Checks what types cannot say. The error names the field and what was expected.
    pub fn check(&self) -> Result<(), String> {
        config::check_policy("", &self.apply(Policy::default()))
    }
}

impl std::str::FromStr for Capacity {
    type Err = String;

    fn from_str(text: &str) -> Result<Capacity, String> {
        match text.trim() {
            "auto" => Ok(Capacity::Estimated),
            rate => config::parse_rate(rate).map(Capacity::Fixed).map_err(|_| {
                format!("{rate:?} is no capacity; expected a rate such as \"20 Mbit/s\", or auto to have it estimated")
            }),
        }
    }
}

impl Serialize for Capacity {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Capacity::Estimated => to.serialize_str("auto"),
            Capacity::Fixed(rate) => to.collect_str(&format_args!("{} bit/s", rate.as_bps())),
        }
    }
}

impl<'de> Deserialize<'de> for Capacity {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Capacity, D::Error> {
        String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The file that is kept.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct State {
    links: Overrides,
}

const HEAD: &str = "\
# Written by anabranch-relay: what `ctl link set --persist` set of links, above the configuration.
# `ctl link reset FROM TO --persist` takes an entry back. Edit this file only while the relay is stopped.

";

/// Reads what was kept; a file that is not there holds nothing. The failure names file, field and what was expected.
pub fn load(file: &Path) -> Result<Overrides, Failure> {
    let wrong = |what: String| Failure::new(Exit::Config, format!("state {}: {what}", file.display()));
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Overrides::new()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let state: State = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
    for (peer, link) in &state.links {
        link.check().map_err(|what| wrong(format!("links.{peer}.{what}")))?;
    }
    Ok(state.links)
}

/// Keeps what is to outlast a restart. The file is replaced in one step: a crash leaves the old one or the new one.
pub fn save(file: &Path, links: &Overrides) -> std::io::Result<()> {
    let text = toml::to_string(&State { links: links.clone() }).map_err(std::io::Error::other)?;
    let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(directory)?;
    new.write_all(HEAD.as_bytes())?;
    new.write_all(text.as_bytes())?;
    new.as_file().sync_all()?;
    new.persist(file).map_err(|error| error.error)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overrides() -> Overrides {
        let lon = LinkOverride {
            mode: Some(RepairMode::Hybrid),
            max_overhead: Some(0.5),
            capacity: Some(Capacity::Fixed(Bitrate::mbps(20))),
            ..LinkOverride::default()
        };
        let ams = LinkOverride { capacity: Some(Capacity::Estimated), ..LinkOverride::default() };
        Overrides::from([("lon".parse().expect("valid"), lon), ("ams.example.net".parse().expect("valid"), ams)])
    }

    #[test]
    fn what_is_kept_is_read_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("state.toml");
        assert_eq!(load(&file).expect("nothing yet"), Overrides::new());
        save(&file, &overrides()).expect("it can be written");
        assert_eq!(load(&file).expect("as written"), overrides());
        save(&file, &Overrides::new()).expect("it is replaced");
        assert_eq!(load(&file).expect("as written"), Overrides::new());
        assert_eq!(std::fs::read_dir(directory.path()).expect("readable").count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_wrong_file_is_named_with_its_field() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("state.toml");
        for (text, parts) in [
            ("[links.lon]\nmax_overhead = -1.0", ["links.lon.max_overhead", "0 to 10"]),
            ("[links.lon]\nmode = \"magic\"", ["magic", "duplicate"]),
            ("[links.lon]\ncapacity = \"fast\"", ["fast", "20 Mbit/s"]),
            ("[links.lon]\ncost = 3", ["cost", "target_residual"]),
        ] {
            std::fs::write(&file, text).expect("it can be written");
            let failure = load(&file).expect_err("the text is wrong");
            assert_eq!(failure.exit, Exit::Config);
            assert!(failure.message.contains("state.toml"), "{failure}");
            assert!(parts.iter().all(|part| failure.message.contains(part)), "{failure}");
        }
    }

    #[test]
    fn only_what_is_set_stands_above_the_configuration() {
        let configured = Policy { mode: RepairMode::Arq, capacity: Some(Bitrate::mbps(100)), ..Policy::default() };
        let set = overrides()[&"lon".parse().expect("valid")];
        let policy = set.apply(configured);
        assert_eq!((policy.mode, policy.max_overhead), (RepairMode::Hybrid, 0.5));
        assert_eq!(policy.target_residual, configured.target_residual);
        let back = LinkOverride { capacity: Some(Capacity::Estimated), ..LinkOverride::default() }.above(set);
        assert_eq!((back.mode, back.apply(configured).capacity), (set.mode, None));
        assert_eq!(LinkOverride::default().apply(configured), configured);
    }
}
