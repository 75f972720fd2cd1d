//! Codes over a block: so many symbols of one length, and so many repairs of them, behind one trait.
//!
//! The link itself combines whatever is missing, or whatever still has time, at the moment it sends; blocks fit where symbols come in
//! groups of their own, and serve as the measure of the other: see `benches/codec.rs`.

use super::{Arithmetic, Decoder, Native, Row, coefficient};
use reed_solomon_erasure::galois_8::ReedSolomon;
use std::marker::PhantomData;

/// Why a block could not be encoded or recovered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// Counts or lengths are not those of the code.
    #[error("the block is not of the code's shape")]
    Shape,
    /// Fewer symbols and repairs are there than it takes, or (rarely, with random combinations) they say the same twice.
    #[error("too little of the block is left")]
    TooFew,
}

/// A systematic erasure code over blocks.
pub trait BlockCode: Sized {
    /// A code of `symbols` symbols and `repairs` repairs in a block; both at least 1, together at most 256.
    fn new(symbols: usize, repairs: usize) -> Result<Self, BlockError>;

    /// Fills the repairs from the symbols, all of one length.
    fn encode(&self, symbols: &[Vec<u8>], repairs: &mut [Vec<u8>]) -> Result<(), BlockError>;

    /// Fills in missing symbols. `block` holds the symbols, then the repairs, each where it arrived.
    fn recover(&self, block: &mut [Option<Vec<u8>>]) -> Result<(), BlockError>;
}

/// Reed–Solomon (Vandermonde, as `reed-solomon-erasure` has it): any `symbols` of a block recover it.
#[derive(Debug)]
pub struct ReedSolomonBlock(ReedSolomon);

impl BlockCode for ReedSolomonBlock {
    fn new(symbols: usize, repairs: usize) -> Result<Self, BlockError> {
        ReedSolomon::new(symbols, repairs).map(ReedSolomonBlock).map_err(|_| BlockError::Shape)
    }

    fn encode(&self, symbols: &[Vec<u8>], repairs: &mut [Vec<u8>]) -> Result<(), BlockError> {
        self.0.encode_sep(symbols, repairs).map_err(|_| BlockError::Shape)
    }

    fn recover(&self, block: &mut [Option<Vec<u8>>]) -> Result<(), BlockError> {
        self.0.reconstruct_data(block).map_err(|error| match error {
            reed_solomon_erasure::Error::TooFewShardsPresent => BlockError::TooFew,
            _ => BlockError::Shape,
        })
    }
}

/// Random linear combinations, as the link sends them: any `symbols` of a block recover it but for about one case in 250.
#[derive(Debug)]
pub struct Combinations<A = Native> {
    symbols: usize,
    repairs: usize,
    arithmetic: PhantomData<A>,
}

impl<A: Arithmetic> BlockCode for Combinations<A> {
    fn new(symbols: usize, repairs: usize) -> Result<Self, BlockError> {
        let fits = symbols > 0 && repairs > 0 && symbols + repairs <= 256;
        fits.then_some(Combinations { symbols, repairs, arithmetic: PhantomData }).ok_or(BlockError::Shape)
    }

    fn encode(&self, symbols: &[Vec<u8>], repairs: &mut [Vec<u8>]) -> Result<(), BlockError> {
        let length = symbols.first().map_or(0, Vec::len);
        let even = symbols.iter().chain(repairs.iter()).all(|part| part.len() == length);
        if !even || symbols.len() != self.symbols || repairs.len() != self.repairs {
            return Err(BlockError::Shape);
        }
        for (seed, repair) in repairs.iter_mut().enumerate() {
            repair.fill(0);
            for (place, symbol) in symbols.iter().enumerate() {
                A::add_multiple(coefficient(seed as u32, place as u32), symbol, repair);
            }
        }
        Ok(())
    }

    fn recover(&self, block: &mut [Option<Vec<u8>>]) -> Result<(), BlockError> {
        if block.len() != self.symbols + self.repairs {
            return Err(BlockError::Shape);
        }
        let (symbols, repairs) = block.split_at_mut(self.symbols);
        let mut left = symbols.iter().filter(|symbol| symbol.is_none()).count();
        let mut decoder = Decoder::default();
        let mut solved: Vec<Row> = Vec::new();
        for (seed, repair) in repairs.iter_mut().enumerate() {
            let Some(data) = repair.as_ref().filter(|_| left > 0) else { continue };
            let mut row = Row { terms: Vec::new(), data: data.clone() };
            for (place, symbol) in symbols.iter().enumerate() {
                let factor = coefficient(seed as u32, place as u32);
                match symbol {
                    Some(known) => A::add_multiple(factor, known, &mut row.data),
                    None => row.terms.push((place as u64, factor)),
                }
            }
            decoder.insert(row, &mut solved);
            for row in solved.drain(..) {
                if let Some(symbol) = row.terms.first().and_then(|(place, _)| symbols.get_mut(*place as usize)) {
                    left -= usize::from(symbol.is_none());
                    *symbol = Some(row.data);
                }
            }
        }
        if left == 0 { Ok(()) } else { Err(BlockError::TooFew) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Portable;
    use super::*;
    use proptest::prelude::*;

    fn recovers<C: BlockCode>(symbols: &[Vec<u8>], lost: &[bool]) -> Result<bool, BlockError> {
        let repairs = lost.len() - symbols.len();
        let code = C::new(symbols.len(), repairs)?;
        let mut coded = vec![vec![0; symbols[0].len()]; repairs];
        code.encode(symbols, &mut coded)?;
        let mut block: Vec<_> =
            symbols.iter().chain(&coded).zip(lost).map(|(part, lost)| (!lost).then(|| part.clone())).collect();
        code.recover(&mut block)?;
        Ok(block.iter().zip(symbols).all(|(got, sent)| got.as_ref() == Some(sent)))
    }

    proptest! {
        /// With enough left both codes give back what was sent; the two kernels alike.
        #[test]
        fn blocks_recover(
            symbols in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 40), 1..20),
            losses in proptest::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut lost = vec![false; symbols.len() + 8];
            for loss in &losses {
                lost[loss.index(symbols.len() + 8)] = true;
            }
            prop_assert_eq!(recovers::<ReedSolomonBlock>(&symbols, &lost), Ok(true));
            prop_assert_eq!(recovers::<Combinations>(&symbols, &lost), Ok(true));
            prop_assert_eq!(recovers::<Combinations<Portable>>(&symbols, &lost), Ok(true));
        }
    }

    #[test]
    fn too_little_is_an_error() {
        let symbols = vec![vec![1], vec![2], vec![3]];
        let lost = [true, true, false, false];
        assert_eq!(recovers::<ReedSolomonBlock>(&symbols, &lost), Err(BlockError::TooFew));
        assert_eq!(recovers::<Combinations>(&symbols, &lost), Err(BlockError::TooFew));
        assert_eq!(Combinations::<Native>::new(200, 57).err(), Some(BlockError::Shape));
    }
}
