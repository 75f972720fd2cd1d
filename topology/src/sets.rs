//! Sets of nodes and of edges of one graph, as bits.

use crate::graph::{EdgeIx, NodeIx};
use std::fmt;
use std::marker::PhantomData;

/// An index into a graph that a [`Bits`] can hold.
pub trait Ix: Copy {
    /// From the place in the order.
    fn from_place(place: u32) -> Self;
    /// The place in the order.
    fn place(self) -> u32;
}

impl Ix for NodeIx {
    fn from_place(place: u32) -> Self {
        NodeIx(place)
    }
    fn place(self) -> u32 {
        self.0
    }
}

impl Ix for EdgeIx {
    fn from_place(place: u32) -> Self {
        EdgeIx(place)
    }
    fn place(self) -> u32 {
        self.0
    }
}

/// A set of indices; grows as needed, iterates in order.
pub struct Bits<T> {
    words: Vec<u64>,
    kind: PhantomData<T>,
}

/// A set of nodes.
pub type NodeSet = Bits<NodeIx>;

/// A set of edges: a dissemination graph is one.
pub type EdgeSet = Bits<EdgeIx>;

impl<T: Ix> Bits<T> {
    /// The empty set.
    pub const fn new() -> Self {
        Bits { words: Vec::new(), kind: PhantomData }
    }

    /// Whether `item` is in it.
    pub fn contains(&self, item: T) -> bool {
        let place = item.place() as usize;
        self.words.get(place / 64).is_some_and(|word| word >> (place % 64) & 1 == 1)
    }

    /// Adds `item`; whether it is new.
    pub fn insert(&mut self, item: T) -> bool {
        let place = item.place() as usize;
        if self.words.len() <= place / 64 {
            self.words.resize(place / 64 + 1, 0);
        }
        let word = &mut self.words[place / 64];
        let before = *word;
        *word |= 1 << (place % 64);
        before != *word
    }

    /// Takes `item` out; whether it was in.
    pub fn remove(&mut self, item: T) -> bool {
        let place = item.place() as usize;
        let Some(word) = self.words.get_mut(place / 64) else { return false };
        let before = *word;
        *word &= !(1 << (place % 64));
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self.words.get(place / 64).copied().unwrap_or(0) != before
    }

    /// How many are in it.
    pub fn len(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// Adds all of `other`.
    pub fn union_with(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Whether all of it is in `other`.
    pub fn is_subset(&self, other: &Self) -> bool {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        self.words.iter().zip(others).all(|(word, all)| word & !all == 0)
    }

    /// Its items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.words.iter().enumerate().flat_map(|(at, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                let bit = (left != 0).then(|| left.trailing_zeros())?;
                left &= left - 1;
                Some(T::from_place(at as u32 * 64 + bit))
            })
        })
    }
}

impl<T: Ix> FromIterator<T> for Bits<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut set = Bits::new();
        set.extend(items);
        set
    }
}

impl<T: Ix> Extend<T> for Bits<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, items: I) {
        for item in items {
            self.insert(item);
        }
    }
}

impl<T> Default for Bits<T> {
    fn default() -> Self {
        Bits { words: Vec::new(), kind: PhantomData }
    }
}

impl<T> Clone for Bits<T> {
    fn clone(&self) -> Self {
        Bits { words: self.words.clone(), kind: PhantomData }
    }
}

impl<T: Ix> PartialEq for Bits<T> {
    fn eq(&self, other: &Self) -> bool {
        self.is_subset(other) && other.is_subset(self)
    }
}

impl<T: Ix> Eq for Bits<T> {}

impl<T: Ix + fmt::Debug> fmt::Debug for Bits<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}
