//! Datagrams: UDP as it is, and RTP.

use super::spec::DatagramTarget;
use super::worker::Writer;
use crate::playout::Release;
use link::Instant;
use node::control::Content;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::hash::{BuildHasher, Hasher};
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// Bytes asked of the kernel for sending: a burst of some hundred packets.
const SEND_BUFFER: usize = 1 << 20;
/// The payload type of MPEG-2 transport streams (RFC 3551).
const MP2T: u8 = 33;
/// The first payload type without a fixed meaning.
const DYNAMIC: u8 = 96;
const RTP_HEADER: usize = 12;

/// Sends each packet as one datagram.
#[derive(Debug)]
pub(super) struct Udp {
    socket: Socket,
    to: SockAddr,
}

impl Udp {
    pub(super) fn open(target: &DatagramTarget) -> io::Result<Udp> {
        let to = resolve(target)?;
        let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
        // Less than asked is no reason to stop: the queue before it is ours.
        let _ = socket.set_send_buffer_size(SEND_BUFFER);
        if let Some(iface) = &target.iface {
            set_interface(&socket, to, iface)?;
        }
        if let Some(ttl) = target.ttl {
            set_ttl(&socket, to, u32::from(ttl))?;
        }
        Ok(Udp { socket, to: to.into() })
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to(datagram, &self.to).map(|_| ())
    }
}

impl Writer for Udp {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        self.send(&release.payload)
    }

    fn is_paced(&self) -> bool {
        true
    }

    /// A network that is away returns.
    fn is_fatal(&self, _: &io::Error) -> bool {
        false
    }
}

/// Sends each packet as one RTP packet (RFC 3550; transport streams as RFC 2250, section 2).
#[derive(Debug)]
pub(super) struct Rtp {
    udp: Udp,
    header: RtpHeader,
    packet: Vec<u8>,
}

impl Rtp {
    pub(super) fn open(target: &DatagramTarget, payload_type: Option<u8>) -> io::Result<Rtp> {
        // The three start at random (RFC 3550, section 5.1); the standard library's hash keys are random per process.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let other = std::hash::RandomState::new().build_hasher().finish();
        let header = RtpHeader {
            payload_type,
            sequence: other as u16,
            timestamp_offset: (other >> 32) as u32,
            source: random as u32,
        };
        Ok(Rtp { udp: Udp::open(target)?, header, packet: Vec::with_capacity(2048 + RTP_HEADER) })
    }
}

impl Writer for Rtp {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        self.packet.clear();
        self.packet.extend_from_slice(&self.header.next(release));
        self.packet.extend_from_slice(&release.payload);
        self.udp.send(&self.packet)
    }

    fn is_paced(&self) -> bool {
        true
    }

    fn is_fatal(&self, error: &io::Error) -> bool {
        self.udp.is_fatal(error)
    }
}

/// What runs on from one RTP packet to the next.
#[derive(Debug)]
struct RtpHeader {
    payload_type: Option<u8>,
    sequence: u16,
    timestamp_offset: u32,
    source: u32,
}

impl RtpHeader {
    /// The header of the next packet. What is missing of the stream leaves a gap in the sequence numbers, so that the
    /// receiver can tell a loss. The timestamp is the time at which the packet is meant to leave, at 90 kHz
    /// (RFC 2250, section 2).
    fn next(&mut self, release: &Release) -> [u8; RTP_HEADER] {
        let lost = if release.restart { 0 } else { release.lost_before };
        self.sequence = self.sequence.wrapping_add(1).wrapping_add(lost as u16);
        let payload_type = self.payload_type.unwrap_or(match release.content {
            Content::Ts => MP2T,
            Content::Datagrams => DYNAMIC,
        });
        let timestamp = self.timestamp_offset.wrapping_add(ticks(release.at));
        let mut header = [0; RTP_HEADER];
        header[0] = 0x80;
        header[1] = payload_type;
        header[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        header[4..8].copy_from_slice(&timestamp.to_be_bytes());
        header[8..12].copy_from_slice(&self.source.to_be_bytes());
        header
    }
}

/// 90 kHz ticks, modulo 2^32.
fn ticks(at: Instant) -> u32 {
    (u128::from(at.as_micros()) * 9 / 100) as u32
}

fn resolve(target: &DatagramTarget) -> io::Result<SocketAddr> {
    let mut addresses = target.address.to_socket_addrs()?;
    addresses.next().ok_or_else(|| io::Error::other(format!("{} has no address", target.address)))
}

/// Chooses the interface by name or by an address of it.
fn set_interface(socket: &Socket, to: SocketAddr, iface: &str) -> io::Result<()> {
    match (iface.parse::<IpAddr>(), to) {
        (Ok(IpAddr::V4(address)), SocketAddr::V4(to)) => {
            if to.ip().is_multicast() {
                socket.set_multicast_if_v4(&address)?;
            }
            socket.bind(&SocketAddr::from((address, 0)).into())
        }
        (Ok(IpAddr::V6(address)), SocketAddr::V6(_)) => socket.bind(&SocketAddr::from((address, 0)).into()),
        (Ok(_), _) => Err(io::Error::other(format!("iface={iface} and {to} are of different IP versions"))),
        (Err(_), _) => socket.bind_device(Some(iface.as_bytes())),
    }
    .map_err(|error| io::Error::new(error.kind(), format!("iface={iface}: {error}")))
}

fn set_ttl(socket: &Socket, to: SocketAddr, ttl: u32) -> io::Result<()> {
    match (to, to.ip().is_multicast()) {
        (SocketAddr::V4(_), true) => socket.set_multicast_ttl_v4(ttl),
        (SocketAddr::V4(_), false) => socket.set_ttl_v4(ttl),
        (SocketAddr::V6(_), true) => socket.set_multicast_hops_v6(ttl),
        (SocketAddr::V6(_), false) => socket.set_unicast_hops_v6(ttl),
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::release;
    use super::*;
    use rtp_types::RtpPacket;
    use std::time::Duration;

    fn receiver(address: &str) -> (Socket, String) {
        let at: SocketAddr = address.parse().unwrap();
        let socket = Socket::new(Domain::for_address(at), Type::DGRAM, None).unwrap();
        socket.bind(&at.into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let port = socket.local_addr().unwrap().as_socket().unwrap().port();
        (socket, format!("{}:{port}", address.rsplit_once(':').unwrap().0))
    }

    fn received(socket: &Socket) -> Vec<u8> {
        use std::io::Read;
        let mut buffer = [0; 4096];
        let mut socket = socket;
        let length = socket.read(&mut buffer).unwrap();
        buffer[..length].to_vec()
    }

    fn target(address: String) -> DatagramTarget {
        DatagramTarget { address, iface: None, ttl: None }
    }

    #[test]
    fn boundaries_are_kept() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, address) = receiver(address);
            let mut udp = Udp::open(&target(address)).unwrap();
            for size in [1, 1316, 2048] {
                udp.write(&release(vec![7; size])).unwrap();
                assert_eq!(received(&socket).len(), size);
            }
        }
    }

    #[test]
    fn a_group_is_reached_over_the_interface_named() {
        let (socket, address) = receiver("0.0.0.0:0");
        let port = address.rsplit_once(':').unwrap().1.to_owned();
        let group = std::net::Ipv4Addr::new(239, 255, 77, 1);
        socket.join_multicast_v4(&group, &std::net::Ipv4Addr::LOCALHOST).unwrap();
        let to = |iface: &str| DatagramTarget {
            address: format!("{group}:{port}"),
            iface: Some(iface.into()),
            ttl: Some(1),
        };
        let mut udp = Udp::open(&to("127.0.0.1")).unwrap();
        udp.write(&release(&b"hello"[..])).unwrap();
        assert_eq!(received(&socket), b"hello");
        assert!(Udp::open(&to("none0")).unwrap_err().to_string().contains("iface=none0"));
    }

    #[test]
    fn rtp_tells_losses_and_time() {
        let (socket, address) = receiver("127.0.0.1:0");
        let mut rtp = Rtp::open(&target(address), None).unwrap();
        let mut sent = Vec::new();
        for (at, lost_before) in [(1_000_000, 0), (1_001_000, 0), (1_004_000, 2)] {
            let at = Instant::from_micros(at);
            rtp.write(&Release { at, lost_before, content: Content::Ts, ..release(vec![0x47; 188]) }).unwrap();
            sent.push(received(&socket));
        }
        let packets: Vec<RtpPacket<'_>> = sent.iter().map(|bytes| RtpPacket::parse(bytes).unwrap()).collect();
        let first = &packets[0];
        for (packet, (sequence, ticks)) in packets.iter().zip([(0, 0), (1, 90), (4, 360)]) {
            assert_eq!(packet.sequence_number().wrapping_sub(first.sequence_number()), sequence);
            assert_eq!(packet.timestamp().wrapping_sub(first.timestamp()), ticks);
            assert_eq!((packet.payload_type(), packet.ssrc()), (33, first.ssrc()));
            assert_eq!(packet.payload().len(), 188);
        }
    }

    #[test]
    fn a_name_without_an_address_is_refused() {
        assert!(Udp::open(&target("no-such-host.invalid:5000".into())).is_err());
    }
}
