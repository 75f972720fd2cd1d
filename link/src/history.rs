//! The symbols sent, for as long as they may be repaired.

use crate::codec::{Arithmetic, Galois, coefficient};
use crate::frame::BODY_HEADER;
use crate::time::Instant;
use crate::units::Residual;
use bytes::Bytes;
use std::collections::VecDeque;

/// Most symbols kept.
const MAX_SYMBOLS: usize = 1 << 15;

/// A symbol that was sent.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) header: [u8; BODY_HEADER],
    pub(crate) payload: Bytes,
    /// When it must have arrived.
    pub(crate) until: Instant,
    /// What share of such may be left missing, where it is not the policy's.
    pub(crate) target: Option<Residual>,
    /// The peer knows it.
    pub(crate) acked: bool,
    /// A repair of it is being planned or waits for its time.
    pub(crate) planned: bool,
    /// Got a last answer that needs no further copy.
    pub(crate) assured: bool,
    /// Had, when first sent, no time for a report and an answer.
    pub(crate) hurried: bool,
    /// Answers to reports so far.
    pub(crate) answers: u8,
    /// Number of the last transmission that repaired it; 0 where none did.
    pub(crate) repaired_by: u64,
}

impl Sent {
    /// Bytes of the symbol.
    pub(crate) fn len(&self) -> usize {
        BODY_HEADER + self.payload.len()
    }

    /// Adds `factor` times `length, body` to `coded`, which must be long enough.
    fn add_to(&self, factor: u8, coded: &mut [u8]) {
        let (length, rest) = coded.split_at_mut(2);
        let (header, payload) = rest.split_at_mut(BODY_HEADER);
        Galois::add_multiple(factor, &(self.len() as u16).to_be_bytes(), length);
        Galois::add_multiple(factor, &self.header, header);
        Galois::add_multiple(factor, &self.payload, payload);
    }
}

/// The symbols from the oldest that may be of use to the newest.
#[derive(Debug)]
pub(crate) struct History {
    symbols: VecDeque<Sent>,
    first: u64,
    bytes: usize,
    max_bytes: usize,
}

impl History {
    /// None yet; the first will have the number `first`.
    pub(crate) fn new(first: u64, max_bytes: usize) -> History {
        History { symbols: VecDeque::new(), first, bytes: 0, max_bytes }
    }

    /// Adds the next symbol; returns its number.
    pub(crate) fn push(&mut self, symbol: Sent) -> u64 {
        self.bytes += symbol.payload.len();
        self.symbols.push_back(symbol);
        while (self.bytes > self.max_bytes || self.symbols.len() > MAX_SYMBOLS) && self.symbols.len() > 1 {
            self.pop();
        }
        self.next() - 1
    }

    /// Drops the oldest ones that are of no more use: out of time at `now`, or known to the peer where `known` says so.
    pub(crate) fn trim(&mut self, now: Instant, known: bool) {
        while let Some(symbol) = self.symbols.front() {
            if symbol.until > now && !(known && symbol.acked) {
                break;
            }
            self.pop();
        }
    }

    /// Number of the oldest symbol kept.
    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Number of the next symbol.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.symbols.len() as u64
    }

    pub(crate) fn get(&self, symbol: u64) -> Option<&Sent> {
        self.symbols.get(usize::try_from(symbol.checked_sub(self.first)?).ok()?)
    }

    pub(crate) fn get_mut(&mut self, symbol: u64) -> Option<&mut Sent> {
        self.symbols.get_mut(usize::try_from(symbol.checked_sub(self.first)?).ok()?)
    }

    /// Length of the coded part of a repair over these symbols.
    pub(crate) fn coded_len(&self, symbols: impl Iterator<Item = u64>) -> usize {
        2 + symbols.filter_map(|symbol| self.get(symbol)).map(Sent::len).max().unwrap_or(0)
    }

    /// Adds the combination of these symbols to `coded`, which must be as long as [`History::coded_len`] says. A single
    /// symbol stands as it is.
    pub(crate) fn combine(&self, seed: u32, symbols: impl ExactSizeIterator<Item = u64>, coded: &mut [u8]) {
        let plain = symbols.len() == 1;
        for symbol in symbols {
            if let Some(sent) = self.get(symbol) {
                sent.add_to(if plain { 1 } else { coefficient(seed, symbol as u32) }, coded);
            }
        }
    }

    fn pop(&mut self) {
        if let Some(symbol) = self.symbols.pop_front() {
            self.bytes -= symbol.payload.len();
            self.first += 1;
        }
    }
}
