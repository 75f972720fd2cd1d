//! What coding costs: blocks by both codes, both kernels. Run with `cargo bench -p anabranch-link --bench codec`.

use anabranch_link::codec::{BlockCode, Combinations, Native, Portable, ReedSolomonBlock};
use divan::Bencher;
use divan::counter::BytesCount;

const SIZE: usize = 1337;
const WINDOWS: [usize; 4] = [8, 32, 64, 128];
const REPAIRS: usize = 8;

fn main() {
    divan::main();
}

fn symbols(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|place| (0..SIZE).map(|at| (place * 31 + at * 7) as u8).collect()).collect()
}

/// Makes 8 repairs of a block; the throughput is that of the repairs.
#[divan::bench(types = [ReedSolomonBlock, Combinations<Native>, Combinations<Portable>], args = WINDOWS)]
fn encode<C: BlockCode>(bencher: Bencher<'_, '_>, window: usize) {
    let symbols = symbols(window);
    let code = C::new(window, REPAIRS).expect("a small block");
    let mut repairs = vec![vec![0; SIZE]; REPAIRS];
    bencher
        .counter(BytesCount::new(REPAIRS * SIZE))
        .bench_local(|| code.encode(divan::black_box(&symbols), &mut repairs));
}

/// Recovers 4 lost symbols; the throughput is theirs.
#[divan::bench(types = [ReedSolomonBlock, Combinations<Native>, Combinations<Portable>], args = WINDOWS)]
fn recover<C: BlockCode>(bencher: Bencher<'_, '_>, window: usize) {
    let symbols = symbols(window);
    let code = C::new(window, REPAIRS).expect("a small block");
    let mut repairs = vec![vec![0; SIZE]; REPAIRS];
    code.encode(&symbols, &mut repairs).expect("the block has the shape of the code");
    let mut block: Vec<_> = symbols.into_iter().chain(repairs).map(Some).collect();
    for lost in 0..4 {
        block[lost * window / 4] = None;
    }
    bencher
        .counter(BytesCount::new(4 * SIZE))
        .with_inputs(|| block.clone())
        .bench_local_refs(|block| code.recover(block));
}
