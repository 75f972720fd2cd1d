//! Arithmetic by the widest instructions that the CPU at hand has.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "vector instructions; each use is checked at run time")
)]

use super::{Arithmetic, Portable};

/// [`Portable`], or AVX2 where there is AVX2.
#[derive(Clone, Copy, Debug)]
pub struct Native;

impl Arithmetic for Native {
    fn add_multiple(factor: u8, input: &[u8], output: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if input.len().min(output.len()) >= 32 && std::arch::is_x86_feature_detected!("avx2") {
            // SAFETY: the CPU has AVX2, as the line above has made sure.
            return unsafe { avx2::add_multiple(factor, input, output) };
        }
        Portable::add_multiple(factor, input, output);
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Arithmetic, Portable};
    use std::arch::x86_64::{
        __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_broadcastsi128_si256, _mm256_loadu_si256, _mm256_set1_epi8,
        _mm256_shuffle_epi8, _mm256_srli_epi64, _mm256_storeu_si256, _mm256_xor_si256,
    };

    /// For each factor its products with the 16 low halves of a byte, and with the 16 high ones.
    static PRODUCTS: [[[u8; 16]; 2]; 256] = products();

    const fn products() -> [[[u8; 16]; 2]; 256] {
        let mut products = [[[0; 16]; 2]; 256];
        let mut factor = 0;
        while factor < 256 {
            let mut nibble = 0;
            while nibble < 16 {
                products[factor][0][nibble] = multiply(factor as u8, nibble as u8);
                products[factor][1][nibble] = multiply(factor as u8, (nibble << 4) as u8);
                nibble += 1;
            }
            factor += 1;
        }
        products
    }

    /// Multiplies bit by bit, modulo x^8 + x^4 + x^3 + x^2 + 1.
    const fn multiply(mut a: u8, mut b: u8) -> u8 {
        let mut sum = 0;
        while b != 0 {
            if b & 1 != 0 {
                sum ^= a;
            }
            a = (a << 1) ^ if a & 0x80 != 0 { 0x1d } else { 0 };
            b >>= 1;
        }
        sum
    }

    /// Splits each byte in two halves of four bits and looks the product of each half up among 16 (Plank, Greenan and
    /// Miller, "Screaming fast Galois field arithmetic using Intel SIMD instructions", 2013).
    #[target_feature(enable = "avx2")]
    pub(super) fn add_multiple(factor: u8, input: &[u8], output: &mut [u8]) {
        let [low, high] = &PRODUCTS[usize::from(factor)];
        let (low, high) = (table(low), table(high));
        let mask = _mm256_set1_epi8(0x0f);
        let length = input.len().min(output.len());
        let (input, output) = (&input[..length], &mut output[..length]);
        let mut from = input.chunks_exact(32);
        let mut to = output.chunks_exact_mut(32);
        for (from, to) in (&mut from).zip(&mut to) {
            // SAFETY: both chunks are 32 bytes long, and these loads and stores need no alignment.
            unsafe {
                let bytes = _mm256_loadu_si256(from.as_ptr().cast::<__m256i>());
                let below = _mm256_shuffle_epi8(low, _mm256_and_si256(bytes, mask));
                let above = _mm256_shuffle_epi8(high, _mm256_and_si256(_mm256_srli_epi64::<4>(bytes), mask));
                let before = _mm256_loadu_si256(to.as_ptr().cast::<__m256i>());
                let sum = _mm256_xor_si256(before, _mm256_xor_si256(below, above));
                _mm256_storeu_si256(to.as_mut_ptr().cast::<__m256i>(), sum);
            }
        }
        Portable::add_multiple(factor, from.remainder(), to.into_remainder());
    }

    #[target_feature(enable = "avx2")]
    fn table(bytes: &[u8; 16]) -> __m256i {
        // SAFETY: the array is 16 bytes long, and the load needs no alignment.
        _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_kernels_agree(
            factor: u8,
            input in proptest::collection::vec(any::<u8>(), 0..200),
            output in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut native = output.clone();
            let mut portable = output;
            Native::add_multiple(factor, &input, &mut native);
            Portable::add_multiple(factor, &input, &mut portable);
            prop_assert_eq!(native, portable);
        }
    }
}
