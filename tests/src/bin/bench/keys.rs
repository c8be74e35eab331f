//! What `hook validate` and `hook snapshot` take beside etcdctl, on the same members and keys, in turns, and the other
//! one first in every second turn: what one leaves behind for etcd to clear away, the other meets as often. Each is the
//! released program, started beside the control plane: no pod's start is measured.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use futures::future::try_join_all;
use tests::cluster::{is_bed, top};
use tests::fill::fill;
use tests::memory;
use tests::release::{Helm, Release};
use tokio::process::Command;
use tokio::time::timeout;

use crate::{Numbers, mib};

/// So many members are compared.
const MEMBERS: usize = 4;
/// So many keys each holds; `KEYS` tries it out with fewer.
const KEYS: u64 = 1_000_000;
/// Of each value, in bytes.
const VALUE: usize = 100;
/// The median of so many runs counts.
const ROUNDS: usize = 7;
/// Of the hashes, which take a second or two: the median of seven moves by a fifth from one time to the next.
const HASH_ROUNDS: usize = 21;
/// Of all keys: which of the two went before moves either by a twentieth, the machine moves both by more.
const ALL_ROUNDS: usize = 15;
/// Not counted, before once and twice the keys are: so long the members were seen to read their databases from the disk,
/// which filling them had driven out of the machine's memory.
const WARM_UP_ROUNDS: usize = 5;
/// For any one program.
const ENDS: Duration = Duration::from_secs(300);

/// `hook validate` to four `etcdctl endpoint hashkv` side by side.
const VALIDATE: f64 = 1.15;
/// Resident memory of that, in MiB.
const VALIDATE_MEMORY: f64 = 32.0;
/// `hook validate --keys` to the longest of four `etcdctl get --prefix ""` side by side.
const DIFF: f64 = 1.0;
/// Resident memory of that, in MiB.
const DIFF_MEMORY: f64 = 64.0;
/// Twice the keys to once.
const TWICE: f64 = 2.2;
/// The time of `hook snapshot` to that of `etcdctl snapshot save`: at least 0.95 of its rate.
const SNAPSHOT: f64 = 1.05;

/// Fills two clusters of its own, one with twice the keys, and measures.
pub async fn bench(numbers: &mut Numbers) -> anyhow::Result<()> {
    if !is_bed() {
        println!("comparing and saving beside etcdctl: only measured in the test bed");
        return Ok(());
    }
    // Without the referee: no member comes or goes, and it would read the keys too.
    let releases = ["bench-keys", "bench-twice-keys"].map(|name| Release::of(name, Helm::V4));
    for release in &releases {
        release.remove().await?;
        release.make_namespace().await?;
    }
    let files = std::env::temp_dir().join(format!("etcd-scaler-bench-{}", std::process::id()));
    std::fs::create_dir(&files).with_context(|| format!("failed to make {}", files.display()))?;
    let measured = measure(&releases, &files, numbers).await;
    let _ = std::fs::remove_dir_all(&files);
    let removed = async {
        for release in &releases {
            release.remove().await?;
            release.remove_directories().await?;
        }
        Ok(())
    };
    measured.and(removed.await)
}

async fn measure(releases: &[Release; 2], files: &Path, numbers: &mut Numbers) -> anyhow::Result<()> {
    let keys = match std::env::var("KEYS") {
        Ok(keys) => keys.parse().context("KEYS is no number")?,
        Err(_) => KEYS,
    };
    let once = Filled::with(&releases[0], keys).await?;
    let twice = Filled::with(&releases[1], 2 * keys).await?;
    println!(
        "\n{MEMBERS} members with {keys} keys of {VALUE} bytes: medians of {ROUNDS} runs in turns, of hashes \
         {HASH_ROUNDS}, of all keys {ALL_ROUNDS}"
    );
    hashes(&once, numbers).await?;
    all_keys(&once, numbers).await?;
    snapshots(&once, files, numbers).await?;
    how_it_grows(&once, &twice, numbers).await
}

/// What etcdctl reads all keys with.
const ALL: [&str; 3] = ["get", "", "--prefix"];

/// `hook validate` beside etcdctl.
async fn hashes(cluster: &Filled<'_>, numbers: &mut Numbers) -> anyhow::Result<()> {
    let (theirs, ours) = cluster.in_turns(HASH_ROUNDS, &["endpoint", "hashkv"], &["validate"]).await?;
    numbers.told("four etcdctl endpoint hashkv", theirs, "s", None);
    numbers.told("hook validate", ours.median(), "s", None);
    numbers.told("hook validate to etcdctl endpoint hashkv", ours.median() / theirs, "", Some(VALIDATE));
    numbers.told("resident memory of hook validate, peak", ours.peak()?, "MiB", Some(VALIDATE_MEMORY));
    Ok(())
}

/// `hook validate --keys` beside etcdctl.
async fn all_keys(cluster: &Filled<'_>, numbers: &mut Numbers) -> anyhow::Result<()> {
    let (theirs, ours) = cluster.in_turns(ALL_ROUNDS, &ALL, &["validate", "--keys"]).await?;
    numbers.told("four etcdctl get --prefix \"\", the longest", theirs, "s", None);
    numbers.told("hook validate --keys", ours.median(), "s", None);
    numbers.told("hook validate --keys to etcdctl get", ours.median() / theirs, "", Some(DIFF));
    numbers.told("resident memory of hook validate --keys, peak", ours.peak()?, "MiB", Some(DIFF_MEMORY));
    Ok(())
}

/// `hook snapshot` beside etcdctl.
async fn snapshots(cluster: &Filled<'_>, files: &Path, numbers: &mut Numbers) -> anyhow::Result<()> {
    let (mut theirs, mut ours) = (Vec::new(), Runs::default());
    let file = files.join("theirs.db");
    for turn in turns(ROUNDS) {
        match turn {
            Turn::First => {
                theirs.push(run(etcdctl(&cluster.members[0], &["snapshot", "save", &file.to_string_lossy()])).await?.0);
                std::fs::remove_file(&file).with_context(|| format!("etcdctl saved no {}", file.display()))?;
            }
            // The newest stays: its size is looked at.
            Turn::Second => {
                ours.add(cluster.hook(&["snapshot", "--keep=1", &format!("--dir={}", files.display())]).await?);
            }
        }
    }
    let (size, theirs) = (snapshot_size(files)?, median(theirs));
    numbers.told("etcdctl snapshot save", size / theirs, "MB/s", None);
    numbers.told("hook snapshot, verified", size / ours.median(), "MB/s", None);
    numbers.told("time of hook snapshot to etcdctl's", ours.median() / theirs, "", Some(SNAPSHOT));
    numbers.told("resident memory of hook snapshot, peak", ours.peak()?, "MiB", None);
    Ok(())
}

/// Once and twice the keys, in turns: members of the same age, in the same minutes of the machine. etcdctl after that:
/// a whole answer in each of four members' memory drives the databases out of the machine's.
async fn how_it_grows(once: &Filled<'_>, twice: &Filled<'_>, numbers: &mut Numbers) -> anyhow::Result<()> {
    let compared = async |rounds, counted| -> anyhow::Result<[Runs; 2]> {
        let (mut short, mut long) = (Runs::default(), Runs::default());
        for turn in turns(rounds) {
            let (cluster, runs) = if turn == Turn::First { (once, &mut short) } else { (twice, &mut long) };
            runs.add(cluster.hook(&["validate", "--keys"]).await?);
        }
        println!("in turns, in s, {counted}: once {}, twice {}", each(&short.seconds), each(&long.seconds));
        Ok([short, long])
    };
    // Twice the keys were never read before, once often.
    compared(WARM_UP_ROUNDS, "not counted").await?;
    let [short, long] = compared(ALL_ROUNDS, "counted").await?;
    let (mut theirs_short, mut theirs_long) = (Vec::new(), Vec::new());
    for turn in turns(ROUNDS) {
        let (cluster, runs) = if turn == Turn::First { (once, &mut theirs_short) } else { (twice, &mut theirs_long) };
        runs.push(on_each(&cluster.members, &ALL).await?);
    }
    println!("in turns, in s: etcdctl once {}, twice {}", each(&theirs_short), each(&theirs_long));
    numbers.told("hook validate --keys, beside twice the keys", short.median(), "s", None);
    numbers.told("hook validate --keys of twice the keys", long.median(), "s", None);
    numbers.told("twice the keys to once", long.median() / short.median(), "", Some(TWICE));
    // What of it is etcd's own.
    numbers.told("twice the keys to once, etcdctl get", median(theirs_long) / median(theirs_short), "", None);
    numbers.told("resident memory of twice the keys, peak", long.peak()?, "MiB", Some(DIFF_MEMORY));
    Ok(())
}

/// A cluster full of keys.
struct Filled<'a> {
    release: &'a Release,
    /// The members' client URLs.
    members: Vec<String>,
}

impl<'a> Filled<'a> {
    async fn with(release: &'a Release, keys: u64) -> anyhow::Result<Self> {
        release.install(MEMBERS, &[]).await?;
        let members: Vec<String> =
            (0..MEMBERS).map(|ordinal| format!("http://{}:2379", release.host(ordinal))).collect();
        fill(&members, "bench/", keys, |_| vec![b'v'; VALUE]).await?;
        Ok(Self { release, members })
    }

    /// etcdctl on each member side by side, and our command: the median of theirs, and ours.
    async fn in_turns(&self, rounds: usize, theirs: &[&str], ours: &[&str]) -> anyhow::Result<(f64, Runs)> {
        let (mut etcdctl, mut hook) = (Vec::new(), Runs::default());
        for turn in turns(rounds) {
            match turn {
                Turn::First => etcdctl.push(on_each(&self.members, theirs).await?),
                Turn::Second => hook.add(self.hook(ours).await?),
            }
        }
        println!("in turns, in s: etcdctl {}, hook {}", each(&etcdctl), each(&hook.seconds));
        Ok((median(etcdctl), hook))
    }

    /// Runs the released program, as it is in the image: seconds, and its resident memory at its peak in KiB.
    async fn hook(&self, arguments: &[&str]) -> anyhow::Result<(f64, Option<u64>)> {
        let mut command = Command::new(top().join("dist/hook"));
        command.args(arguments).arg(format!("--namespace={}", self.release.namespace));
        command.arg(format!("--statefulset={}", self.release.statefulset()));
        run(command).await
    }
}

/// Whose turn it is, of two that are measured beside each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Turn {
    First,
    Second,
}

/// So many for each, in pairs; every second pair begins with the second one.
fn turns(rounds: usize) -> impl Iterator<Item = Turn> {
    let pair = |round| if round % 2 == 0 { [Turn::First, Turn::Second] } else { [Turn::Second, Turn::First] };
    (0..rounds).flat_map(pair)
}

/// What the runs of one command took.
#[derive(Default)]
struct Runs {
    seconds: Vec<f64>,
    peak: Option<u64>,
}

impl Runs {
    fn add(&mut self, (seconds, peak): (f64, Option<u64>)) {
        self.seconds.push(seconds);
        self.peak = self.peak.max(peak);
    }

    fn median(&self) -> f64 {
        median(self.seconds.clone())
    }

    /// In MiB.
    fn peak(&self) -> anyhow::Result<f64> {
        self.peak.map(mib).context("no process was seen")
    }
}

/// Each of them, for whoever asks why a median is what it is.
fn each(numbers: &[f64]) -> String {
    numbers.iter().map(|number| format!("{number:.2}")).collect::<Vec<_>>().join(" ")
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn etcdctl(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.args([&format!("--endpoints={url}"), "--command-timeout=240s"]).args(arguments);
    command
}

/// The same asked of each member side by side: the seconds of the longest.
async fn on_each(members: &[String], arguments: &[&str]) -> anyhow::Result<f64> {
    let runs = try_join_all(members.iter().map(|url| run(etcdctl(url, arguments)))).await?;
    Ok(runs.into_iter().map(|(seconds, _)| seconds).fold(0.0, f64::max))
}

/// Runs a program to its end: seconds, and its resident memory at its peak in KiB. What it prints goes nowhere. Theirs
/// are run and watched as ours are.
async fn run(mut command: Command) -> anyhow::Result<(f64, Option<u64>)> {
    let began = Instant::now();
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let line = format!("{:?}", command.as_std());
    let child = command.spawn().with_context(|| format!("failed to start {line}"))?;
    let process = child.id().context("it has no process ID")?;
    let (ended, peak) = memory::peak_of(process, timeout(ENDS, child.wait_with_output())).await;
    let ended = ended.with_context(|| format!("{line} did not end within {} s", ENDS.as_secs()))??;
    ensure!(ended.status.success(), "{line}: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr));
    Ok((began.elapsed().as_secs_f64(), peak))
}

/// Of the only file there, in MB.
fn snapshot_size(files: &Path) -> anyhow::Result<f64> {
    let mut sizes = Vec::new();
    for entry in std::fs::read_dir(files)? {
        sizes.push(entry?.metadata()?.len());
    }
    let [size] = sizes[..] else {
        anyhow::bail!("{} files are in {}, not the newest one", sizes.len(), files.display())
    };
    Ok(size as f64 / 1e6)
}
