//! Telling the service manager how the relay is (sd_notify). Where there is none, nothing is told.

use crate::report::Report;
use sd_notify::NotifyState;
use std::time::Duration;
use tokio::sync::watch;

/// Tells that the relay is ready, that it drains, and, where the unit asks for it, that it is alive. It runs on the thread that forwards,
/// so that a relay which hangs falls silent. Never returns.
pub(super) async fn tell(mut reports: watch::Receiver<Report>) {
    let alive = async {
        let Some(timeout) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
        let mut ticks = tokio::time::interval((timeout / 3).max(Duration::from_millis(100)));
        loop {
            ticks.tick().await;
            notify(&[NotifyState::Watchdog]);
        }
    };
    let state = async {
        if reports.wait_for(|report| report.ready).await.is_ok() {
            notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        }
        if reports.wait_for(|report| report.draining).await.is_ok() {
            notify(&[NotifyState::Status("draining")]);
        }
        std::future::pending::<()>().await
    };
    tokio::join!(alive, state);
}

fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}
