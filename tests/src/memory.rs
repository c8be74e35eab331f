//! How much memory processes in the cluster's containers take. Only in the test bed: its nodes'
//! processes are seen from where its commands run.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::interval;

/// A process that is over soon is looked at often: the kernel keeps the peak, so only what comes
/// after the last look is missed.
const LOOK: Duration = Duration::from_millis(50);

/// The resident memory of the processes whose command line holds all of these words, by process, in
/// KiB: its peak, or as it is now.
fn resident(words: &[&str], name: &str) -> BTreeMap<String, u64> {
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeMap::new() };
    let read = processes.flatten().filter_map(|process| {
        let command = fs::read(process.path().join("cmdline")).ok()?;
        let command: Vec<&[u8]> = command.split(|&byte| byte == 0).collect();
        if !words.iter().all(|word| command.contains(&word.as_bytes())) {
            return None;
        }
        Some((process.file_name().to_string_lossy().into_owned(), field(&process.path(), name)?))
    });
    read.collect()
}

/// One field of a process's status, in KiB.
fn field(process: &Path, name: &str) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

/// The resident memory of these processes now, in KiB, the largest.
#[must_use]
pub fn now(words: &[&str]) -> Option<u64> {
    resident(words, "VmRSS").into_values().max()
}

/// Runs something, and gives the peak of these processes meanwhile, in KiB. Each look reads of every process on the
/// machine: what takes turns with something else asks for one process ([`peak_of`]).
pub async fn peak_during<T>(words: &[&str], something: impl Future<Output = T>) -> (T, Option<u64>) {
    watched(|| resident(words, "VmHWM").into_values().max(), something).await
}

/// Waits for something, and gives the peak of one process meanwhile, in KiB.
pub async fn peak_of<T>(process: u32, something: impl Future<Output = T>) -> (T, Option<u64>) {
    watched(|| field(Path::new(&format!("/proc/{process}")), "VmHWM"), something).await
}

async fn watched<T>(look: impl Fn() -> Option<u64>, something: impl Future<Output = T>) -> (T, Option<u64>) {
    let mut peak = None;
    let mut looks = interval(LOOK);
    tokio::pin!(something);
    loop {
        tokio::select! {
            done = &mut something => return (done, peak),
            _ = looks.tick() => peak = peak.max(look()),
        }
    }
}
