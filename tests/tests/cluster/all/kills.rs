//! Every failpoint, with every harm; a Job that was frozen; a cluster of two.

use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use serde_json::Value;
use tests::cluster::nodes;
use tests::failpoints::Failpoint;
use tests::faults::{kill_node, own_name, put_back, start_node, take_off};
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release, Storage};
use tests::scenario;
use tests::seed::Seed;

use crate::kills::{Harm, nobody_is_held, node_of, one_more, stayed, webhook_is_ready};

type Result = anyhow::Result<()>;

/// Members are lost and come back, the launcher pauses between its attempts.
const BY_ITSELF: Duration = Duration::from_secs(240);
/// The kubelet calls it ImagePullBackOff after a second failed pull.
const PULLED: Duration = Duration::from_secs(60);
/// A silent holder keeps the Lease for 15 s.
const THAWED: Duration = Duration::from_secs(60);
/// From one to so many members, a failpoint at each.
const MOST: usize = 5;

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_job_killed_at_every_failpoint() -> Result {
    at_every_failpoint("kill-job", Harm::JobKilled).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_joining_pod_deleted_at_every_failpoint() -> Result {
    at_every_failpoint("kill-pod", Harm::PodDeleted).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn its_node_killed_at_every_failpoint() -> Result {
    at_every_failpoint("kill-node", Harm::NodeKilled).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn its_node_and_the_job_killed_at_every_failpoint() -> Result {
    at_every_failpoint("kill-both", Harm::NodeAndJobKilled).await
}

/// In an order by chance, so that in time each is met at each size; a release goes from one member
/// to five, on volumes of ours and on volumes of a provisioner. All are tried, whatever the others
/// find.
async fn at_every_failpoint(name: &str, harm: Harm) -> Result {
    let mut seed = Seed::from_environment();
    let again = seed.again();
    let mut failed = Vec::new();
    for storage in [Storage::Manual, Storage::Provisioned] {
        let mut points = Failpoint::JOIN.to_vec();
        points.retain(|point| harm.can_be_done_at(*point));
        points.retain(|point| storage == Storage::Manual || !point.is_about_volumes());
        seed.shuffle(&mut points);
        for (number, points) in points.chunks(MOST - 1).enumerate() {
            let helm = if number % 2 == 0 { Helm::V4 } else { Helm::V3 };
            let release = with_failpoints(name, helm).on(storage);
            let names: Vec<&str> = points.iter().map(|point| point.name()).collect();
            release.say(&format!("{again}, {storage:?}, {helm:?}: {}", names.join(", ")));
            let ended = run(harm, release, async |release| {
                release.install(1, &[]).await?;
                Load::start(release).await?;
                for (to, point) in (2..).zip(points) {
                    one_more(release, to, *point, harm).await?;
                }
                Ok(())
            });
            failed.extend(ended.await.err());
        }
    }
    all_well(&again, failed)
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_join_taken_back_and_harmed_at_every_failpoint() -> Result {
    let mut failed = Vec::new();
    for (name, harm) in ["back-job", "back-pod", "back-node", "back-both"].into_iter().zip(Harm::ALL) {
        let ended = run(harm, with_failpoints(name, Helm::V4), async |release| {
            release.install(1, &[]).await?;
            Load::start(release).await?;
            for point in Failpoint::UNDO {
                taken_back(release, 1, point, harm).await?;
            }
            // Nothing of it is in the way of a join that is meant.
            release.upgrade(2, &[]).await?;
            release.is_settled(2).await?;
            nobody_is_held(release, 2).await
        });
        failed.extend(ended.await.err());
    }
    all_well("", failed)
}

/// A member that is joining is not wanted any more, and harm is done while it is taken back.
async fn taken_back(release: &Release, count: usize, point: Failpoint, harm: Harm) -> Result {
    let ended = async {
        webhook_is_ready(release).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        let name = format!("back-{}", point.name());
        let stops = [Failpoint::LeaseTaken, Failpoint::JoiningRecorded, point];
        let job = release.stopping_job(&name, &stops).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        release.upgrade(count + 1, &["--no-hooks"]).await?;
        job.go_on().await?;
        job.reached(Failpoint::JoiningRecorded).await?;
        let node = node_of(release, count).await?;
        release.upgrade(count, &["--no-hooks"]).await?;
        job.go_on().await?;
        job.reached(point).await?;
        match harm {
            Harm::JobKilled => job.kill().await?,
            Harm::PodDeleted => {
                let delete = ["delete", "pod", &release.pod(count), "--ignore-not-found", "--wait=false"];
                release.kubectl(&delete).await?;
                job.go_on().await?;
            }
            Harm::NodeKilled => {
                kill_node(&node).await?;
                job.go_on().await?;
                start_node(&node).await?;
            }
            Harm::NodeAndJobKilled => {
                job.kill().await?;
                kill_node(&node).await?;
                start_node(&node).await?;
            }
        }
        release.job(&format!("{name}-again")).await?.done().await?;
        until("the joining pod is gone", BY_ITSELF, async || nobody_is_held(release, count).await).await?;
        release.is_settled(count).await?;
        ensure!(release.members().await? == members, "the member list changed");
        stayed(release, &before).await
    };
    ended.await.with_context(|| format!("{harm:?} at {}", point.name()))?;
    release.say(&format!("{harm:?} at {}: as before", point.name()));
    Ok(())
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_pod_made_again_and_harmed() -> Result {
    let mut failed = Vec::new();
    for (name, harm) in ["again-job", "again-pod", "again-node", "again-both"].into_iter().zip(Harm::ALL) {
        let mut release = with_failpoints(name, Helm::V4);
        let image = release.images.etcd.clone();
        release.images.etcd = own_name(&image, name).await?;
        let ended = run(harm, release, async |release| {
            release.install(1, &[]).await?;
            Load::start(release).await?;
            let (before, taken) = (release.pods().await?, node_of(release, 0).await?);
            let mut spare = nodes().await?;
            spare.retain(|node| *node != taken);
            take_off(&release.images.etcd, &spare).await?;
            let job = release.stopping_job("renews", &[Failpoint::LeaseTaken, Failpoint::PodRenewed]).await?;
            job.reached(Failpoint::LeaseTaken).await?;
            release.upgrade(2, &["--no-hooks"]).await?;
            let pod = crate::kills::joining_pod(release, 1).await?;
            job.go_on().await?;
            until("the Job has the pod made again", PULLED, async || job.reached(Failpoint::PodRenewed).await).await?;
            put_back(&image, &release.images.etcd, &spare).await?;
            harm.done(release, &job, 1).await.with_context(|| pod.clone())?;
            release.job("again").await?.done().await?;
            release.is_settled(2).await?;
            stayed(release, &before).await?;
            nobody_is_held(release, 2).await
        });
        failed.extend(ended.await.err());
    }
    all_well("", failed)
}

/// Its Lease ran out while it could not know; another run has done the work. Nobody else writes:
/// every change would be seen in the length of etcd's log.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_job_frozen_past_its_lease_and_thawed_changes_nothing() -> Result {
    scenario::run_on(with_failpoints("frozen", Helm::V4), async |release| {
        release.install(1, &[]).await?;
        let points =
            [Failpoint::BeforeAdd, Failpoint::JoiningCopied, Failpoint::MemberCopied, Failpoint::BeforePromote];
        for (to, point) in (2..).zip(points) {
            frozen(release, to, point).await.with_context(|| format!("frozen at {}", point.name()))?;
        }
        Ok(())
    })
    .await
}

async fn frozen(release: &Release, to: usize, point: Failpoint) -> Result {
    let name = format!("frozen-{}", point.name());
    let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, point]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    release.upgrade(to, &["--no-hooks"]).await?;
    job.go_on().await?;
    job.reached(point).await?;
    job.freeze().await?;
    // It may go on as soon as it can.
    job.go_on().await?;
    release.job(&format!("{name}-other")).await?.done().await?;
    release.is_settled(to).await?;
    let before = (release.members().await?, release.record().await?, copy(release).await?, raft_index(release).await?);
    job.thaw().await?;
    let end = until("the thawed Job ends", THAWED, async || job.ended().await).await?;
    let last = end.log.lines().last().unwrap_or_default().to_owned();
    release.say(&format!("thawed at {}: {last}", point.name()));
    ensure!(!end.complete && last.contains("took Lease"), "it does not say that it stops:\n{}", end.log);
    let now = (release.members().await?, release.record().await?, copy(release).await?, raft_index(release).await?);
    ensure!(now == before, "before it was thawed:\n{before:?}\nafter:\n{now:?}");
    Ok(())
}

/// The Lease's copy of the record.
async fn copy(release: &Release) -> anyhow::Result<Value> {
    Ok(release.the_lease().await?["metadata"]["annotations"]["etcd-scaler.io/record"].clone())
}

/// How long etcd's log is. Nobody writes in this scenario: any change of members makes it longer.
pub async fn raft_index(release: &Release) -> anyhow::Result<Value> {
    let status: Value = serde_json::from_str(&release.etcdctl(&["endpoint", "status", "-w", "json"]).await?)?;
    Ok(status[0]["Status"]["raftIndex"].clone())
}

/// Nobody starts anything again: the launcher and the controllers do.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn one_two_three_comes_back_by_itself() -> Result {
    comes_back("two", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn one_two_three_comes_back_by_itself_with_helm_3() -> Result {
    comes_back("two-3", Helm::V3).await
}

async fn comes_back(name: &str, helm: Helm) -> Result {
    scenario::run_alone(with_failpoints(name, helm), async |release| {
        release.install(1, &[]).await?;
        Load::start(release).await?;
        for to in [2, 3] {
            promoted_and_killed(release, to).await.with_context(|| format!("{} → {to}", to - 1))?;
            for ordinal in 0..to {
                let node = node_of(release, ordinal).await?;
                kill_node(&node).await?;
                start_node(&node).await?;
                settles(release, to).await.with_context(|| format!("{node} of member {ordinal} rebooted"))?;
                release.kubectl(&["delete", "pod", &release.pod(ordinal)]).await?;
                settles(release, to).await.with_context(|| format!("pod {ordinal} re-created"))?;
            }
            let all: Vec<String> = release.pods().await?.into_values().map(|pod| pod.node).collect();
            for node in &all {
                kill_node(node).await?;
            }
            for node in &all {
                start_node(node).await?;
            }
            settles(release, to).await.context("all nodes rebooted")?;
        }
        Ok(())
    })
    .await
}

/// The Job dies right after it has promoted; at the same time the new voter's node is rebooted, so
/// that there is no quorum for a while.
async fn promoted_and_killed(release: &Release, to: usize) -> Result {
    webhook_is_ready(release).await?;
    // All members are just back: the webhook asks them every 2 s, and refuses until it has heard them all.
    let (set, replicas) = (release.statefulset(), format!("--replicas={to}"));
    let would_scale = ["scale", "statefulset", &set, &replicas, "--dry-run=server"];
    until("the webhook has heard every member", BY_ITSELF, async || release.kubectl(&would_scale).await).await?;
    let job = release.stopping_job(&format!("to-{to}"), &[Failpoint::LeaseTaken, Failpoint::Promoted]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    release.upgrade(to, &["--no-hooks"]).await?;
    job.go_on().await?;
    job.reached(Failpoint::Promoted).await?;
    let node = node_of(release, to - 1).await?;
    job.kill().await?;
    kill_node(&node).await?;
    start_node(&node).await?;
    settles(release, to).await.context("killed between promote and the next step, the node rebooted")
}

async fn settles(release: &Release, count: usize) -> Result {
    until("the cluster comes back by itself", BY_ITSELF, async || {
        release.is_settled(count).await?;
        nobody_is_held(release, count).await
    })
    .await
}

fn with_failpoints(name: &str, helm: Helm) -> Release {
    let mut release = Release::of(name, helm);
    release.images.scaler = release.images.failpoints.clone();
    release
}

async fn run(harm: Harm, release: Release, scenario: impl AsyncFnOnce(&Release) -> Result) -> Result {
    if harm.needs_nodes() {
        scenario::run_alone(release, scenario).await
    } else {
        scenario::run_on(release, scenario).await
    }
}

fn all_well(again: &str, failed: Vec<anyhow::Error>) -> Result {
    ensure!(
        failed.is_empty(),
        anyhow!(
            "{again}: {} failed:\n{}",
            failed.len(),
            failed.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("\n")
        )
    );
    Ok(())
}
