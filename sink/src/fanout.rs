//! The outputs of all streams, as what the sink's decisions act on.

use crate::config::StreamConfig;
use crate::output::{Outlet, OutputSpec, Outputs, Start, StopReason};
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
    streams: Vec<Vec<Open>>,
    /// Taken out of the configuration; what they hold is still written.
    leaving: Vec<Outlet>,
    changed: Arc<Notify>,
}

/// An output, and what it was made from.
#[derive(Debug)]
struct Open {
    spec: OutputSpec,
    start: Option<Start>,
    outlet: Outlet,
}

impl Open {
    fn is(&self, spec: &OutputSpec, start: Option<Start>) -> bool {
        self.spec == *spec && self.start == start
    }
}

impl FanOut {
    /// Makes all outputs, or none. `changed` is notified when a stream or an output changes its state.
    pub(crate) fn open(
        streams: &[StreamConfig],
        outputs: &mut Outputs,
        changed: Arc<Notify>,
    ) -> Result<FanOut, Failure> {
        let mut fanout = FanOut { streams: Vec::new(), leaving: Vec::new(), changed };
        fanout.follow(streams, outputs)?;
        Ok(fanout)
    }

    /// Makes the outputs those of `streams`, which are the same streams as before, in words what changed. One that is there and works is
    /// not touched, one that has stopped is made anew. Where one cannot be made everything stays as it is.
    pub(crate) fn follow(&mut self, streams: &[StreamConfig], outputs: &mut Outputs) -> Result<Vec<String>, Failure> {
        let mut fresh = Vec::new();
        for (index, stream) in streams.iter().enumerate() {
            for spec in &stream.outputs {
                let works = |open: &Open| open.is(spec, stream.start) && open.outlet.stopped().is_none();
                if self.streams.get(index).is_some_and(|open| open.iter().any(works)) {
                    continue;
                }
                let outlet = outputs.open(spec, stream.start, stream.name.as_str())?;
                fresh.push((index, Open { spec: spec.clone(), start: stream.start, outlet }));
            }
        }
        self.leaving.retain(|outlet| !outlet.is_finished());
        self.streams.resize_with(streams.len(), Vec::new);
        let mut changes = Vec::new();
        for (stream, open) in streams.iter().zip(&mut self.streams) {
            let leaves = |open: &mut Open| {
                let listed = stream.outputs.iter().any(|spec| open.is(spec, stream.start));
                !listed || open.outlet.stopped().is_some()
            };
            for mut gone in open.extract_if(.., leaves) {
                changes.push(format!("{}: {} taken away", stream.name, gone.outlet.name()));
                gone.outlet.close();
                self.leaving.push(gone.outlet);
            }
        }
        for (index, open) in fresh {
            changes.push(format!("{}: {} added", streams[index].name, open.outlet.name()));
            self.streams[index].push(open);
        }
        // The report lists outputs as the configuration does.
        for (stream, open) in streams.iter().zip(&mut self.streams) {
            open.sort_by_key(|open| stream.outputs.iter().position(|spec| *spec == open.spec));
        }
        Ok(changes)
    }

    /// What the outputs of the stream at `index` have done.
    pub(crate) fn reports(&self, index: usize) -> Vec<OutputReport> {
        self.streams.get(index).into_iter().flatten().map(|open| open.outlet.report()).collect()
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
        self.streams.iter_mut().flatten().for_each(|open| open.outlet.close());
    }

    /// The outputs that have not written all that is queued.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.outlets()
            .chain(&self.leaving)
            .filter(|outlet| !outlet.is_finished())
            .map(|outlet| outlet.name().to_owned())
            .collect()
    }

    fn outlets(&self) -> impl Iterator<Item = &Outlet> {
        self.streams.iter().flatten().map(|open| &open.outlet)
    }
}

impl Outlets for FanOut {
    fn release(&mut self, stream: usize, release: Release) {
        for open in self.streams.get_mut(stream).into_iter().flatten() {
            open.outlet.push(&release);
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
