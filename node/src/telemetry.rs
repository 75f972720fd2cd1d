//! Logs: to standard error, in text or JSON, with ISO 8601 times. A line that finds no reader is thrown away ([`crate::lines`]).

use crate::exit::{Exit, Failure};
use crate::lines;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::time::UtcTime;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One object per line, for collectors.
    Json,
}

/// Starts logging for the whole process. `filter` is a level (`info`) or a list of `target=level`; the variable `ANABRANCH_LOG`
/// overrides it. A second call changes nothing.
pub fn init_logs(format: LogFormat, filter: &str) -> Result<(), Failure> {
    let asked = std::env::var("ANABRANCH_LOG").unwrap_or_else(|_| filter.to_owned());
    let filter = EnvFilter::try_new(&asked).map_err(|error| {
        let expected = "expected a level (error, warn, info, debug, trace) or a list of target=level";
        Failure::new(Exit::Usage, format!("log filter {asked:?}: {error}; {expected}"))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_timer(UtcTime::rfc_3339())
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(lines::stderr);
    // An embedding program may have set its own subscriber already; then its choice stands.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}
