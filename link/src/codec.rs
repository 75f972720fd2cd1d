//! The code: random linear combinations over GF(256), and the elimination that undoes them.
//!
//! [`Arithmetic`] is all that the code needs of the field, which is that of `reed-solomon-erasure`'s `galois_8`
//! (polynomial x^8 + x^4 + x^3 + x^2 + 1). Two kernels stand behind it: [`Portable`] is the crate's own, without its `simd-accel`
//! feature, whose C is compiled for one fixed CPU and dies of an illegal instruction on an older one. [`Native`]
//! asks the CPU it runs on and multiplies 32 bytes at a time by table look-up where it has AVX2, else falls back. It is as fast as the
//! feature and safe everywhere, so it is the one in use.
//!
//! A block code (Reed–Solomon) is not what the link sends: with the sliding window a repair helps from the moment it arrives, and no
//! block has to be filled. It is there, behind the same trait as blocks of combinations ([`BlockCode`]), for what comes in blocks.

mod block;
mod decoder;
mod native;

pub use block::{BlockCode, BlockError, Combinations, ReedSolomonBlock};
pub(crate) use decoder::{Decoder, Row};
pub use native::Native;

use reed_solomon_erasure::galois_8;

/// Vector arithmetic over GF(256).
pub trait Arithmetic {
    /// Adds `factor` times each byte of `input` to the byte of `output` at the same place. Where the lengths differ, the
    /// shorter one counts.
    fn add_multiple(factor: u8, input: &[u8], output: &mut [u8]);

    /// Multiplies every byte by `factor`.
    fn scale(factor: u8, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = galois_8::mul(factor, *byte);
        }
    }
}

/// The kernel of `reed-solomon-erasure`, in plain Rust.
#[derive(Clone, Copy, Debug)]
pub struct Portable;

impl Arithmetic for Portable {
    fn add_multiple(factor: u8, input: &[u8], output: &mut [u8]) {
        let length = input.len().min(output.len());
        galois_8::mul_slice_xor(factor, &input[..length], &mut output[..length]);
    }
}

/// The arithmetic in use.
pub(crate) type Galois = Native;

/// The coefficient of a symbol in the combination with a seed; never zero. Both ends compute it alike: it is part of the
/// wire format. The mixing steps are those of MurmurHash3's 32-bit finaliser.
pub fn coefficient(seed: u32, symbol: u32) -> u8 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b1) ^ symbol.wrapping_mul(0x85eb_ca77).rotate_left(13);
    mixed ^= mixed >> 16;
    mixed = mixed.wrapping_mul(0x85eb_ca6b);
    mixed ^= mixed >> 13;
    mixed = mixed.wrapping_mul(0xc2b2_ae35);
    mixed ^= mixed >> 16;
    // The high half of a 32 by 8 bit product is uniform over 0..255.
    1 + ((u64::from(mixed) * 255) >> 32) as u8
}

fn inverse(number: u8) -> u8 {
    debug_assert!(number != 0, "zero has no inverse");
    galois_8::div(1, number.max(1))
}

fn product(a: u8, b: u8) -> u8 {
    galois_8::mul(a, b)
}
