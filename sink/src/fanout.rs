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
use topology::StreamName;

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

/// An output that is to be made.
#[derive(Debug)]
pub(crate) struct Wanted {
    index: usize,
    stream: StreamName,
    spec: OutputSpec,
    start: Option<Start>,
    /// It was there before, or another to the same file.
    again: bool,
}

/// An output that is made, for the stream at `index`.
#[derive(Debug)]
pub(crate) struct Made {
    index: usize,
    open: Open,
}

/// Makes outputs, all or none. Names are resolved and files opened, which may take long.
pub(crate) fn make(wanted: Vec<Wanted>, outputs: &mut Outputs) -> Result<Vec<Made>, Failure> {
    let make = |Wanted { index, stream, spec, start, again }| {
        let outlet = outputs.open(&spec, start, stream.as_str(), again)?;
        Ok(Made { index, open: Open { spec, start, outlet } })
    };
    wanted.into_iter().map(make).collect()
}

impl FanOut {
    /// Makes all outputs, or none. `changed` is notified when a stream or an output changes its state.
    pub(crate) fn open(
        streams: &[StreamConfig],
        outputs: &mut Outputs,
        changed: Arc<Notify>,
    ) -> Result<FanOut, Failure> {
        let mut fanout = FanOut { streams: Vec::new(), leaving: Vec::new(), changed };
        let made = make(fanout.lacking(streams), outputs)?;
        fanout.follow(streams, made);
        Ok(fanout)
    }

    /// The outputs of `streams`, which are the same streams as before, that are not there, or have stopped.
    pub(crate) fn lacking(&self, streams: &[StreamConfig]) -> Vec<Wanted> {
        let mut wanted = Vec::new();
        for (index, stream) in streams.iter().enumerate() {
            for spec in &stream.outputs {
                let works = |open: &Open| open.is(spec, stream.start) && open.outlet.stopped().is_none();
                if self.streams.get(index).is_some_and(|open| open.iter().any(works)) {
                    continue;
                }
                let again = self.streams.iter().flatten().any(|open| open.spec.target.is_same_place(&spec.target));
                let (stream, spec, start) = (stream.name.clone(), spec.clone(), stream.start);
                wanted.push(Wanted { index, stream, spec, start, again });
            }
        }
        wanted
    }

    /// Makes the outputs those of `streams`, with those that were [lacking](FanOut::lacking) and are made now; in words what changed. One that
    /// is there and works is not touched.
    pub(crate) fn follow(&mut self, streams: &[StreamConfig], made: Vec<Made>) -> Vec<String> {
        self.leaving.retain(|outlet| !outlet.is_finished());
        self.streams.resize_with(streams.len(), Vec::new);
        let mut changes = Vec::new();
        for (index, (stream, open)) in streams.iter().zip(&mut self.streams).enumerate() {
            let leaves = |open: &mut Open| {
                let listed = stream.outputs.iter().any(|spec| open.is(spec, stream.start));
                let anew = |made: &Made| made.index == index && made.open.is(&open.spec, open.start);
                !listed || made.iter().any(anew)
            };
            for mut gone in open.extract_if(.., leaves) {
                changes.push(format!("{}: {} taken away", stream.name, gone.outlet.name()));
                gone.outlet.close();
                self.leaving.push(gone.outlet);
            }
        }
        for Made { index, open } in made {
            changes.push(format!("{}: {} added", streams[index].name, open.outlet.name()));
            self.streams[index].push(open);
        }
        // The report lists outputs as the configuration does.
        for (stream, open) in streams.iter().zip(&mut self.streams) {
            open.sort_by_key(|open| stream.outputs.iter().position(|spec| *spec == open.spec));
        }
        changes
    }

    /// Whether all that was taken away has written what it held.
    pub(crate) fn has_left(&self) -> bool {
        self.leaving.iter().all(Outlet::is_finished)
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

#[cfg(test)]
mod tests {
    use super::*;
    use link::Instant;
    use node::clock::Clock;
    use node::control::Content;

    fn streams(outputs: &[String]) -> Vec<StreamConfig> {
        let outputs = outputs.iter().map(|output| output.parse().unwrap()).collect();
        vec![StreamConfig::new("demo/clip".parse().unwrap(), outputs)]
    }

    fn write(fanout: &mut FanOut, payload: &'static [u8]) {
        let release = Release {
            at: Instant::ORIGIN,
            payload: payload.into(),
            lost_before: 0,
            restart: false,
            content: Content::Datagrams,
        };
        fanout.release(0, release);
    }

    /// Follows the new list, as a reload does; what was taken away has written what it held.
    fn follow(fanout: &mut FanOut, outputs: &mut Outputs, list: &[String]) -> Result<Vec<String>, Failure> {
        let list = streams(list);
        let changes = fanout.follow(&list, make(fanout.lacking(&list), outputs)?);
        while !fanout.has_left() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(changes)
    }

    #[test]
    fn what_was_recorded_outlives_changes_and_refusals() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.ts");
        std::fs::write(&path, "of yesterday").unwrap();
        let file = format!("file:{}", path.display());
        let mut outputs = Outputs::new(Clock::start(), Arc::default());
        let mut fanout = FanOut::open(&streams(std::slice::from_ref(&file)), &mut outputs, Arc::default()).unwrap();
        write(&mut fanout, b"one");
        let framed = format!("{file}?framing=length");
        let nowhere = format!("file:{}/not/there", folder.path().display());
        let refused = follow(&mut fanout, &mut outputs, &[framed.clone(), nowhere]).unwrap_err();
        assert_eq!(refused.exit, node::exit::Exit::CannotCreate);
        write(&mut fanout, b"two");
        assert_eq!(follow(&mut fanout, &mut outputs, &[framed]).unwrap().len(), 2);
        write(&mut fanout, b"three");
        assert_eq!(follow(&mut fanout, &mut outputs, &[]).unwrap().len(), 1);
        assert_eq!(std::fs::read(&path).unwrap(), b"onetwo\0\0\0\x05three");
    }
}
