//! The matrix: {Helm 4, Helm 3, `kubectl scale`, server-side apply} × nine changes × pod management ×
//! kind of volume. One release goes through all nine; each way meets each change with each Helm.

use tests::cluster::nodes;
use tests::load::Load;
use tests::release::{Helm, Release, Storage};
use tests::scenario;

use crate::ways::{Way, claims, reset, rows_of};

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

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_release_does_not_set_a_scaled_count_back_unasked_with_helm_4() -> Result {
    scenario::run("reset", Helm::V4, reset).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_claim_of_a_removed_member_is_kept_or_deleted_as_the_value_says() -> Result {
    scenario::run("claims", Helm::V4, claims).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_release_does_not_set_a_scaled_count_back_unasked_with_helm_3() -> Result {
    scenario::run("reset-3", Helm::V3, reset).await
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
