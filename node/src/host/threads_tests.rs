//! A host whose connections are on several threads.

use super::tests::{Notebook, hello, local, packet, relay, until};
use super::*;
use crate::clock::unix_seconds;
use crate::control::CloseCode;
use crate::endpoint::{Endpoint, EndpointOptions, Threads};
use crate::trust::{Authority, Role, Verifier};
use link::Packet;
use std::net::Ipv4Addr;

/// A relay on three threads, and a host for it.
struct Station {
    endpoint: Endpoint,
    verifier: Verifier,
    host: Host<Notebook>,
    authority: Authority,
}

fn options(threads: Threads) -> EndpointOptions {
    EndpointOptions { listen: (Ipv4Addr::LOCALHOST, 0).into(), threads, ..EndpointOptions::default() }
}

fn station() -> Station {
    let authority = Authority::trial(unix_seconds()).unwrap();
    let (credentials, verifier) = relay(&authority, "station");
    let endpoint = Endpoint::bind(&options(Threads::start(3).unwrap()), credentials).unwrap();
    Station { endpoint, verifier, host: Host::new(Clock::start(), Notebook::default()), authority }
}

/// Another relay that has dialled it: its endpoint, its host and port, and the station's port.
struct Visitor {
    endpoint: Endpoint,
    host: Host<Notebook>,
    port: PortId,
    there: PortId,
    /// Whether the station has it on another thread than its own.
    afar: bool,
}

impl Station {
    async fn visited(&self, name: &str, threads: Threads) -> Visitor {
        let (credentials, _) = relay(&self.authority, name);
        let endpoint = Endpoint::bind(&options(threads), credentials).unwrap();
        let address = self.endpoint.local_address().to_string();
        let (dialled, (there, afar)) = tokio::join!(endpoint.connect(&address, hello(Role::Relay)), self.answer());
        let host = Host::new(Clock::start(), Notebook::default());
        let port = host.attach(dialled.unwrap(), LinkConfig::default());
        Visitor { endpoint, host, port, there, afar }
    }

    /// Takes whoever dials; returns its port, and whether it is on another thread. At once: what a dialler asks about the path
    /// after its hello, the link answers.
    async fn answer(&self) -> (PortId, bool) {
        let answered = self.endpoint.accept(&self.verifier).await.unwrap();
        let afar = answered.wire.carrier.is_some();
        (self.host.attach(answered, LinkConfig::default()), afar)
    }
}

fn received(host: &Host<Notebook>) -> usize {
    host.with(|_, notes, _| notes.received.len())
}

#[test]
fn connections_are_spread_over_threads_and_all_are_served() {
    local(async {
        let station = station();
        let mut visitors = Vec::new();
        for nth in 0..48 {
            visitors.push(station.visited(&format!("v{nth}"), Threads::default()).await);
        }
        // By chance: each thread's share is a fifth, two fifths, two fifths.
        let afar = visitors.iter().filter(|visitor| visitor.afar).count();
        assert!((20..48).contains(&afar), "{afar} of 48 are on other threads");
        for round in 0..20 {
            for visitor in &visitors {
                visitor.host.with(|now, _, ports| {
                    (round * 10..round * 10 + 10).for_each(|seq| {
                        ports.send(now, visitor.port, packet(now, seq, 1316)).unwrap();
                    });
                });
            }
            station.host.with(|now, _, ports| {
                for visitor in &visitors {
                    (round * 10..round * 10 + 10).for_each(|seq| {
                        ports.send(now, visitor.there, packet(now, seq, 1316)).unwrap();
                    });
                }
            });
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        until("all that was sent to the station", || received(&station.host) == 48 * 200).await;
        for visitor in &visitors {
            until("all that was sent to a visitor", || received(&visitor.host) == 200).await;
            let repaired = visitor.host.with(|_, _, ports| ports.link(visitor.port).unwrap().stats().recovered_by_arq);
            assert_eq!(repaired, 0, "nothing was lost between the threads");
        }
        station.host.with(|_, _, ports| {
            visitors.iter().for_each(|visitor| ports.close(visitor.there, CloseCode::Stopping, "for the night"));
        });
        for visitor in &visitors {
            assert_eq!(visitor.host.closed(visitor.port).await.reason, "for the night");
            assert_eq!(station.host.closed(visitor.there).await.reason, "for the night");
        }
    });
}

#[test]
fn a_burst_waits_in_the_link_and_not_between_the_threads() {
    local(async {
        let station = station();
        let mut visitor = station.visited("v", Threads::default()).await;
        while !visitor.afar {
            visitor = station.visited("v", Threads::default()).await;
        }
        let burst = 3000;
        station.host.with(|now, _, ports| {
            for seq in 0..burst {
                let late = now + Duration::from_secs(5);
                ports.send(now, visitor.there, Packet { recover_until: late, ..packet(now, seq, 1316) }).unwrap();
            }
        });
        until("the whole burst", || received(&visitor.host) == burst as usize).await;
        let Transport { held_back, too_large, .. } = station.host.transport(visitor.there).unwrap();
        assert!(held_back > 0, "four megabytes at once should have had to wait");
        assert_eq!(too_large, 0);
    });
}

#[test]
fn a_peer_that_moves_is_still_found_on_its_thread() {
    local(async {
        let station = station();
        // Its new addresses lead to other sockets of the station, by the kernel's choice.
        let visitor = station.visited("v", Threads::default()).await;
        for (moved, seq) in (2..8).zip(0..) {
            // Each address takes an id that the station has given out, and a new one has to arrive.
            tokio::time::sleep(Duration::from_millis(100)).await;
            visitor.endpoint.rebind((Ipv4Addr::new(127, 0, 0, moved), 0).into()).unwrap();
            visitor.host.with(|now, _, ports| ports.send(now, visitor.port, packet(now, seq, 1316)).unwrap());
            until("a packet from the new address", || received(&station.host) == seq as usize + 1).await;
        }
        assert_eq!(station.host.with(|_, notes, _| notes.closed.len()), 0);
    });
}

#[test]
fn what_is_dialled_is_spread_over_threads_too() {
    local(async {
        let station = station();
        let threads = Threads::start(2).unwrap();
        let (credentials, _) = relay(&station.authority, "dialler");
        let any = EndpointOptions { threads, ..EndpointOptions::default() };
        let endpoint = Endpoint::bind(&any, credentials).unwrap();
        let address = station.endpoint.local_address().to_string();
        let mut afar = 0;
        for _ in 0..6 {
            let (dialled, _) = tokio::join!(endpoint.connect(&address, hello(Role::Relay)), station.answer());
            afar += usize::from(dialled.unwrap().wire.carrier.is_some());
        }
        assert!((1..6).contains(&afar), "{afar} of 6");
    });
}

#[test]
fn a_port_of_several_sockets_is_taken_all_the_same() {
    local(async {
        let station = station();
        let listen = station.endpoint.local_address();
        for threads in [1, 2] {
            let (credentials, _) = relay(&station.authority, "thief");
            let threads = Threads::start(threads).unwrap();
            let error = Endpoint::bind(&EndpointOptions { listen, threads, ..EndpointOptions::default() }, credentials);
            assert!(error.unwrap_err().to_string().contains("is taken by another program"));
        }
        let error = station.endpoint.rebind((Ipv4Addr::LOCALHOST, 0).into()).unwrap_err();
        assert!(error.to_string().contains("stays where it is"));
    });
}
