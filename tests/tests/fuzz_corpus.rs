//! Replays every corpus of `tests/fuzz` through the code that the fuzz targets run, and some mutations of each input.
//!
//! A finding of the fuzzer is pinned by putting its input in the target's corpus.

use anabranch_tests::fuzz_entry::ENTRIES;
use bench::channel::{Draws, derive};
use std::path::{Path, PathBuf};

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

#[test]
fn every_input_passes() {
    for (target, entry) in ENTRIES {
        let corpus = corpus(target);
        assert!(!corpus.is_empty(), "{target} has no corpus");
        for (path, data) in corpus {
            println!("{}", path.display());
            entry(&data);
        }
    }
}

#[test]
fn mutations_of_every_input_pass() {
    for (target, entry) in ENTRIES {
        let corpus = corpus(target);
        let inputs: Vec<&[u8]> = corpus.iter().map(|(_, data)| data.as_slice()).collect();
        let mut draws = Draws::new(derive(1, &["mutations", target]));
        let mut pick = |n: usize| (draws.bits() % n.max(1) as u64) as usize;
        for round in 0..600 {
            let mut data = inputs[round % inputs.len()].to_vec();
            for _ in 0..1 + pick(4) {
                mutate(&mut data, &inputs, &mut pick);
            }
            println!("{target} round {round}");
            entry(&data);
        }
    }
}

fn mutate(data: &mut Vec<u8>, inputs: &[&[u8]], pick: &mut impl FnMut(usize) -> usize) {
    if data.is_empty() {
        data.push(pick(256) as u8);
    }
    let at = pick(data.len());
    match pick(5) {
        0 => data[at] ^= 1 << pick(8),
        1 => data[at] = [0, 1, 0x7F, 0x80, 0xFF][pick(5)],
        2 => data.truncate(at),
        3 => data.insert(at, pick(256) as u8),
        _ => {
            let other = inputs[pick(inputs.len())];
            let from = pick(other.len());
            data.truncate(at);
            data.extend_from_slice(&other[from..]);
        }
    }
    data.truncate(1 << 16);
}

/// Writes the seeds anew: `ANABRANCH_SEEDS_TO=$PWD/tests/fuzz/corpus cargo test -p anabranch-tests --test fuzz_corpus -- --ignored write_seeds`.
/// Without that, to a folder that goes again: their keys are others each time.
#[test]
#[ignore = "long: writes files of the repository, where it is told to"]
fn write_seeds() {
    let scratch = tempfile::tempdir().unwrap();
    let corpus = std::env::var_os("ANABRANCH_SEEDS_TO").map_or_else(|| scratch.path().to_owned(), PathBuf::from);
    for (target, name, data) in anabranch_tests::fuzz_seeds::seeds() {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), data).unwrap();
    }
}
