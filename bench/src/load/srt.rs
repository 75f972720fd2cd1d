//! srt-live-transmit as a relay: one stream in, one out, with AES; in front and behind stand others of its kind.

use super::Traffic;
use super::cpu::Used;
use super::report::Round;
use super::round::{counted, failed};
use super::sinks::{Tally, UdpSink};
use crate::media::MediaSocket;
use crate::peers::Tool;
use crate::realtime::free_port;
use node::clock::Clock;
use node::exit::{Exit, Failure};
use std::time::Duration;

/// How long until something comes through.
const PATIENCE: Duration = Duration::from_secs(15);
const OPTIONS: &str = "latency=120&passphrase=anabranch-bench&pbkeylen=16";

/// One round, with one sink.
pub(super) fn round(traffic: Traffic) -> Result<Round, Failure> {
    let clock = Clock::start();
    let tally = Tally::new(clock);
    let sink = UdpSink::start(tally.clone()).map_err(|error| failed(&error))?;
    let port = || free_port().map_err(|error| failed(&error));
    let (input, first, second) = (port()?, port()?, port()?);
    let start = |from: String, to: String| {
        let arguments = ["-q".to_owned(), "-chunk:1316".into(), from, to];
        Tool::SrtLiveTransmit.start(&arguments).map_err(|error| failed(&error))
    };
    let _behind = start(format!("srt://{second}?mode=listener&{OPTIONS}"), format!("udp://{}", sink.address))?;
    let relay =
        start(format!("srt://{first}?mode=listener&{OPTIONS}"), format!("srt://{second}?mode=caller&{OPTIONS}"))?;
    let _front = start(format!("udp://{input}"), format!("srt://{first}?mode=caller&{OPTIONS}"))?;

    let socket = MediaSocket::bind().map_err(|error| failed(&error))?;
    let end = clock.now() + PATIENCE;
    while tally.packets() == 0 {
        if clock.now() >= end {
            let message = format!("srt-live-transmit: nothing came through within {PATIENCE:?}");
            return Err(Failure::new(Exit::Unavailable, message));
        }
        let _ = socket.send(input, &[0; super::SIZE]);
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    let idle = Used::of(relay.id());
    counted(traffic, &[relay.id()], idle, &tally, |packet| _ = socket.send(input, packet))
}
