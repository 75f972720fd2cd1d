//! Which numbers of a life have been opened: a sliding window (RFC 4303 §3.4.3, RFC 6479).

/// How many numbers back it is known: seconds of any stream, and more than a sink's deadline lets wait.
pub const WINDOW: u64 = 1 << 18;

const BLOCK: u64 = 64;
/// One block more than the window, so that a block is only cleared once all of it lies behind.
const BLOCKS: u64 = WINDOW / BLOCK + 1;

/// A bit for each number of the window: set where it was opened.
#[derive(Debug)]
pub(super) struct Window {
    bits: Box<[u64]>,
    highest: Option<u64>,
}

/// What is known of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    New,
    Before,
    TooOld,
}

impl Default for Window {
    fn default() -> Window {
        Window { bits: vec![0; BLOCKS as usize].into(), highest: None }
    }
}

impl Window {
    pub(super) fn look(&self, number: u64) -> Seen {
        match self.highest {
            Some(highest) if number > highest => Seen::New,
            Some(highest) if highest - number >= WINDOW => Seen::TooOld,
            Some(_) if self.bits[place(number)] & bit(number) != 0 => Seen::Before,
            _ => Seen::New,
        }
    }

    /// Notes a number that is new.
    pub(super) fn mark(&mut self, number: u64) {
        if let Some(highest) = self.highest.filter(|highest| number > *highest) {
            let (from, to) = (highest / BLOCK + 1, number / BLOCK);
            for block in from.max(to.saturating_sub(BLOCKS - 1))..=to {
                self.bits[(block % BLOCKS) as usize] = 0;
            }
        }
        self.highest = Some(self.highest.map_or(number, |highest| highest.max(number)));
        self.bits[place(number)] |= bit(number);
    }
}

fn place(number: u64) -> usize {
    (number / BLOCK % BLOCKS) as usize
}

fn bit(number: u64) -> u64 {
    1 << (number % BLOCK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn each_number_is_new_once_as_a_set_would_say(
            steps in prop::collection::vec(prop_oneof![
                6 => -300i64..300,
                1 => -(WINDOW as i64) - 70..WINDOW as i64 + 70,
                1 => Just(3 * WINDOW as i64),
            ], 1..400),
        ) {
            let (mut window, mut set, mut at) = (Window::default(), BTreeSet::new(), 1u64 << 32);
            for step in steps {
                at = at.saturating_add_signed(step);
                let too_old = set.last().is_some_and(|highest: &u64| highest.saturating_sub(at) >= WINDOW);
                let expected = match (too_old, set.contains(&at)) {
                    (true, _) => Seen::TooOld,
                    (false, true) => Seen::Before,
                    (false, false) => Seen::New,
                };
                prop_assert_eq!(window.look(at), expected);
                if expected == Seen::New {
                    window.mark(at);
                    set.insert(at);
                }
            }
        }
    }
}
