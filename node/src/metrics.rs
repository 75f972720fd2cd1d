//! Metrics as they are documented and written: the text format of Prometheus (version 0.0.4). They are read from reports, so that several nodes in one
//! process keep theirs apart. Pure.

use std::fmt::Write;

/// One metric as it is documented.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// Its name, unit included.
    pub name: &'static str,
    /// Whether it only ever counts up.
    pub counter: bool,
    /// What it means.
    pub help: &'static str,
}

/// A metric of a `T`, and how it is read.
pub type Of<T> = (Metric, fn(&T) -> f64);

/// One that only grows.
pub const fn counter(name: &'static str, help: &'static str) -> Metric {
    Metric { name, counter: true, help }
}

/// A state of now.
pub const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric { name, counter: false, help }
}

/// A state that holds or does not: 1 or 0.
pub fn flag(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// Writes metrics of several things, each with its labels; of one alone, without any.
pub fn family<T>(out: &mut String, metrics: &[Of<T>], items: &[(String, &T)]) {
    for (metric, value) in metrics {
        head(out, metric);
        for (labels, item) in items {
            sample(out, metric, labels, value(item));
        }
    }
}

fn head(out: &mut String, metric: &Metric) {
    let kind = if metric.counter { "counter" } else { "gauge" };
    let Metric { name, help, .. } = metric;
    // Writing to a String does not fail.
    let _ = write!(out, "# HELP {name} {help}.\n# TYPE {name} {kind}\n");
}

fn sample(out: &mut String, metric: &Metric, labels: &str, value: f64) {
    let _ = match labels {
        "" => writeln!(out, "{} {value}", metric.name),
        labels => writeln!(out, "{}{{{labels}}} {value}", metric.name),
    };
}

/// A text as the value of a label.
pub fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The rows of the tables of a page of documentation whose names begin so: name, type, unit and meaning. For tests that hold the page to what is
/// printed.
pub fn documented<'a>(page: &'a str, prefixes: &'a [&'a str]) -> impl Iterator<Item = [&'a str; 4]> {
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.strip_suffix(" |"));
    let cells = rows.filter_map(|row| row.split(" | ").map(str::trim).collect::<Vec<_>>().try_into().ok());
    let named = cells.map(|[name, kind, unit, meaning]: [&str; 4]| [name.trim_end_matches('`'), kind, unit, meaning]);
    named.filter(|[name, ..]| prefixes.iter().any(|prefix| name.starts_with(prefix)))
}

/// The metrics of a transport stream, their names begun so, read of a `T` by a function that gives a [`TsHealth`](crate::ts::TsHealth).
#[macro_export]
macro_rules! ts_metrics {
    ($prefix:literal, $of:expr) => {
        $crate::ts_metrics!(
            $prefix, $of,
            counter packets "packets_total" "Transport packets looked at",
            counter sync_losses "sync_losses_total" "Losses of synchronisation: two or more wrong sync bytes in a row",
            counter sync_errors "sync_errors_total" "Transport packets without their sync byte, or cut short",
            counter pat_errors "pat_errors_total" "Half seconds without a programme association table",
            counter continuity_errors "continuity_errors_total" "Gaps in continuity counters",
            counter pmt_errors "pmt_errors_total" "Half seconds without the map of a programme",
            counter transport_errors "transport_errors_total" "Transport packets marked as damaged",
            counter pcr_repetition_errors "pcr_repetition_errors_total" "Clock references more than 100 ms apart in time",
            counter pcr_discontinuities "pcr_discontinuities_total" "Clock references more than 100 ms apart in value, unannounced";
            gauge pcr_interval_ms "pcr_interval_seconds" "Longest time between two clock references, of the last 5 to 10 s",
            gauge pcr_jitter_ms "pcr_jitter_seconds" "Farthest that time and clock ran apart, of the last 5 to 10 s"
        )
    };
    ($prefix:literal, $of:expr, $(counter $count:ident $count_name:literal $count_help:literal),+; $(gauge $span:ident $span_name:literal $span_help:literal),+) => {
        &[
            $(($crate::metrics::counter(concat!($prefix, $count_name), $count_help), |of| $of(of).$count as f64),)+
            // Spans are kept in milliseconds, and told in seconds.
            $(($crate::metrics::gauge(concat!($prefix, $span_name), $span_help), |of| $of(of).$span.unwrap_or(0.0) / 1e3),)+
        ]
    };
}
