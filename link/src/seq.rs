//! Wrapping 32-bit numbers of the wire, and the 64-bit numbers kept inside.
//!
//! Inside a link every transmission and every symbol has a 64-bit number that never wraps; the wire carries the low half.
//! This is the only place where one is turned into the other.

/// The number whose low half is `wire` and which lies nearest to `near` (serial number arithmetic, RFC 1982).
pub(crate) fn extend(wire: u32, near: u64) -> u64 {
    let distance = wire.wrapping_sub(near as u32) as i32;
    near.wrapping_add_signed(i64::from(distance))
}

/// A number to start from: high enough that going back by half the 32-bit circle stays above zero.
pub(crate) fn first(wire: u32) -> u64 {
    (1 << 32) | u64::from(wire)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn extending_the_low_half_gives_the_number_back(near in (1u64 << 32)..(1 << 60), off in -0x7fff_ffffi64..0x7fff_ffff) {
            let number = near.wrapping_add_signed(off);
            prop_assert_eq!(extend(number as u32, near), number);
        }
    }

    #[test]
    fn wraps_forwards_and_backwards() {
        assert_eq!(extend(1, first(u32::MAX)), first(u32::MAX) + 2);
        assert_eq!(extend(u32::MAX, first(1) + (1 << 32)), first(1) + (1 << 32) - 2);
    }
}
