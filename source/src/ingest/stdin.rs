//! The standard input: a pipe from an encoder.

use super::{Feed, Pacing};
use crate::packetize::{Packetizer, RECOGNISE_WITHIN, Recognition, recognise};
use crate::playback::Playback;
use crate::url::{Pace, Stdin};
use link::Instant;
use node::clock::Clock;
use node::control::Content;
use node::exit::{Exit, Failure};
use std::collections::VecDeque;
use std::io::{self, IsTerminal, Read};
use tokio::sync::mpsc;

/// Bytes read at once: what a pipe of Linux holds.
const READ: usize = 64 << 10;

/// Reads that may wait to be taken; then the pipe fills, and the encoder waits.
const QUEUE: usize = 4;

/// The standard input, not yet read from.
#[derive(Debug)]
pub(crate) struct StdinInput {
    options: Stdin,
}

impl StdinInput {
    pub(super) fn open(options: Stdin) -> Result<StdinInput, Failure> {
        if io::stdin().is_terminal() {
            let message = "the standard input is a terminal; pipe a transport stream into it, as from: ffmpeg … -f mpegts - | anabranch-source …";
            return Err(Failure::new(Exit::NoInput, message));
        }
        Ok(StdinInput { options })
    }

    pub(super) fn content(&self) -> Content {
        if self.options.bytes { Content::Datagrams } else { Content::Ts }
    }

    pub(super) async fn run(self, feed: &Feed) -> Result<(), Failure> {
        let mut pipe = Pipe::start(feed.clock);
        let head = if self.options.bytes { Vec::new() } else { recognised(&mut pipe).await? };
        feed.begin().await;
        match self.options.pace {
            Pace::Arrival => self.by_arrival(feed, pipe, head).await,
            Pace::Pcr => by_clock(feed, pipe, head).await,
        }
    }

    async fn by_arrival(self, feed: &Feed, mut pipe: Pipe, head: Vec<u8>) -> Result<(), Failure> {
        let mut packetizer = if self.options.bytes { Packetizer::bytes() } else { Packetizer::transport_stream() };
        let begun = feed.clock.now();
        let mut event = Event::Read((begun, head));
        loop {
            let arrival = match event {
                Event::Read((read, bytes)) => {
                    // What was read while nobody listened arrives as the stream begins.
                    let arrival = read.max(begun);
                    packetizer.push(arrival, &bytes);
                    arrival
                }
                Event::Timeout => {
                    let now = feed.clock.now();
                    packetizer.handle_timeout(now);
                    now
                }
                Event::End => break,
            };
            feed.push(std::iter::from_fn(|| packetizer.poll()).map(|payload| (arrival, payload)));
            event = pipe.next(feed.clock, packetizer.poll_timeout()).await?;
        }
        packetizer.finish();
        let now = feed.clock.now();
        feed.push(std::iter::from_fn(|| packetizer.poll()).map(|payload| (now, payload)));
        Ok(())
    }
}

async fn by_clock(feed: &Feed, mut pipe: Pipe, head: Vec<u8>) -> Result<(), Failure> {
    let no_clock = |error| Failure::new(Exit::NoInput, format!("the standard input: {error}"));
    let (mut playback, mut pacing, mut dues) = (Playback::default(), Pacing::default(), VecDeque::new());
    let mut bytes = Some(head);
    while let Some(piece) = bytes {
        playback.push(&piece).map_err(no_clock)?;
        dues.extend(std::iter::from_fn(|| playback.poll()));
        while !dues.is_empty() {
            pacing.play(feed, &mut dues).await;
        }
        bytes = pipe.read().await?.map(|(_, bytes)| bytes);
    }
    playback.finish().map_err(no_clock)?;
    dues.extend(std::iter::from_fn(|| playback.poll()));
    while !dues.is_empty() {
        pacing.play(feed, &mut dues).await;
    }
    Ok(())
}

/// Reads until it is certain that this is a transport stream. Little more is read before the stream is published: the
/// encoder waits in its pipe, and nothing of what it has to say grows old.
async fn recognised(pipe: &mut Pipe) -> Result<Vec<u8>, Failure> {
    let mut head = Vec::new();
    loop {
        let piece = pipe.read().await?;
        let end = piece.is_none();
        head.extend(piece.map(|(_, bytes)| bytes).unwrap_or_default());
        match recognise(&head, end) {
            Recognition::TransportStream => return Ok(head),
            Recognition::Undecided if head.len() < RECOGNISE_WITHIN => {}
            Recognition::Undecided => return Err(unknown("no transport stream")),
            Recognition::Other(what) => return Err(unknown(what)),
        }
    }
}

fn unknown(what: &str) -> Failure {
    Failure::new(
        Exit::NoInput,
        format!(
            "the standard input: {what}; expected an MPEG transport stream of 188-byte packets (ffmpeg … -f mpegts -); any other bytes pass with pipe:?content=bytes in place of the -, without their boundaries"
        ),
    )
}

/// What a pipe has to say.
enum Event {
    Read((Instant, Vec<u8>)),
    Timeout,
    End,
}

/// A thread that reads a little ahead: reading blocks, and nothing in the runtime may. It is left behind when the
/// program ends, since a read of a silent pipe cannot be called off.
struct Pipe {
    pieces: mpsc::Receiver<io::Result<(Instant, Vec<u8>)>>,
}

impl Pipe {
    fn start(clock: Clock) -> Pipe {
        let (sender, pieces) = mpsc::channel(QUEUE);
        std::thread::spawn(move || {
            let mut buffer = vec![0; READ];
            loop {
                let piece = match io::stdin().lock().read(&mut buffer) {
                    Ok(0) => return,
                    Ok(read) => Ok((clock.now(), buffer[..read].to_vec())),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => Err(error),
                };
                let failed = piece.is_err();
                if sender.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
        });
        Pipe { pieces }
    }

    /// The next piece; `None` at the end.
    async fn read(&mut self) -> Result<Option<(Instant, Vec<u8>)>, Failure> {
        let failed = |error| Failure::new(Exit::Io, format!("the standard input: {error}"));
        self.pieces.recv().await.transpose().map_err(failed)
    }

    async fn next(&mut self, clock: Clock, timeout: Option<Instant>) -> Result<Event, Failure> {
        let read = match timeout {
            None => Some(self.read().await),
            Some(at) => tokio::time::timeout_at(clock.to_tokio(at), self.read()).await.ok(),
        };
        Ok(match read.transpose()? {
            None => Event::Timeout,
            Some(None) => Event::End,
            Some(Some(piece)) => Event::Read(piece),
        })
    }
}
