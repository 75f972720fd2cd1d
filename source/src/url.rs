//! Where a stream comes from, in the URL forms that people know.
//!
//! | form | meaning |
//! |---|---|
//! | `udp://@239.1.1.1:5000?iface=eth1` | join a multicast group, IPv4 or IPv6, on an interface (its name or its address) |
//! | `udp://10.0.0.7@232.1.1.1:5000` | the same, of one sender only (source-specific multicast, IPv4) |
//! | `udp://127.0.0.1:5000`, `udp://:5000` | receive what is sent to this address of this machine, or to any |
//! | `rtp://…` | as `udp`; the RTP header is taken off a transport stream, its order restored, and kept on all else |
//! | `file:PATH` | a transport stream, paced by its clock references (PCR) |
//! | `-`, `pipe:` | a transport stream on the standard input, paced as it arrives |
//!
//! `udp` and `rtp` take the options `iface` (or `localaddr`), `buffer` and `content=ts|datagrams`; `rtp` takes
//! `header=auto|strip|keep` and `reorder=TIME` as well; `-` takes `pace=arrival|pcr` and `content=ts|bytes`.

use bytesize::ByteSize;
use node::control::Content;
use serde::Deserialize;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use topology::StreamName;

/// An input, and the text it was given as.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Input {
    text: String,
    /// What the text means.
    pub kind: InputKind,
}

/// What an input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InputKind {
    /// Datagrams, boundaries kept.
    Udp(Socket),
    /// Datagrams with an RTP header.
    Rtp(Socket, Rtp),
    /// A transport stream in a file.
    File(PathBuf),
    /// The standard input.
    Stdin(Stdin),
}

/// Where datagrams are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Socket {
    /// The address of this machine, or the multicast group, and the port. Port 0 picks a free one.
    pub address: SocketAddr,
    /// Of a multicast group: the one sender that is listened to.
    pub sender: Option<Ipv4Addr>,
    /// The interface, by name or by address.
    pub interface: Option<String>,
    /// Size of the kernel's receive buffer.
    pub buffer: usize,
    /// What the datagrams carry; `None`: seen from the first.
    pub content: Option<Content>,
}

/// What becomes of RTP headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtp {
    /// Taken off or kept.
    pub header: RtpHeader,
    /// How long a packet that came too early waits for those before it, where the header is taken off.
    pub reorder: Duration,
}

/// What becomes of an RTP header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RtpHeader {
    /// Taken off where a transport stream (payload type 33, RFC 2250) is inside, kept on everything else.
    #[default]
    Auto,
    /// Taken off.
    Strip,
    /// Kept: every datagram passes byte-exact, in the order of arrival.
    Keep,
}

/// How the standard input is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stdin {
    /// By which clock.
    pub pace: Pace,
    /// Whether anything but a transport stream is taken, in pieces whose boundaries mean nothing.
    pub bytes: bool,
}

/// By which clock an input is paced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pace {
    /// As it arrives.
    #[default]
    Arrival,
    /// By its own clock references, as a file is.
    Pcr,
}

/// Why a text is not an input: which text, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?}: {reason}")]
pub struct InputError {
    text: String,
    reason: String,
}

impl InputError {
    fn new(text: &str, reason: impl Into<String>) -> InputError {
        InputError { text: text.into(), reason: reason.into() }
    }

    /// An input without a stream to carry it.
    pub(crate) fn nameless(text: &str) -> InputError {
        let reason =
            format!("which stream? Write it before the input, as in news/main={text}, or use --stream news/main");
        InputError::new(text, reason)
    }
}

impl Input {
    /// Whether it is the standard input.
    pub fn is_stdin(&self) -> bool {
        matches!(self.kind, InputKind::Stdin(_))
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        matches!(self.kind, InputKind::File(_))
    }

    /// Whether it waits for this program: a file or a pipe begins when the stream is published, a network does not wait.
    pub fn waits(&self) -> bool {
        self.is_stdin() || self.is_file()
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl TryFrom<String> for Input {
    type Error = InputError;
    fn try_from(text: String) -> Result<Input, InputError> {
        text.parse()
    }
}

impl FromStr for Input {
    type Err = InputError;
    fn from_str(text: &str) -> Result<Input, InputError> {
        let kind = parse(text).map_err(|reason| InputError::new(text, reason))?;
        Ok(Input { text: text.into(), kind })
    }
}

/// Parts `STREAM=URL`; a text without a name is all URL.
pub fn split_name(text: &str) -> Result<(Option<StreamName>, &str), InputError> {
    match text.split_once('=') {
        // The '=' of an option or of a path: no stream name has a ':' or a '?' in it.
        Some((before, _)) if before.contains([':', '?']) => Ok((None, text)),
        Some((before, url)) => {
            let name = before.parse().map_err(|error| InputError::new(text, format!("{error}")))?;
            Ok((Some(name), url))
        }
        None => Ok((None, text)),
    }
}

fn parse(text: &str) -> Result<InputKind, String> {
    if let Some(path) = text.strip_prefix("file:") {
        // file:///path is the form of RFC 8089; file:path is what ffmpeg takes.
        let path = path.strip_prefix("//").filter(|path| path.starts_with('/')).unwrap_or(path);
        return if path.is_empty() {
            Err("expected a path after file:".into())
        } else {
            Ok(InputKind::File(path.into()))
        };
    }
    let (place, options) = text.split_once('?').unwrap_or((text, ""));
    let mut options = Options::parse(options)?;
    let kind = if matches!(place, "-" | "pipe:" | "pipe:0") {
        InputKind::Stdin(stdin(&mut options)?)
    } else if let Some(place) = place.strip_prefix("udp://") {
        InputKind::Udp(socket(place, &mut options)?)
    } else if let Some(place) = place.strip_prefix("rtp://") {
        InputKind::Rtp(socket(place, &mut options)?, rtp(&mut options)?)
    } else {
        return Err(format!(
            "expected udp://host:port, udp://@group:port?iface=…, rtp://…, file:PATH or - (the standard input){}",
            if place.contains("://") { "" } else { "; a file needs file: before it" }
        ));
    };
    options.finish()?;
    Ok(kind)
}

fn socket(place: &str, options: &mut Options<'_>) -> Result<Socket, String> {
    let (sender, place) = place.split_once('@').map_or((None, place), |(sender, place)| (Some(sender), place));
    let address = address(place.trim_end_matches('/'))?;
    let sender = match sender {
        None | Some("") => None,
        Some(_) if !address.ip().is_multicast() => {
            return Err("only a multicast group can have a sender before the @".into());
        }
        Some(_) if address.is_ipv6() => return Err("a sender before the @ is possible for IPv4 groups only".into()),
        Some(sender) => Some(sender.parse().map_err(|_| format!("{sender:?} is not an IPv4 address"))?),
    };
    let content = options.choice("content", &[("ts", Content::Ts), ("datagrams", Content::Datagrams)])?;
    let interface = options.take("iface").or_else(|| options.take("localaddr")).map(str::to_owned);
    let buffer = match options.take("buffer") {
        None => DEFAULT_BUFFER,
        Some(size) => {
            size.parse::<ByteSize>().map_err(|_| format!("buffer={size}: expected a size such as 8MiB"))?.as_u64()
                as usize
        }
    };
    Ok(Socket { address, sender, interface, buffer, content })
}

/// Holds 300 ms of 100 Mbit/s, before the kernel doubles it for its own accounting.
const DEFAULT_BUFFER: usize = 4 << 20;

fn address(place: &str) -> Result<SocketAddr, String> {
    let wrong = || format!("{place:?} is not address:port, such as 239.1.1.1:5000, [ff3e::1]:5000 or :5000");
    let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let ip = match host {
        "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
        host => match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => IpAddr::V6(host.parse::<Ipv6Addr>().map_err(|_| wrong())?),
            None => IpAddr::V4(host.parse::<Ipv4Addr>().map_err(|_| wrong())?),
        },
    };
    Ok(SocketAddr::new(ip, port))
}

fn rtp(options: &mut Options<'_>) -> Result<Rtp, String> {
    let headers = [("auto", RtpHeader::Auto), ("strip", RtpHeader::Strip), ("keep", RtpHeader::Keep)];
    let header = options.choice("header", &headers)?.unwrap_or_default();
    let reorder = match options.take("reorder") {
        None => Duration::from_millis(10),
        Some(span) => {
            humantime::parse_duration(span).map_err(|_| format!("reorder={span}: expected a time such as 10ms"))?
        }
    };
    Ok(Rtp { header, reorder })
}

fn stdin(options: &mut Options<'_>) -> Result<Stdin, String> {
    let pace = options.choice("pace", &[("arrival", Pace::Arrival), ("pcr", Pace::Pcr)])?.unwrap_or_default();
    let bytes = options.choice("content", &[("ts", false), ("bytes", true)])?.unwrap_or_default();
    if bytes && pace == Pace::Pcr {
        return Err("pace=pcr needs a transport stream, not content=bytes".into());
    }
    Ok(Stdin { pace, bytes })
}

/// The options after the `?`, each taken once; what is left at the end is not known.
struct Options<'a> {
    left: Vec<(&'a str, &'a str)>,
    known: Vec<&'static str>,
}

impl<'a> Options<'a> {
    fn parse(text: &'a str) -> Result<Options<'a>, String> {
        let pair = |pair: &'a str| pair.split_once('=').ok_or_else(|| format!("{pair:?} is not option=value"));
        let left = text.split('&').filter(|pair| !pair.is_empty()).map(pair).collect::<Result<_, _>>()?;
        Ok(Options { left, known: Vec::new() })
    }

    fn take(&mut self, name: &'static str) -> Option<&'a str> {
        self.known.push(name);
        let index = self.left.iter().position(|(key, _)| *key == name)?;
        Some(self.left.remove(index).1)
    }

    fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Result<Option<T>, String> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let found = choices.iter().find(|(word, _)| *word == value);
        let words = || choices.iter().map(|(word, _)| *word).collect::<Vec<_>>().join(" or ");
        found.map(|(_, choice)| Some(*choice)).ok_or_else(|| format!("{name}={value}: expected {}", words()))
    }

    fn finish(self) -> Result<(), String> {
        match self.left.first() {
            None => Ok(()),
            Some((key, _)) => Err(format!("unknown option {key:?}; known here: {}", self.known.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn udp(text: &str) -> Socket {
        match text.parse::<Input>().unwrap().kind {
            InputKind::Udp(socket) => socket,
            other => panic!("{text} read as {other:?}"),
        }
    }

    #[test]
    fn addresses_are_read_in_every_usual_form() {
        for (text, address) in [
            ("udp://239.1.1.1:5000", "239.1.1.1:5000"),
            ("udp://@239.1.1.1:5000", "239.1.1.1:5000"),
            ("udp://@239.1.1.1:5000/", "239.1.1.1:5000"),
            ("udp://127.0.0.1:0", "127.0.0.1:0"),
            ("udp://localhost:5000", "127.0.0.1:5000"),
            ("udp://:5000", "0.0.0.0:5000"),
            ("udp://@:5000", "0.0.0.0:5000"),
            ("udp://*:5000", "0.0.0.0:5000"),
            ("udp://[::]:5000", "[::]:5000"),
            ("udp://@[ff3e::1234]:5000", "[ff3e::1234]:5000"),
        ] {
            assert_eq!(udp(text).address, address.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn options_are_read() {
        let socket = udp("udp://10.0.0.7@232.1.1.1:5000?iface=eth1&buffer=1MiB&content=ts");
        assert_eq!(socket.sender, Some(Ipv4Addr::new(10, 0, 0, 7)));
        assert_eq!(socket.interface.as_deref(), Some("eth1"));
        assert_eq!(socket.buffer, 1 << 20);
        assert_eq!(socket.content, Some(Content::Ts));
        assert_eq!(udp("udp://@239.1.1.1:5000?localaddr=10.0.0.1").interface.as_deref(), Some("10.0.0.1"));
        let rtp: Input = "rtp://@239.1.1.1:5000?header=keep&reorder=25ms".parse().unwrap();
        let expected = Rtp { header: RtpHeader::Keep, reorder: Duration::from_millis(25) };
        assert!(matches!(rtp.kind, InputKind::Rtp(_, rtp) if rtp == expected));
        for text in ["-?pace=pcr", "pipe:?pace=pcr", "pipe:0?pace=pcr"] {
            let pipe: Input = text.parse().unwrap();
            assert_eq!(pipe.kind, InputKind::Stdin(Stdin { pace: Pace::Pcr, bytes: false }));
            assert_eq!(pipe.to_string(), text);
        }
    }

    #[test]
    fn files_keep_every_character_of_their_path() {
        for (text, path) in [
            ("file:clip.ts", "clip.ts"),
            ("file:/a/b=c?d.ts", "/a/b=c?d.ts"),
            ("file:///a/b.ts", "/a/b.ts"),
            ("file://share/b.ts", "//share/b.ts"),
        ] {
            assert_eq!(text.parse::<Input>().unwrap().kind, InputKind::File(path.into()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_with_what_was_expected() {
        for (text, expected) in [
            ("clip.ts", "a file needs file:"),
            ("http://host/live.ts", "expected udp://"),
            ("file:", "expected a path"),
            ("udp://239.1.1.1", "is not address:port"),
            ("udp://239.1.1.1:70000", "is not address:port"),
            ("udp://studio:5000", "is not address:port"),
            ("udp://ff3e::1:5000", "is not address:port"),
            ("udp://10.0.0.7@10.0.0.1:5000", "only a multicast group"),
            ("udp://x@232.1.1.1:5000", "not an IPv4 address"),
            ("udp://:5000?ifcae=eth0", "unknown option \"ifcae\"; known here: content, iface"),
            ("udp://:5000?iface", "is not option=value"),
            ("udp://:5000?content=mp4", "expected ts or datagrams"),
            ("udp://:5000?header=keep", "unknown option"),
            ("udp://:5000?buffer=lots", "expected a size"),
            ("rtp://:5000?header=no", "expected auto or strip or keep"),
            ("rtp://:5000?reorder=soon", "expected a time"),
            ("-?pace=fast", "expected arrival or pcr"),
            ("-?pace=pcr&content=bytes", "needs a transport stream"),
        ] {
            let error = text.parse::<Input>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn the_stream_name_stands_before_the_url() {
        for (text, name, url) in [
            ("news/main=udp://@239.1.1.1:5000?iface=eth0", Some("news/main"), "udp://@239.1.1.1:5000?iface=eth0"),
            ("news/main/hd=-", Some("news/main/hd"), "-"),
            ("news/main=file:a=b.ts", Some("news/main"), "file:a=b.ts"),
            ("udp://:5000?iface=eth0", None, "udp://:5000?iface=eth0"),
            ("file:a=b.ts", None, "file:a=b.ts"),
            ("-?pace=pcr", None, "-?pace=pcr"),
        ] {
            let (read, rest) = split_name(text).unwrap();
            assert_eq!((read.as_ref().map(StreamName::as_str), rest), (name, url), "{text}");
        }
        assert!(split_name("main=-").unwrap_err().to_string().contains("tenant/channel"));
        assert!(split_name("new s/main=-").unwrap_err().to_string().contains("tenant/channel"));
    }
}
