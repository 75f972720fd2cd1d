//! The documentation of the metrics of a sink, against what it prints.

use anabranch_sink::metrics;
use anabranch_sink::report::Report;
use node::ops::Report as _;
use std::collections::BTreeMap;

const PAGE: &str = include_str!("../../docs/metrics.md");

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let documented: BTreeMap<&str, [&str; 3]> = node::metrics::documented(PAGE, &["anabranch_sink_"])
        .map(|[name, kind, unit, meaning]| (name, [kind, unit, meaning]))
        .collect();
    let exist: BTreeMap<&str, [&str; 2]> = metrics::all()
        .map(|metric| (metric.name, [if metric.counter { "counter" } else { "gauge" }, metric.help]))
        .collect();
    assert!(exist.len() > 30 && exist.len() == metrics::all().count(), "{}", exist.len());
    let said: BTreeMap<&str, [&str; 2]> =
        documented.iter().map(|(name, [kind, _, meaning])| (*name, [*kind, *meaning])).collect();
    assert_eq!(said, exist);
    let printed = Report::default().metrics();
    let declared: BTreeMap<&str, &str> =
        printed.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    assert_eq!(declared, exist.iter().map(|(name, [kind, _])| (*name, *kind)).collect());
    for (name, [kind, unit, _]) in documented {
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        for (suffix, said) in
            [("_seconds", "seconds"), ("_ratio", "share, 0 to 1"), ("_bits_per_second", "bits per second")]
        {
            assert_eq!(name.trim_end_matches("_total").ends_with(suffix), unit == said, "{name}: {unit}");
        }
    }
}
