//! `hook snapshot`: saves a healthy voter's database into a file, verifies it, and deletes older ones.
//!
//! It changes nothing in etcd and in Kubernetes, so it needs no Lease. What is recorded about a snapshot is in its file
//! name ([`name`]) and in the file itself, because one file can be renamed in one step and two cannot.

mod name;
mod printed;

use std::fs::{read_dir, remove_file};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use etcd::{Damage, Member, Partial, Saved, SnapshotError};
use jiff::Timestamp;
use kubernetes::objects::{Objects, patiently};
use kubernetes::report;
use kubernetes::statefulset::{adopt, record, replicas};
use membership::decide::snapshot_source::{Source, source};
use membership::know::names::{MOST_MEMBERS, Target};
use name::{Name, newest, recent, superfluous};
use operate::output::Output;
use printed::Printed;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::{info, warn};

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// How long it is waited if no member serves: for an election, or the end of a restart.
const PATIENCE: Duration = Duration::from_secs(8);
/// The pause before they are asked again.
const LOOK: Duration = Duration::from_millis(500);
/// The longest that a member may keep back the next part of its database.
const PART: Duration = Duration::from_secs(30);

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Snapshots {
    /// The directory.
    pub dir: PathBuf,
    /// How many; `None`: all.
    pub keep: Option<NonZeroUsize>,
    /// The age of one that need not be taken again.
    pub max_age: Duration,
}

/// What one run is told.
pub struct Run {
    /// The cluster, but for the headless Service's name.
    pub target: Target,
    /// Where snapshots are kept.
    pub dir: PathBuf,
    /// How many; `None`: all.
    pub keep: Option<NonZeroUsize>,
    /// The age of one that need not be taken again; `None`: it is always taken.
    pub max_age: Option<Duration>,
    /// For everything.
    pub deadline: Duration,
    /// How the result is printed.
    pub output: Output,
}

/// Takes a snapshot, or finds a recent one.
///
/// # Errors
/// Why there is none, in one line; earlier ones are as they were. Or why older ones could not be
/// deleted after it was taken.
pub async fn run(run: Run) -> anyhow::Result<()> {
    // The first process of a container ignores signals that it does not listen for.
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let end = Instant::now() + run.deadline;
    // If the work is dropped, it removes its unfinished file.
    let printed = tokio::select! {
        done = tokio::time::timeout_at(end, work(&run, end)) => match done {
            Ok(done) => done?,
            Err(_) => bail!(
                "the snapshot was not there within {:.1} s, what was written of it is removed; raise --deadline (snapshot.deadlineSeconds) and run it again",
                run.deadline.as_secs_f64()
            ),
        },
        _ = terminate.recv() => bail!("told to stop (SIGTERM): what was written of the snapshot is removed; run it again"),
    };
    info!("{}", printed.sentence());
    report::last_word(&printed.sentence());
    println!("{}", printed.as_text(run.output)?);
    Ok(())
}

/// The snapshot before members change: finds a recent one or takes one; says which, in a sentence.
///
/// # Errors
/// Why there is none, in one line.
pub async fn before(snapshots: &Snapshots, target: &Target, end: Instant) -> anyhow::Result<String> {
    let Snapshots { dir, keep, max_age } = snapshots.clone();
    let deadline = end.saturating_duration_since(Instant::now());
    let run = Run { target: target.clone(), dir, keep, max_age: Some(max_age), deadline, output: Output::Table };
    match tokio::time::timeout_at(end, work(&run, end)).await {
        Ok(done) => Ok(done.context("no member was changed, there is no snapshot of before it")?.sentence()),
        Err(_) => bail!(
            "the snapshot before the change was not there within {:.1} s, what was written of it is removed and no member was changed; raise hook.deadlineSeconds and hook.preflightDeadlineSeconds (and helm --timeout above them), or have one taken before (docs/snapshot.md) and upgrade again",
            deadline.as_secs_f64()
        ),
    }
}

async fn work(run: &Run, end: Instant) -> anyhow::Result<Printed> {
    let Run { dir, keep, max_age, .. } = run;
    let mut target = run.target.clone();
    ensure!(dir.is_dir(), "{} is not a directory: have a volume mounted there, or name another --dir", dir.display());
    let Source { ordinal, cluster, warnings } = voter(&mut target, end).await?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    let earlier = newest(&listed(dir)?, &target, cluster);
    if let Some(max_age) = max_age
        && let Some(found) = undamaged(dir, &recent(&earlier, Timestamp::now(), *max_age))?
    {
        return Ok(found);
    }
    let prefix = name::prefix(&target);
    for swept in etcd::sweep(dir, &prefix)? {
        info!("{} was left behind by a run that was killed: removed", swept.display());
    }
    let (path, name, saved) = take(&target, ordinal, dir, &prefix).await?;
    let mut deleted = Vec::new();
    if let Some(keep) = keep {
        // Listed again: another run may have taken one meanwhile.
        let all = newest(&listed(dir)?, &target, saved.cluster);
        for old in superfluous(&all, keep.get(), &name) {
            let file = dir.join(old.to_string());
            match remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| {
                        format!(
                            "{} is taken and verified, but of the older ones {} could not be deleted: delete it, or the volume will be full",
                            path.display(),
                            file.display()
                        )
                    });
                }
                _ => deleted.push(old.to_string()),
            }
        }
    }
    Ok(Printed::taken(&path, &name, target.pod(ordinal), &saved, deleted))
}

/// Takes it from this member.
async fn take(target: &Target, ordinal: u32, dir: &Path, prefix: &str) -> anyhow::Result<(PathBuf, Name, Saved)> {
    let taken = Timestamp::now();
    let taking = async {
        let member = Member::at(&target.client_url(ordinal), PART).await?;
        let mut partial = Partial::create(dir, prefix)?;
        let saved = member.snapshot(&mut partial).await?;
        let name = Name {
            namespace: target.namespace.clone(),
            statefulset: target.statefulset.clone(),
            cluster: saved.cluster,
            taken: name::rounded(taken),
            member: saved.member,
            revision: saved.revisions.at_least,
        };
        Ok((partial.publish(&name.to_string())?, name, saved))
    };
    taking.await.map_err(|error: SnapshotError| {
        let way_out = way_out(&error);
        anyhow::anyhow!(
            "no snapshot of {} was taken: {:#}. Earlier ones are as they were. {way_out}",
            target.pod(ordinal),
            anyhow::Error::new(error)
        )
    })
}

/// What a person can do about the error.
fn way_out(error: &SnapshotError) -> &'static str {
    match error {
        SnapshotError::Call(_) | SnapshotError::Short { .. } => {
            "Run it again: a member that serves is chosen; if it stays, see that member's log"
        }
        SnapshotError::NoRoom { .. } => "Free space there, keep fewer (--keep), or use a larger volume",
        SnapshotError::Damaged { source: Damage::NoHash(_), .. } => {
            "Upgrade this etcd, or use etcdctl snapshot save and check the file by a restore"
        }
        SnapshotError::Damaged { .. } => {
            "Run it again; if it stays, what the member reads from its disk is not what it sends: see its log and disk"
        }
        SnapshotError::File { .. } => "The directory must be there and writable for this program's user and group",
    }
}

/// The healthy voter to ask.
async fn voter(target: &mut Target, end: Instant) -> anyhow::Result<Source> {
    let objects = Objects::connect(&target.namespace).await?;
    let statefulset = patiently(end, || objects.statefulset(target)).await?;
    adopt(&statefulset, target)?;
    // A record that cannot be read is no reason not to save the data.
    let record = record(&statefulset).unwrap_or_else(|error| {
        warn!("{error:#}");
        None
    });
    let recorded = record.iter().flat_map(|record| record.members.keys()).max().map_or(0, |last| last + 1);
    let count = replicas(&statefulset).max(recorded).min(MOST_MEMBERS);
    let patience = Instant::now() + PATIENCE;
    loop {
        let answers = etcd::observe(target, 0..count, ANSWER).await;
        match source(target, record.as_ref(), &answers) {
            Ok(source) => return Ok(source),
            Err(why) if Instant::now() + LOOK > patience => {
                bail!("no snapshot of {target} was taken, earlier ones are as they were: {why}")
            }
            Err(why) => info!("asking again: {why}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn listed(dir: &Path) -> anyhow::Result<Vec<String>> {
    let listed = || read_dir(dir)?.map(|entry| Ok(entry?.file_name().into_string().ok())).collect();
    let listed: std::io::Result<Vec<Option<String>>> = listed();
    Ok(listed.with_context(|| format!("failed to list {}", dir.display()))?.into_iter().flatten().collect())
}

/// The newest of these that is whole.
fn undamaged(dir: &Path, names: &[&Name]) -> anyhow::Result<Option<Printed>> {
    for name in names {
        let path = dir.join(name.to_string());
        match etcd::verify(&path) {
            Ok(Ok((db_size, sha256))) => return Ok(Some(Printed::recent(&path, name, db_size, sha256))),
            Ok(Err(damage)) => warn!("{} is damaged and does not count: {damage}", path.display()),
            // The file is gone or not readable for this user: another snapshot is taken.
            Err(error) => warn!("{:#}", anyhow::Error::new(error)),
        }
    }
    Ok(None)
}
