//! Waiting for the operator.

use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::time::Duration;

/// Whether to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupt {
    /// Go on.
    Continue,
    /// It is enough.
    Stop,
}

/// Calls `tick` every `interval` until Ctrl-C, SIGTERM, the end of `duration`, or until it says so or fails.
pub fn until_interrupted(
    duration: Option<Duration>,
    interval: Duration,
    mut tick: impl FnMut() -> Result<Interrupt, Failure>,
) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Exit::Software, format!("cannot start a runtime: {error}")))?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| Failure::new(Exit::Software, format!("cannot listen for signals: {error}")))?;
        let clock = Clock::start();
        let end = duration.map(|duration| clock.now() + duration);
        let mut next = clock.now();
        loop {
            next = (next + interval).max(clock.now());
            let wake = end.map_or(next, |end| end.min(next));
            tokio::select! {
                _ = tokio::signal::ctrl_c() => return Ok(()),
                _ = terminate.recv() => return Ok(()),
                () = tokio::time::sleep_until(clock.to_tokio(wake)) => {}
            }
            if tick()? == Interrupt::Stop || end.is_some_and(|end| clock.now() >= end) {
                return Ok(());
            }
        }
    })
}
