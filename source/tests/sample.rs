//! `deploy/source.toml` must load as it stands, show every field, and tell the truth about defaults.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use anabranch_source::Config;
use node::config::Layers;
use std::collections::{BTreeSet, HashMap};
use std::path::Path;

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/source.toml");

fn load(text: &str) -> Result<Config, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("source.toml");
    std::fs::write(&file, text).unwrap();
    let environment = Some(HashMap::new());
    let layers = Layers { file: Some(&file), prefix: "ANABRANCH_SOURCE", environment, ..Layers::default() };
    layers.load().map_err(|failure| failure.message)
}

/// The fields that serde knows, from its own complaint about one that it does not.
fn known_fields(text: &str) -> BTreeSet<String> {
    let complaint = load(text).unwrap_err();
    let list = complaint.split("expected one of").nth(1).expect("a list of fields").split(';').next().unwrap();
    // What follows the list is the place, as in `streams[0]`.
    let names = list.split('`').skip(1).step_by(2).filter(|name| !name.contains('['));
    names.map(str::to_owned).collect()
}

/// Field names in the lines of a text, commented or not.
fn shown_fields(text: &str) -> BTreeSet<String> {
    let field = |line: &str| {
        let name = line.trim_start_matches("# ").split_once(" = ")?.0.to_owned();
        name.chars().all(|c| c.is_ascii_lowercase() || c == '_').then_some(name)
    };
    text.lines().filter_map(field).collect()
}

/// What is above all tables, the table of metrics, and those of streams.
fn parts() -> [String; 3] {
    let sample = std::fs::read_to_string(SAMPLE).unwrap();
    let [metrics, streams] = ["\n[metrics]", "\n[[streams]]"].map(|table| sample.find(table).unwrap());
    [&sample[..metrics], &sample[metrics..streams], &sample[streams..]].map(str::to_owned)
}

#[test]
fn the_sample_loads_and_is_sound() {
    let layers = Layers {
        file: Some(Path::new(SAMPLE)),
        prefix: "ANABRANCH_SOURCE",
        environment: Some(HashMap::new()),
        ..Layers::default()
    };
    let config: Config = layers.load().unwrap();
    config.check().unwrap();
    assert_eq!(config.streams.len(), 2);
    assert!(config.streams[1].endless);
}

#[test]
fn the_sample_shows_every_field() {
    let [all, metrics, streams] = parts();
    let mut known = known_fields("no_such_field = 1");
    assert!(known.remove("streams") && known.remove("metrics"));
    assert_eq!(shown_fields(&all), known);
    let mut known = known_fields("[metrics]\nno_such_field = 1");
    // The complaint names the table as well.
    known.remove("metrics");
    assert_eq!(shown_fields(&metrics), known);
    let known = known_fields("[[streams]]\nname = \"a/b\"\ninput = \"-\"\nno_such_field = 1");
    assert_eq!(shown_fields(&streams), known);
}

#[test]
fn commented_fields_show_their_defaults() {
    let [all, ..] = parts();
    let uncommented: String = all
        .lines()
        .filter_map(|line| line.strip_prefix("# "))
        .filter(|line| shown_fields(line).len() == 1)
        .filter(|line| {
            let unset = ["bind", "path_mtu", "payload_key", "rate", "max_cost", "target_residual"];
            !unset.iter().any(|unset| line.starts_with(unset))
        })
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(uncommented.lines().count() >= 7, "{uncommented}");
    assert_eq!(format!("{:?}", load(&uncommented).unwrap()), format!("{:?}", Config::default()));
}

#[test]
fn what_is_wrong_in_a_file_is_named() {
    for (text, expected) in [
        ("relay = [\"a:1\"]", "did you mean `relays`?"),
        ("deadline = 200", "deadline"),
        ("[[streams]]\nname = \"main\"\ninput = \"-\"", "tenant/channel"),
        ("[[streams]]\nname = \"a/b\"\ninput = \"clip.ts\"", "a file needs file:"),
        ("[[streams]]\nname = \"a/b\"", "input"),
        ("priority = \"urgent\"", "urgent"),
    ] {
        let error = load(text).unwrap_err();
        assert!(error.contains(expected), "{text}: {error}");
    }
}
