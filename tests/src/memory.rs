//! How much memory processes in the cluster's containers take. Only in the test bed: its nodes'
//! processes are seen from where its commands run.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use tokio::time::interval;

/// A process that is over soon is looked at often: the kernel keeps the peak, so only what comes
/// after the last look is missed.
const LOOK: Duration = Duration::from_millis(50);

/// The resident memory of the processes whose command line holds all of these words, by process, in
/// KiB: its peak, or as it is now.
fn resident(words: &[&str], field: &str) -> BTreeMap<String, u64> {
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let read = processes.flatten().filter_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let command: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
        if !words.iter().all(|word| command.contains(&word.as_bytes())) {
            return None;
        }
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
        let kib = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some((process.file_name().to_string_lossy().into_owned(), kib))
    });
    read.collect()
}

/// The resident memory of these processes now, in KiB, the largest.
#[must_use]
pub fn now(words: &[&str]) -> Option<u64> {
    resident(words, "VmRSS").into_values().max()
}

/// Runs something, and gives the peak of these processes meanwhile, in KiB.
pub async fn peak_during<T>(words: &[&str], something: impl Future<Output = T>) -> (T, Option<u64>) {
    let mut peak = None;
    let mut looks = interval(LOOK);
    tokio::pin!(something);
    loop {
        tokio::select! {
            done = &mut something => return (done, peak),
            _ = looks.tick() => peak = peak.max(resident(words, "VmHWM").into_values().max()),
        }
    }
}
