//! Transport streams, compared packet by packet; ffmpeg and ffprobe where real encoders and decoders are asked for.

use bench::media::MediaSocket;
use bench::tscheck::TS_PACKET;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// How one transport stream compares with another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamDiff {
    /// The same packets, in the same order, and no others.
    Identical {
        /// How many.
        packets: usize,
    },
    /// One is the other without some packets at its end.
    Shorter {
        /// Packets of the expected one.
        expected: usize,
        /// Packets of the one that came.
        got: usize,
    },
    /// They part.
    Differs {
        /// The first packet that is not the same.
        at: usize,
        /// Packets of the expected one.
        expected: usize,
        /// Packets of the one that came.
        got: usize,
    },
    /// It is no whole number of packets.
    Ragged {
        /// Bytes after the last whole one.
        bytes: usize,
    },
}

/// Compares packet by packet.
pub fn compare(expected: &[u8], got: &[u8]) -> StreamDiff {
    let ragged = got.len() % TS_PACKET;
    if ragged != 0 {
        return StreamDiff::Ragged { bytes: ragged };
    }
    let (a, b) = (expected.chunks_exact(TS_PACKET), got.chunks_exact(TS_PACKET));
    let (expected, got) = (a.len(), b.len());
    match a.zip(b).position(|(a, b)| a != b) {
        Some(at) => StreamDiff::Differs { at, expected, got },
        None if got < expected => StreamDiff::Shorter { expected, got },
        None if got > expected => StreamDiff::Differs { at: expected, expected, got },
        None => StreamDiff::Identical { packets: expected },
    }
}

/// What `got` lacks, where it is `expected` with some packets left out: the number of the first of each hole, and how many. `None` where
/// it holds anything else.
pub fn left_out(expected: &[u8], got: &[u8]) -> Option<Vec<(usize, usize)>> {
    if !got.len().is_multiple_of(TS_PACKET) {
        return None;
    }
    let (mut got, mut holes) = (got.chunks_exact(TS_PACKET).peekable(), Vec::<(usize, usize)>::new());
    for (at, packet) in expected.chunks_exact(TS_PACKET).enumerate() {
        if got.next_if_eq(&packet).is_some() {
            continue;
        }
        match holes.last_mut().filter(|(from, count)| from + count == at) {
            Some((_, count)) => *count += 1,
            None => holes.push((at, 1)),
        }
    }
    got.peek().is_none().then_some(holes)
}

/// Passes datagrams on and keeps a copy: what a source was given, for comparison.
#[derive(Debug)]
pub struct Tap {
    /// Where it listens.
    pub address: SocketAddr,
    kept: Arc<Mutex<Vec<u8>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Tap {
    /// Listens on a free port and passes on to `to`.
    pub fn start(to: SocketAddr) -> Tap {
        let (socket, out) = (MediaSocket::bind().unwrap(), MediaSocket::bind().unwrap());
        let (kept, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (address, copy, told) = (socket.address(), kept.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let mut room = vec![0; 65536];
            while !told.load(Ordering::Relaxed) {
                let Some(datagram) = socket.receive(Duration::from_millis(50), &mut room) else { continue };
                out.send(to, datagram).expect("loopback takes a datagram");
                copy.lock().expect("nobody panics with it").extend_from_slice(datagram);
            }
        });
        Tap { address, kept, stop, thread: Some(thread) }
    }

    /// Stops, and returns all that passed.
    pub fn stop(mut self) -> Vec<u8> {
        self.halt();
        std::mem::take(&mut *self.kept.lock().expect("nobody panics with it"))
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.halt();
    }
}

/// Whether ffmpeg and ffprobe are there. Where `CI` is set they must be: `.ci/run` installs them.
pub fn have_ffmpeg() -> bool {
    let there = |program: &str| {
        Command::new(program)
            .arg("-version")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|s| s.success())
    };
    let have = there("ffmpeg") && there("ffprobe");
    assert!(have || std::env::var_os("CI").is_none(), "ffmpeg and ffprobe must be installed where CI is set");
    if !have {
        eprintln!("NOT TESTED: ffmpeg and ffprobe are not installed, so no real encoder and decoder took part");
    }
    have
}

/// Encodes some seconds of moving pictures and sound into a transport stream of a constant `kbps`.
pub fn encode(folder: &Path, seconds: u32, kbps: u32) -> PathBuf {
    let file = folder.join("encoded.ts");
    let video = format!("testsrc2=size=640x360:rate=25:duration={seconds}");
    let sound = format!("sine=frequency=440:sample_rate=48000:duration={seconds}");
    let rate = format!("{kbps}k");
    let most = format!("{}k", kbps * 8 / 10);
    let args = [
        "-nostdin",
        "-v",
        "error",
        "-y",
        "-f",
        "lavfi",
        "-i",
        &video,
        "-f",
        "lavfi",
        "-i",
        &sound,
        "-c:v",
        "libx264",
        "-preset",
        "ultrafast",
        "-g",
        "25",
        "-bf",
        "0",
        "-pix_fmt",
        "yuv420p",
        "-b:v",
        &most,
        "-minrate",
        &most,
        "-maxrate",
        &most,
        "-bufsize",
        &most,
        "-c:a",
        "aac",
        "-b:a",
        "128k",
        "-muxrate",
        &rate,
        "-f",
        "mpegts",
    ];
    let status = Command::new("ffmpeg").args(args).arg(&file).status().unwrap();
    assert!(status.success(), "ffmpeg could not encode");
    file
}

/// Plays a file in real time to a UDP port, as a broadcaster would.
pub fn play(file: &Path, to: SocketAddr) -> Child {
    let url = format!("udp://{to}?pkt_size=1316");
    Command::new("ffmpeg")
        .args(["-nostdin", "-v", "error", "-re", "-i"])
        .arg(file)
        .args(["-map", "0", "-c", "copy", "-muxrate", "10000k", "-f", "mpegts", &url])
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

/// What ffprobe has against a file: nothing where it is clean. Every frame is decoded.
pub fn probe(file: &Path) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "warning", "-show_entries", "frame=pts", "-of", "csv"])
        .arg(file)
        .output()
        .unwrap();
    assert!(output.status.success(), "ffprobe failed");
    assert!(output.stdout.len() > 100, "ffprobe found no frames");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_found_at_its_packet() {
        let stream: Vec<u8> = (0..10u8).flat_map(|n| [n; TS_PACKET]).collect();
        assert_eq!(compare(&stream, &stream), StreamDiff::Identical { packets: 10 });
        assert_eq!(compare(&stream, &stream[..9 * TS_PACKET]), StreamDiff::Shorter { expected: 10, got: 9 });
        let without = [&stream[..3 * TS_PACKET], &stream[4 * TS_PACKET..]].concat();
        assert_eq!(compare(&stream, &without), StreamDiff::Differs { at: 3, expected: 10, got: 9 });
        let longer = [&stream[..], &stream[..TS_PACKET]].concat();
        assert_eq!(compare(&stream, &longer), StreamDiff::Differs { at: 10, expected: 10, got: 11 });
        assert_eq!((left_out(&stream, &without), left_out(&stream, &longer)), (Some(vec![(3, 1)]), None));
        assert_eq!(compare(&stream, &stream[..1000]), StreamDiff::Ragged { bytes: 1000 % TS_PACKET });
    }
}
