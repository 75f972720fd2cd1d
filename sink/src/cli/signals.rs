//! What signals have the program do.

use crate::config::Config;
use node::exit::Failure;
use std::io::IsTerminal as _;
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc, watch};

/// The first signal, or key, stops in good order, the second at once.
pub(super) async fn stop(stop: watch::Sender<bool>, asked: Arc<Notify>) {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        tracing::warn!("signals cannot be caught; stop this program by closing its outputs");
        return std::future::pending().await;
    };
    for again in [false, true] {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = asked.notified() => {}
        }
        if again {
            tracing::warn!("stopped at once; what was held is lost");
            node::exit::at_once();
        }
        tracing::info!("stopping; once more to stop at once");
        stop.send_replace(true);
    }
}

/// SIGHUP has the configuration read anew: file and environment, and the same command line over them. At a terminal SIGHUP means that it was closed,
/// and keeps its meaning.
pub(super) async fn reload(read: mpsc::Sender<Result<Config, Failure>>, load: impl Fn() -> Result<Config, Failure>) {
    if std::io::stderr().is_terminal() {
        return;
    }
    let Ok(mut hangup) = signal(SignalKind::hangup()) else {
        tracing::warn!("SIGHUP cannot be caught: the configuration is read at the start only");
        return;
    };
    while hangup.recv().await.is_some() {
        if read.send(load()).await.is_err() {
            return;
        }
    }
}
