//! A new image of etcd after members were added: every member rolls, one at a time, and each keeps
//! what it has.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::{in_node, is_bed};
use tests::faults::own_name;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Ran, Release, now};
use tests::rolls::{Held, Watch, made_again, most_down};
use tests::scenario;

type Result = anyhow::Result<()>;

/// One member after another: each stops, starts and is Ready before the next.
pub const ROLL: Duration = Duration::from_secs(240);
/// A file that lies beside a member's data: a directory that was made anew does not have it.
const MARK: &str = "etcd-scaler-tests-mark";

#[tokio::test]
#[ignore = "needs the test bed: make test"]
async fn after_a_scale_a_new_image_rolls_every_member_one_at_a_time() -> Result {
    scenario::run("rollout", Helm::V4, async |release| {
        if !is_bed() {
            release.say("not the test bed: no image can be given another name on its nodes, so nothing rolls");
            return Ok(());
        }
        let next = own_name(&release.images.etcd, "rollout").await?;
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.upgrade(4, &[]).await?;
        ensure!(release.partition().await? == 4, "ours is in force: {}", release.partition().await?);
        let to = with_image(&next);
        rolls(release, &load, 4, &next, &[3, 2, 1, 0], async || release.upgrade(4, &["--set", &to, "--wait"]).await)
            .await?;
        partition_is(release, 0, None).await?;
        // The next scale is again one that restarts nobody.
        let before = release.pods().await?;
        release.upgrade(5, &["--set", &to]).await?;
        release.is_settled(5).await?;
        release.kept(&before).await?;
        has_images(release, &[(&next, 5)]).await
    })
    .await
}

/// Something is done that rolls these ordinals, in this order, to an image; and everything that is
/// promised about it.
pub async fn rolls(
    release: &Release,
    load: &Load<'_>,
    members: usize,
    image: &str,
    ordinals: &[usize],
    roll: impl AsyncFnOnce() -> anyhow::Result<Ran>,
) -> Result {
    let (held, pods) = (release.held().await?, release.pods().await?);
    let directories = directories(release, members).await?;
    mark(&directories).await?;
    let watch = Watch::start(release, members).await?;
    let mut ran = roll().await?;
    let rolling: Vec<String> = ordinals.iter().map(|&ordinal| release.pod(ordinal)).collect();
    until("every member that is to roll serves with the new image", ROLL, async || {
        let looks = watch.looks();
        for name in &rolling {
            let last = looks.iter().rfind(|look| look.name == *name).context("not told")?;
            ensure!(last.serves && last.image == image, "{name} serves: {}, with {}", last.serves, last.image);
        }
        Ok(())
    })
    .await?;
    let status = ["rollout", "status", "statefulset", &release.statefulset(), "--timeout=25s"];
    release.kubectl(&status).await?;
    ran.to = now();
    let looks = watch.stop().await?;
    let order: Vec<String> = made_again(&looks).into_iter().map(|(_, name)| name).collect();
    ensure!(order == rolling, "made again were {order:?}, to be rolled were {rolling:?}");
    let down = most_down(&looks);
    ensure!(down.len() == 1, "down at the same time: {down:?}");
    release.is_settled(members).await?;
    release.names_peers(members).await?;
    release.starts_nobody_empty().await?;
    keeps(release, &held).await?;
    let now = release.pods().await?;
    for (name, pod) in &pods {
        let kept = now.get(name) == Some(pod);
        ensure!(kept != rolling.contains(name), "{name} was {pod:?} and is {:?}", now.get(name));
    }
    has_marks(&directories).await?;
    let counts = load.lost_nothing(members, &ran).await?;
    ensure!(counts["window"]["acknowledged"].as_u64() > Some(500), "writes did not go on: {counts}");
    release.say(&format!(
        "rolled {ordinals:?} one at a time in {:.1} s, {} writes meanwhile, longest stall {} ms",
        ran.seconds(),
        counts["window"]["acknowledged"],
        counts["window"]["longest_stall_ms"]
    ));
    Ok(())
}

/// Each of these members is the same one, on the same node, with the same volume.
pub async fn keeps(release: &Release, before: &BTreeMap<String, Held>) -> Result {
    let now = release.held().await?;
    for (name, held) in before {
        ensure!(now.get(name) == Some(held), "{name} had {held:?} and has {:?}", now.get(name));
    }
    Ok(())
}

/// Where each member's data lies: its node and the directory there.
async fn directories(release: &Release, members: usize) -> anyhow::Result<Vec<(String, String)>> {
    let mut directories = Vec::new();
    for ordinal in 0..members {
        directories.push(release.volume_on_node(ordinal).await?);
    }
    Ok(directories)
}

async fn mark(directories: &[(String, String)]) -> Result {
    for (node, directory) in directories {
        in_node(node, &["touch", &format!("{directory}/{MARK}")]).await?;
    }
    Ok(())
}

async fn has_marks(directories: &[(String, String)]) -> Result {
    for (node, directory) in directories {
        let (mark, data) = (format!("{directory}/{MARK}"), format!("{directory}/data/member"));
        let there = in_node(node, &["ls", &mark, &data]).await;
        there.with_context(|| format!("{directory} on {node} is not what it was"))?;
    }
    Ok(())
}

pub fn with_image(image: &str) -> String {
    let (repository, tag) = image.rsplit_once(':').unwrap_or((image, ""));
    format!("etcd.image.repository={repository},etcd.image.tag={tag}")
}

pub async fn has_images(release: &Release, expected: &[(&str, usize)]) -> Result {
    let images = release.images().await?;
    for (image, count) in expected {
        let found = images.values().filter(|found| found == image).count();
        ensure!(found == *count, "{found} pods have {image}, not {count}: {images:?}");
    }
    Ok(())
}

/// The live partition, and the one that is kept for the time after ours.
pub async fn partition_is(release: &Release, live: u64, kept: Option<&str>) -> Result {
    let found = (release.partition().await?, release.kept_partition().await?);
    ensure!(found == (live, kept.map(str::to_owned)), "partition {} and kept {:?}", found.0, found.1);
    Ok(())
}
