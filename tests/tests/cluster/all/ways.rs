//! The matrix: {Helm 4, Helm 3, `kubectl scale`, server-side apply} × nine changes × pod management ×
//! kind of volume. One release goes through all nine; each way meets each change with each Helm.
//! After it what two values decide: `onReset`, and `pv.onScaleDown`.

use anyhow::ensure;
use tests::cluster::nodes;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release, Storage};
use tests::scenario;

use crate::said::{by, error, said};
use crate::ways::{SETTLED, Way, change, ends_with, rows_of};

type Result = anyhow::Result<()>;

/// From one: 1→3, 3→4, 4→3, 3→5, 5→3, 3→7, 7→1, 1→2, 2→1.
const COUNTS: [usize; 9] = [3, 4, 3, 5, 3, 7, 1, 2, 1];

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn helm_4_parallel_manual() -> Result {
    matrix("matrix-a", Helm::V4, "Parallel", Storage::Manual, 0).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn helm_4_ordered_ready_provisioned() -> Result {
    matrix("matrix-b", Helm::V4, "OrderedReady", Storage::Provisioned, 1).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn helm_3_ordered_ready_manual() -> Result {
    matrix("matrix-c", Helm::V3, "OrderedReady", Storage::Manual, 2).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn helm_3_parallel_provisioned() -> Result {
    matrix("matrix-d", Helm::V3, "Parallel", Storage::Provisioned, 3).await
}

async fn matrix(name: &str, helm: Helm, policy: &str, storage: Storage, shift: usize) -> Result {
    scenario::run_on(Release::of(name, helm).on(storage), async |release| {
        let policy = format!("etcd.podManagementPolicy={policy}");
        let mut options = vec!["--set", &policy];
        // One member on each node, where there are enough of them.
        if nodes().await?.len() < 7 {
            options.extend(["--set", "etcd.podAntiAffinityPreset=soft"]);
        }
        release.install(1, &options).await?;
        let load = Load::start(release).await?;
        rows_of(release, &load, 1, &rows(shift), &options).await
    })
    .await
}

/// Of the two releases of one Helm, one has Helm at the even changes and the other at the odd ones;
/// between, scale and apply take turns.
fn rows(shift: usize) -> Vec<(Way, usize)> {
    let way = |place: usize| match (place + shift) % 2 {
        0 => Way::Helm,
        _ if (place / 2 + shift / 2).is_multiple_of(2) => Way::Scale,
        _ => Way::Apply,
    };
    COUNTS.iter().enumerate().map(|(place, &count)| (way(place), count)).collect()
}

#[test]
fn each_way_meets_each_change() {
    for place in 0..COUNTS.len() {
        let met: Vec<Way> = (0..4).map(|shift| rows(shift)[place].0).collect();
        assert_eq!(met.iter().filter(|way| **way == Way::Helm).count(), 2, "one with each Helm: {met:?}");
        assert!(met.contains(&Way::Scale) && met.contains(&Way::Apply), "{met:?}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_release_does_not_set_a_scaled_count_back_unasked_with_helm_4() -> Result {
    scenario::run("reset", Helm::V4, reset).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_release_does_not_set_a_scaled_count_back_unasked_with_helm_3() -> Result {
    scenario::run("reset-3", Helm::V3, reset).await
}

/// What a release may do with a count that was set with `kubectl scale` since.
async fn reset(release: &Release) -> Result {
    release.install(1, &[]).await?;
    change(release, Way::Scale, 2, &[]).await?;
    let refused = release.try_upgrade(1, &[]).await?.refused()?;
    for part in ["from 2 to 1 is refused", "--set etcd.replicaCount=2", "onReset=follow", "onReset=keep"] {
        ensure!(refused.contains(part), "{part:?} is not in:\n{refused}");
    }
    let helm = by(release.helm);
    said(release, &format!("reset-refused-by-{helm}"), &error(&refused));
    said(release, &format!("reset-refused-by-the-check-{helm}"), &release.job_pod("preflight").await?.message);
    ends_with(release, 2).await?;
    // With the live count the release has it again, and may change it again.
    release.upgrade(2, &[]).await?;
    release.upgrade(3, &[]).await?;
    release.is_settled(3).await?;
    change(release, Way::Scale, 2, &[]).await?;
    for _ in 0..2 {
        release.upgrade(3, &["--set", "onReset=keep"]).await?;
        ends_with(release, 2).await?;
    }
    release.upgrade(3, &["--set", "onReset=follow"]).await?;
    ends_with(release, 3).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_claim_of_a_removed_member_is_kept_or_deleted_as_the_value_says() -> Result {
    scenario::run("claims", Helm::V4, async |release| {
        let delete = ["--set", "pv.onScaleDown=delete"];
        release.install(2, &[]).await?;
        let claim = format!("data-{}", release.pod(1));
        let objects = async || {
            let claims = release.kubectl(&["get", "pvc", &claim, "--ignore-not-found", "-o", "name"]).await?;
            let volumes =
                release.kubectl(&["get", "pv", &release.volume(1), "--ignore-not-found", "-o", "name"]).await?;
            anyhow::Ok((!claims.is_empty(), !volumes.is_empty()))
        };
        release.upgrade(1, &[]).await?;
        ensure!(objects().await? == (true, true), "not kept");
        // What lies there is a removed member's: set aside.
        release.upgrade(2, &[]).await?;
        release.is_settled(2).await?;
        release.upgrade(1, &delete).await?;
        until("claim and volume are gone", SETTLED, async || {
            ensure!(objects().await? == (false, false), "{:?}", objects().await?);
            Ok(())
        })
        .await?;
        release.upgrade(2, &delete).await?;
        release.is_settled(2).await?;
        // Deleted by hand, the volume waits for a claim that is no more.
        release.upgrade(1, &[]).await?;
        release.kubectl(&["delete", "pvc", &claim]).await?;
        ensure!(objects().await? == (false, true), "the volume went too");
        release.upgrade(2, &[]).await?;
        release.is_settled(2).await
    })
    .await
}
