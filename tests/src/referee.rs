//! The referee: judges what happened during a scenario, not what a poll happened to see.
//!
//! [`history`] is put together from the API server's audit log, the members' own write-ahead logs
//! ([`wal`]), the logs of etcd's containers and what the load was answered; [`watch`] keeps hold of
//! the files while pods and disks come and go. [`judge`] is pure.

pub mod audit;
mod etcd_log;
pub mod history;
pub mod judge;
pub mod wal;
pub mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;

use crate::cluster::{audit_log, is_bed, top};
use crate::journal::{History as ClientHistory, READS, Reads};
use crate::load::Load;
use crate::process::run;
use crate::release::Release;
use audit::AuditLog;
use history::{History, Log, Micros, Names, What};
use judge::Violation;
use watch::{Held, Places, Watch};

/// How many lines of the history are shown around a violation.
const AROUND: usize = 6;

/// Looks on from now on.
#[derive(Debug)]
pub struct Referee {
    /// The test bed's sources; elsewhere the load alone tells.
    bed: Option<Bed>,
}

#[derive(Debug)]
struct Bed {
    audit: AuditLog,
    files: Watch,
}

impl Referee {
    /// Begins to look on.
    ///
    /// # Errors
    /// On the test bed: when its audit log is not found.
    pub async fn start(release: &Release) -> anyhow::Result<Self> {
        if !is_bed() {
            return Ok(Self { bed: None });
        }
        let audit = audit_log().await.context("the bed does not say where its audit log is")?;
        let files = Watch::start(Places {
            run: run_directory().await?,
            namespace: release.namespace.clone(),
            directories: vec![own_directory(release), format!("{}-data-", release.namespace)],
        });
        Ok(Self { bed: Some(Bed { audit: AuditLog::from_now(&audit)?, files }) })
    }

    /// The logs of etcd's containers whose pods are gone, by the directory that each was in; elsewhere than on the bed
    /// none.
    #[must_use]
    pub fn logs_of_the_gone(&self) -> Vec<(String, String)> {
        let held = self.bed.iter().flat_map(|bed| bed.files.held());
        let gone = held.filter(|held| is_containers_log(held) && !held.path.exists());
        gone.filter_map(|held| Some((held.path.display().to_string(), held.text().ok()?))).collect()
    }

    /// What happened since. Everything acknowledged until now is read back from the members.
    ///
    /// # Errors
    /// When a source that is there cannot be read.
    pub async fn history(&self, release: &Release) -> anyhow::Result<History> {
        let names = Names {
            namespace: release.namespace.clone(),
            statefulset: release.statefulset(),
            image: release.images.scaler.clone(),
        };
        let mut history = History { names, ..History::default() };
        // First what was acknowledged, then where it must be.
        match &self.bed {
            Some(bed) => {
                add_load(&mut history, &held_journals(&bed.files.held())?)?;
                history.requests = bed.audit.requests(&release.namespace)?;
                add_files(&mut history, &bed.files.held())?;
            }
            None => {
                if let Some(load) = Load::of(release).await? {
                    add_load(&mut history, &load.journals().await?)?;
                }
                history.vanished.clear();
                history.unseen.push("not the test bed: only what the load was answered is judged".to_owned());
            }
        }
        match read_back(release).await {
            Ok(Some(read)) => history.read_back = read,
            Ok(None) => {}
            Err(error) => history.unseen.push(format!("not everything was read back: {error:#}")),
        }
        Ok(history)
    }
}

/// Where the bed keeps its nodes' disks.
async fn run_directory() -> anyhow::Result<PathBuf> {
    let script = top().join("tests/bed/bed");
    let printed = run(&script.to_string_lossy(), ["path", "run"], "", Duration::from_secs(10)).await?.ok()?;
    Ok(PathBuf::from(printed.trim()))
}

/// The directory that this run's volumes lie in, and no other's.
fn own_directory(release: &Release) -> String {
    let directory = release.directory(0);
    let parent = Path::new(&directory).parent().and_then(Path::file_name);
    parent.unwrap_or_default().to_string_lossy().into_owned()
}

/// The load's files, as far as they were held: of a load that was started twice, all.
fn held_journals(held: &[Held]) -> anyhow::Result<Vec<(String, String)>> {
    let files = held.iter().filter(|held| held.path.to_string_lossy().contains("kubernetes.io~empty-dir"));
    files.map(|held| Ok((file_name(&held.path), held.text()?))).collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// What the load was answered.
fn add_load(history: &mut History, files: &[(String, String)]) -> anyhow::Result<()> {
    for (name, text) in files {
        if name == READS {
            let reads = Reads::parse(text).with_context(|| format!("the load's {name} is damaged"))?;
            history.answers.extend(reads.answers);
            history.missing.extend(reads.missing);
        } else if let Some(client) = name.strip_prefix("client-").and_then(|rest| rest.strip_suffix(".log")) {
            let its = ClientHistory::parse(text).with_context(|| format!("the load's {name} is damaged"))?;
            let client: u32 = client.parse()?;
            // Until it is found in a member's log.
            for (number, put) in (1..).zip(&its.answers) {
                history.vanished.insert((client, number));
                history.acknowledged_at.insert((client, number), put.got);
            }
            history.answers.extend(its.answers);
        }
    }
    Ok(())
}

/// Whether it is `NAMESPACE_POD_UID/etcd/N.log`.
fn is_containers_log(held: &Held) -> bool {
    let of_a_container = held.path.components().any(|part| part.as_os_str() == "etcd");
    of_a_container && held.path.extension().is_some_and(|it| it == "log")
}

/// What the members and the logs of their containers tell.
fn add_files(history: &mut History, held: &[Held]) -> anyhow::Result<()> {
    let mut times = etcd_log::Times::new();
    for held in held {
        if is_containers_log(held) {
            let log = held.text()?;
            etcd_log::note_times(&log, &mut times);
            history.starts.extend(etcd_log::start(&held.path, &log));
        }
    }
    let logs = wal::read_held(held)?;
    let anew = history.requests.iter().filter(|it| it.uninstalls()).map(|it| it.received);
    let mut agreed = wal::agreed(&logs, &anew.collect::<Vec<_>>());
    for log in &mut agreed.logs {
        etcd_log::give_times(log, &times);
    }
    for log in &mut agreed.logs {
        give_times_by_load(log, &history.acknowledged_at);
    }
    let entries = agreed.logs.iter().flat_map(|log| &log.entries).chain(&agreed.ahead);
    for entry in entries {
        if let What::Load(client, number) = entry.what {
            history.vanished.remove(&(client, number));
        }
    }
    if !agreed.whole || logs.is_empty() {
        // What is in none of them may have been in what is missing.
        history.vanished.clear();
        history.unseen.push("no cluster's log is there from its first entry on".to_owned());
    }
    history.differences = agreed.differences;
    history.logs = agreed.logs;
    Ok(())
}

/// Gives what nobody logs a time, for people: that of the next put of the load that was
/// acknowledged, at most a few milliseconds later.
fn give_times_by_load(log: &mut Log, acknowledged: &BTreeMap<(u32, u64), Micros>) {
    let mut next = None;
    for entry in log.entries.iter_mut().rev() {
        match entry.what {
            What::Load(client, number) => next = acknowledged.get(&(client, number)).copied().or(next),
            What::Foreign(..) => entry.at = next,
            _ => {}
        }
    }
}

/// Reads back from every started voter, if there is a load and an etcd.
async fn read_back(release: &Release) -> anyhow::Result<Option<Vec<history::ReadBack>>> {
    let Some(load) = Load::of(release).await? else { return Ok(None) };
    let set = ["get", "statefulset", &release.statefulset(), "--ignore-not-found", "-o", "name"];
    if release.kubectl(&set).await?.is_empty() {
        return Ok(None);
    }
    let members = release.members().await?;
    let voters = members.into_iter().filter(|member| member.started && !member.learner);
    let names: Vec<String> = voters.map(|member| member.name).collect();
    load.read_back(&names).await.map(Some)
}

/// A violation and what happened around it, for people.
#[must_use]
pub fn told(history: &History, violation: &Violation) -> String {
    let mut text = format!("BROKEN {}\n       {}\n", violation.rule, violation.what);
    let Some(at) = violation.at else { return text };
    let lines = history.lines();
    let middle = lines.iter().position(|line| line.at.is_some_and(|its| its >= at)).unwrap_or(lines.len());
    let from = middle.saturating_sub(AROUND);
    for line in lines.iter().skip(from).take(2 * AROUND) {
        let mark = if line.at == Some(at) { ">" } else { " " };
        text.push_str(&format!("     {mark} {line}\n"));
    }
    text
}
