//! A relay to keep a link to, and how that link is.

use crate::report::titled;
use link::Bitrate;
use link::policy::{Policy, RepairMode};
use node::config::optional_rate;
use serde::{Deserialize, Deserializer};
use std::net::IpAddr;
use std::time::Duration;
use topology::terms::{MOST_TAGS, Tag};
use topology::{LinkEnd, LinkName, NodeName};

/// A relay to keep a link to.
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Where it listens, `host:port`. Without it this relay does not dial and the entry only describes the link.
    #[serde(default)]
    pub address: Option<String>,
    /// The name its certificate must show. Needed where there is no `address`, and where there is a `link`.
    #[serde(default)]
    pub name: Option<NodeName>,
    /// Which of several links to that relay this is: a name that both ends use, such as that of the carrier. One link to each relay may do without.
    #[serde(default)]
    pub link: Option<LinkName>,
    /// The address of this relay that it is dialled from, where the routes of the system do not choose the interface that is meant.
    #[serde(default, deserialize_with = "optional_address")]
    pub bind: Option<IpAddr>,
    /// One-way delay towards it. Without it the measured one counts.
    #[serde(default, with = "humantime_serde")]
    pub delay: Option<Duration>,
    /// What a packet to it costs, relative to other links, where ways of like delay compete.
    #[serde(default = "default_cost")]
    pub cost: u32,
    /// What the link is marked with: `kind:value`, such as `carrier:acme`.
    #[serde(default)]
    pub tags: Vec<Tag>,
    /// What the link carries, all frames together, towards the neighbour. Without it: estimated from delay and loss.
    #[serde(default, deserialize_with = "optional_rate")]
    pub capacity: Option<Bitrate>,
    /// How losses towards it are repaired: `auto`, `off`, `arq`, `fec`, `hybrid` or `duplicate`.
    #[serde(default)]
    pub repair: RepairMode,
    /// Share of packets that may remain lost or late after repair on this link.
    #[serde(default = "default_target_residual")]
    pub target_residual: f64,
    /// Ceiling on repair bytes sent, as a share of media bytes sent; 0.5 is 50 %.
    #[serde(default = "default_max_overhead")]
    pub max_overhead: f64,
    /// Largest UDP payload that the path to it is known to carry, where it differs from the relay's `path_mtu`.
    #[serde(default)]
    pub path_mtu: Option<u16>,
}

impl Neighbour {
    /// An entry for a relay at `address` (`host:port`), all else by default.
    pub fn at(address: impl Into<String>) -> Neighbour {
        Neighbour {
            address: Some(address.into()),
            name: None,
            link: None,
            bind: None,
            delay: None,
            cost: default_cost(),
            tags: Vec::new(),
            capacity: None,
            repair: RepairMode::default(),
            target_residual: default_target_residual(),
            max_overhead: default_max_overhead(),
            path_mtu: None,
        }
    }

    /// The link, where the entry names the relay.
    pub fn end(&self) -> Option<LinkEnd> {
        Some(LinkEnd { relay: self.name.clone()?, link: self.link.clone() })
    }

    /// The repair policy towards it.
    pub fn policy(&self) -> Policy {
        Policy {
            mode: self.repair,
            target_residual: self.target_residual,
            max_overhead: self.max_overhead,
            capacity: self.capacity,
        }
    }
}

impl Neighbour {
    /// Checks what types cannot say; `field` is where it stands.
    pub(super) fn check(&self, field: &str) -> Result<(), String> {
        match (&self.address, &self.name) {
            (None, None) => return Err(format!("{field}: expected an address to dial, or the name of who will dial")),
            (Some(address), _) if !is_host_port(address) => {
                return Err(format!("{field}.address: {address:?} is not host:port, such as \"lon.example.net:4400\""));
            }
            (Some(_), None) if self.link.is_some() => {
                // Whom it dials it must know beforehand: a relay from before 1.4 takes any connection for the one link that it keeps.
                return Err(format!("{field}: a link with a name needs the `name` of the relay it leads to"));
            }
            _ => {}
        }
        check_mtu(&format!("{field}.path_mtu"), self.path_mtu)?;
        check_tags(&format!("{field}.tags"), &self.tags)?;
        check_policy(&format!("{field}."), &self.policy())?;
        if self.cost == 0 {
            return Err(format!("{field}.cost: expected 1 or more"));
        }
        if self.delay.is_some_and(|delay| delay > Duration::from_secs(10)) {
            return Err(format!("{field}.delay: expected at most 10s one way"));
        }
        Ok(())
    }

    /// How people call it: by name, else by address, and by the name of the link where it has one.
    pub(crate) fn title(&self) -> String {
        let name = self.name.as_ref().map(|name| name.as_str());
        titled(name.or(self.address.as_deref()), self.link.as_ref())
    }
}

/// Checks a repair policy; `before` is put before the name of the field in the error.
pub(crate) fn check_policy(before: &str, policy: &Policy) -> Result<(), String> {
    if !(policy.target_residual > 0.0 && policy.target_residual < 1.0) {
        return Err(format!(
            "{before}target_residual: expected a share above 0 and below 1, not {}",
            policy.target_residual
        ));
    }
    if !(policy.max_overhead >= 0.0 && policy.max_overhead <= 10.0) {
        return Err(format!("{before}max_overhead: expected a share from 0 to 10, not {}", policy.max_overhead));
    }
    if policy.capacity == Some(Bitrate::ZERO) {
        return Err(format!("{before}capacity: expected more than 0; leave it out to have it estimated"));
    }
    Ok(())
}

pub(super) fn check_tags(field: &str, tags: &[Tag]) -> Result<(), String> {
    let found = tags.len();
    if found > MOST_TAGS { Err(format!("{field}: {found} tags, expected at most {MOST_TAGS}")) } else { Ok(()) }
}

/// RFC 9000, section 14: a QUIC path carries at least 1200 bytes.
pub(super) fn check_mtu(field: &str, mtu: Option<u16>) -> Result<(), String> {
    match mtu {
        Some(mtu) if !(1200..=65527).contains(&mtu) => Err(format!("{field}: expected 1200 to 65527 bytes, not {mtu}")),
        _ => Ok(()),
    }
}

pub(super) fn is_host_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p != 0))
}

fn optional_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<IpAddr>, D::Error> {
    let wrong = |text: &str| format!("{text:?} is not an address of this machine; expected one such as \"192.0.2.7\"");
    let text: Option<String> = Option::deserialize(from)?;
    text.map(|text| text.parse().map_err(|_| serde::de::Error::custom(wrong(&text)))).transpose()
}

/// A list, or the word `auto` where none is listed and `[auto]` says how neighbours are chosen.
pub(super) fn listed_or_auto<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Neighbour>, D::Error> {
    struct Either;
    impl<'de> serde::de::Visitor<'de> for Either {
        type Value = Vec<Neighbour>;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a list of neighbours, or \"auto\" beside a table [auto]")
        }
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            if text == "auto" { Ok(Vec::new()) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
        }
        fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(serde::de::value::SeqAccessDeserializer::new(list))
        }
    }
    from.deserialize_any(Either)
}

pub(crate) fn default_cost() -> u32 {
    10
}

fn default_target_residual() -> f64 {
    Policy::default().target_residual
}

fn default_max_overhead() -> f64 {
    Policy::default().max_overhead
}
