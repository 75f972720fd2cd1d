//! A host that has one processor for all its links, and loses it for a moment.

use super::*;
use std::collections::VecDeque;

const LINKS: usize = 8;
/// Media packets come so far apart, each for all links.
const GAP: Duration = Duration::from_micros(600);
/// What a datagram out and one in take of the processor: media alone takes three quarters of it.
const WRITE: Duration = Duration::from_micros(56);
const READ: Duration = Duration::from_micros(12);
/// Most datagrams of one turn, and most that wait in the socket.
const BATCH: usize = 64;
const SOCKET: usize = 4_000;
const DUE: Duration = Duration::from_millis(200);

/// What comes to the host: a media packet of such a number, or a datagram from the far end of a link.
enum Arrival {
    Media(u32),
    Datagram(usize, Vec<u8>),
}

/// A host with a link to each of several far ends, which have all the time of the world.
struct Host {
    now: Instant,
    started: Instant,
    links: Vec<Link>,
    ends: Vec<Link>,
    out: Vec<Way>,
    back: Vec<Way>,
    /// On their way to an end, and to the host, by time of arrival and order of sending.
    to_ends: BinaryHeap<Reverse<Flight>>,
    to_host: BTreeMap<(Instant, u64), (usize, Vec<u8>)>,
    serial: u64,
    socket: VecDeque<Arrival>,
    next_media: u32,
    /// Everything that had come by then has been dealt with.
    caught_up: Instant,
    /// Whether the links are told.
    tells: bool,
    /// By number of the packet: to how many ends it came in time.
    delivered: Vec<u32>,
}

impl Host {
    fn new(tells: bool) -> Host {
        let now = Instant::from_micros(10_000_000);
        let weather = Weather { delay: Duration::from_millis(1), loss: 0.01, after_loss: 0.01, ..Weather::default() };
        let way = |seed| Way { weather: weather.clone(), random: StdRng::seed_from_u64(seed), lost: false };
        let link = |seed| Link::new(now, LinkConfig { seed, max_frame: 1414, ..LinkConfig::leaf() });
        let numbers = |from: u64| from..from + LINKS as u64;
        Host {
            now,
            started: now,
            links: numbers(0).map(link).collect(),
            ends: numbers(100).map(link).collect(),
            out: numbers(200).map(way).collect(),
            back: numbers(300).map(way).collect(),
            to_ends: BinaryHeap::new(),
            to_host: BTreeMap::new(),
            serial: 0,
            socket: VecDeque::new(),
            next_media: 0,
            caught_up: now,
            tells,
            delivered: Vec::new(),
        }
    }

    fn born(&self, seq: u32) -> Instant {
        self.started + GAP * seq
    }

    /// Goes on until `until`, with a processor.
    fn run_until(&mut self, until: Instant) {
        while self.now < until {
            self.run_ends();
            self.fill_socket();
            let due = self.links.iter().filter_map(|link| Some(link.poll_timeout()?.0)).min();
            if self.socket.is_empty() && due.is_none_or(|due| due > self.now) {
                let arrival = self.to_host.first_key_value().map(|((at, _), _)| *at);
                let end = self.ends.iter().filter_map(|end| Some(end.poll_timeout()?.0)).min();
                let flight = self.to_ends.peek().map(|Reverse((at, ..))| *at);
                let next = [due, arrival, end, flight].into_iter().flatten().min();
                let next = next.unwrap_or(until).min(self.born(self.next_media));
                self.now = next.max(self.now + Duration::from_micros(1));
                self.caught_up = self.now;
            } else {
                self.turn();
            }
        }
    }

    /// Nothing happens here for a while, but everywhere else.
    fn pause(&mut self, time: Duration) {
        self.now += time;
    }

    /// The ends do what they have to do by now.
    fn run_ends(&mut self) {
        loop {
            let flight = self.to_ends.peek().map(|Reverse((at, ..))| *at);
            let timer =
                self.ends.iter().enumerate().filter_map(|(end, link)| Some((link.poll_timeout()?.0, end))).min();
            let (at, end) = match (flight, timer) {
                (Some(at), timer) if timer.is_none_or(|(due, _)| at <= due) => {
                    if at > self.now {
                        return;
                    }
                    let Some(Reverse((_, _, end, datagram))) = self.to_ends.pop() else { unreachable!() };
                    self.ends[end].handle_datagram(at, Bytes::from(datagram));
                    (at, end)
                }
                (_, Some((due, end))) if due <= self.now => {
                    self.ends[end].handle_timeout(due);
                    (due, end)
                }
                _ => return,
            };
            while let Some(delivery) = self.ends[end].poll_delivery() {
                let seq = delivery.seq.0;
                self.delivered[seq as usize] += u32::from(at <= self.started + GAP * seq + DUE);
            }
            let mut out = BytesMut::new();
            while self.ends[end].poll_transmit(at, &mut out).is_some() {
                let datagram = out.split();
                for arrival in self.back[end].arrivals(at, datagram.len()) {
                    self.serial += 1;
                    self.to_host.insert((arrival, self.serial), (end, datagram.to_vec()));
                }
            }
        }
    }

    /// What finds no room is lost: of datagrams; media comes by a way that repairs it.
    fn fill_socket(&mut self) {
        while self.born(self.next_media) <= self.now {
            self.socket.push_back(Arrival::Media(self.next_media));
            self.delivered.push(0);
            self.next_media += 1;
        }
        while let Some(entry) = self.to_host.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (link, datagram) = entry.remove();
            if self.socket.len() < SOCKET {
                self.socket.push_back(Arrival::Datagram(link, datagram));
            }
        }
    }

    fn turn(&mut self) {
        let now = self.now;
        let overdue = self.links.iter().filter_map(|link| Some(link.poll_timeout()?.0)).min();
        self.caught_up = overdue.map_or(self.caught_up, |due| self.caught_up.min(due));
        if self.tells {
            self.links.iter_mut().for_each(|link| link.set_lag(now - self.caught_up));
        }
        for _ in 0..BATCH {
            let Some(arrival) = self.socket.pop_front() else { break };
            self.now += READ;
            match arrival {
                Arrival::Datagram(link, datagram) => self.links[link].handle_datagram(now, Bytes::from(datagram)),
                Arrival::Media(seq) => {
                    let age = now - self.born(seq);
                    for link in &mut self.links {
                        let packet = Packet {
                            target: None,
                            stream: StreamHandle(1),
                            seq: StreamSeq(seq),
                            media_time: MediaTime(0),
                            age,
                            label: Label(7),
                            flags: Flags { high_priority: false, end: false },
                            payload: payload(seq, 100),
                            recover_until: self.started + GAP * seq + DUE,
                        };
                        match link.send(now, packet) {
                            Ok(()) | Err(SendError::TooLate) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                }
            }
        }
        for place in 0..LINKS {
            self.links[place].handle_timeout(now);
            let mut out = BytesMut::new();
            while self.links[place].poll_transmit(now, &mut out).is_some() {
                let datagram = out.split();
                self.now += WRITE;
                for arrival in self.out[place].arrivals(self.now, datagram.len()) {
                    self.serial += 1;
                    self.to_ends.push(Reverse((arrival, self.serial, place, datagram.to_vec())));
                }
            }
        }
    }

    /// Share of the packets born so long after the start that came everywhere in time, for each tenth of a second.
    fn whole(&self) -> Vec<f64> {
        let tenth = (Duration::from_millis(100).as_micros() / GAP.as_micros()) as usize;
        let share = |packets: &[u32]| packets.iter().sum::<u32>() as f64 / (packets.len() * LINKS) as f64;
        self.delivered.chunks(tenth).map(share).collect()
    }
}

/// Loses the processor three times; returns by tenth of a second what came whole. The qualities of the links are looked at meanwhile.
fn paused(host: &mut Host, look: impl Fn(LinkQuality)) -> Vec<f64> {
    for _ in 0..3 {
        host.run_until(host.now + Duration::from_millis(1700));
        host.pause(Duration::from_millis(300));
        for _ in 0..10 {
            host.run_until(host.now + Duration::from_millis(10));
            host.links.iter().for_each(|link| look(link.quality(host.now)));
        }
    }
    host.run_until(host.now + Duration::from_secs(2));
    let mut whole = host.whole();
    // What came last had no time to be repaired.
    whole.truncate(whole.len() - 3);
    whole
}

#[test]
fn a_host_that_lost_its_processor_catches_up() {
    let mut host = Host::new(true);
    let whole = paused(&mut host, |quality| {
        assert!(quality.rtt < Duration::from_millis(12), "{quality:?}");
        assert!(quality.jitter_p99 < Duration::from_millis(2), "{quality:?}");
        // One turn is long here.
        let turn = Duration::from_millis(60);
        assert!(quality.silent_for < turn && quality.delivered_ago < turn, "{quality:?}");
    });
    // Of three pauses of 300 ms, what was in time for no more than 200.
    let missed: f64 = whole.iter().map(|share| 1.0 - share).sum();
    assert!((3.0..6.0).contains(&missed), "{missed} tenths of a second: {whole:.2?}");
    for after in [0, 21, 42, 63] {
        let quiet = &whole[after + 7..(after + 17).min(whole.len())];
        assert!(quiet.iter().all(|share| *share > 0.9999), "from tenth {after} on: {quiet:.3?}");
    }
    let (mut media, mut repair) = (0, 0);
    for link in &host.links {
        let stats = link.stats();
        media += stats.media_packets_sent;
        repair += stats.arq_packets_sent + stats.fec_packets_sent;
        assert_eq!(stats.probe_packets_sent, 0, "there is media all the time");
    }
    assert!(repair * 50 < media, "{repair} of {media}");
}

#[test]
fn a_host_that_is_behind_repeats_no_answer_for_want_of_word() {
    for behind in [false, true] {
        let mut world = World::new(3, config(RepairMode::Auto), [Weather::default(), Weather::default()]);
        let mut repair = Vec::new();
        for seq in 0..600 {
            if seq == 500 || seq == 501 {
                let lost = seq == 500;
                (world.ways[0].weather.after_loss, world.ways[0].lost) = (if lost { 1.0 } else { 0.0 }, lost);
            }
            let answered = world.links[0].stats().arq_packets_sent > 0;
            if answered && repair.is_empty() {
                // From here on nothing is heard of the answer.
                let back = &mut world.ways[1];
                (back.weather.after_loss, back.lost) = (1.0, true);
                world.links[0].set_lag(if behind { Duration::from_millis(30) } else { Duration::ZERO });
            }
            let stats = world.links[0].stats();
            repair.extend(answered.then_some(stats.arq_packets_sent));
            if !answered || repair.len() == 1 {
                world.send(0, 1, seq, 1316).expect("an idle link takes packets");
            }
            world.run_until(world.now + PACE);
        }
        world.run_until(world.now + Duration::from_millis(300));
        let again = world.links[0].stats().arq_packets_sent - repair[0];
        assert_eq!(again > 0, !behind, "{again} more answers");
    }
}

/// Why a link is told at all.
#[test]
fn without_being_told_it_stays_behind() {
    let whole = paused(&mut Host::new(false), |_| {});
    assert!(whole[..17].iter().all(|share| *share == 1.0), "{whole:.2?}");
    assert!(whole[20..].iter().all(|share| *share < 0.5), "{whole:.2?}");
}
