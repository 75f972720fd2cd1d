//! What a relay says that routes and admission follow beyond what is measured: tags, what links may carry and what is
//! admitted to them, what is declined, where the relay can be reached.
//!
//! Room is told as traffic engineering does it (RFC 3630, "maximum reservable" and "unreserved bandwidth"): by the sending
//! end of a link, which knows every stream whose graph uses it and has the last word on which of them fit.

use crate::lsdb::Incarnation;
use crate::names::{LinkEnd, NameError, NodeName, StreamName};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Most tags of one relay, or one link.
pub const MOST_TAGS: usize = 8;

/// Most streams that a relay names as declined on one link.
pub const MOST_DECLINED: usize = 32;

/// Most egresses that a relay names as not served.
pub const MOST_UNSERVED: usize = 64;

/// Longest address.
pub const MOST_ADDRESS: usize = 260;

/// What a relay or a link is marked with: `kind:value`, such as `carrier:acme` or `site:fra-2`; each part 1 to 31 characters
/// of `a–z 0–9 - _ .`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// Kinds of tags that fail together: two ways of a stream share none of their tags where that can be.
pub const RISKS: [&str; 2] = ["carrier", "site"];

/// Terms of a relay, appended to its advertisement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What the relay is marked with.
    pub tags: Vec<Tag>,
    /// Where others can dial it (`host:port`), where its operator says so.
    pub address: Option<String>,
    /// Whether it chooses its neighbours by itself.
    pub auto: bool,
    /// Of its links, in the order in which it advertises them. Links beyond the end have none.
    pub links: Vec<LinkTerms>,
    /// Egresses to which streams that enter here are not carried, because links are full.
    pub unserved: Vec<Unserved>,
}

/// Terms of one direction of a link.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkTerms {
    /// What the link is marked with.
    pub tags: Vec<Tag>,
    /// What may be admitted to it and what is; `None` where its capacity is not known, and so bounds nothing.
    pub room: Option<Room>,
    /// Lives of streams whose graphs use the link and that do not fit.
    pub declined: Vec<Incarnation>,
}

/// What may be admitted to a link, and what is, in kilobits of media per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Room {
    /// What streams may have of it, all together.
    pub most_kbps: u32,
    /// What those of high priority have.
    pub high_kbps: u32,
    /// What the others have.
    pub normal_kbps: u32,
}

/// What a stream needs of each link that it is admitted to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Need {
    /// Its rate in kilobits per second; 0 where nobody says it, and so nothing is refused to it.
    pub rate_kbps: u32,
    /// Whether it goes before others.
    pub high_priority: bool,
}

/// An egress to which a stream is not carried, and the link that has no room for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unserved {
    /// The stream.
    pub stream: StreamName,
    /// The egress.
    pub egress: NodeName,
    /// Why.
    pub full: Full,
}

/// A link that has no room for a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Full {
    /// Its sending end.
    pub from: NodeName,
    /// The link as its sending end calls it.
    pub to: LinkEnd,
    /// What it may carry, and what is admitted.
    pub room: Room,
    /// What was asked.
    pub need: Need,
}

impl Tag {
    /// The part before the colon.
    pub fn kind(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// Whether what carries it fails together with all else that does.
    pub fn is_risk(&self) -> bool {
        RISKS.contains(&self.kind())
    }

    /// The text of it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Tag {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let part = |part: &str| {
            let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
            (1..=31).contains(&part.len()) && part.chars().all(allowed)
        };
        match text.split_once(':') {
            Some((kind, value)) if part(kind) && part(value) => Ok(Tag(text.into())),
            _ => Err(NameError::new(
                text,
                "tag",
                "kind:value, such as carrier:acme, each 1 to 31 characters of a-z 0-9 - _ .",
            )),
        }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Tag {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0.to_string()
    }
}

impl Room {
    /// What is left for a stream of that priority. One of high priority has what the others have as well: they give way.
    pub fn left_kbps(&self, high_priority: bool) -> u32 {
        let others = if high_priority { 0 } else { self.normal_kbps };
        self.most_kbps.saturating_sub(self.high_kbps.saturating_add(others))
    }

    /// Whether another stream fits.
    pub fn fits(&self, need: Need) -> bool {
        need.rate_kbps <= self.left_kbps(need.high_priority)
    }
}

impl Terms {
    /// What is longer than it may be, with its length and the bound.
    pub(crate) fn excess(&self) -> Option<(&'static str, usize, usize)> {
        let tags = self.links.iter().map(|link| &link.tags).chain([&self.tags]).map(Vec::len).max().unwrap_or(0);
        let declined = self.links.iter().map(|link| link.declined.len()).max().unwrap_or(0);
        let lists = [
            ("tags", tags, MOST_TAGS),
            ("declined streams", declined, MOST_DECLINED),
            ("egresses not served", self.unserved.len(), MOST_UNSERVED),
            ("bytes of address", self.address.as_ref().map_or(0, String::len), MOST_ADDRESS),
        ];
        lists.into_iter().find(|(_, found, most)| found > most)
    }
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mbps = |kbps: u32| f64::from(kbps) / 1e3;
        let Full { from, to, room, need } = self;
        write!(
            f,
            "the link {from} -> {to} may carry {} Mbit/s of media, {} Mbit/s of high and {} Mbit/s of normal priority are \
             admitted, and {} Mbit/s were asked at {} priority",
            mbps(room.most_kbps),
            mbps(room.high_kbps),
            mbps(room.normal_kbps),
            mbps(need.rate_kbps),
            if need.high_priority { "high" } else { "normal" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_has_a_kind_and_a_value() {
        let tag: Tag = "carrier:acme".parse().expect("valid");
        assert_eq!((tag.kind(), tag.is_risk()), ("carrier", true));
        assert!(!"region:eu".parse::<Tag>().expect("valid").is_risk());
        for wrong in ["", "acme", ":acme", "carrier:", "carrier:a:b", "Carrier:acme", "carrier:a b"] {
            assert!(wrong.parse::<Tag>().is_err(), "{wrong}");
        }
        assert!(format!("carrier:{}", "a".repeat(32)).parse::<Tag>().is_err());
    }

    #[test]
    fn the_high_priority_has_what_the_others_have_as_well() {
        let room = Room { most_kbps: 100_000, high_kbps: 30_000, normal_kbps: 60_000 };
        let need = |rate_kbps, high_priority| Need { rate_kbps, high_priority };
        assert!(room.fits(need(10_000, false)) && !room.fits(need(10_001, false)));
        assert!(room.fits(need(70_000, true)) && !room.fits(need(70_001, true)));
        let over = Room { normal_kbps: u32::MAX, high_kbps: u32::MAX, ..room };
        assert_eq!((over.left_kbps(false), over.left_kbps(true)), (0, 0));
    }
}
