//! Datagrams from the network.

use super::Feed;
use crate::rtp::Unwrapper;
use crate::url::{Input, Rtp, Socket};
use bytes::{Bytes, BytesMut};
use link::Instant;
use node::control::Content;
use node::exit::{Exit, Failure};
use quinn::udp::{BATCH_SIZE, RecvMeta, UdpSocketState};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Type};
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Room for one receive: the kernel may join datagrams of one sender up to this size (UDP GRO).
const ROOM: usize = 64 << 10;

/// How often the kernel is asked what it dropped.
const DROPS_EVERY: Duration = Duration::from_secs(1);

/// A bound socket, joined to its group.
#[derive(Debug)]
pub(crate) struct UdpInput {
    socket: socket2::Socket,
    rtp: Option<Rtp>,
    pub(super) content: Option<Content>,
}

impl UdpInput {
    pub(super) fn open(input: &Input, options: &Socket, rtp: Option<Rtp>) -> Result<UdpInput, Failure> {
        let socket = open(options).map_err(|(exit, what)| Failure::new(exit, format!("{input}: {what}")))?;
        warn_of_small_buffer(input, options, &socket);
        Ok(UdpInput { socket, rtp, content: options.content })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()?.as_socket()
    }

    /// Receives for ever: a network input has no end.
    pub(super) async fn run(self, feed: &Feed) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Io, error.to_string());
        let drops = Drops::of(&self.socket);
        let socket = UdpSocket::from_std(self.socket.into()).map_err(failed)?;
        let state = UdpSocketState::new((&socket).into()).map_err(failed)?;
        let mut batch = Batch::new();
        let mut unwrapper = self.rtp.map(Unwrapper::new);
        let mut troubled = false;
        let mut ask = tokio::time::interval(DROPS_EVERY);
        loop {
            let timeout = unwrapper.as_ref().and_then(Unwrapper::poll_timeout);
            tokio::select! {
                received = batch.receive(&socket, &state) => match received {
                    Ok(()) => {
                        if std::mem::take(&mut troubled) {
                            feed.trouble(None);
                        }
                        take(feed, &batch, unwrapper.as_mut());
                    }
                    Err(error) => {
                        // A network that is down comes up again: say so, and go on.
                        troubled = true;
                        feed.trouble(Some(error.to_string()));
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                () = sleep_until(feed, timeout) => {
                    if let Some(unwrapper) = &mut unwrapper {
                        unwrapper.handle_timeout(feed.clock.now());
                        give(feed, unwrapper);
                    }
                }
                _ = ask.tick() => if let Some(dropped) = drops.as_ref().and_then(Drops::count) {
                    feed.counters(|counters| counters.kernel_dropped = dropped);
                },
            }
        }
    }
}

/// Feeds what one receive brought.
fn take(feed: &Feed, batch: &Batch, unwrapper: Option<&mut Unwrapper>) {
    let now = feed.clock.now();
    match unwrapper {
        None => feed.push(batch.datagrams().map(|datagram| (now, own(datagram)))),
        Some(unwrapper) => {
            batch.datagrams().for_each(|datagram| unwrapper.push(now, own(datagram)));
            give(feed, unwrapper);
        }
    }
}

/// A datagram in memory of its own, with room to seal it where it is.
fn own(datagram: &[u8]) -> Bytes {
    let mut own = BytesMut::with_capacity(datagram.len() + node::payload::OVERHEAD);
    own.extend_from_slice(datagram);
    own.freeze()
}

fn give(feed: &Feed, unwrapper: &mut Unwrapper) {
    feed.push(std::iter::from_fn(|| unwrapper.poll()));
    let rtp = unwrapper.counters();
    feed.counters(|counters| {
        (counters.rtp_lost, counters.rtp_reordered, counters.rtp_dropped) =
            (rtp.rtp_lost, rtp.rtp_reordered, rtp.rtp_dropped);
    });
}

async fn sleep_until(feed: &Feed, at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(feed.clock.to_tokio(at)).await,
        None => std::future::pending().await,
    }
}

/// Room for many datagrams, received by one call of the kernel.
struct Batch {
    room: Vec<u8>,
    metas: [RecvMeta; BATCH_SIZE],
    received: usize,
}

impl Batch {
    fn new() -> Batch {
        Batch { room: vec![0; ROOM * BATCH_SIZE], metas: [RecvMeta::default(); BATCH_SIZE], received: 0 }
    }

    async fn receive(&mut self, socket: &UdpSocket, state: &UdpSocketState) -> io::Result<()> {
        loop {
            socket.readable().await?;
            let mut slices = self.room.chunks_exact_mut(ROOM).map(IoSliceMut::new);
            let mut slices: [IoSliceMut<'_>; BATCH_SIZE] =
                std::array::from_fn(|_| slices.next().expect("the room is BATCH_SIZE times ROOM"));
            let metas = &mut self.metas;
            match socket.try_io(Interest::READABLE, || state.recv(socket.into(), &mut slices, metas)) {
                Ok(received) => {
                    self.received = received;
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The datagrams, those that the kernel joined taken apart again.
    fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        self.room.chunks_exact(ROOM).zip(&self.metas).take(self.received).flat_map(|(room, meta)| {
            let joined = &room[..meta.len];
            let empty: &[&[u8]] = if joined.is_empty() { &[&[]] } else { &[] };
            empty.iter().copied().chain(joined.chunks(meta.stride.max(1)))
        })
    }
}

type OpenError = (Exit, String);

fn open(options: &Socket) -> Result<socket2::Socket, OpenError> {
    let address = options.address;
    let failed =
        |what: &'static str| move |error: io::Error| (Exit::Unavailable, format!("cannot {what} {address}: {error}"));
    let socket = socket2::Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))
        .map_err(failed("open a socket for"))?;
    socket.set_nonblocking(true).map_err(failed("set up"))?;
    // The kernel grants less than asked without a word; `warn_of_small_buffer` says it.
    let _ = socket.set_recv_buffer_size(options.buffer);
    let group = address.ip().is_multicast();
    if group {
        // Several receivers of one group on one machine are usual.
        socket.set_reuse_address(true).map_err(failed("share"))?;
    }
    let bind_to = match options.interface.as_deref() {
        Some(interface) if !group => unicast(&socket, address, interface)?,
        // Bound to the group itself, the socket does not hear other groups on the same port.
        _ => address,
    };
    socket.bind(&bind_to.into()).map_err(failed("listen on"))?;
    if group {
        join(&socket, options)?;
    }
    Ok(socket)
}

/// Ties a socket for one machine's own address to an interface; gives the address to bind.
fn unicast(socket: &socket2::Socket, address: SocketAddr, interface: &str) -> Result<SocketAddr, OpenError> {
    if let Ok(ip) = interface.parse::<IpAddr>() {
        return Ok(if address.ip().is_unspecified() { SocketAddr::new(ip, address.port()) } else { address });
    }
    index(interface)?;
    #[cfg(target_os = "linux")]
    socket
        .bind_device(Some(interface.as_bytes()))
        .map_err(|error| (Exit::Unavailable, format!("cannot use interface {interface}: {error}")))?;
    let _ = socket;
    Ok(address)
}

fn join(socket: &socket2::Socket, options: &Socket) -> Result<(), OpenError> {
    let interface = options.interface.as_deref();
    let on = interface.map(|name| format!(" on {name}")).unwrap_or_default();
    let failed = |error: io::Error| {
        let message = format!("cannot join {}{on}: {error} (name the interface with ?iface=…)", options.address.ip());
        (Exit::Unavailable, message)
    };
    match (options.address.ip(), options.sender) {
        (IpAddr::V4(group), Some(sender)) => {
            let interface = interface.map_or(Ok(Ipv4Addr::UNSPECIFIED), address_v4)?;
            socket.join_ssm_v4(&sender, &group, &interface).map_err(failed)?;
        }
        (IpAddr::V4(group), None) => {
            let interface = match interface {
                None => InterfaceIndexOrAddress::Address(Ipv4Addr::UNSPECIFIED),
                Some(name) => match name.parse() {
                    Ok(address) => InterfaceIndexOrAddress::Address(address),
                    Err(_) => InterfaceIndexOrAddress::Index(index(name)?),
                },
            };
            socket.join_multicast_v4_n(&group, &interface).map_err(failed)?;
        }
        (IpAddr::V6(group), _) => {
            let index = interface.map_or(Ok(0), index)?;
            socket.join_multicast_v6(&group, index).map_err(failed)?;
        }
    }
    #[cfg(target_os = "linux")]
    let _ =
        if options.address.is_ipv4() { socket.set_multicast_all_v4(false) } else { socket.set_multicast_all_v6(false) };
    Ok(())
}

/// The kernel's number of an interface: given as such, by name, or by one of its addresses.
fn index(interface: &str) -> Result<u32, OpenError> {
    if let Ok(index) = interface.parse() {
        return Ok(index);
    }
    let index = match interface.parse::<IpAddr>() {
        Ok(address) => addresses().find(|known| known.ip() == address).and_then(|known| known.index),
        // Not by its addresses: an interface that only receives may have none.
        Err(_) => {
            let file = std::path::Path::new("/sys/class/net").join(interface).join("ifindex");
            std::fs::read_to_string(file).ok().and_then(|text| text.trim().parse().ok())
        }
    };
    index.ok_or_else(|| (Exit::NoInput, format!("no interface {interface:?}; the ones here: {}", interfaces())))
}

/// An IPv4 address of an interface: given as such, or by its name.
fn address_v4(interface: &str) -> Result<Ipv4Addr, OpenError> {
    let named = || addresses().filter(|known| known.name == interface).find_map(|known| ipv4(known.ip()));
    interface.parse().ok().or_else(named).ok_or_else(|| {
        let message = format!("no interface {interface:?} with an IPv4 address; the ones here: {}", interfaces());
        (Exit::NoInput, message)
    })
}

fn ipv4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn addresses() -> impl Iterator<Item = if_addrs::Interface> {
    if_addrs::get_if_addrs().into_iter().flatten()
}

fn interfaces() -> String {
    let names = std::fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
    let mut names: Vec<String> = names.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.join(", ")
}

fn warn_of_small_buffer(input: &Input, options: &Socket, socket: &socket2::Socket) {
    let mut granted = socket.recv_buffer_size().unwrap_or(options.buffer);
    if cfg!(target_os = "linux") {
        // Linux doubles what it is asked for, as room for its own accounting, and tells the double.
        granted /= 2;
    }
    if granted < options.buffer {
        tracing::warn!(
            "{input}: the kernel grants a receive buffer of {} of the {} asked for; bursts may be lost before they are \
             read. Raise it: sysctl -w net.core.rmem_max={}",
            bytesize::ByteSize(granted as u64),
            bytesize::ByteSize(options.buffer as u64),
            options.buffer,
        );
    }
}

/// What the kernel threw away for want of room in a socket's buffer (Linux: the last column of `/proc/self/net/udp`, which is there too where
/// `/proc` shows nothing but processes).
struct Drops {
    inode: String,
}

impl Drops {
    #[cfg(target_os = "linux")]
    fn of(socket: &socket2::Socket) -> Option<Drops> {
        use std::os::fd::AsRawFd;
        let link = std::fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).ok()?;
        let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned();
        Some(Drops { inode })
    }

    #[cfg(not(target_os = "linux"))]
    fn of(_: &socket2::Socket) -> Option<Drops> {
        None
    }

    fn count(&self) -> Option<u64> {
        ["/proc/self/net/udp", "/proc/self/net/udp6"].iter().find_map(|table| {
            let table = std::fs::read_to_string(table).ok()?;
            table.lines().find_map(|line| dropped(line, &self.inode))
        })
    }
}

/// Reads a line of `/proc/self/net/udp`: the inode is the tenth column, the drops are the last.
fn dropped(line: &str, inode: &str) -> Option<u64> {
    let mut columns = line.split_ascii_whitespace();
    (columns.nth(9) == Some(inode)).then(|| columns.last()?.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_table_is_read() {
        let line = "  350: 0100007F:1388 00000000:0000 07 00000000:00000000 00:00000000 00000000  1000        0 48214 2 0000000000000000 17";
        assert_eq!(dropped(line, "48214"), Some(17));
        assert_eq!(dropped(line, "1000"), None);
        assert_eq!(dropped("sl local_address rem_address", "48214"), None);
    }

    #[test]
    fn an_interface_is_found_by_name_and_by_address() {
        let by_name = index("lo").unwrap();
        assert_eq!(index("127.0.0.1"), Ok(by_name));
        assert_eq!(index(&by_name.to_string()), Ok(by_name));
        assert_eq!((address_v4("lo"), address_v4("127.0.0.1")), (Ok(Ipv4Addr::LOCALHOST), Ok(Ipv4Addr::LOCALHOST)));
        for missing in ["there-is-none", "192.0.2.77", "2001:db8::77"] {
            let (exit, message) = index(missing).unwrap_err();
            assert!(exit == Exit::NoInput && message.contains(missing) && message.contains("lo"), "{message}");
        }
        assert!(address_v4("there-is-none").is_err());
    }

    #[test]
    fn joined_datagrams_are_taken_apart() {
        let mut batch = Batch::new();
        batch.room[..10].copy_from_slice(b"aaabbbcccd");
        batch.room[2 * ROOM..2 * ROOM + 2].copy_from_slice(b"zz");
        for (n, (len, stride)) in [(10, 3), (0, 0), (2, 2)].into_iter().enumerate() {
            batch.metas[n] = RecvMeta { len, stride, ..RecvMeta::default() };
        }
        batch.received = 3;
        let datagrams: Vec<&[u8]> = batch.datagrams().collect();
        assert_eq!(datagrams, [&b"aaa"[..], b"bbb", b"ccc", b"d", b"", b"zz"]);
    }
}
