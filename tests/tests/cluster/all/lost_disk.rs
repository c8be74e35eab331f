//! A member's disk is lost, in each way in which etcd is started again, for a member of the first
//! hour and one that joined, with the others there and not.

use std::time::Duration;

use anyhow::ensure;
use tests::cluster::is_bed;
use tests::disk::Start;
use tests::faults::own_name;
use tests::members::Member;
use tests::process::until;
use tests::release::{Helm, Release, Storage};
use tests::scenario;

use crate::lost_disk::{loses_its_disk, starts_without_its_disk};
use crate::rollout::{has_images, with_image};

type Result = anyhow::Result<()>;

const STARTS: [Start; 3] = [Start::Container, Start::Node, Start::Pod];
/// Until members that were let go serve again.
const BACK: Duration = Duration::from_secs(240);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn original_and_joined_members_refuse_to_start_on_a_lost_disk() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    scenario::run_alone(Release::of("lost-disk", Helm::V4), async |release| {
        release.install(3, &[]).await?;
        release.upgrade(4, &[]).await?;
        let members = release.members().await?;
        // Without the others first: once its pod is re-made, a member is not an original any more.
        alone(release, 1, &members).await?;
        each_way(release, 3, 4, &members).await?;
        each_way(release, 2, 4, &members).await?;
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_cluster_grown_from_one_on_provisioned_volumes_refuses_to_start_on_a_lost_disk_with_helm_3() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    let release = Release::of("lost-grown", Helm::V3).on(Storage::Provisioned);
    scenario::run_alone(release, async |release| {
        release.install(1, &[]).await?;
        release.upgrade(2, &[]).await?;
        release.upgrade(3, &[]).await?;
        let members = release.members().await?;
        alone(release, 0, &members).await?;
        each_way(release, 1, 3, &members).await?;
        each_way(release, 0, 3, &members).await?;
        release.is_settled(3).await
    })
    .await
}

/// What nobody of ours sees: after a roll-out each member's pod is made from a template that the webhook has written, and
/// no webhook is there to prepare the pod.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn without_a_webhook_a_rolled_out_template_starts_nobody_on_a_lost_disk() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    scenario::run_alone(Release::of("lost-unseen", Helm::V4), async |release| {
        release.install(3, &[]).await?;
        release.upgrade(4, &[]).await?;
        let next = own_name(&release.images.etcd, "lost-unseen").await?;
        let to = with_image(&next);
        release.upgrade(4, &["--set", &to, "--wait"]).await?;
        until("every member has the new image", BACK, async || {
            has_images(release, &[(&next, 4)]).await?;
            release.is_settled(4).await
        })
        .await?;
        let members = release.members().await?;
        release.stop_webhook().await?;
        for ordinal in [3, 1] {
            let others: Vec<usize> = (0..4).filter(|&other| other != ordinal).collect();
            let lost = starts_without_its_disk(release, ordinal, Start::Pod, &others, &members).await?;
            release.give_disk_back(lost).await?;
            until("all serve", BACK, async || release.go_on(&[0, 1, 2, 3], &members).await).await?;
        }
        // In the pod that was made meanwhile, with nobody there to be asked.
        release.take_down(&[0, 2, 3]).await?;
        let lost = starts_without_its_disk(release, 1, Start::Container, &[], &members).await?;
        release.let_go().await?;
        until("the others serve again", BACK, async || release.go_on(&[0, 2, 3], &members).await).await?;
        let said = release.refuses_to_start(&lost, Some(0)).await?;
        release.say(&format!("{} when the others are back: {said}", release.pod(1)));
        release.give_disk_back(lost).await?;
        release.start_webhook().await?;
        until("all serve", BACK, async || release.is_settled(4).await).await?;
        ensure!(release.members().await? == members, "the member list changed");
        // What was written into the template is in no scale's way.
        release.upgrade(5, &["--set", &to]).await?;
        release.is_settled(5).await
    })
    .await
}

/// One member, its disk lost before each way of starting again, and given back after it.
async fn each_way(release: &Release, ordinal: usize, count: usize, members: &[Member]) -> Result {
    let others: Vec<usize> = (0..count).filter(|&other| other != ordinal).collect();
    for start in STARTS {
        let lost = loses_its_disk(release, ordinal, start, &others, members).await?;
        release.give_disk_back(lost).await?;
        until("all serve", BACK, async || release.go_on(&(0..count).collect::<Vec<_>>(), members).await).await?;
    }
    Ok(())
}

/// The same while no other member can be asked, as when a whole cluster starts after a power cut
/// and this one is first; then the others come.
async fn alone(release: &Release, ordinal: usize, members: &[Member]) -> Result {
    let others: Vec<usize> = (0..members.len()).filter(|&other| other != ordinal).collect();
    release.take_down(&others).await?;
    let lost = loses_its_disk(release, ordinal, Start::Container, &[], members).await?;
    release.let_go().await?;
    until("the others serve again", BACK, async || release.go_on(&others, members).await).await?;
    let said = release.refuses_to_start(&lost, others.first().copied()).await?;
    release.say(&format!("{} when the others are back: {said}", release.pod(ordinal)));
    release.go_on(&others, members).await?;
    release.give_disk_back(lost).await?;
    ensure!(release.members_seen_by(others[0]).await? == members, "the member list changed");
    until("all serve", BACK, async || release.go_on(&(0..members.len()).collect::<Vec<_>>(), members).await).await
}
