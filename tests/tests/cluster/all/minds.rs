//! A change of mind while it runs: the newest count wins, nobody is left half-joined or with an ID that
//! is not live.

use anyhow::{Context, ensure};
use tests::failpoints::Failpoint;
use tests::load::Load;
use tests::release::{Helm, Release};
use tests::scenario;

use crate::kills::{nobody_is_held, stayed, webhook_is_ready};
use crate::ways::scale;

type Result = anyhow::Result<()>;

/// While the fourth of five joins, four are wanted, and then three.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn five_then_four_then_three_are_wanted_at_every_failpoint_of_a_join() -> Result {
    at_each("mind-up", async |release| {
        for point in Failpoint::JOIN {
            let (before, wanted) = (release.pods().await?, [5, 4, 3]);
            changed(release, point, &wanted).await.with_context(|| format!("{wanted:?} at {}", point.name()))?;
            stayed(release, &before).await?;
            release.say(&format!("3 → {wanted:?} at {}: three", point.name()));
        }
        Ok(())
    })
    .await
}

/// While the fourth leaves, it is wanted again.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn four_are_wanted_again_at_every_failpoint_of_a_scale_down() -> Result {
    at_each("mind-down", async |release| {
        scale(release, 4).await?.ok()?;
        release.job("four").await?.done().await?;
        // The leader need not be the one to leave, and the controller may be the one to delete the pod.
        let by_chance = [Failpoint::BeforeMovingLeader, Failpoint::LeaderMoved, Failpoint::PodRemoved];
        for point in Failpoint::LEAVE.into_iter().filter(|point| !by_chance.contains(point)) {
            let mut before = release.pods().await?;
            before.remove(&release.pod(3));
            changed(release, point, &[3, 4]).await.with_context(|| format!("3, then 4 at {}", point.name()))?;
            stayed(release, &before).await?;
            release.say(&format!("4 → 3, then 4 at {}: four", point.name()));
        }
        Ok(())
    })
    .await
}

async fn at_each(name: &str, scenario: impl AsyncFnOnce(&Release) -> Result) -> Result {
    let mut release = Release::of(name, Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        Load::start(release).await?;
        scenario(release).await
    })
    .await
}

/// The first count is asked for, and at the failpoint the others, one after the other.
async fn changed(release: &Release, point: Failpoint, wanted: &[usize]) -> Result {
    let (first, others) = wanted.split_first().context("no count")?;
    let last = *others.last().context("no change of mind")?;
    webhook_is_ready(release).await?;
    let name = format!("mind-{}", point.name());
    let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, point]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    scale(release, *first).await?.ok()?;
    if point != Failpoint::LeaseTaken {
        job.go_on().await?;
        job.reached(point).await?;
    }
    for &count in others {
        // Past the last step the first count is a member's: then it is a scale of its own.
        let asked = scale(release, count).await?;
        ensure!(asked.success || point == Failpoint::BeforeValidation, "{}", asked.printed());
    }
    job.go_on().await?;
    release.job(&format!("{name}-again")).await?.done().await?;
    if point == Failpoint::BeforeValidation {
        scale(release, last).await?.ok()?;
        release.job(&format!("{name}-last")).await?.done().await?;
    }
    release.is_settled(last).await?;
    release.names_peers(last).await?;
    nobody_is_held(release, last).await
}
