//! How fast the control messages of one peer are read. Pure.
//!
//! Handling one takes time of the thread that forwards media. Who asks for more work than a node that works has to ask for is read more slowly:
//! what is not read fills the window of its stream (`endpoint::transport`), and then it cannot send. Nothing is lost but its own time.

use crate::control::Control;
use crate::network::network;
use crate::ports::Peer;
use crate::trust::Role;
use link::Instant;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;
use topology::NodeName;

/// What may be read of a peer in a second, in bytes: an overlay of a thousand relays says less when all of it changes.
const RATE: u64 = 2 << 20;

/// What may be read at once after a silence: that an overlay of a thousand relays introduces itself.
const BURST: u64 = 8 << 20;

/// What may be read in a second of all those together who come from one network, or by one token, so that many connections, and new ones, are not
/// worth more each: a quarter of the time of the thread that forwards, or less.
const RATE_OF_MANY: u64 = 8 * RATE;

/// What may be read of them at once: that an audience of thousands comes back.
const BURST_OF_MANY: u64 = 2 * BURST;

/// What may be read in a second of all links to one relay, which may have several, and dial anew as often as it likes.
const RATE_OF_RELAY: u64 = 2 * RATE;

/// What may be read of them at once: that a relay introduces a large overlay on each of several links, or again on one that comes and goes.
const BURST_OF_RELAY: u64 = 4 * BURST;

/// What a message costs beyond its bytes: it is a turn of the host.
const EACH: u64 = 64;

/// What a signature costs beyond that: it is checked, which takes as long as a few KiB take to be taken in.
const SIGNATURE: u64 = 4096;

/// What it costs to begin or to end a stream for a source or a sink: rights and bounds are looked through, and what is kept of it may be sent.
const STREAM: u64 = 4096;

/// What it costs to announce a stream on a link, or to end it there: a table or two are looked through, and media that waited for it is passed on. Less than
/// [`STREAM`], because a relay says it of each of its streams, thousands, when a link comes up or ways change.
const ANNOUNCEMENT: u64 = 1024;

/// What it costs to look for packets in what is kept of a stream.
const SEARCH: u64 = 2048;

/// What each number of a packet costs that is named: a run of thousands takes a few bytes, and each of them is looked up several times.
const NUMBER: u64 = 16;

/// Numbers and tokens of one message that are counted at most; what names more is refused unread.
const MOST_NUMBERS: u64 = 4096;
const MOST_TOKENS: u64 = 64;

/// What may be spent on one peer before others have their turn: some 2 ms, and one message more.
const TURN: u64 = 128 << 10;

/// Messages of one peer before others have their turn, however little they cost.
const MOST_IN_TURN: u64 = 32;

/// How often one thing is told of one connection.
const SELDOM: Duration = Duration::from_secs(10);

/// When a peer will have earned all of [`BURST`] again: the generic cell rate algorithm (ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct ControlPace {
    full: Option<Instant>,
    /// What was spent in this turn.
    spent: u64,
}

/// What it takes to handle a message of `size` bytes, in bytes that take as long to be taken in.
pub(super) fn cost(message: &Control, size: usize) -> u64 {
    let work = match message {
        Control::Signed(_) => SIGNATURE,
        // Whether the authority has signed it, and whether it has taken it back. To come without any is to give all rights up, which is work as well.
        Control::Tokens { tokens } => 2 * SIGNATURE * (tokens.len() as u64).clamp(1, MOST_TOKENS),
        Control::StreamOpen(_) | Control::StreamClose { .. } => ANNOUNCEMENT,
        Control::Publish(_) | Control::Unpublish { .. } | Control::Subscribe { .. } | Control::Unsubscribe { .. } => {
            STREAM
        }
        Control::Receipt(receipt) if receipt.missed.is_empty() => 0,
        Control::Receipt(receipt) => SEARCH + named(&receipt.missed),
        Control::Whence(whence) => SEARCH + named(&whence.missing),
        Control::Pull(pull) => SEARCH + named(&pull.missing),
        Control::Lost(lost) => named(&lost.missing),
        _ => 0,
    };
    size as u64 + EACH + work
}

fn named(runs: &[(u32, u16)]) -> u64 {
    NUMBER * runs.iter().map(|(_, count)| u64::from(*count)).sum::<u64>().min(MOST_NUMBERS)
}

impl ControlPace {
    /// How long to wait before a message of this cost is handled.
    pub(super) fn before(&mut self, now: Instant, cost: u64) -> Duration {
        let full = self.full.unwrap_or(now).max(now) + time_for(cost, RATE);
        self.full = Some(full);
        full.saturating_since(now).saturating_sub(time_for(BURST, RATE))
    }

    /// Whether it is the turn of others after a message of this cost.
    pub(super) fn turn_is_over(&mut self, cost: u64) -> bool {
        self.spent += cost.max(TURN / MOST_IN_TURN);
        let over = self.spent >= TURN;
        if over {
            self.spent = 0;
        }
        over
    }
}

/// On whose account messages are read, beside that of their connection.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Account {
    /// Of sources and sinks.
    Network(IpAddr),
    /// By its id.
    Token(String),
    /// By the name in its certificate: all its links together.
    Relay(NodeName),
}

impl Account {
    fn rate(&self) -> u64 {
        match self {
            Account::Network(_) | Account::Token(_) => RATE_OF_MANY,
            Account::Relay(_) => RATE_OF_RELAY,
        }
    }

    fn burst(&self) -> u64 {
        match self {
            Account::Network(_) | Account::Token(_) => BURST_OF_MANY,
            Account::Relay(_) => BURST_OF_RELAY,
        }
    }
}

/// The accounts of a peer.
pub(super) fn accounts(peer: &Peer) -> Vec<Account> {
    if peer.role == Role::Relay {
        return vec![Account::Relay(peer.name.clone())];
    }
    let tokens = peer.grants.iter().map(|grant| Account::Token(grant.id.clone()));
    tokens.chain([Account::Network(network(peer.address.ip()))]).collect()
}

/// What was read of all connections of a network, a token or a relay together. It outlasts them: who comes anew does not begin anew.
#[derive(Debug, Default)]
pub(super) struct SharedPaces {
    /// When each will have earned all of its burst again, as [`ControlPace`] has it.
    full: BTreeMap<Account, Instant>,
}

impl SharedPaces {
    /// How long to wait before a message of this cost is handled, on all of these accounts.
    pub(super) fn before(&mut self, now: Instant, accounts: &[Account], cost: u64) -> Duration {
        let mut longest = Duration::ZERO;
        for account in accounts {
            let (rate, burst) = (account.rate(), account.burst());
            let full = self.full.get(account).map_or(now, |full| now.max(*full)) + time_for(cost, rate);
            match self.full.get_mut(account) {
                Some(known) => *known = full,
                None => drop(self.full.insert(account.clone(), full)),
            }
            longest = longest.max(full.saturating_since(now).saturating_sub(time_for(burst, rate)));
        }
        longest
    }

    /// A message of this cost is not handled after all: its connection ended while it waited. Others need not wait for it.
    pub(super) fn give_back(&mut self, accounts: &[Account], cost: u64) {
        for account in accounts {
            if let Some(full) = self.full.get_mut(account) {
                *full = full.saturating_sub(time_for(cost, account.rate()));
            }
        }
    }

    /// Forgets who has earned all again.
    pub(super) fn expire(&mut self, now: Instant) {
        self.full.retain(|_, full| *full > now);
    }
}

/// Lets through one of what may come often, and then none for a while: for lines in the log that a peer can cause.
#[derive(Debug, Default)]
pub(super) struct Seldom(Option<Instant>);

impl Seldom {
    /// Whether this one is let through.
    pub(super) fn lets(&mut self, now: Instant) -> bool {
        let lets = self.0.is_none_or(|last| now.saturating_since(last) >= SELDOM);
        if lets {
            self.0 = Some(now);
        }
        lets
    }
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Content, Lost, Receipt, Signed, StreamOpen, Whence, encoded_size};
    use topology::lsdb::Incarnation;

    fn plain() -> Control {
        Control::Goodbye { reason: String::new() }
    }

    fn signed() -> Control {
        Control::Signed(Signed { body: Vec::new(), certificate: Vec::new(), signature: Vec::new() })
    }

    fn receipt(missed: Vec<(u32, u16)>) -> Control {
        let name = "tenant/channel".parse().expect("valid");
        let (on_time, late, missing, overflow, ages) = (1, 0, 0, 0, vec![(1, 5)]);
        Control::Receipt(Receipt { name, incarnation: Incarnation(1), on_time, late, missing, overflow, missed, ages })
    }

    fn cost_of(message: &Control) -> u64 {
        cost(message, encoded_size(message).expect("it is small"))
    }

    /// What a peer that never pauses gets read in ten seconds.
    fn read(cost: u64) -> u64 {
        let (mut pace, mut now) = (ControlPace::default(), Instant::from_micros(5));
        let end = now + Duration::from_secs(10);
        let mut read = 0;
        loop {
            now += pace.before(now, cost);
            if now >= end {
                return read;
            }
            read += 1;
        }
    }

    /// How long a peer waits in all that says these every so often for ten minutes.
    fn waits(every: Duration, costs: &[u64]) -> Duration {
        let (mut pace, mut now) = (ControlPace::default(), Instant::from_micros(5));
        let mut waited = Duration::ZERO;
        for _ in 0..Duration::from_secs(600).as_micros() / every.as_micros() {
            waited += costs.iter().map(|cost| pace.before(now, *cost)).sum::<Duration>();
            now += every;
        }
        waited
    }

    fn about(read: u64, expected: u64) -> bool {
        // Time is counted in whole microseconds.
        read.abs_diff(expected) <= expected / 50 + 1
    }

    #[test]
    fn a_burst_at_once_and_then_a_rate() {
        let all = BURST + 10 * RATE;
        let large = cost(&plain(), 256 * 1024);
        assert!(about(read(large), all / (256 * 1024 + EACH)));
        assert!(about(read(cost(&plain(), 50)), all / (50 + EACH)), "small ones, some ten thousand a second");
        let checked = read(cost(&signed(), 700));
        assert!(about(checked, all / (700 + EACH + SIGNATURE)), "signatures take longer: {checked}");
    }

    #[test]
    fn what_is_dear_is_waited_for_before_it_is_handled() {
        let dear = cost_of(&receipt(vec![(1, 4096)]));
        let mut pace = ControlPace::default();
        let now = Instant::from_micros(5);
        for _ in 0..BURST / dear {
            assert_eq!(pace.before(now, dear), Duration::ZERO);
        }
        let wait = pace.before(now, dear);
        assert!(wait > Duration::ZERO && wait <= time_for(dear, RATE));
    }

    /// Half a millisecond each, or more: of a thousand milliseconds they may have thirty.
    #[test]
    fn few_bytes_that_make_much_work_are_read_seldom() {
        let runs = vec![(7, 4096)];
        let whence = Control::Whence(Whence { id: 1, handle: 1, missing: runs.clone(), hops: 12 });
        let lost = Control::Lost(Lost { id: 1, missing: runs.clone(), hop: None });
        for message in [receipt(runs), whence, lost] {
            assert!(encoded_size(&message).expect("small") < 60);
            assert!((read(cost_of(&message)) - BURST / (64 << 10)) / 10 <= 33, "{message:?}");
        }
        let token = "x".repeat(280);
        let renewal = Control::Tokens { tokens: vec![token; 64] };
        let none = Control::Tokens { tokens: Vec::new() };
        assert!((read(cost_of(&none)) - BURST / (8 << 10)) / 10 <= 256, "no tokens are looked at as one is");
        // 128 signatures each: no more than 512 of them a second.
        assert!((read(cost_of(&renewal)) - BURST / (512 << 10)) / 10 <= 4);
        let beyond = receipt(vec![(0, u16::MAX); 1000]);
        assert!(cost(&beyond, 0) < BURST / 16, "one message holds nobody back for long");
    }

    fn client(host: u8, token: &str) -> Vec<Account> {
        vec![Account::Token(token.to_owned()), Account::Network(IpAddr::from([192, 0, 2, host]))]
    }

    #[test]
    fn who_dials_again_and_again_gets_no_more_read_than_who_stays() {
        let dear = cost_of(&receipt(vec![(1, 4096)]));
        let (mut paces, mut now) = (SharedPaces::default(), Instant::from_micros(5));
        let (mut read, end) = (0, now + Duration::from_secs(10));
        // A hundred connections a second, from a hundred addresses, each with all that may be read of one at once.
        for nth in 0u8.. {
            let (mut pace, accounts) = (ControlPace::default(), client(nth % 100, "greedy"));
            for _ in 0..BURST / dear {
                now += pace.before(now, dear).max(paces.before(now, &accounts, dear));
                read += dear;
            }
            now += Duration::from_millis(10);
            paces.expire(now);
            if now >= end {
                break;
            }
        }
        assert!(read <= BURST_OF_MANY + 11 * RATE_OF_MANY, "{read}");
        assert_eq!(paces.before(now, &client(200, "other"), dear), Duration::ZERO, "others do not pay for it");
    }

    #[test]
    fn a_relay_is_known_by_its_name_and_others_by_where_and_by_what_they_come() {
        let grant = |id: &str| crate::trust::Grant {
            id: id.to_owned(),
            streams: "**".parse().expect("valid"),
            direction: crate::trust::Direction::Subscribe,
            max_rate: None,
            expires: 1,
        };
        let peer = |role| Peer {
            name: "p".parse().expect("valid"),
            role,
            grants: vec![grant("t")],
            address: "[2001:db8::7]:9".parse().expect("valid"),
            dialled: false,
            features: 0,
            link: None,
        };
        assert_eq!(accounts(&peer(Role::Relay)), [Account::Relay("p".parse().expect("valid"))]);
        let network = Account::Network("2001:db8::".parse().expect("valid"));
        assert_eq!(accounts(&peer(Role::Sink)), [Account::Token("t".to_owned()), network]);
    }

    fn of_relay(name: &str) -> Vec<Account> {
        vec![Account::Relay(name.parse().expect("valid"))]
    }

    #[test]
    fn a_relay_that_dials_again_and_again_gets_no_more_read_than_one_with_several_links() {
        let dear = cost(&signed(), 256 * 1024);
        let (mut paces, mut now) = (SharedPaces::default(), Instant::from_micros(5));
        let (mut read, end) = (0, now + Duration::from_secs(10));
        while now < end {
            let mut pace = ControlPace::default();
            for _ in 0..BURST / dear {
                now += pace.before(now, dear).max(paces.before(now, &of_relay("hostile"), dear));
                read += dear;
            }
            paces.expire(now);
        }
        assert!(read <= BURST_OF_RELAY + 12 * RATE_OF_RELAY, "{read}");
        assert_eq!(paces.before(now, &of_relay("other"), dear), Duration::ZERO, "others do not pay for it");
        paces.expire(now + Duration::from_secs(60));
        assert!(paces.full.is_empty(), "who is silent is forgotten");
    }

    /// All that it says on one link, on four at once.
    #[test]
    fn a_relay_with_several_links_introduces_a_large_overlay_on_each_at_once() {
        let (mut paces, now) = (SharedPaces::default(), Instant::from_micros(5));
        let (links, trouble) = (cost(&signed(), 2_500), cost(&signed(), 700));
        for cost in [links; 4 * 500].into_iter().chain([trouble; 4 * 500]) {
            assert_eq!(paces.before(now, &of_relay("near"), cost), Duration::ZERO);
        }
    }

    #[test]
    fn what_waits_when_its_connection_ends_keeps_nobody_waiting() {
        let (mut paces, now) = (SharedPaces::default(), Instant::from_micros(5));
        let accounts = client(1, "t");
        assert_eq!(paces.before(now, &accounts, BURST_OF_MANY), Duration::ZERO);
        for _ in 0..1000 {
            paces.before(now, &accounts, BURST);
            paces.give_back(&accounts, BURST);
        }
        assert_eq!(paces.before(now, &accounts, RATE_OF_MANY), Duration::from_secs(1));
        paces.expire(now + Duration::from_secs(1));
        assert_eq!(paces.full.len(), 2, "what is not yet earned again is remembered");
        paces.expire(now + Duration::from_secs(3));
        assert!(paces.full.is_empty());
    }

    /// An audience of thousands by one token, which comes at once and then tells every second what it had.
    #[test]
    fn a_large_audience_is_not_held_back_for_long() {
        let name = "tenant/channel".parse().expect("valid");
        let (subscribe, told) = (cost_of(&Control::Subscribe { name }), cost_of(&receipt(Vec::new())));
        let (mut paces, mut now) = (SharedPaces::default(), Instant::from_micros(5));
        let longest = (0..5_000).map(|_| paces.before(now, &client(1, "viewers"), subscribe)).max();
        assert!(longest.is_some_and(|wait| wait < Duration::from_secs(1)), "{longest:?}");
        for _ in 0..10 {
            now += Duration::from_secs(1);
            let longest = (0..5_000).map(|_| paces.before(now, &client(1, "viewers"), told)).max();
            assert_eq!(longest, Some(Duration::ZERO));
        }
    }

    #[test]
    fn the_turn_of_others_comes_after_some_work() {
        let turns = |cost: u64| {
            let mut pace = ControlPace::default();
            (1..).find(|_| pace.turn_is_over(cost)).expect("it comes")
        };
        assert_eq!(turns(EACH), MOST_IN_TURN);
        assert_eq!(turns(cost_of(&receipt(vec![(1, 4096)]))), 2);
        assert_eq!(turns(TURN), 1);
    }

    #[test]
    fn who_says_little_is_never_held_back() {
        let cost = cost(&plain(), 1500);
        assert_eq!(waits(Duration::from_millis(1), &[cost]), Duration::ZERO);
    }

    /// As many streams as one may watch, each missing something all the time, told of four times a second.
    #[test]
    fn a_sink_with_many_bad_streams_is_not_held_back() {
        let runs = (0..40).map(|run| (run * 50, 2)).collect();
        let told = cost_of(&receipt(runs));
        assert_eq!(waits(Duration::from_millis(250), &[told; 64]), Duration::ZERO);
    }

    #[test]
    fn all_that_a_sink_wants_is_asked_for_at_once() {
        let name = "tenant/channel".parse().expect("valid");
        let subscribe = cost_of(&Control::Subscribe { name });
        let mut pace = ControlPace::default();
        for _ in 0..64 {
            assert_eq!(pace.before(Instant::from_micros(5), subscribe), Duration::ZERO);
        }
        // Its connection comes and goes, every second.
        assert_eq!(waits(Duration::from_secs(1), &[subscribe; 64]), Duration::ZERO);
    }

    /// Advertisement and report of each of 500 relays, and the graphs of 200 streams.
    #[test]
    fn what_a_relay_is_told_at_its_start_is_read_at_once() {
        let (links, trouble, graph) = (cost(&signed(), 2_500), cost(&signed(), 700), cost(&signed(), 3_000));
        let mut pace = ControlPace::default();
        let all = [links; 500].into_iter().chain([trouble; 500]).chain([graph; 200]);
        for cost in all {
            assert_eq!(pace.before(Instant::from_micros(5), cost), Duration::ZERO);
        }
    }

    fn announced() -> [Control; 2] {
        let open = StreamOpen {
            handle: 1,
            name: "tenant/channel/rendition".parse().expect("valid"),
            incarnation: Incarnation(u64::MAX),
            ingress: "fra".parse().expect("valid"),
            deadline_us: 200_000,
            content: Content::Datagrams,
            sealed: false,
            target_ppb: 1_000,
        };
        [Control::StreamOpen(open), Control::StreamClose { handle: 1, ended: false }]
    }

    /// A relay that carries five thousand streams, all of which come to go over a link, or leave it for another.
    #[test]
    fn all_streams_of_a_relay_are_announced_at_once_and_none_without_end() {
        for message in announced() {
            let mut pace = ControlPace::default();
            for _ in 0..5_000 {
                assert_eq!(pace.before(Instant::from_micros(5), cost_of(&message)), Duration::ZERO);
            }
            let a_second = (read(cost_of(&message)) - BURST / cost_of(&message)) / 10;
            assert!((1_500..=2_000).contains(&a_second), "{a_second} {message:?}");
        }
    }

    #[test]
    fn what_comes_often_is_told_seldom() {
        let (mut seldom, mut told) = (Seldom::default(), 0);
        for ms in 0..60_000 {
            told += u32::from(seldom.lets(Instant::from_micros(5_000_000 + ms * 1000)));
        }
        assert_eq!(told, 6);
    }

    /// A link on which five hundred streams lose something three times in two seconds.
    #[test]
    fn questions_of_a_relay_about_many_streams_are_not_held_back() {
        let whence = Control::Whence(Whence { id: 1, handle: 1, missing: vec![(7, 3), (90, 1)], hops: 12 });
        let lost = Control::Lost(Lost { id: 1, missing: vec![(7, 3), (90, 1)], hop: None });
        let costs = [cost_of(&whence), cost_of(&lost)];
        assert_eq!(waits(Duration::from_micros(1_333), &costs), Duration::ZERO);
    }
}
