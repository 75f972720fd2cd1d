//! The outputs of all streams, as what the sink's decisions act on.

use crate::config::StreamConfig;
use crate::output::{Outlet, Outputs, StopReason};
use crate::playout::Release;
use crate::report::OutputReport;
use crate::system::Outlets;
use node::exit::Failure;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// The outputs of every stream.
#[derive(Debug)]
pub(crate) struct FanOut {
    streams: Vec<Vec<Outlet>>,
    changed: Arc<Notify>,
}

impl FanOut {
    /// Makes all outputs, or none. `changed` is notified when a stream or an output changes its state.
    pub(crate) fn open(
        streams: &[StreamConfig],
        outputs: &mut Outputs,
        changed: Arc<Notify>,
    ) -> Result<FanOut, Failure> {
        let open_all = |stream: &StreamConfig| {
            let open = |spec| outputs.open(spec, stream.start, stream.name.as_str());
            stream.outputs.iter().map(open).collect::<Result<Vec<_>, _>>()
        };
        Ok(FanOut { streams: streams.iter().map(open_all).collect::<Result<_, _>>()?, changed })
    }

    /// What the outputs of the stream at `index` have done.
    pub(crate) fn reports(&self, index: usize) -> Vec<OutputReport> {
        self.streams.get(index).into_iter().flatten().map(Outlet::report).collect()
    }

    /// Whether every output has stopped by itself.
    pub(crate) fn all_stopped(&self) -> bool {
        self.outlets().all(|outlet| outlet.stopped().is_some())
    }

    /// The outputs that failed, each with its reason.
    pub(crate) fn failures(&self) -> Vec<String> {
        let failed = |outlet: &Outlet| match outlet.stopped() {
            Some((StopReason::Failed, why)) => Some(format!("output {}: {why}", outlet.name())),
            _ => None,
        };
        self.outlets().filter_map(failed).collect()
    }

    /// Takes no more; what is queued is still written.
    pub(crate) fn close(&mut self) {
        self.streams.iter_mut().flatten().for_each(Outlet::close);
    }

    /// The outputs that have not written all that is queued.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.outlets().filter(|outlet| !outlet.is_finished()).map(|outlet| outlet.name().to_owned()).collect()
    }

    fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.streams.iter().flatten()
    }
}

impl Outlets for FanOut {
    fn release(&mut self, stream: usize, release: Release) {
        for outlet in self.streams.get_mut(stream).into_iter().flatten() {
            outlet.push(&release);
        }
    }

    fn changed(&mut self, _stream: usize) {
        self.changed.notify_one();
    }
}

/// Asks `is_done` until it says yes, at most for `patience`; false where it did not.
pub(crate) async fn wait_until(patience: Duration, is_done: impl Fn() -> bool) -> bool {
    let step = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while !is_done() {
        if waited >= patience {
            return false;
        }
        tokio::time::sleep(step).await;
        waited += step;
    }
    true
}
