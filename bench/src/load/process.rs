//! `anabranch-bench load-node`: the process that is measured.
//!
//! It prints where it listens as its first line, and ends when its standard input does: it cannot outlive who started it.

use crate::realtime::{PATH_MTU, quic};
use crate::rig::{PATIENCE, Running};
use bytes::Bytes;
use node::exit::{Exit, Failure};
use node::trust::Credentials;
use quinn::{Connection, Endpoint, TransportConfig};
use socket2::{Domain, SockAddr, Socket, Type};
use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use topology::NodeName;

/// What the process does.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What it is
    #[arg(long, value_enum)]
    kind: NodeKind,
    /// Directory with its keys
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Name of its certificate
    #[arg(long, default_value = NAME)]
    name: NodeName,
    /// Threads of a relay
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The relay that a relay dials
    #[arg(long)]
    next: Option<SocketAddr>,
    /// Where a plain forwarder sends to, once per sink
    #[arg(long, default_value = "127.0.0.1:9")]
    to: SocketAddr,
    /// Sinks of a plain forwarder
    #[arg(long, default_value_t = 1)]
    sinks: u32,
}

/// Kinds of processes that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum NodeKind {
    /// A plain UDP forwarder.
    Udp,
    /// A bare quinn forwarder.
    Quinn,
    /// Our relay.
    Relay,
}

/// Sinks and a source of one address that the relay takes.
const MOST_CLIENTS: usize = 4000;

/// Name of the relay's certificate.
pub(super) const NAME: &str = "relay";
const LOCAL: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

impl NodeKind {
    /// As the flag has it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            NodeKind::Udp => "udp",
            NodeKind::Quinn => "quinn",
            NodeKind::Relay => "relay",
        }
    }
}

/// Runs until the standard input ends.
pub fn run(args: &Args) -> Result<(), Failure> {
    match args.kind {
        NodeKind::Udp => udp(args).map_err(|error| failed(&error))?,
        NodeKind::Quinn => quinn(credentials(args)?)?,
        NodeKind::Relay => return relay(args),
    }
    wait_for_end();
    Ok(())
}

fn credentials(args: &Args) -> Result<Credentials, Failure> {
    let keys = args.keys.as_ref().ok_or_else(|| Failure::new(Exit::Usage, "--keys: expected a directory"))?;
    Credentials::load(keys, Some(&args.name)).map_err(|error| failed(&error))
}

fn tell(address: SocketAddr) {
    println!("{address}");
    let _ = io::stdout().flush();
}

fn wait_for_end() {
    let _ = io::stdin().read_to_end(&mut Vec::new());
}

/// One `recv` and one `sendto` for each packet out.
fn udp(args: &Args) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let _ = socket.set_recv_buffer_size(4 << 20);
    socket.bind(&LOCAL.into())?;
    let address = socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    let (to, sinks) = (SockAddr::from(args.to), args.sinks);
    std::thread::Builder::new().name("forwarder".into()).spawn(move || {
        let mut room = vec![0; 2048];
        while let Ok(length) = (&socket).read(&mut room) {
            for _ in 0..sinks {
                // What the kernel does not take is lost, and the sinks' counts show it.
                let _ = socket.send_to(&room[..length], &to);
            }
        }
    })?;
    tell(address);
    Ok(())
}

fn relay(args: &Args) -> Result<(), Failure> {
    let next = args.next.map(|next| format!("neighbours = [{{ address = \"{next}\" }}]")).unwrap_or_default();
    let config = relay::Config {
        listen: vec![LOCAL],
        keys: args.keys.clone(),
        name: Some(args.name.clone()),
        path_mtu: Some(PATH_MTU),
        threads: args.threads,
        // All clients come from this machine.
        limits: relay::Limits { max_clients_per_address: MOST_CLIENTS, ..relay::Limits::default() },
        ..relay::Config::parse(&next).map_err(|error| failed(&error))?
    };
    let running = Running::start(NAME, move |shutdown, report| relay::run(config, shutdown, report));
    let ready = running.wait_for("readiness", PATIENCE, |report: &relay::Report| !report.listen.is_empty());
    tell(ready.map_err(|error| failed(&error))?.listen[0]);
    wait_for_end();
    // It is measured no more; nobody waits for its drain.
    running.kill();
    Ok(())
}

/// Settings of bare connections: as wide as our own, so that neither loss nor window is what is measured.
pub(super) fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .datagram_receive_buffer_size(Some(16 << 20))
        .datagram_send_buffer_size(16 << 20)
        .initial_mtu(PATH_MTU)
        .min_mtu(PATH_MTU)
        .mtu_discovery_config(None)
        .congestion_controller_factory(Arc::new(node::rate::LinkControllerFactory {
            initial: link::Bitrate::mbps(1000),
        }));
    transport
}

/// Who connects first publishes; all others are sinks, and get each datagram of the first.
fn quinn(credentials: Credentials) -> Result<(), Failure> {
    let server = quic::server(&credentials, transport()).map_err(|error| failed(&error))?;
    let thread = move || -> Result<(), Failure> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let endpoint = Endpoint::server(server, LOCAL).map_err(|error| failed(&error))?;
            tell(endpoint.local_addr().map_err(|error| failed(&error))?);
            forward(endpoint).await;
            Ok(())
        })
    };
    std::thread::Builder::new().name("quinn".into()).spawn(thread).map_err(|error| failed(&error))?;
    Ok(())
}

async fn forward(endpoint: Endpoint) {
    let sinks: Rc<RefCell<Vec<Connection>>> = Rc::default();
    let Some(incoming) = endpoint.accept().await else { return };
    let Ok(publisher) = incoming.await else { return };
    let list = sinks.clone();
    tokio::task::spawn_local(async move {
        while let Some(incoming) = endpoint.accept().await {
            if let Ok(sink) = incoming.await {
                list.borrow_mut().push(sink);
            }
        }
    });
    while let Ok(datagram) = publisher.read_datagram().await {
        // The slice keeps its whole batch alive for as long as a sink has not sent it.
        let datagram = Bytes::copy_from_slice(&datagram);
        for sink in sinks.borrow().iter() {
            let _ = sink.send_datagram(datagram.clone());
        }
    }
}

fn failed(error: &impl ToString) -> Failure {
    Failure::new(Exit::Unavailable, error.to_string())
}
