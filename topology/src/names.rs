//! Names of nodes and streams, and patterns over stream names.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Name of a node: 1 to 63 characters of `a–z 0–9 - .`, as in its certificate.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

/// Name of one of several links between two relays, the same at both ends: 1 to 31 characters of `a–z 0–9 -`, such as the carrier it goes by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkName(Arc<str>);

/// A link as one of its ends calls it: the relay at the other end and, where it has one, the link's name, written `relay~link`. Two relays
/// may be joined by several links (other carriers, other interfaces); each is a link of its own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkEnd {
    /// The relay at the other end.
    pub relay: NodeName,
    /// Which of the links to it; `None` is the one without a name.
    pub link: Option<LinkName>,
}

/// Name of a stream: `tenant/channel` or `tenant/channel/rendition`; each part 1 to 63 characters of `a–z A–Z 0–9 - _ .`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamName(Arc<str>);

/// A pattern over stream names: as a name, but any part may be `*` (any one part), and the last may be `**`
/// (any parts that remain, at least one).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct StreamPattern(Arc<str>);

/// Why a text is not a name; says which text and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct NameError {
    text: String,
    what: &'static str,
    expected: &'static str,
}

impl NameError {
    /// `text` is not a `what`; `expected` says what one is.
    pub(crate) fn new(text: &str, what: &'static str, expected: &'static str) -> NameError {
        NameError { text: shown(text), what, expected }
    }
}

fn part_ok(part: &str, allowed: fn(char) -> bool) -> bool {
    (1..=63).contains(&part.len()) && part.chars().all(allowed)
}

fn stream_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

impl FromStr for NodeName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        if part_ok(text, |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')) {
            return Ok(NodeName(text.into()));
        }
        Err(NameError { text: shown(text), what: "node name", expected: "1 to 63 characters of a-z 0-9 - ." })
    }
}

impl FromStr for LinkName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if (1..=31).contains(&text.len()) && text.chars().all(allowed) {
            return Ok(LinkName(text.into()));
        }
        Err(NameError { text: shown(text), what: "name of a link", expected: "1 to 31 characters of a-z 0-9 -" })
    }
}

impl FromStr for LinkEnd {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('~') {
            Some((relay, link)) => Ok(LinkEnd { relay: relay.parse()?, link: Some(link.parse()?) }),
            None => Ok(LinkEnd { relay: text.parse()?, link: None }),
        }
    }
}

impl LinkEnd {
    /// The same link as the relay at its other end calls it, this end being `here`.
    #[must_use]
    pub fn from_other_end(&self, here: &NodeName) -> LinkEnd {
        LinkEnd { relay: here.clone(), link: self.link.clone() }
    }
}

impl From<NodeName> for LinkEnd {
    /// The link without a name.
    fn from(relay: NodeName) -> LinkEnd {
        LinkEnd { relay, link: None }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.relay.as_str())?;
        self.link.iter().try_for_each(|link| write!(f, "~{link}"))
    }
}

impl TryFrom<String> for LinkEnd {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<LinkEnd> for String {
    fn from(end: LinkEnd) -> String {
        end.to_string()
    }
}

impl FromStr for StreamName {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts = text.split('/').count();
        if (2..=3).contains(&parts) && text.split('/').all(|part| part_ok(part, stream_char)) {
            return Ok(StreamName(text.into()));
        }
        Err(NameError {
            text: shown(text),
            what: "stream name",
            expected: "tenant/channel or tenant/channel/rendition, each part 1 to 63 characters of a-z A-Z 0-9 - _ .",
        })
    }
}

impl FromStr for StreamPattern {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.split('/').collect();
        let last = parts.len() - 1;
        let ok = parts.len() <= 3
            && parts.iter().enumerate().all(|(i, part)| match *part {
                "*" => true,
                "**" => i == last,
                part => part_ok(part, stream_char),
            })
            && (parts.len() >= 2 || text == "**");
        if ok {
            return Ok(StreamPattern(text.into()));
        }
        Err(NameError {
            text: shown(text),
            what: "stream pattern",
            expected: "a stream name in which any part may be * and the last may be **",
        })
    }
}

/// A hostile text is cut before it is repeated in a message.
fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

impl StreamPattern {
    /// Whether `name` is one of the names meant.
    pub fn matches(&self, name: &StreamName) -> bool {
        let mut parts = name.0.split('/');
        for wanted in self.0.split('/') {
            match (wanted, parts.next()) {
                ("**", Some(_)) => return true,
                (_, None) => return false,
                ("*", Some(_)) => {}
                (wanted, Some(part)) if wanted == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

impl StreamName {
    /// The part before the first `/`.
    pub fn tenant(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }
}

macro_rules! text {
    ($name:ident) => {
        impl $name {
            /// The text of it.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.to_string()
            }
        }
    };
}
text!(NodeName);
text!(LinkName);
text!(StreamName);
text!(StreamPattern);
