//! 4 → 3 → 4 by hand: a member is removed with etcdctl and its pod deleted, its data stays; later the
//! same ordinal joins again.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::is_bed;
use tests::faults::{kill_node, start_node};
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

type Result = anyhow::Result<()>;

const BACK: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_removed_by_hand_joins_again_with_its_old_data_set_aside() -> Result {
    by_hand("by-hand", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_removed_by_hand_joins_again_with_its_old_data_set_aside_with_helm_3() -> Result {
    by_hand("by-hand-3", Helm::V3).await
}

async fn by_hand(name: &str, helm: Helm) -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be looked into");
        return Ok(());
    }
    scenario::run_alone(Release::of(name, helm), async |release| {
        release.install(3, &[]).await?;
        release.upgrade(4, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        let name = release.pod(3);
        let old = release.members().await?.into_iter().find(|member| member.name == name).context("no fourth")?;
        let disk = release.disk(3).await?;
        let data = disk.content().await?;
        ensure!(data.iter().any(|path| path.ends_with(".wal")), "{name} has no data: {data:?}");
        release.remove_member(&old.id).await?;
        let three = release.upgrade(3, &[]).await?;
        release.say(&format!("4 → 3 after etcdctl member remove, in {:.1} s", three.seconds()));
        until("its pod is gone", BACK, async || {
            let pods = release.pods().await?;
            ensure!(!pods.contains_key(&name), "{name} is still there");
            Ok(())
        })
        .await?;
        release.is_settled(3).await?;
        ensure!(disk.content().await?.iter().any(|path| path.ends_with(".wal")), "the data is gone");
        let four = release.upgrade(4, &[]).await?;
        release.is_settled(4).await?;
        let members = release.members().await?;
        let new = members.iter().find(|member| member.name == name).context("no fourth")?;
        ensure!(new.id != old.id, "it has its old ID {}", old.id);
        // The old data, under its ID, beside the new.
        let kept =
            |content: &[String]| content.iter().filter(|path| path.contains(&old.id)).cloned().collect::<Vec<_>>();
        let aside = kept(&disk.content().await?);
        ensure!(aside.iter().any(|path| path.ends_with(".wal")), "nothing is kept under {}: {aside:?}", old.id);
        release.say(&format!("3 → 4 in {:.1} s: {} is {} now, {aside:?}", four.seconds(), name, new.id));
        // A reboot of its node leaves both alone.
        let uid = release.pods().await?[&name].uid.clone();
        kill_node(&disk.node).await?;
        start_node(&disk.node).await?;
        until("it is back", BACK, async || release.go_on(&[0, 1, 2, 3], &members).await).await?;
        ensure!(release.pods().await?[&name].uid == uid, "{name} was made again");
        ensure!(kept(&disk.content().await?) == aside, "the reboot changed what was set aside");
        release.is_settled(4).await?;
        let kept: Vec<_> = before.into_iter().filter(|(pod, _)| *pod != name).collect();
        let now = release.pods().await?;
        ensure!(
            kept.iter().all(|(pod, was)| now.get(pod).is_some_and(|now| now.uid == was.uid)),
            "others were re-made"
        );
        load.lost_nothing(4, &four).await.map(drop)
    })
    .await
}
