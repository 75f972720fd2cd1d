//! Layered configuration: defaults, TOML file, environment, flags; unknown fields are errors.
//!
//! The defaults are those of the program's `Config` type (`#[serde(default)]`). The environment variable of the field `limits.max_streams` under
//! the prefix `ANABRANCH_RELAY` is `ANABRANCH_RELAY_LIMITS__MAX_STREAMS`.

use crate::exit::{Exit, Failure};
use config::{Environment, File, FileFormat};
use link::Bitrate;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};
use std::collections::HashMap;
use std::path::Path;

/// Where a program's settings come from; each layer overrides those before it.
#[derive(Clone, Debug, Default)]
pub struct Layers<'a> {
    /// A TOML file.
    pub file: Option<&'a Path>,
    /// Prefix of environment variables, without the `_` that follows it.
    pub prefix: &'a str,
    /// The environment to read; `None` is the process's own.
    pub environment: Option<HashMap<String, String>>,
    /// Settings by flags: the dotted name of a field, and its value as in the file.
    pub flags: Vec<(&'a str, config::Value)>,
}

impl Layers<'_> {
    /// Reads all layers into a `T`. The failure names the file or variable, the field, and what was expected.
    pub fn load<T: DeserializeOwned>(self) -> Result<T, Failure> {
        let mut builder = config::Config::builder();
        if let Some(file) = self.file {
            let text = std::fs::read_to_string(file)
                .map_err(|cause| failure(format!("configuration {}: {cause}", file.display())))?;
            check_syntax(file, &text)?;
            builder = builder.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let environment = Environment::with_prefix(self.prefix)
            .prefix_separator("_")
            .separator("__")
            .try_parsing(true)
            .source(self.environment);
        builder = builder.add_source(environment);
        for (field, value) in self.flags {
            builder = builder.set_override(field, value).map_err(|error| failure(error.to_string()))?;
        }
        let place =
            self.file.map_or_else(|| "configuration".to_owned(), |file| format!("configuration {}", file.display()));
        let merged = builder.build().map_err(|error| failure(format!("{place}: {error}")))?;
        merged.try_deserialize().map_err(|error| failure(format!("{place}: {}", explain(&error.to_string()))))
    }
}

/// The `config` crate reports a syntax error without its line; the TOML parser itself gives line and column.
fn check_syntax(file: &Path, text: &str) -> Result<(), Failure> {
    match toml::from_str::<toml::Table>(text) {
        Ok(_) => Ok(()),
        Err(error) => Err(failure(format!("configuration {}: {error}", file.display()))),
    }
}

/// Adds the nearest known name to serde's complaint about an unknown field.
fn explain(message: &str) -> String {
    let quoted = || message.split('`').skip(1).step_by(2);
    if !message.contains("unknown field") {
        return message.to_owned();
    }
    let Some(unknown) = quoted().next() else { return message.to_owned() };
    let nearest = quoted().skip(1).map(|known| (edits(unknown, known), known)).min();
    match nearest {
        Some((distance, known)) if distance <= 1 + unknown.len() / 3 => format!("{message}; did you mean `{known}`?"),
        _ => message.to_owned(),
    }
}

/// Levenshtein's distance: the least number of insertions, deletions and substitutions between two texts.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn failure(message: String) -> Failure {
    Failure::new(Exit::Config, message)
}

/// Reads a rate: a number of bits per second, or a number and a unit of `bit/s`, `kbit/s`, `Mbit/s`, `Gbit/s` (also `bps`,
/// `kbps`, `Mbps`, `Gbps`, `k`, `M`, `G`). The error says what was expected.
pub fn parse_rate(text: &str) -> Result<Bitrate, String> {
    let wrong = || format!("{text:?} is not a rate; expected a number and a unit, such as \"20 Mbit/s\"");
    let text = text.trim();
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let scale = match unit.trim().to_ascii_lowercase().trim_end_matches("bit/s").trim_end_matches("bps").trim() {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(wrong()),
    };
    Ok(Bitrate::bps((number * scale).round() as u64))
}

/// Reads a field that may hold a rate, as [`parse_rate`] does, or a bare number of bits per second.
///
/// # Errors
/// Where it is no rate; the error says what was expected.
pub fn optional_rate<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Bitrate>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a rate, such as \"20 Mbit/s\"")]
    enum Rate {
        Bits(u64),
        Text(String),
    }
    match Rate::deserialize(from)? {
        Rate::Bits(bits) => Ok(Some(Bitrate::bps(bits))),
        Rate::Text(text) => parse_rate(&text).map(Some).map_err(D::Error::custom),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use std::net::SocketAddr;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Sample {
        listen: SocketAddr,
        limits: Limits,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields, default)]
    struct Limits {
        streams: u32,
    }

    impl Default for Sample {
        fn default() -> Self {
            Sample { listen: SocketAddr::from(([0, 0, 0, 0], 4400)), limits: Limits::default() }
        }
    }

    impl Default for Limits {
        fn default() -> Self {
            Limits { streams: 7 }
        }
    }

    fn load(file: &str, environment: &[(&str, &str)], flags: Vec<(&str, config::Value)>) -> Result<Sample, String> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("relay.toml");
        std::fs::write(&path, file).unwrap();
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let layers = Layers { file: Some(&path), prefix: "ANABRANCH_RELAY", environment: Some(environment), flags };
        layers.load().map_err(|failure| failure.message)
    }

    #[test]
    fn later_layers_win() {
        let defaults = load("", &[], vec![]).unwrap();
        assert_eq!(defaults, Sample::default());
        let file = "listen = \"[::]:1\"\n[limits]\nstreams = 1\n";
        assert_eq!(load(file, &[], vec![]).unwrap().limits.streams, 1);
        let environment = [("ANABRANCH_RELAY_LIMITS__STREAMS", "2"), ("ANABRANCH_TOKEN", "of another program")];
        assert_eq!(load(file, &environment, vec![]).unwrap().limits.streams, 2);
        let sample = load(file, &environment, vec![("limits.streams", 3.into())]).unwrap();
        assert_eq!((sample.limits.streams, sample.listen.port()), (3, 1));
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_right_name() {
        let error = load("lissten = \"[::]:1\"", &[], vec![]).unwrap_err();
        assert!(error.contains("relay.toml") && error.contains("did you mean `listen`?"), "{error}");
        let error = load("[limits]\nbirds = 3", &[], vec![]).unwrap_err();
        assert!(error.contains("birds") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn a_wrong_type_names_field_and_expectation() {
        let error = load("[limits]\nstreams = \"many\"", &[], vec![]).unwrap_err();
        assert!(error.contains("relay.toml") && error.contains("streams") && error.contains("integer"), "{error}");
    }

    #[test]
    fn a_syntax_error_names_the_line() {
        let error = load("listen = \"[::]:1\"\nlimits = {", &[], vec![]).unwrap_err();
        assert!(error.contains("relay.toml") && error.contains("line 2"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let layers =
            Layers { file: Some(Path::new("/nowhere/relay.toml")), prefix: "ANABRANCH_RELAY", ..Layers::default() };
        let failure = layers.load::<Sample>().unwrap_err();
        assert_eq!(failure.exit, Exit::Config);
        assert!(failure.message.contains("/nowhere/relay.toml"), "{failure}");
    }

    #[test]
    fn rates_as_people_write_them() {
        for (text, bits) in [
            ("20 Mbit/s", 20_000_000),
            ("20Mbps", 20_000_000),
            ("1.5 G", 1_500_000_000),
            ("500 kbit/s", 500_000),
            ("64000", 64_000),
            ("64000 bit/s", 64_000),
        ] {
            assert_eq!(parse_rate(text), Ok(Bitrate::bps(bits)), "{text}");
        }
        for text in ["", "fast", "20 MB", "-3 M", "1.2.3 M", "20 Mbit/h"] {
            assert!(parse_rate(text).is_err(), "{text}");
        }
    }
}
