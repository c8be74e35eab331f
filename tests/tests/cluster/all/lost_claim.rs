//! A member's claim is deleted by hand and its data with it: the member does not come back empty, an Event says so with
//! the way out, and that way is gone to its end.

use std::time::Duration;

use anyhow::ensure;
use tests::load::Load;
use tests::process::{kubectl, until};
use tests::release::{Helm, Ran, Release, Storage, now};
use tests::scenario;

use super::commands::replace;
use crate::lost_claim::{noticed, without_its_claim};

type Result = anyhow::Result<()>;

/// A Job and a join, on a busy machine.
const REPLACED: Duration = Duration::from_secs(300);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_provisioned_volume_that_went_with_its_claim_is_told_and_replaced() -> Result {
    let release = Release::of("claimless-class", Helm::V3).on(Storage::Provisioned);
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let from = now();
        without_its_claim(release, 1).await?;
        // The class makes an empty one at once, on which etcd refuses to start.
        noticed(release, 1, "VolumeLost", "was deleted and made again", from).await?;
        is_replaced(release, &load, from).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_volume_that_was_deleted_with_its_claim_is_told_and_replaced() -> Result {
    scenario::run("claimless-volume", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let from = now();
        kubectl(["delete", "pv", &release.volume(1), "--wait=false"]).await?;
        without_its_claim(release, 1).await?;
        noticed(release, 1, "VolumeLost", "there is no volume", from).await?;
        is_replaced(release, &load, from).await
    })
    .await
}

/// The member is not back, and the Event's way out brings its ordinal back.
async fn is_replaced(release: &Release, load: &Load<'_>, from: i64) -> Result {
    let old = release.members_seen_by(0).await?.into_iter().find(|member| member.name == release.pod(1));
    let done = replace(release, 1, ",\"--yes\"", "replace").await?;
    ensure!(done.exit_code == 0, "it ended with {done:?}");
    until("it has joined again", REPLACED, async || release.is_settled(3).await).await?;
    let members = release.members().await?;
    ensure!(old.is_some_and(|old| members.iter().all(|member| member.id != old.id)), "it is back: {members:?}");
    let during = Ran { from, to: now(), ended: crate::webhook_down::from_now().ended };
    load.lost_nothing(3, &during).await.map(drop)
}
