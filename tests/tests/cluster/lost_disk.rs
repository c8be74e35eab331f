//! A member's disk is lost: it refuses to start and says why, the others go on, and no live ID comes
//! back empty.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::is_bed;
use tests::disk::{Lost, Start};
use tests::jobs::Event;
use tests::members::Member;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

type Result = anyhow::Result<()>;

/// The webhook asks members and looks at pods every few seconds.
const TOLD: Duration = Duration::from_secs(60);

/// The hardest one: the first member of a cluster that was made of it alone has an environment that
/// names nobody else. Once there are others, it must not begin a cluster of its own.
#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn the_first_member_refuses_to_start_on_a_lost_disk() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    scenario::run("lost-first", Helm::V4, async |release| {
        release.install(1, &[]).await?;
        release.upgrade(3, &[]).await?;
        let members = release.members().await?;
        let lost = loses_its_disk(release, 0, Start::Container, &[1, 2], &members).await?;
        release.give_disk_back(lost).await?;
        release.is_settled(3).await?;
        ensure!(release.members().await? == members, "the member list changed");
        Ok(())
    })
    .await
}

/// One member's disk is emptied and its etcd started; `others` are those that answer meanwhile. The webhook tells of it.
pub async fn loses_its_disk(
    release: &Release,
    ordinal: usize,
    start: Start,
    others: &[usize],
    members: &[Member],
) -> anyhow::Result<Lost> {
    let lost = starts_without_its_disk(release, ordinal, start, others, members).await?;
    let told = until("an Event says what etcd's line does not", TOLD, async || {
        let events = release.events_since(0).await?;
        let about = |event: &&Event| event.reason == "DiskLost" && event.note.contains(&release.pod(ordinal));
        events.into_iter().rev().find(|event| about(&event)).context("no Event DiskLost")
    })
    .await?;
    release.say(&format!("{} {}: {}", told.kind, told.reason, told.note));
    Ok(lost)
}

/// The same where no webhook is there to tell: it refuses, and the others go on.
pub async fn starts_without_its_disk(
    release: &Release,
    ordinal: usize,
    start: Start,
    others: &[usize],
    members: &[Member],
) -> anyhow::Result<Lost> {
    let mut rest = release.pods().await?;
    rest.remove(&release.pod(ordinal));
    let lost = release.lose_disk(ordinal, start).await?;
    let said = release.refuses_to_start(&lost, others.first().copied()).await?;
    release.say(&format!("{} without its disk, started by {start:?}: {said}", release.pod(ordinal)));
    let refusals = ["has already been bootstrapped", "cannot fetch cluster info", "member count is unequal"];
    ensure!(refusals.iter().any(|refusal| said.contains(refusal)), "it does not refuse, it fails: {said}");
    if !others.is_empty() {
        release.go_on(others, members).await?;
    }
    let now = release.pods().await?;
    for (name, pod) in &rest {
        ensure!(now.get(name).is_some_and(|now| now.uid == pod.uid), "{name} was made again");
        // A node that is started again starts all of its pods.
        let same_node = pod.node == lost.disk.node;
        ensure!(now[name].restarts == pod.restarts || same_node, "{name} restarted");
    }
    Ok(lost)
}
