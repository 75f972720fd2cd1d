//! A source and a sink, as plain as can be, that keep account of what happens to them.

use bytes::Bytes;
use link::{Delivery, Flags, Instant, Label, MediaTime, Packet, StreamHandle, StreamSeq};
use node::control::{CloseCode, Content, Control, Dissemination, Publish, StreamOpen, Wants};
use node::ts::{Pcr, testing};
use node::{Closed, EndSystem, Peer, PortId, Ports};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use topology::lsdb::Incarnation;

pub(crate) const STREAM: &str = "tenant/channel";
pub(crate) const DEADLINE: Duration = Duration::from_millis(200);

pub(crate) fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Publishes one stream, and sends a packet every so often (a millisecond, where nothing else is said) while it is told to.
pub(crate) struct Source {
    pub(crate) publish: Publish,
    pub(crate) sending: bool,
    pub(crate) next_seq: u32,
    pub(crate) refused: Vec<CloseCode>,
    /// In words.
    pub(crate) reasons: Vec<String>,
    pub(crate) handle: Option<StreamHandle>,
    /// What the relay says lies between it and the farthest sink.
    pub(crate) rest: Duration,
    pub(crate) port: Option<PortId>,
    pub(crate) every: Duration,
    /// Whether it marks its packets to go first.
    pub(crate) marks_high: bool,
    pub(crate) due: Instant,
    /// Where it sends a transport stream (one programme, its tables twenty times a second): how many packets of the stream there were.
    pub(crate) transport: Option<u64>,
    pub(crate) counter: u8,
}

impl Source {
    pub(crate) fn new(incarnation: u64) -> Source {
        let publish = Publish {
            name: STREAM.parse().expect("valid"),
            incarnation: Incarnation(incarnation),
            deadline_us: DEADLINE.as_micros() as u32,
            high_priority: false,
            mode: Dissemination::Tree,
            content: Content::Datagrams,
            sealed: false,
            wants: Wants::default(),
        };
        Source {
            publish,
            sending: false,
            next_seq: 0,
            refused: Vec::new(),
            reasons: Vec::new(),
            handle: None,
            rest: Duration::ZERO,
            port: None,
            every: ms(1),
            marks_high: false,
            due: Instant::ORIGIN,
            transport: None,
            counter: 0,
        }
    }

    fn payload(&mut self, now: Instant) -> Bytes {
        let Some(nth) = &mut self.transport else { return Bytes::from_static(&[7; 1316]) };
        let mut payload = Vec::with_capacity(1316);
        if nth.is_multiple_of(50) {
            let counter = (*nth / 50) as u8;
            payload.extend(testing::association(counter, &[(1, 0x1000)]));
            payload.extend(testing::map(0x1000, counter));
        }
        *nth += 1;
        while payload.len() < 1316 {
            let reference = payload.is_empty().then(|| Pcr(now.as_micros() * 27 % Pcr::MODULUS));
            payload.extend(testing::packet(0x100, self.counter, reference));
            self.counter = self.counter.wrapping_add(1);
        }
        payload.into()
    }

    pub(crate) fn mode(mut self, mode: Dissemination) -> Source {
        self.publish.mode = mode;
        self
    }

    pub(crate) fn unpublish(&mut self, now: Instant, ports: &mut Ports) {
        self.sending = false;
        self.send(now, Flags { end: true, ..self.flags() }, Bytes::new(), ports);
        if let Some(port) = self.port {
            ports.control(port, Control::Unpublish { name: self.publish.name.clone() });
        }
    }

    fn flags(&self) -> Flags {
        Flags { high_priority: self.marks_high, end: false }
    }

    fn send(&mut self, now: Instant, flags: Flags, payload: Bytes, ports: &mut Ports) {
        let (Some(port), Some(stream)) = (self.port, self.handle) else { return };
        let packet = Packet {
            target: None,
            stream,
            seq: StreamSeq(self.next_seq),
            media_time: MediaTime(now.as_micros() as u32),
            age: Duration::ZERO,
            label: Label(0),
            flags,
            payload,
            recover_until: now + Duration::from_micros(u64::from(self.publish.deadline_us)),
        };
        self.next_seq += 1;
        let _ = ports.send(now, port, packet);
    }
}

impl EndSystem for Source {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.port = Some(port);
        ports.control(port, Control::Publish(self.publish.clone()));
    }
    fn handle_delivery(&mut self, _: Instant, _: PortId, _: Delivery, _: &mut Ports) {}
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        match message {
            Control::Published { handle, .. } => self.handle = Some(StreamHandle(handle)),
            Control::Rest { rest_us, .. } => self.rest = Duration::from_micros(rest_us.into()),
            Control::StreamRefused { refusal, .. } => {
                self.handle = None;
                self.refused.push(refusal.code);
                self.reasons.push(refusal.reason);
            }
            _ => {}
        }
    }
    fn handle_closed(&mut self, _: Instant, port: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        if self.port == Some(port) {
            (self.port, self.handle) = (None, None);
        }
    }
    fn handle_timeout(&mut self, now: Instant, ports: &mut Ports) {
        self.due = self.due.max(now) + self.every;
        let payload = self.payload(now);
        self.send(now, self.flags(), payload, ports);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.sending.then_some(self.due)
    }
}

/// Watches one stream, and keeps account of what comes.
#[derive(Default)]
pub(crate) struct Sink {
    pub(crate) open: HashMap<u16, StreamOpen>,
    pub(crate) opens: usize,
    /// By incarnation and number: how often, and how old at the first time.
    pub(crate) got: BTreeMap<(u64, u32), (u32, Duration)>,
    pub(crate) closes: Vec<bool>,
    pub(crate) subscribed: Vec<bool>,
    pub(crate) refused: Vec<CloseCode>,
    /// By number: from the source's clock at its first sending to the sink's at its arrival, whatever relays say of its age. The clocks do not agree: only
    /// differences mean anything.
    pub(crate) took: BTreeMap<u32, u32>,
    /// As the last stream that opened says.
    deadline: Duration,
    early: Vec<Delivery>,
    pub(crate) port: Option<PortId>,
    /// Another stream than [`STREAM`].
    pub(crate) other: Option<&'static str>,
    /// Why it was refused, in words.
    pub(crate) reasons: Vec<String>,
    /// Of what came first under its number, by the first byte of the payload.
    pub(crate) payloads: BTreeMap<u8, u32>,
}

impl Sink {
    fn take(&mut self, delivery: Delivery) {
        let Some(open) = self.open.get(&delivery.stream.0) else {
            self.early.push(delivery);
            return;
        };
        let entry = self.got.entry((open.incarnation.0, delivery.seq.0)).or_insert((0, delivery.age));
        entry.0 += 1;
        if entry.0 == 1 {
            *self.payloads.entry(delivery.payload.first().copied().unwrap_or_default()).or_default() += 1;
        }
    }

    pub(crate) fn count(&self, incarnation: u64) -> usize {
        self.got.keys().filter(|(life, _)| *life == incarnation).count()
    }

    /// Asserts that every number of a range came, once each, within the deadline.
    pub(crate) fn assert_whole(&self, incarnation: u64, numbers: std::ops::Range<u32>) {
        let missing: Vec<u32> = numbers.clone().filter(|n| !self.got.contains_key(&(incarnation, *n))).collect();
        assert!(
            missing.is_empty(),
            "{} of {} missing: {:?}…",
            missing.len(),
            numbers.len(),
            &missing[..missing.len().min(9)]
        );
        self.assert_once();
        let late = self.got.iter().filter(|(_, (_, age))| *age > self.deadline).count();
        assert_eq!(late, 0, "late packets");
    }

    /// Asserts that nothing came twice.
    pub(crate) fn assert_once(&self) {
        let twice: Vec<_> = self.got.iter().filter(|(_, (times, _))| *times > 1).map(|(key, _)| key).collect();
        assert!(twice.is_empty(), "more than once: {twice:?}");
    }
}

impl EndSystem for Sink {
    fn handle_opened(&mut self, _: Instant, port: PortId, ports: &mut Ports) {
        self.port = Some(port);
        ports.control(port, Control::Subscribe { name: self.other.unwrap_or(STREAM).parse().expect("valid") });
    }
    fn handle_delivery(&mut self, now: Instant, _: PortId, delivery: Delivery, _: &mut Ports) {
        let took = (now.as_micros() as u32).wrapping_sub(delivery.media_time.0);
        self.took.entry(delivery.seq.0).or_insert(took);
        self.take(delivery);
    }
    fn handle_control(&mut self, _: Instant, _: PortId, message: Control, _: &mut Ports) {
        match message {
            Control::Subscribed { live, .. } => self.subscribed.push(live),
            Control::StreamRefused { refusal, .. } => {
                self.refused.push(refusal.code);
                self.reasons.push(refusal.reason);
            }
            Control::StreamOpen(open) => {
                self.opens += 1;
                self.deadline = Duration::from_micros(u64::from(open.deadline_us));
                self.open.insert(open.handle, open);
                let early = std::mem::take(&mut self.early);
                early.into_iter().for_each(|delivery| self.take(delivery));
            }
            Control::StreamClose { handle, ended } => {
                self.open.remove(&handle);
                self.closes.push(ended);
            }
            _ => {}
        }
    }
    fn handle_closed(&mut self, _: Instant, _: PortId, _: &Peer, _: &Closed, _: &mut Ports) {
        self.open.clear();
    }
    fn handle_timeout(&mut self, _: Instant, _: &mut Ports) {}
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }
}
