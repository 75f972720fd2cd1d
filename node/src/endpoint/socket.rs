//! The UDP socket under an endpoint.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{Error, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Once;

/// Bytes of kernel buffer asked for in either direction: 40 ms at 800 Mbit/s.
const BUFFER: usize = 4 << 20;

/// Whether a port has one socket or several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sharing {
    /// One.
    Alone,
    /// The first of several: nobody else may have the port, which the kernel does not ask once it is shared.
    First,
    /// Another one.
    Next,
}

/// Binds a UDP socket. The unspecified IPv6 address takes IPv4 as well; where the machine has no IPv6, it falls back to
/// IPv4 alone. An error names the address and what is wrong with it.
pub(super) fn bind(address: SocketAddr, sharing: Sharing) -> Result<Socket, Error> {
    let no_ipv6 = |e: &Error| matches!(e.raw_os_error(), Some(EAFNOSUPPORT | EADDRNOTAVAIL));
    if sharing == Sharing::First && address.port() != 0 {
        drop(bind(address, Sharing::Alone)?);
    }
    let open = |address| open(address, sharing);
    match open(address) {
        Err(e) if address.is_ipv6() && address.ip().is_unspecified() && no_ipv6(&e) => {
            let fallback = SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port()));
            open(fallback).map_err(|e| explained(fallback, &e))
        }
        bound => bound.map_err(|e| explained(address, &e)),
    }
}

const EAFNOSUPPORT: i32 = 97;
const EADDRNOTAVAIL: i32 = 99;

fn open(address: SocketAddr, sharing: Sharing) -> Result<Socket, Error> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_port(sharing != Sharing::Alone)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    raise_buffers(&socket);
    Ok(socket)
}

/// A burst that does not fit the kernel's buffer is lost before anybody sees it, so a small one is worth a word.
fn raise_buffers(socket: &Socket) {
    static WARNED: Once = Once::new();
    let _ = socket.set_recv_buffer_size(BUFFER);
    let _ = socket.set_send_buffer_size(BUFFER);
    // Linux reports twice what it grants, the other half being for its own book-keeping (socket(7)).
    let receive = socket.recv_buffer_size().unwrap_or(0) / 2;
    let send = socket.send_buffer_size().unwrap_or(0) / 2;
    if receive < BUFFER || send < BUFFER {
        WARNED.call_once(|| {
            tracing::warn!(
                "the kernel grants UDP buffers of {} KiB to receive and {} KiB to send where {} KiB were asked for: bursts may \
                 be lost on this machine; set sysctl net.core.rmem_max={BUFFER} and net.core.wmem_max={BUFFER}",
                receive / 1024,
                send / 1024,
                BUFFER / 1024
            );
        });
    }
}

fn explained(address: SocketAddr, error: &Error) -> Error {
    let cause = match error.kind() {
        ErrorKind::AddrInUse => "the port is taken by another program".to_owned(),
        ErrorKind::AddrNotAvailable => "it is no address of this machine".to_owned(),
        ErrorKind::PermissionDenied if address.port() < 1024 => {
            "ports below 1024 need the privilege CAP_NET_BIND_SERVICE".to_owned()
        }
        _ => error.to_string(),
    };
    Error::new(error.kind(), format!("cannot bind {address} (UDP): {cause}"))
}
