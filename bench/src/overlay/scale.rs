//! A large overlay: 200 relays, 1,000 streams, 5,000 subscriptions, one link in a hundred changing every second. What a
//! relay pays for it is measured piece by piece, on real messages, databases and graphs; nothing is sent.

use super::Args;
use crate::channel::{Draws, derive};
use node::clock::Clock;
use node::control::{Control, encoded_size};
use serde::Serialize;
use std::time::Duration;
use topology::about::About;
use topology::dissemination::Repertoire;
use topology::graph::{Graph, NodeIx};
use topology::lsdb::{
    Advertisement, Database, Incarnation, Limits, LinkState, LinkTrouble, Statement, StreamState, Subscription,
    TroubleReport,
};
use topology::module::{Demand, Egress};
use topology::terms::Terms;
use topology::{NodeName, StreamName};

const RELAYS: usize = 200;
const STREAMS: usize = 1_000;
const SUBSCRIPTIONS: usize = 5_000;
/// Links of a relay: to its nearest, and to any.
const NEAR: usize = 4;
const FAR: usize = 2;
/// Share of directed links that change in a second.
const CHANGING: f64 = 0.01;
const DEADLINE_US: u32 = 200_000;
/// Streams whose graphs are computed for the measurement.
const SAMPLED: usize = 100;

/// What one relay pays.
#[derive(Clone, Debug, Serialize)]
pub struct Cost {
    /// Directed links of the overlay.
    pub links: usize,
    /// Bytes of the mean advertisement, unsigned.
    pub advertisement_bytes: f64,
    /// Bytes of a report of one link in trouble, unsigned.
    pub report_bytes: usize,
    /// Control traffic that a relay sends for changes of links, each both among the media and on the control stream.
    pub sent_kbit_s: f64,
    /// All that a relay that joins is told.
    pub join_kbytes: f64,
    /// Taking a change in and building the graph anew.
    pub take_in_ms: f64,
    /// All modules of one stream, mean and worst.
    pub compute_ms: (f64, f64),
    /// The streams that enter at one relay, after a change: worst.
    pub all_streams_ms: f64,
}

/// Measures and prints.
pub fn run(args: &Args) {
    if args.setting.as_ref().is_some_and(|text| !"scale".contains(text.as_str())) {
        return;
    }
    let cost = cost(args.seed);
    if args.json {
        println!("{}", serde_json::to_string(&cost).expect("it is plain data"));
        return;
    }
    println!(
        "{RELAYS} relays, {} directed links, {STREAMS} streams, {SUBSCRIPTIONS} subscriptions (seed {})",
        cost.links, args.seed
    );
    println!("{:<58} {:>12.0}", "advertisement, bytes", cost.advertisement_bytes);
    println!("{:<58} {:>12}", "report of one link in trouble, bytes", cost.report_bytes);
    println!("{:<58} {:>12.1}", "sent by a relay while 1 % of links change a second, kbit/s", cost.sent_kbit_s);
    println!("{:<58} {:>12.1}", "told to a relay that joins, kB", cost.join_kbytes);
    println!("{:<58} {:>12.3}", "taking a change in, graph built anew, ms", cost.take_in_ms);
    println!("{:<58} {:>12.3}", "modules of one stream, mean, ms", cost.compute_ms.0);
    println!("{:<58} {:>12.3}", "modules of one stream, worst, ms", cost.compute_ms.1);
    let met = if cost.take_in_ms + cost.all_streams_ms <= 20.0 { "met" } else { "NOT met" };
    println!(
        "goal {met}: after a change, all graphs of a relay: {:.2} ms, at most 20",
        cost.all_streams_ms + cost.take_in_ms
    );
    println!();
}

fn cost(seed: u64) -> Cost {
    let clock = Clock::start();
    let mut draws = Draws::new(derive(seed, &["scale"]));
    let advertisements = advertisements(RELAYS, &mut draws);
    let mut database = Database::new(name(0), 1, Limits::default());
    let own = advertisements[0].clone();
    let (links, streams, subscriptions) = (own.links, own.streams, own.subscriptions);
    database.announce(Duration::ZERO, Statement { links, streams, subscriptions, ..Statement::default() });
    for advertisement in advertisements.iter().skip(1) {
        database.apply(Duration::ZERO, advertisement.clone()).expect("within bounds");
    }
    let bytes = |message: &Control| encoded_size(message).expect("it is small");
    let total: usize = advertisements.iter().map(|ad| bytes(&Control::Advertise(ad.clone()))).sum();
    let report = |seq: u64| TroubleReport {
        origin: name(1),
        boot: 1,
        seq,
        links: vec![LinkTrouble { peer: name(2).into(), loss_ppm: 100_000 + 100_000 * (seq as u32 % 2), late: false }],
    };
    let rounds = 20;
    let start = clock.now();
    let mut graph = Graph::default();
    for seq in 1..=rounds {
        database.apply_trouble(Duration::ZERO, report(seq)).expect("within bounds");
        graph = Graph::from_database(&database);
    }
    let take_in = (clock.now() - start).as_secs_f64() * 1e3 / rounds as f64;
    let times: Vec<f64> = (0..SAMPLED)
        .map(|_| {
            let demand = demand(&graph, &mut draws);
            let start = clock.now();
            let repertoire = Repertoire::new(&graph, &demand, true);
            let modules = repertoire.modules(&graph, &demand);
            std::hint::black_box(&modules);
            (clock.now() - start).as_secs_f64() * 1e3
        })
        .collect();
    let links = graph.edge_count();
    let report_bytes = bytes(&Control::Trouble(report(1)));
    let degree = links as f64 / RELAYS as f64;
    let mean = times.iter().sum::<f64>() / times.len() as f64;
    Cost {
        links,
        advertisement_bytes: total as f64 / RELAYS as f64,
        report_bytes,
        sent_kbit_s: links as f64 * CHANGING * (degree - 1.0) * 2.0 * report_bytes as f64 * 8.0 / 1e3,
        join_kbytes: total as f64 / 1e3,
        take_in_ms: take_in,
        compute_ms: (mean, times.iter().copied().fold(0.0, f64::max)),
        all_streams_ms: times.chunks(STREAMS / RELAYS).map(|some| some.iter().sum::<f64>()).fold(0.0, f64::max),
    }
}

/// An overlay of so many relays, and streams of five egresses in it.
pub(crate) fn random_overlay(relays: usize, seed: u64) -> (Graph, Vec<Demand>) {
    let mut draws = Draws::new(derive(seed, &["overlay"]));
    let mut database = Database::new(name(relays), 1, Limits::default());
    for advertisement in advertisements(relays, &mut draws) {
        database.apply(Duration::ZERO, advertisement).expect("within bounds");
    }
    let graph = Graph::from_database(&database);
    let demands = (0..SAMPLED).map(|_| demand(&graph, &mut draws)).collect();
    (graph, demands)
}

/// Relays at random places of a continent, joined to the nearest and to some far ones.
fn advertisements(relays: usize, draws: &mut Draws) -> Vec<Advertisement> {
    let places: Vec<(f64, f64)> = (0..relays).map(|_| (draws.unit() * 4500.0, draws.unit() * 2500.0)).collect();
    let km = |a: usize, b: usize| (places[a].0 - places[b].0).hypot(places[a].1 - places[b].1);
    let mut joined = vec![Vec::new(); relays];
    for a in 0..relays {
        let mut others: Vec<usize> = (0..relays).filter(|b| *b != a).collect();
        others.sort_by(|b, c| km(a, *b).total_cmp(&km(a, *c)));
        let far = (0..FAR).map(|_| others[pick(draws, relays - 1)]).collect::<Vec<_>>();
        for b in others[..NEAR].iter().copied().chain(far) {
            if !joined[a].contains(&b) {
                joined[a].push(b);
                joined[b].push(a);
            }
        }
    }
    let link = |a: usize, b: usize| LinkState {
        peer: name(b).into(),
        delay_us: ((km(a, b) / 200.0 * 1.5 + 0.3) * 1e3) as u32,
        loss_ppm: 0,
        cost: 10,
    };
    let mut all: Vec<Advertisement> = joined
        .iter()
        .enumerate()
        .map(|(a, others)| Advertisement {
            origin: name(a),
            boot: 1,
            seq: 1,
            links: others.iter().map(|b| link(a, *b)).collect(),
            streams: Vec::new(),
            subscriptions: Vec::new(),
            draining: false,
            about: About::default(),
            terms: Terms::default(),
        })
        .collect();
    for n in 0..STREAMS {
        let (name, incarnation) = (stream(n), Incarnation(n as u64));
        all[n % relays].streams.push(StreamState { name, incarnation, deadline_us: DEADLINE_US });
    }
    for n in 0..SUBSCRIPTIONS {
        let at = pick(draws, relays);
        all[at].subscriptions.push(Subscription { name: stream(n % STREAMS), last_mile_us: 5_000 });
    }
    all
}

/// A stream to as many egresses as there are subscriptions for each.
fn demand(graph: &Graph, draws: &mut Draws) -> Demand {
    let ingress = NodeIx(pick(draws, graph.node_count()) as u32);
    let mut egresses: Vec<Egress> = Vec::new();
    while egresses.len() < SUBSCRIPTIONS / STREAMS {
        let node = NodeIx(pick(draws, graph.node_count()) as u32);
        if node != ingress && egresses.iter().all(|egress| egress.node != node) {
            egresses.push(Egress { node, last_mile_us: 5_000 });
        }
    }
    Demand { ingress, egresses, deadline_us: DEADLINE_US }
}

fn pick(draws: &mut Draws, of: usize) -> usize {
    (draws.bits() % of as u64) as usize
}

fn name(n: usize) -> NodeName {
    format!("relay-{n:03}.example.net").parse().expect("a node name")
}

fn stream(n: usize) -> StreamName {
    format!("tenant-{}/channel-{n:04}", n % 10).parse().expect("a stream name")
}
