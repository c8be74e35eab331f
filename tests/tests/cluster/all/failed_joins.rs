//! A newcomer that etcd has heard of and that does not make it: the reason is told, members and pods are as before, the
//! count is left to a person. Repaired, the launcher finishes; when it gives up, it says how to go on.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::{in_node, is_bed};
use tests::disk::Disk;
use tests::failpoints::{Failpoint, Job};
use tests::faults::{kill_node, own_name, put_back, start_node, take_off};
use tests::load::Load;
use tests::members::{Member, Pod};
use tests::process::until;
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

use super::kills::raft_index;
use crate::kills::{nobody_is_held, node_of, stayed};
use crate::said::said;
use crate::ways::scale;

type Result = anyhow::Result<()>;

/// A join's time: past the third start of a container that fails at once, in the middle of the pause before the fourth.
const SHORT: [&str; 2] = ["--set", "hook.joinDeadlineSeconds=50"];
/// What is waited of it, in seconds: a second more for each 4 MB of a database that the load's minutes make.
const WAITED: RangeInclusive<u64> = 50..=70;
/// The launcher's pauses, a pod that is made again, and a join on a busy machine.
const BY_ITSELF: Duration = Duration::from_secs(420);
/// Some 300 keys a second are put.
const WRITTEN: Duration = Duration::from_secs(120);
/// Five attempts, and seven minutes of pauses between them.
const GIVEN_UP: Duration = Duration::from_secs(1200);
/// So many raft entries are more than a newcomer may lag behind, and at most that part of them.
const BEHIND: (u64, u64) = (2000, 4);

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn whose_etcd_never_starts() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be spoilt");
        return Ok(());
    }
    scenario::run_on(with_failpoints("never-starts"), async |release| {
        let (load, before) = three(release).await?;
        let from = now();
        let job = stopped(release, Failpoint::BeforeAdd).await?;
        // Its init containers have been content with it.
        let disk = release.disk(3).await?;
        may_be_written(&disk, false).await?;
        job.go_on().await?;
        did_not_join(release, "join-never-starts", &before, &job, from).await?;
        may_be_written(&disk, true).await?;
        finishes(release, &load, &before, from).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn whose_node_is_lost() -> Result {
    scenario::run_alone(with_failpoints("never-back"), async |release| {
        let (load, before) = three(release).await?;
        let from = now();
        let job = stopped(release, Failpoint::Permitted).await?;
        let node = node_of(release, 3).await?;
        kill_node(&node).await?;
        job.go_on().await?;
        did_not_join(release, "join-node-lost", &before, &job, from).await?;
        start_node(&node).await?;
        finishes(release, &load, &before, from).await
    })
    .await
}

/// It is reached by clients, and by no other member.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn that_never_catches_up() -> Result {
    // No other member is on its node: nobody else's peers are kept away.
    scenario::run_alone(with_failpoints("never-level"), async |release| {
        let (load, before) = three(release).await?;
        let from = now();
        let job = stopped(release, Failpoint::BeforePromote).await?;
        let node = node_of(release, 3).await?;
        peers_are_away(&node, true).await?;
        let outcome = async {
            let index = async || raft_index(release).await?.as_u64().context("a raft index that is no number");
            let then = index().await?;
            let (entries, part) = BEHIND;
            until("it is far behind", WRITTEN, async || {
                let written = index().await? - then;
                ensure!(written > entries.max(then / part), "{written} entries were written since");
                Ok(())
            })
            .await?;
            job.go_on().await?;
            did_not_join(release, "join-never-catches-up", &before, &job, from).await
        };
        let outcome = outcome.await;
        peers_are_away(&node, false).await?;
        outcome?;
        finishes(release, &load, &before, from).await
    })
    .await
}

/// Nobody of etcd hears of it: each attempt ends as soon as the kubelet has said why.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn that_is_tried_five_times_and_then_by_hand() -> Result {
    if !is_bed() {
        println!("not the test bed: no image is taken off a node");
        return Ok(());
    }
    let mut release = Release::of("given-up", Helm::V4);
    let image = release.images.etcd.clone();
    release.images.etcd = own_name(&image, "given-up").await?;
    scenario::run_on(release, async |release| {
        let (load, before) = three(release).await?;
        let spare = release.spare_nodes().await?;
        take_off(&release.images.etcd, &spare).await?;
        let from = now();
        scale(release, 4).await?.ok()?;
        let note = until("the launcher gives up", GIVEN_UP, async || {
            let events = release.events_since(from).await?;
            let given_up = events.into_iter().find(|event| event.reason == "ScaleGivenUp");
            Ok(given_up.context("no Event ScaleGivenUp")?.note)
        })
        .await?;
        said(release, "launcher-gives-up", &note);
        before.is_still_so(release).await?;
        let attempts = release.events_since(from).await?.into_iter().filter(|event| event.reason == "ScaleFailed");
        let attempts = attempts.count();
        ensure!(attempts == 5, "{attempts} attempts");
        put_back(&image, &release.images.etcd, &spare).await?;
        // What it says, to the letter.
        let command = note.split("kubectl ").nth(1).and_then(|rest| rest.split_once(". ")).context("no command")?.0;
        release.kubectl(&command.split_whitespace().collect::<Vec<_>>()).await?;
        finishes(release, &load, &before, from).await
    })
    .await
}

/// How it was before the newcomer.
struct Before {
    members: Vec<Member>,
    pods: BTreeMap<String, Pod>,
}

impl Before {
    /// Members and their pods; and the count that a person asked for is theirs to change.
    async fn is_still_so(&self, release: &Release) -> Result {
        let members = release.members().await?;
        ensure!(members == self.members, "the members are {members:?}");
        stayed(release, &self.pods).await?;
        let replicas = ["get", "statefulset", &release.statefulset(), "-o", "jsonpath={.spec.replicas}"];
        ensure!(release.kubectl(&replicas).await? == "4", "the count was changed");
        Ok(())
    }
}

async fn three(release: &Release) -> anyhow::Result<(Load<'_>, Before)> {
    release.install(3, &SHORT).await?;
    let load = Load::busy(release).await?;
    Ok((load, Before { members: release.members().await?, pods: release.pods().await? }))
}

/// A Job that stands where the fourth is on its way.
async fn stopped(release: &Release, point: Failpoint) -> anyhow::Result<Job<'_>> {
    // Beside a member: a node that a scenario takes away is the newcomer's.
    let node = node_of(release, 0).await?;
    let job = release.stopping_job_on(Some(&node), "stopped", &[Failpoint::LeaseTaken, point]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    scale(release, 4).await?.ok()?;
    job.go_on().await?;
    job.reached(point).await?;
    Ok(job)
}

/// The Job fails with one line, which an Event says as well; all is as before.
async fn did_not_join(release: &Release, name: &str, before: &Before, job: &Job<'_>, from: i64) -> Result {
    let pod = job.fails().await?;
    ensure!(pod.exit_code == 1 && pod.message.lines().count() == 1, "it ended with {pod:?}");
    said(release, name, &pod.message);
    let waited = pod.message.split("within ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    ensure!(waited.is_some_and(|seconds| WAITED.contains(&seconds)), "it waited {waited:?} s: {}", pod.message);
    // The launcher may be at its next attempt already.
    until("all is as before", BY_ITSELF, async || before.is_still_so(release).await).await?;
    let events = release.events_since(from).await?;
    let told = events.iter().any(|event| event.reason == "ScaleFailed" && pod.message.contains(&event.note));
    ensure!(told, "no Event says {:?}: {events:?}", pod.message);
    let taken_back = events.iter().find(|event| event.reason == "MemberTakenBack").context("no MemberTakenBack")?;
    said(release, &format!("{name}-event"), &taken_back.note);
    Ok(())
}

/// Repaired: nobody starts anything.
async fn finishes(release: &Release, load: &Load<'_>, before: &Before, from: i64) -> Result {
    until("the launcher finishes", BY_ITSELF, async || {
        release.is_settled(4).await?;
        nobody_is_held(release, 4).await
    })
    .await?;
    release.names_peers(4).await?;
    stayed(release, &before.pods).await?;
    let to = now();
    release.say(&format!("four, {} s after they were asked for", (to - from) / 1000));
    let ended = release.try_upgrade(4, &SHORT).await?.ended;
    ensure!(ended.success, "{}", ended.printed());
    load.lost_nothing(4, &Ran { ended, from, to }).await.map(drop)
}

/// Whether anybody but root may write to a member's disk.
async fn may_be_written(disk: &Disk, by_all: bool) -> Result {
    let mode = if by_all { "a+w" } else { "a-w" };
    in_node(&disk.node, &["chmod", mode, &disk.path]).await.map(drop)
}

/// Whether etcd's peers are kept away from whoever is on this node, and it from them.
async fn peers_are_away(node: &str, away: bool) -> Result {
    let change = if away { "--insert" } else { "--delete" };
    for port in ["--dport", "--sport"] {
        in_node(node, &["iptables", "--wait", change, "FORWARD", "-p", "tcp", port, "2380", "-j", "DROP"]).await?;
    }
    Ok(())
}

fn with_failpoints(name: &str) -> Release {
    let mut release = Release::of(name, Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    release
}
