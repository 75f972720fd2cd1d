//! Seeded randomness whose values never change: published figures name a seed, so the generator is written out here
//! instead of being some library's default.

/// A generator of pseudo-random numbers: xoshiro256++ (Blackman and Vigna, 2019), seeded through SplitMix64.
#[derive(Clone, Debug)]
pub struct Draws {
    state: [u64; 4],
}

impl Draws {
    /// A generator; equal seeds give equal draws on every machine and for ever.
    pub fn new(seed: u64) -> Draws {
        let mut mix = seed;
        let mut next = || {
            mix = mix.wrapping_add(0x9E37_79B9_7F4A_7C15);
            finish(mix)
        };
        Draws { state: [next(), next(), next(), next()] }
    }

    /// 64 uniform bits.
    #[inline]
    pub fn bits(&mut self) -> u64 {
        let s = &mut self.state;
        let result = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
        let t = s[1] << 17;
        s[2] ^= s[0];
        s[3] ^= s[1];
        s[1] ^= s[2];
        s[0] ^= s[3];
        s[2] ^= t;
        s[3] = s[3].rotate_left(45);
        result
    }

    /// Uniform in [0, 1), 53 bits of it.
    #[inline]
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// True with probability `p`; `p` outside 0 to 1 means never or always. Takes one draw, whatever `p`.
    #[inline]
    pub fn chance(&mut self, p: f64) -> bool {
        self.unit() < p
    }

    /// Exponential with this mean.
    #[inline]
    pub fn exponential(&mut self, mean: f64) -> f64 {
        // 1 - unit() lies in (0, 1], so the logarithm is finite.
        -mean * (1.0 - self.unit()).ln()
    }

    /// Standard normal, by the Box–Muller transform; the second value is thrown away, which keeps the generator
    /// without hidden state.
    #[inline]
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.unit()).cos()
    }
}

/// A seed for one concern, from a master seed and the names that tell the concern apart. Adding a concern does not move
/// the draws of another.
pub fn derive(master: u64, names: &[&str]) -> u64 {
    // FNV-1a over the names, each closed by a byte that UTF-8 never holds, then the finisher of SplitMix64.
    let mut hash = 0xCBF2_9CE4_8422_2325u64;
    let mut eat = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3);
    master.to_le_bytes().into_iter().for_each(&mut eat);
    for name in names {
        name.bytes().for_each(&mut eat);
        eat(0xFF);
    }
    finish(hash)
}

/// The output function of SplitMix64 (Steele, Lea and Flood, 2014).
const fn finish(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_pinned() {
        let mut draws = Draws::new(1);
        let first: Vec<u64> = (0..3).map(|_| draws.bits()).collect();
        assert_eq!(first, [14971601782005023387, 13781649495232077965, 1847458086238483744]);
    }

    #[test]
    fn names_are_kept_apart() {
        assert_ne!(derive(1, &["ab", "c"]), derive(1, &["a", "bc"]));
        assert_ne!(derive(1, &["a"]), derive(2, &["a"]));
        assert_eq!(derive(7, &["a", "b"]), derive(7, &["a", "b"]));
    }
}
