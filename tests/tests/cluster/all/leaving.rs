//! A member that leads is not wanted any more, and harm is done at every failpoint on its way out.

use std::time::Duration;

use anyhow::Context;
use tests::failpoints::Failpoint;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

use crate::kills::{Harm, nobody_is_held, stayed, webhook_is_ready};

type Result = anyhow::Result<()>;

/// Until what nobody repairs is as it was.
const BY_ITSELF: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_job_killed_at_every_failpoint_of_a_scale_down() -> Result {
    at_every_failpoint("leave-job", Harm::JobKilled).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn its_pod_deleted_at_every_failpoint_of_a_scale_down() -> Result {
    at_every_failpoint("leave-pod", Harm::PodDeleted).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn its_node_and_the_job_killed_at_every_failpoint_of_a_scale_down() -> Result {
    at_every_failpoint("leave-both", Harm::NodeAndJobKilled).await
}

/// etcd has the removal in memory only until its log's next entry, and nobody writes here: the last one would wait for the
/// vote of the one that left.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_last_member_killed_when_the_other_has_left_serves_again() -> Result {
    scenario::run("last", Helm::V4, async |release| {
        release.install(2, &[]).await?;
        release.upgrade(1, &[]).await?;
        release.restart_container(&release.pod(0), "etcd").await?;
        until("the last member serves", BY_ITSELF, async || release.is_settled(1).await).await
    })
    .await
}

async fn at_every_failpoint(name: &str, harm: Harm) -> Result {
    let mut release = Release::of(name, Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    let scenario = async |release: &Release| {
        release.install(2, &[]).await?;
        Load::start(release).await?;
        // Where its member is gone the controller may be the one to delete the pod.
        for point in Failpoint::LEAVE.into_iter().filter(|point| *point != Failpoint::PodRemoved) {
            release.upgrade(3, &[]).await?;
            leaves(release, point, harm).await.with_context(|| format!("{harm:?} at {}", point.name()))?;
            release.say(&format!("3 → 2, {harm:?} at {}: the same", point.name()));
        }
        Ok(())
    };
    if harm.needs_nodes() {
        scenario::run_alone(release, scenario).await
    } else {
        scenario::run_on(release, scenario).await
    }
}

async fn leaves(release: &Release, point: Failpoint, harm: Harm) -> Result {
    webhook_is_ready(release).await?;
    let mut staying = release.pods().await?;
    staying.remove(&release.pod(2));
    let job = release.stopping_job(&format!("leave-{}", point.name()), &[Failpoint::LeaseTaken, point]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    release.make_lead(2).await?;
    release.upgrade(2, &["--no-hooks"]).await?;
    if point != Failpoint::LeaseTaken {
        job.go_on().await?;
        job.reached(point).await?;
    }
    // Where its member is gone the controller deletes its pod, before us or in the same moment.
    let name = release.pod(2);
    let there = release.kubectl(&["get", "pod", &name, "--ignore-not-found", "-o", "name"]).await?;
    match harm {
        Harm::PodDeleted => {
            release.kubectl(&["delete", "pod", &name, "--wait=false", "--ignore-not-found"]).await?;
            job.go_on().await?;
        }
        Harm::NodeKilled | Harm::NodeAndJobKilled if there.is_empty() => job.go_on().await?,
        _ => harm.done(release, &job, 2).await?,
    }
    release.job(&format!("leave-{}-again", point.name())).await?.done().await?;
    release.is_settled(2).await?;
    release.names_peers(2).await?;
    stayed(release, &staying).await?;
    nobody_is_held(release, 2).await
}
