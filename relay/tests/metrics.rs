//! The documentation of the metrics, the alert rules and the dashboard, against what a relay prints.

use anabranch_relay::metrics::{self, Metric};
use anabranch_relay::report::Report;
use std::collections::{BTreeMap, BTreeSet};

const PAGE: &str = include_str!("../../docs/metrics.md");
const ALERTS: &str = include_str!("../../deploy/prometheus/alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/grafana/anabranch.json");

const OF_A_RELAY: [&str; 5] =
    ["anabranch_relay_", "anabranch_overlay_", "anabranch_neighbour_", "anabranch_link_", "anabranch_stream_"];

/// The rows of the tables of the page that are of a relay: by name, the type, unit and meaning.
fn documented() -> BTreeMap<&'static str, [&'static str; 3]> {
    node::metrics::documented(PAGE, &OF_A_RELAY)
        .map(|[name, kind, unit, meaning]| (name, [kind, unit, meaning]))
        .collect()
}

/// The rows of the page, of whatever program.
fn all_documented() -> BTreeMap<&'static str, &'static str> {
    node::metrics::documented(PAGE, &["anabranch_"]).map(|[name, kind, ..]| (name, kind)).collect()
}

fn kind(metric: &Metric) -> &'static str {
    if metric.counter { "counter" } else { "gauge" }
}

/// What a text of Prometheus declares: by name, the type.
fn declared(text: &str) -> BTreeMap<&str, &str> {
    let heads = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    heads.filter_map(|head| head.split_once(' ')).collect()
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("anabranch_")).collect()
}

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let documented = documented();
    let printed = metrics::render(&Report::default());
    let declared = declared(&printed);
    let names = |of: Vec<&'static str>| of.into_iter().collect::<BTreeSet<_>>();
    assert_eq!(names(metrics::all().map(|metric| metric.name).collect()), names(documented.keys().copied().collect()));
    assert_eq!(declared.len(), documented.len(), "as many are printed as are documented");
    for metric in metrics::all() {
        let [kind_said, unit, meaning] = documented[metric.name];
        assert_eq!((kind_said, meaning), (kind(&metric), metric.help), "{}", metric.name);
        assert_eq!(declared.get(metric.name), Some(&kind(&metric)), "{}", metric.name);
        for (suffix, said) in
            [("_seconds", "seconds"), ("_ratio", "share, 0 to 1"), ("_bits_per_second", "bits per second")]
        {
            assert_eq!(
                metric.name.trim_end_matches("_total").ends_with(suffix),
                unit == said,
                "{}: {unit}",
                metric.name
            );
        }
    }
}

#[test]
fn alert_rules_and_dashboard_ask_for_metrics_that_exist() {
    let documented = all_documented();
    for (file, text) in [("alerts.yml", ALERTS), ("anabranch.json", DASHBOARD), ("metrics.md", PAGE)] {
        let unknown: Vec<&str> = names(text).into_iter().filter(|name| !documented.contains_key(name)).collect();
        assert!(unknown.is_empty(), "{file} asks for {unknown:?}");
    }
    assert!(names(ALERTS).len() > 10 && names(DASHBOARD).len() > 15);
}

/// Counters are read by their increase, states as they are.
#[test]
fn rates_are_taken_of_counters_alone() {
    let documented = all_documented();
    for text in [ALERTS, DASHBOARD] {
        for piece in ["rate(", "increase("].iter().flat_map(|of| text.split(of).skip(1)) {
            let name = piece.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next().unwrap_or_default();
            assert_eq!(documented[name], "counter", "{name}");
        }
    }
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).expect("it is JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    assert!(panels.iter().all(|panel| panel["targets"].as_array().is_some_and(|targets| !targets.is_empty())));
}

#[test]
fn what_came_of_asking_for_streams_is_told_apart() {
    use anabranch_relay::report::AdmissionCount;
    use node::control::CloseCode;
    use node::trust::Direction;
    let count = |act, refused, times| AdmissionCount { act, refused, times };
    let admission =
        vec![count(Direction::Publish, None, 3), count(Direction::Subscribe, Some(CloseCode::NameTaken), 2)];
    let printed = metrics::render(&Report { admission, ..Report::default() });
    for line in [
        r#"anabranch_relay_admission_total{act="publish",outcome="admitted"} 3"#,
        r#"anabranch_relay_admission_total{act="subscribe",outcome="name_taken"} 2"#,
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}");
    }
}
