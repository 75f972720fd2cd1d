//! Gaussian elimination that takes one equation at a time.

use super::{Arithmetic, Galois, inverse, product};
use crate::allowance::Allowance;
use crate::time::Instant;

/// Bytes that are added up in about the time that a term takes.
const VECTOR: usize = 32;

/// One equation: the sum of `coefficient × symbol` over `terms` is `data`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Symbols and their coefficients, none zero, by rising symbol. The first is the row's pivot.
    pub(crate) terms: Vec<(u64, u8)>,
    /// The right-hand side.
    pub(crate) data: Vec<u8>,
}

impl Row {
    /// Takes a symbol that is known out of the equation. `body` is padded with zeros.
    pub(crate) fn substitute(&mut self, place: usize, parts: [&[u8]; 2]) {
        let (_, coefficient) = self.terms.remove(place);
        let [length, body] = parts;
        self.grow(length.len() + body.len());
        let (head, tail) = self.data.split_at_mut(length.len());
        Galois::add_multiple(coefficient, length, head);
        Galois::add_multiple(coefficient, body, tail);
    }

    fn grow(&mut self, length: usize) {
        if self.data.len() < length {
            self.data.resize(length, 0);
        }
    }

    fn coefficient_of(&self, symbol: u64) -> Option<u8> {
        self.terms.binary_search_by_key(&symbol, |term| term.0).ok().map(|place| self.terms[place].1)
    }

    fn pivot(&self) -> Option<u64> {
        self.terms.first().map(|term| term.0)
    }

    /// Adds `factor` times `other`; `scratch` is any buffer.
    fn add_multiple(&mut self, factor: u8, other: &Row, scratch: &mut Vec<(u64, u8)>) {
        scratch.clear();
        let (mut mine, mut theirs) = (self.terms.iter().peekable(), other.terms.iter().peekable());
        loop {
            let term = match (mine.peek(), theirs.peek()) {
                (None, None) => break,
                (Some(a), Some(b)) if a.0 == b.0 => {
                    let sum = (a.0, a.1 ^ product(factor, b.1));
                    mine.next();
                    theirs.next();
                    sum
                }
                (Some(a), Some(b)) if a.0 > b.0 => {
                    let term = (b.0, product(factor, b.1));
                    theirs.next();
                    term
                }
                (None, Some(b)) => {
                    let term = (b.0, product(factor, b.1));
                    theirs.next();
                    term
                }
                (Some(a), _) => {
                    let term = **a;
                    mine.next();
                    term
                }
            };
            if term.1 != 0 {
                scratch.push(term);
            }
        }
        std::mem::swap(&mut self.terms, scratch);
        self.grow(other.data.len());
        Galois::add_multiple(factor, &other.data, &mut self.data);
    }

    /// Steps that adding a multiple of `other` takes.
    fn cost_of_adding(&self, other: &Row) -> usize {
        self.terms.len() + other.terms.len() + other.data.len() / VECTOR
    }

    fn normalise(&mut self) {
        let Some((_, first)) = self.terms.first() else { return };
        if *first == 1 {
            return;
        }
        let factor = inverse(*first);
        for term in &mut self.terms {
            term.1 = product(factor, term.1);
        }
        Galois::scale(factor, &mut self.data);
    }
}

/// The equations held, in reduced echelon form: each row's pivot is its lowest symbol, has coefficient one and occurs in no
/// other row. A row with one term left is solved, and leaves.
///
/// Memory is bounded by [`Decoder::MAX_ROWS`] rows of at most [`Decoder::MAX_TERMS`] terms each, work by an allowance: equations over symbols
/// that never come are no work to send, and go through every row.
#[derive(Debug)]
pub(crate) struct Decoder {
    rows: Vec<Row>,
    scratch: Vec<(u64, u8)>,
    spare: Vec<Row>,
    /// In terms, and vectors of the right-hand side, that are looked at or added up.
    work: Allowance,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder {
            rows: Vec::new(),
            scratch: Vec::new(),
            spare: Vec::new(),
            work: Allowance::new(Decoder::MOST_WORK, Decoder::WORK_PER_SECOND),
        }
    }
}

impl Decoder {
    /// Most equations held.
    pub(crate) const MAX_ROWS: usize = 256;
    /// Most unknown symbols of one: with more, all that are held would not solve it. Rows that share a symbol with the next would
    /// otherwise grow by all that follow.
    pub(crate) const MAX_TERMS: usize = Self::MAX_ROWS;
    /// Work at once: twice what it takes to solve as many equations as are held.
    const MOST_WORK: u32 = 2 * (Self::MAX_ROWS * Self::MAX_ROWS * Self::MAX_ROWS) as u32;
    /// Work for each second, and for each symbol that comes as first sent.
    const WORK_PER_SECOND: u32 = 8_000_000;
    const WORK_PER_SYMBOL: u32 = 1_000;

    /// Whether another equation may be added at `now`.
    pub(crate) fn is_open(&mut self, now: Instant) -> bool {
        self.work.is_open(now)
    }

    /// A symbol came as first sent.
    pub(crate) fn earn(&mut self) {
        self.work.earn(Self::WORK_PER_SYMBOL);
    }

    /// An empty row with what memory a former one left.
    pub(crate) fn blank(&mut self) -> Row {
        let mut row = self.spare.pop().unwrap_or_default();
        row.terms.clear();
        row.data.clear();
        row
    }

    /// Takes back a row that is no longer needed, for [`Decoder::blank`].
    pub(crate) fn recycle(&mut self, row: Row) {
        if self.spare.len() < 16 {
            self.spare.push(row);
        }
    }

    /// Adds an equation; rows that it solves are appended to `solved`. Returns whether it said anything new; one of too many terms is
    /// dropped.
    pub(crate) fn insert(&mut self, mut row: Row, solved: &mut Vec<Row>) -> bool {
        for known in &self.rows {
            if row.terms.len() > Self::MAX_TERMS {
                break;
            }
            if let Some(factor) = known.pivot().and_then(|pivot| row.coefficient_of(pivot)) {
                self.work.take(row.cost_of_adding(known));
                row.add_multiple(factor, known, &mut self.scratch);
            }
        }
        self.work.take(2 * self.rows.len());
        if row.terms.len() > Self::MAX_TERMS {
            self.recycle(row);
            return true;
        }
        let Some(pivot) = row.pivot() else {
            self.recycle(row);
            return false;
        };
        row.normalise();
        for place in (0..self.rows.len()).rev() {
            let other = &mut self.rows[place];
            let Some(factor) = other.coefficient_of(pivot) else { continue };
            self.work.take(other.cost_of_adding(&row));
            other.add_multiple(factor, &row, &mut self.scratch);
            if other.terms.len() > Self::MAX_TERMS {
                let other = self.rows.swap_remove(place);
                self.recycle(other);
            }
        }
        if self.rows.len() == Self::MAX_ROWS {
            // The oldest pivot is the nearest to its deadline, and the least likely to be completed.
            let oldest = self.rows.iter().enumerate().min_by_key(|(_, row)| row.pivot()).map(|(place, _)| place);
            if let Some(oldest) = oldest {
                let row = self.rows.swap_remove(oldest);
                self.recycle(row);
            }
        }
        self.rows.push(row);
        self.take_solved(solved);
        true
    }

    /// Tells of a symbol that came by another way; rows that this solves are appended to `solved`.
    pub(crate) fn learn(&mut self, symbol: u64, parts: [&[u8]; 2], solved: &mut Vec<Row>) {
        if self.rows.is_empty() {
            return;
        }
        self.work.take(self.rows.len());
        let mut orphan = None;
        for place in (0..self.rows.len()).rev() {
            let row = &mut self.rows[place];
            let Ok(term) = row.terms.binary_search_by_key(&symbol, |term| term.0) else { continue };
            self.work.take(row.terms.len() + row.data.len() / VECTOR);
            row.substitute(term, parts);
            if term == 0 {
                // A pivot stands in one row only.
                orphan = Some(self.rows.swap_remove(place));
            }
        }
        match orphan {
            Some(row) if row.terms.is_empty() => self.recycle(row),
            Some(row) => {
                self.insert(row, solved);
            }
            None => {}
        }
        self.take_solved(solved);
    }

    /// Drops equations that could only tell symbols before `floor`.
    pub(crate) fn forget_before(&mut self, floor: u64) {
        for place in (0..self.rows.len()).rev() {
            if self.rows[place].pivot().is_none_or(|pivot| pivot < floor) {
                let row = self.rows.swap_remove(place);
                self.recycle(row);
            }
        }
    }

    /// Equations held.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// Work done since the start.
    #[cfg(test)]
    pub(crate) fn work(&self) -> u64 {
        self.work.taken()
    }

    fn take_solved(&mut self, solved: &mut Vec<Row>) {
        for place in (0..self.rows.len()).rev() {
            if self.rows[place].terms.len() == 1 {
                solved.push(self.rows.swap_remove(place));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::coefficient;
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const FIRST: u64 = 1000;

    fn equation(symbols: &[Vec<u8>], members: &[usize], seed: u32) -> Row {
        let mut row = Row::default();
        for member in members {
            let symbol = FIRST + *member as u64;
            let factor = coefficient(seed, symbol as u32);
            row.terms.push((symbol, factor));
            row.grow(symbols[*member].len());
            Galois::add_multiple(factor, &symbols[*member], &mut row.data);
        }
        row
    }

    proptest! {
        /// Whatever is solved is right, and with equations enough everything is.
        #[test]
        fn solves_what_it_should(
            symbols in vec(vec(any::<u8>(), 1..40), 1..24),
            picks in vec((0usize..24, 1usize..24), 60..90),
            learnt in vec(0usize..24, 0..6),
        ) {
            let mut decoder = Decoder::default();
            let mut solved = Vec::new();
            let mut found = vec![false; symbols.len()];
            for (seed, (start, length)) in picks.iter().enumerate() {
                let start = start % symbols.len();
                let members: Vec<usize> =
                    (start..(start + length).min(symbols.len())).filter(|member| !found[*member]).collect();
                decoder.insert(equation(&symbols, &members, seed as u32), &mut solved);
                if let Some(member) = learnt.get(seed).filter(|member| **member < symbols.len())
                    && !found[*member]
                    && solved.iter().all(|row| row.terms[0].0 != FIRST + *member as u64)
                {
                    found[*member] = true;
                    decoder.learn(FIRST + *member as u64, [&[], &symbols[*member]], &mut solved);
                }
                while let Some(row) = solved.pop() {
                    let member = (row.terms[0].0 - FIRST) as usize;
                    prop_assert_eq!(row.terms[0].1, 1);
                    prop_assert!(row.data.starts_with(&symbols[member]));
                    prop_assert!(row.data[symbols[member].len()..].iter().all(|byte| *byte == 0));
                    prop_assert!(!std::mem::replace(&mut found[member], true), "told twice");
                }
                prop_assert!(decoder.len() <= symbols.len());
            }
            let everything: Vec<usize> = (0..symbols.len()).collect();
            for seed in 1000..1000 + symbols.len() as u32 + 8 {
                let rest: Vec<usize> = everything.iter().copied().filter(|member| !found[*member]).collect();
                decoder.insert(equation(&symbols, &rest, seed), &mut solved);
                for row in solved.drain(..) {
                    found[(row.terms[0].0 - FIRST) as usize] = true;
                }
            }
            prop_assert!(found.iter().all(|found| *found));
            prop_assert_eq!(decoder.len(), 0);
        }
    }

    /// A chain of equations, each of which shares a symbol with the next.
    #[test]
    fn equations_do_not_grow_beyond_what_can_be_solved() {
        for most in [Decoder::MAX_TERMS, 40, 2, Decoder::MAX_TERMS + 1] {
            let mut decoder = Decoder::default();
            let mut solved = Vec::new();
            let symbols = vec![vec![1]; 2 * Decoder::MAX_ROWS * most];
            for row in 0..2 * Decoder::MAX_ROWS {
                let members: Vec<usize> = (row * (most - 1)..).take(most).collect();
                assert!(decoder.insert(equation(&symbols, &members, row as u32), &mut solved));
                assert!(decoder.rows.iter().all(|row| row.terms.len() <= Decoder::MAX_TERMS));
                assert!(decoder.len() <= Decoder::MAX_ROWS);
            }
            assert_eq!(decoder.len() > 0, most <= Decoder::MAX_TERMS);
            assert!(solved.is_empty());
        }
    }

    #[test]
    fn forgets_below_the_floor() {
        let symbols = vec![vec![1], vec![2], vec![3]];
        let mut decoder = Decoder::default();
        let mut solved = Vec::new();
        assert!(decoder.insert(equation(&symbols, &[0, 1], 1), &mut solved));
        assert!(decoder.insert(equation(&symbols, &[1, 2], 2), &mut solved));
        decoder.forget_before(FIRST + 1);
        assert_eq!(decoder.len(), 1);
        assert!(decoder.insert(equation(&symbols, &[1, 2], 3), &mut solved));
        assert_eq!(solved.len(), 2);
    }
}
