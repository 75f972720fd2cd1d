//! What becomes of released packets: datagrams, files, pipes, players.
//!
//! Every output has a thread of its own behind a bounded queue, so that a slow disk or a full pipe disturbs neither the
//! link nor any other output: what its queue cannot take is dropped and counted.

mod datagram;
pub mod entry;
mod http;
mod hub;
mod pace;
pub mod spec;
mod stream;
mod worker;

pub use http::HttpServers;
pub use spec::{DatagramTarget, Framing, OutputSpec, SpecError, Start, Target};
pub use worker::{Outlet, StopReason};

use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::sync::Arc;
use tokio::sync::Notify;

/// Makes the outputs of a sink.
#[derive(Debug)]
pub struct Outputs {
    clock: Clock,
    servers: HttpServers,
    stopped: Arc<Notify>,
}

impl Outputs {
    /// None yet. `stopped` is notified when an output stops by itself.
    pub fn new(clock: Clock, stopped: Arc<Notify>) -> Outputs {
        Outputs { clock, servers: HttpServers::default(), stopped }
    }

    /// Makes one output: binds, creates or resolves what it needs, which may take a while. `again`: it, or another to the same file, was there
    /// before, and what that has written is kept.
    pub fn open(
        &mut self,
        spec: &OutputSpec,
        start: Option<Start>,
        stream: &str,
        again: bool,
    ) -> Result<Outlet, Failure> {
        let start = spec.start.or(start).unwrap_or(spec.start());
        let mut shown = spec.to_string();
        let writer: Box<dyn worker::Writer> = match &spec.target {
            Target::Udp(to) => Box::new(datagram::Udp::open(to).map_err(|error| cannot_create(spec, &error))?),
            Target::Rtp { to, payload_type } => {
                Box::new(datagram::Rtp::open(to, *payload_type).map_err(|error| cannot_create(spec, &error))?)
            }
            Target::File { path, append, framing } => {
                let opened = stream::open_file(path).and_then(|file| {
                    if *append || again {
                        return stream::ByteWriter::appending(file, *framing);
                    }
                    let bytes = file.metadata()?.len();
                    if bytes > 0 {
                        tracing::warn!(
                            output = shown,
                            bytes,
                            "the first packet replaces what the file holds; ?append=true keeps it"
                        );
                    }
                    stream::ByteWriter::replacing(file, *framing)
                });
                Box::new(opened.map_err(|error| cannot_create(spec, &error))?)
            }
            Target::Stdout { framing } => {
                let stdout = stream::stdout().map_err(|error| cannot_create(spec, &error))?;
                Box::new(stream::ByteWriter::new(stdout, *framing))
            }
            Target::Http { listen, path } => {
                let (writer, address) = self.servers.add(*listen, path, start, stream)?;
                shown = format!("http://{address}{path}");
                Box::new(writer)
            }
        };
        // The server gives each player a start of its own.
        let gated = start == Start::Decodable && !matches!(spec.target, Target::Http { .. });
        Ok(worker::start(shown, self.clock, writer, gated, self.stopped.clone()))
    }

    /// Stops the servers of which no output is left. Waits for what players still have to get.
    pub fn tidy(&mut self) {
        self.servers.tidy();
    }
}

fn cannot_create(spec: &OutputSpec, error: &std::io::Error) -> Failure {
    Failure::new(Exit::CannotCreate, format!("cannot create output {spec}: {error}"))
}
