//! What a process has used: from the files that Linux keeps of it.

use std::collections::BTreeMap;
use std::time::Duration;

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// CPU time of all its threads.
    pub cpu: Duration,
    /// Resident memory in bytes.
    pub memory: u64,
}

impl Used {
    /// Of a process; zero of what cannot be read.
    pub fn of(process: u32) -> Used {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
        Used { cpu: threads(process).values().sum(), memory: resident(&status).unwrap_or_default() }
    }
}

/// CPU time of each thread of a process, by its id.
pub fn threads(process: u32) -> BTreeMap<u32, Duration> {
    let threads = std::fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    let one = |thread: std::fs::DirEntry| {
        let used = on_cpu(&std::fs::read_to_string(thread.path().join("schedstat")).ok()?)?;
        Some((thread.file_name().to_str()?.parse().ok()?, used))
    };
    threads.filter_map(one).collect()
}

/// What the busiest thread has used from one moment to another.
pub fn busiest(before: &BTreeMap<u32, Duration>, after: &BTreeMap<u32, Duration>) -> Duration {
    let used = after.iter().map(|(id, used)| used.saturating_sub(before.get(id).copied().unwrap_or_default()));
    used.max().unwrap_or_default()
}

/// The first figure of `schedstat`: nanoseconds on a CPU.
fn on_cpu(schedstat: &str) -> Option<Duration> {
    schedstat.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// `VmRSS` of `status`, in kB there.
fn resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_memory_are_read() {
        assert_eq!(on_cpu("1500000 20 3\n"), Some(Duration::from_micros(1500)));
        assert_eq!(on_cpu(""), None);
        assert_eq!(resident("Name:\tx\nVmRSS:\t   1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!(resident("Name:\tx\n"), None);
        let used = Used::of(std::process::id());
        assert!(used.memory > 100_000, "{used:?}");
        let [one, two, three] = [1, 2, 3].map(Duration::from_secs);
        let (before, after) = (BTreeMap::from([(1, one), (2, one)]), BTreeMap::from([(1, two), (2, three), (7, one)]));
        assert_eq!(busiest(&before, &after), two);
        assert!(threads(std::process::id()).contains_key(&std::process::id()));
    }
}
