//! Instructions, which the load of a machine does not change: counted by valgrind's cachegrind over two runs of different length, whose
//! difference is free of what the start of the program takes.

use node::exit::{Exit, Failure};
use std::process::Command;

/// Instructions per item of a case, by two runs of so many items and of three times as many.
pub(super) fn per_item(case: &str, items: u64) -> Result<f64, Failure> {
    let (short, long) = (count(case, items)?, count(case, 3 * items)?);
    Ok((long.saturating_sub(short)) as f64 / (2 * items) as f64)
}

/// Instructions of one run.
fn count(case: &str, items: u64) -> Result<u64, Failure> {
    let program = std::env::current_exe().map_err(|error| failed(&error.to_string()))?;
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(program)
        .args(["cost-run", case, &items.to_string()])
        .output()
        .map_err(|error| failed(&format!("cannot run valgrind ({error}): on Debian it is the package valgrind")))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(failed(&format!("valgrind failed on {case:?}: {text}")));
    }
    references(&text).ok_or_else(|| failed(&format!("valgrind printed no count of instructions: {text}")))
}

/// The count in what cachegrind prints: `==1== I refs:        1,234`, with more blanks between in older versions.
fn references(text: &str) -> Option<u64> {
    let parts = text.lines().filter_map(|line| line.split_once("refs:"));
    let (_, count) = parts.into_iter().find(|(what, _)| what.trim_end().ends_with('I'))?;
    count.trim().replace(',', "").parse().ok()
}

fn failed(what: &str) -> Failure {
    Failure::new(Exit::Unavailable, what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read() {
        assert_eq!(references("==7== \n==7== I refs:        12,345,678\n"), Some(12_345_678));
        assert_eq!(references("==7== D   refs: 5\n==7== I   refs: 6\n"), Some(6));
        assert_eq!(references("==7== D   refs: 5\n"), None);
        assert_eq!(references("==7== I refs: many\n"), None);
    }
}
