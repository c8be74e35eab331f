//! What `hook validate` and `hook snapshot` take beside etcdctl, on the same members and keys, in turns. Each is the
//! released program, started beside the control plane: no pod's start is measured.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use etcd_client::{Client, Txn, TxnOp};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use tests::cluster::{is_bed, top};
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
/// Puts in one transaction; etcd takes 128.
const AT_ONCE: usize = 100;
/// Transactions on their way.
const ON_THE_WAY: usize = 16;
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

/// Fills a cluster of its own and measures.
pub async fn bench(numbers: &mut Numbers) -> anyhow::Result<()> {
    if !is_bed() {
        println!("comparing and saving beside etcdctl: only measured in the test bed");
        return Ok(());
    }
    // Without the referee: no member comes or goes, and it would read the keys too.
    let release = Release::of("bench-keys", Helm::V4);
    release.remove().await?;
    release.make_namespace().await?;
    let files = std::env::temp_dir().join(format!("etcd-scaler-bench-{}", std::process::id()));
    std::fs::create_dir(&files).with_context(|| format!("failed to make {}", files.display()))?;
    let measured = measure(&release, &files, numbers).await;
    let _ = std::fs::remove_dir_all(&files);
    let removed = async {
        release.remove().await?;
        release.remove_directories().await
    };
    measured.and(removed.await)
}

async fn measure(release: &Release, files: &Path, numbers: &mut Numbers) -> anyhow::Result<()> {
    let keys = match std::env::var("KEYS") {
        Ok(keys) => keys.parse().context("KEYS is no number")?,
        Err(_) => KEYS,
    };
    release.install(MEMBERS, &[]).await?;
    let members: Vec<String> = (0..MEMBERS).map(|ordinal| format!("http://{}:2379", release.host(ordinal))).collect();
    let hook = Hook::of(release);
    fill(&members, 0..keys).await?;
    println!("\n{MEMBERS} members with {keys} keys of {VALUE} bytes: medians of {ROUNDS} runs in turns");
    let once = Compared::measured(&hook, &members).await?;
    let (mut saved, mut taken) = (Vec::new(), Runs::default());
    for round in 0..ROUNDS {
        let file = files.join(format!("theirs-{round}.db"));
        let save = etcdctl(&members[0], &["snapshot", "save", &file.to_string_lossy()]);
        saved.push(seconds([save]).await?);
        std::fs::remove_file(&file).with_context(|| format!("etcdctl saved no {}", file.display()))?;
        // The newest stays: its size is looked at.
        taken.add(hook.run(&["snapshot", "--keep=1", &format!("--dir={}", files.display())]).await?);
    }
    let (size, saved) = (snapshot_size(files)?, median(saved));
    numbers.told("four etcdctl endpoint hashkv", once.hashed, "s", None);
    numbers.told("hook validate", once.validated.median(), "s", None);
    numbers.told("hook validate to etcdctl endpoint hashkv", once.validated.median() / once.hashed, "", Some(VALIDATE));
    numbers.told("resident memory of hook validate, peak", once.validated.peak()?, "MiB", Some(VALIDATE_MEMORY));
    numbers.told("four etcdctl get --prefix \"\", the longest", once.gotten, "s", None);
    numbers.told("hook validate --keys", once.compared.median(), "s", None);
    numbers.told("hook validate --keys to etcdctl get", once.compared.median() / once.gotten, "", Some(DIFF));
    numbers.told("resident memory of hook validate --keys, peak", once.compared.peak()?, "MiB", Some(DIFF_MEMORY));
    numbers.told("etcdctl snapshot save", size / saved, "MB/s", None);
    numbers.told("hook snapshot, verified", size / taken.median(), "MB/s", None);
    numbers.told("time of hook snapshot to etcdctl's", taken.median() / saved, "", Some(SNAPSHOT));
    numbers.told("resident memory of hook snapshot, peak", taken.peak()?, "MiB", None);

    fill(&members, keys..2 * keys).await?;
    let twice = Compared::measured(&hook, &members).await?;
    numbers.told("four etcdctl get of twice the keys", twice.gotten, "s", None);
    numbers.told("hook validate --keys of twice the keys", twice.compared.median(), "s", None);
    numbers.told("twice the keys to once", twice.compared.median() / once.compared.median(), "", Some(TWICE));
    numbers.told("resident memory of twice the keys, peak", twice.compared.peak()?, "MiB", Some(DIFF_MEMORY));
    Ok(())
}

/// Both ways to compare, beside etcdctl, in turns: what a member has in memory from one of them speeds up the next or
/// slows it down, so each size has the same turns.
struct Compared {
    hashed: f64,
    validated: Runs,
    gotten: f64,
    compared: Runs,
}

impl Compared {
    async fn measured(hook: &Hook, members: &[String]) -> anyhow::Result<Self> {
        let (mut hashed, mut gotten) = (Vec::new(), Vec::new());
        let (mut validated, mut compared) = (Runs::default(), Runs::default());
        for _ in 0..ROUNDS {
            hashed.push(seconds(each(members, &["endpoint", "hashkv"])).await?);
            validated.add(hook.run(&["validate"]).await?);
            gotten.push(seconds(each(members, &["get", "", "--prefix"])).await?);
            compared.add(hook.run(&["validate", "--keys"]).await?);
        }
        Ok(Self { hashed: median(hashed), validated, gotten: median(gotten), compared })
    }
}

/// Puts keys, many at once.
async fn fill(members: &[String], keys: Range<u64>) -> anyhow::Result<()> {
    let client = Client::connect(members, None).await.context("failed to connect to the members")?;
    let began = Instant::now();
    let puts = stream::iter(keys.clone().step_by(AT_ONCE)).map(|from| {
        let mut client = client.clone();
        let put = |number| TxnOp::put(format!("bench/{number:010}"), vec![b'v'; VALUE], None);
        let puts: Vec<TxnOp> = (from..keys.end.min(from + AT_ONCE as u64)).map(put).collect();
        async move { client.txn(Txn::new().and_then(puts)).await.map(drop) }
    });
    puts.buffer_unordered(ON_THE_WAY).try_collect::<()>().await.context("failed to put the keys")?;
    println!("{} keys put in {:.0} s", keys.end - keys.start, began.elapsed().as_secs_f64());
    Ok(())
}

/// The released program, as it is in the image.
struct Hook {
    program: PathBuf,
    target: [String; 2],
}

impl Hook {
    fn of(release: &Release) -> Self {
        let target = [format!("--namespace={}", release.namespace), format!("--statefulset={}", release.statefulset())];
        Self { program: top().join("dist/hook"), target }
    }

    /// Seconds, and its resident memory at its peak in KiB.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<(f64, Option<u64>)> {
        let mut command = Command::new(&self.program);
        command.args(arguments).args(&self.target);
        let program = self.program.to_string_lossy();
        let (took, peak) = memory::peak_during(&[&program, arguments[0]], seconds([command])).await;
        Ok((took?, peak))
    }
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

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

fn etcdctl(url: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.args([&format!("--endpoints={url}"), "--command-timeout=240s"]).args(arguments);
    command
}

/// The same asked of each member.
fn each(members: &[String], arguments: &[&str]) -> Vec<Command> {
    members.iter().map(|url| etcdctl(url, arguments)).collect()
}

/// Runs programs side by side; until the last has ended. What they print goes nowhere.
async fn seconds(commands: impl IntoIterator<Item = Command>) -> anyhow::Result<f64> {
    let began = Instant::now();
    let running = commands.into_iter().map(|mut command| async move {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let line = format!("{:?}", command.as_std());
        let child = command.spawn().with_context(|| format!("failed to start {line}"))?;
        let ended = timeout(ENDS, child.wait_with_output()).await;
        let ended = ended.with_context(|| format!("{line} did not end within {} s", ENDS.as_secs()))??;
        ensure!(ended.status.success(), "{line}: {}\n{}", ended.status, String::from_utf8_lossy(&ended.stderr));
        Ok(())
    });
    try_join_all(running).await?;
    Ok(began.elapsed().as_secs_f64())
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
