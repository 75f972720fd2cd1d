//! Sockets, files and the standard input: where media comes in.

mod file;
mod stdin;
mod udp;

use crate::report::InputCounters;
use crate::system::{NotTaken, SourceSystem, StreamIndex};
use crate::url::{Input, InputKind};
use bytes::Bytes;
use link::Instant;
use node::Host;
use node::clock::Clock;
use node::control::Content;
use node::exit::Failure;
use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;
use topology::StreamName;

/// An input that has been opened: what can be wrong with it at start has been told.
#[derive(Debug)]
pub(crate) enum Opened {
    Udp(udp::UdpInput),
    File(file::FileInput),
    Stdin(stdin::StdinInput),
}

impl Opened {
    /// Opens an input: binds, joins, looks whether the file is there and what it is.
    pub(crate) fn open(input: &Input, endless: bool) -> Result<Opened, Failure> {
        Ok(match &input.kind {
            InputKind::Udp(socket) => Opened::Udp(udp::UdpInput::open(input, socket, None)?),
            InputKind::Rtp(socket, rtp) => Opened::Udp(udp::UdpInput::open(input, socket, Some(*rtp))?),
            InputKind::File(path) => Opened::File(file::FileInput::open(path, endless)?),
            InputKind::Stdin(options) => Opened::Stdin(stdin::StdinInput::open(*options)?),
        })
    }

    /// What it carries, where that is known before its first packet.
    pub(crate) fn content(&self) -> Option<Content> {
        match self {
            Opened::Udp(udp) => udp.content,
            Opened::File(_) => Some(Content::Ts),
            Opened::Stdin(stdin) => Some(stdin.content()),
        }
    }

    /// Where it is bound, if it is a socket.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match self {
            Opened::Udp(udp) => udp.address(),
            _ => None,
        }
    }

    /// Feeds its stream until the input ends.
    pub(crate) async fn run(self, feed: Feed) -> Result<(), Failure> {
        match self {
            Opened::Udp(udp) => udp.run(&feed).await?,
            Opened::File(file) => {
                feed.begin().await;
                file.run(&feed).await?;
            }
            Opened::Stdin(stdin) => stdin.run(&feed).await?,
        }
        feed.end();
        Ok(())
    }
}

/// The way from an input into its stream.
#[derive(Debug)]
pub(crate) struct Feed {
    host: Host<SourceSystem>,
    clock: Clock,
    stream: StreamIndex,
    name: StreamName,
    start_delay: Duration,
    deadline: Duration,
    /// When a refused payload was last logged.
    complained: Cell<Option<Instant>>,
}

impl Feed {
    pub(crate) fn new(
        host: Host<SourceSystem>,
        clock: Clock,
        stream: (StreamIndex, StreamName),
        start_delay: Duration,
        deadline: Duration,
    ) -> Feed {
        let (stream, name) = stream;
        Feed { host, clock, stream, name, start_delay, deadline, complained: Cell::new(None) }
    }

    /// Waits until the stream has been published, and the overlay has had time to spread the word.
    async fn begin(&self) {
        while !self.host.with(|_, system, _| system.was_live(self.stream)) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(self.start_delay).await;
    }

    /// Gives payloads, each with its time of arrival, to the stream.
    fn push(&self, payloads: impl IntoIterator<Item = (Instant, Bytes)>) {
        let refused = self.host.with(|now, system, ports| {
            let mut refused = None;
            for (arrival, payload) in payloads {
                refused = system.ingest(now, self.stream, arrival, payload, ports).err().or(refused);
            }
            refused
        });
        match refused {
            Some(refused @ NotTaken::TooLarge { .. }) => {
                self.complain(&format!("{refused} (set the encoder to packets of 1316 bytes)"));
            }
            Some(refused @ NotTaken::NotSealed(_)) => self.complain(&refused.to_string()),
            _ => {}
        }
    }

    fn end(&self) {
        self.host.with(|now, system, ports| system.end(now, self.stream, ports));
    }

    fn counters(&self, change: impl FnOnce(&mut InputCounters)) {
        self.host.with(|_, system, _| change(system.input_counters(self.stream)));
    }

    fn trouble(&self, trouble: Option<String>) {
        self.host.with(|_, system, _| system.set_trouble(self.stream, trouble));
    }

    /// At most once a second: a wrong encoder setting must not fill the log.
    fn complain(&self, what: &str) {
        let now = self.clock.now();
        if self.complained.get().is_none_or(|last| now.saturating_since(last) >= Duration::from_secs(1)) {
            self.complained.set(Some(now));
            tracing::warn!(stream = %self.name, "refused: {what}");
        }
    }

    /// How far behind its clock a paced input may fall before its clock is set anew. A fraction of the deadline: what is
    /// late here is missing there.
    fn patience(&self) -> Duration {
        (self.deadline / 4).min(Duration::from_millis(50))
    }
}

/// Plays payloads at their times, as they become known.
#[derive(Debug, Default)]
struct Pacing {
    start: Option<Instant>,
}

impl Pacing {
    /// Waits until something of `dues` is due and gives all that is. What is left stays in `dues`.
    async fn play(&mut self, feed: &Feed, dues: &mut std::collections::VecDeque<crate::pacing::Due>) {
        let Some(first) = dues.front().map(|due| due.at) else { return };
        let now = feed.clock.now();
        let mut start = *self.start.get_or_insert(now);
        if now.saturating_since(start + first) > feed.patience() {
            start += now.saturating_since(start + first);
            self.start = Some(start);
        }
        tokio::time::sleep_until(feed.clock.to_tokio(start + first)).await;
        let now = feed.clock.now();
        let due = std::iter::from_fn(|| dues.pop_front_if(|due| start + due.at <= now));
        feed.push(due.map(|due| (start + due.at, due.payload)));
    }
}
