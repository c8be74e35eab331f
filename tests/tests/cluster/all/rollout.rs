//! A new image of etcd after members were added, half-way and by hand; and to seven members.

use anyhow::{Context, ensure};
use serde_json::json;
use tests::cluster::is_bed;
use tests::faults::{own_name, take_off};
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Ran, Release, Storage, now};
use tests::rolls::{Watch, made_again};
use tests::scenario;

use crate::rollout::{ROLL, has_images, keeps, partition_is, rolls, with_image};
use crate::said::{error, said};
use crate::ways::scale;

type Result = anyhow::Result<()>;

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_canary_of_the_chart_rolls_what_it_would_without_us() -> Result {
    on_both_kinds_of_volume("canary", async |release| {
        let (first, next) = (release.images.etcd.clone(), own_name(&release.images.etcd, "canary").await?);
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.upgrade(4, &[]).await?;
        let before = release.pods().await?;
        let to = with_image(&next);
        let canary = |partition: usize| {
            format!("etcd.updateStrategy.type=RollingUpdate,etcd.updateStrategy.rollingUpdate.partition={partition}")
        };
        // The strategy first: nobody rolls.
        release.upgrade(4, &["--set", &canary(2)]).await?;
        partition_is(release, 4, Some("2")).await?;
        release.kept(&before).await?;
        // The image second: ordinals from 2 on.
        let (two, none) = (canary(2), canary(0));
        let image = ["--set", &two, "--set", &to];
        rolls(release, &load, 4, &next, &[3, 2], async || release.upgrade(4, &image).await).await?;
        partition_is(release, 2, None).await?;
        has_images(release, &[(&first, 2), (&next, 2)]).await?;
        // Half-way, a newcomer and every member made again from now on would be made of the old
        // image: no scale before the end.
        let refused = release.try_upgrade(5, &image).await?.refused()?;
        ensure!(refused.contains("a roll-out stops half-way (partition 2: 2 of 4 pods are updated)"), "{refused}");
        said(release, "scale-during-a-roll-out-helm-4", &error(&refused));
        said(release, "scale-during-a-roll-out-by-the-check", &release.job_pod("preflight").await?.message);
        let scaled = scale(release, 5).await?;
        ensure!(!scaled.success, "a fifth was admitted half-way");
        said(release, "scale-during-a-roll-out", scaled.stderr.trim());
        has_images(release, &[(&first, 2), (&next, 2)]).await?;
        // The rest.
        let image = ["--set", &none, "--set", &to];
        rolls(release, &load, 4, &next, &[1, 0], async || release.upgrade(4, &image).await).await?;
        partition_is(release, 0, None).await?;
        has_images(release, &[(&next, 4)]).await?;
        release.upgrade(5, &image).await?;
        release.is_settled(5).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_partition_set_by_hand_is_kept_while_etcd_becomes_the_next_minor() -> Result {
    let release = Release::of("by-hand", Helm::V3);
    let next = release.images.etcd.clone();
    let release = release.with_etcd("3.5.35").on(Storage::Provisioned);
    let first = release.images.etcd.clone();
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        // Ours is in force since the record was written, which set the environment: theirs is kept.
        partition_by_hand(release, 2).await?;
        partition_is(release, 3, Some("2")).await?;
        release.upgrade(4, &[]).await?;
        partition_is(release, 4, Some("2")).await?;
        // Changed while ours is in force: theirs is taken down, ours stays, nobody rolls.
        let before = release.pods().await?;
        partition_by_hand(release, 3).await?;
        partition_is(release, 4, Some("3")).await?;
        release.kept(&before).await?;
        let to = with_image(&next);
        let image = ["--set", &to];
        rolls(release, &load, 4, &next, &[3], async || release.upgrade(4, &image).await).await?;
        partition_is(release, 3, None).await?;
        has_images(release, &[(&first, 3), (&next, 1)]).await?;
        rolls(release, &load, 4, &next, &[2, 1, 0], async || {
            let from = now();
            partition_by_hand(release, 0).await?;
            // An upgrade that is identical leaves it as it is.
            let ran = release.upgrade(4, &image).await?;
            Ok(Ran { from, ..ran })
        })
        .await?;
        partition_is(release, 0, None).await?;
        has_images(release, &[(&next, 4)]).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn three_become_five_become_seven_and_nobody_is_made_again() -> Result {
    on_both_kinds_of_volume("seven", async |release| {
        // Seven members on six nodes.
        let soft = ["--set", "etcd.podAntiAffinityPreset=soft"];
        release.install(3, &soft).await?;
        let load = Load::start(release).await?;
        let watch = Watch::start(release, 3).await?;
        for members in [5, 7] {
            let (pods, held) = (release.pods().await?, release.held().await?);
            let ran = release.upgrade(members, &soft).await?;
            release.is_settled(members).await?;
            release.names_peers(members).await?;
            release.kept(&pods).await?;
            keeps(release, &held).await?;
            let counts = load.lost_nothing(members, &ran).await?;
            release.say(&format!("to {members} in {:.1} s: {}", ran.seconds(), counts["window"]));
        }
        // A newcomer's joining pod is replaced by its ordinary one, once; nobody else's is.
        let made: Vec<String> = made_again(&watch.stop().await?).into_iter().map(|(_, name)| name).collect();
        let newcomers: Vec<String> = (3..7).map(|ordinal| release.pod(ordinal)).collect();
        ensure!(made == newcomers, "made again: {made:?}");
        Ok(())
    })
    .await
}

/// Nobody of etcd has heard of the newcomer, so the template may change while it is wanted.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn an_image_that_the_newcomer_cannot_start_is_mended_by_another() -> Result {
    if !is_bed() {
        println!("not the test bed: no image is taken off a node");
        return Ok(());
    }
    let mut release = Release::of("image-fix", Helm::V4);
    let works = release.images.etcd.clone();
    release.images.etcd = own_name(&works, "image-fix").await?;
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let members = release.members().await?;
        take_off(&release.images.etcd, &release.spare_nodes().await?).await?;
        release.try_upgrade(4, &[]).await?.refused()?;
        ensure!(release.members().await? == members, "the newcomer was added");
        let from = now();
        let ran = release.upgrade(4, &["--set", &with_image(&works)]).await?;
        until("four members run the image that works", ROLL, async || {
            has_images(release, &[(&works, 4)]).await?;
            release.is_settled(4).await
        })
        .await?;
        load.lost_nothing(4, &Ran { from, to: now(), ..ran }).await.map(drop)
    })
    .await
}

async fn on_both_kinds_of_volume(name: &str, scenario: impl AsyncFn(&Release) -> Result) -> Result {
    for storage in [Storage::Manual, Storage::Provisioned] {
        scenario::run_on(Release::of(name, Helm::V4).on(storage), &scenario)
            .await
            .with_context(|| format!("{storage:?}"))?;
    }
    Ok(())
}

async fn partition_by_hand(release: &Release, partition: u64) -> Result {
    let patch = json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": partition } } } }).to_string();
    release.kubectl(&["patch", "statefulset", &release.statefulset(), "-p", &patch]).await.map(drop)
}
