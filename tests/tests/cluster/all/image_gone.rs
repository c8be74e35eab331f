//! Our image is gone from every node, our webhook with it, and then our chart: members live on
//! without us. The StatefulSet is not the release's.

use std::time::Duration;

use anyhow::ensure;
use tests::cluster::{is_bed, nodes};
use tests::faults::{kill_node, own_name, put_back, start_node, take_off};
use tests::foreign::PARTITION;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

type Result = anyhow::Result<()>;

/// A Job of the launcher's, and its member.
const SCALED: Duration = Duration::from_secs(150);
/// A pod that is made again, or a node that starts.
const BACK: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn without_our_image_and_our_chart_members_restart_reboot_and_are_re_created() -> Result {
    without_us("image-gone", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn without_our_image_and_our_chart_members_restart_reboot_and_are_re_created_with_helm_3() -> Result {
    without_us("image-gone-3", Helm::V3).await
}

async fn without_us(name: &str, helm: Helm) -> Result {
    let mut release = Release::of(name, helm);
    if !is_bed() {
        release.say("not the test bed: no image is taken off its nodes");
        return Ok(());
    }
    let image = release.images.scaler.clone();
    release.images.scaler = own_name(&image, name).await?;
    scenario::run_alone(release, async |release| {
        adopted_and_scaled(release).await?;
        let ours = release.images.scaler.clone();
        take_off(&ours, &nodes().await?).await?;
        let webhook = format!("app.kubernetes.io/component=webhook,app.kubernetes.io/instance={}", release.name);
        release.kubectl(&["delete", "pods", "-l", &webhook]).await?;
        until("no webhook can start", BACK, async || {
            let why = "jsonpath={.items[*].status.containerStatuses[*].state.waiting.reason}";
            let why = release.kubectl(&["get", "pods", "-l", &webhook, "-o", why]).await?;
            ensure!(why.split_whitespace().filter(|why| why.contains("Image")).count() >= 2, "they wait for {why:?}");
            Ok(())
        })
        .await?;
        release.say("our image is on no node, no webhook runs");
        lives_on(release, 3).await?;
        lives_on(release, 1).await?;
        // The hook that gives the StatefulSet back cannot run: Helm says so and removes nothing.
        let uninstall = release.try_uninstall(&["--timeout=30s"]).await?;
        release.say(&format!("helm uninstall without our image:\n{}", uninstall.ended.printed()));
        let hooks = uninstall.refused()?;
        let hook = format!("{}-etcd-scaler-leave", release.name);
        ensure!(hooks.contains(&hook), "Helm does not name the hook that failed: {hooks}");
        let before = release.pods().await?;
        release.try_uninstall(&["--no-hooks"]).await?.ended.ok()?;
        nobody_rolls(release, &before).await?;
        lives_on(release, 3).await?;
        lives_on(release, 1).await?;
        put_back(&image, &ours, &nodes().await?).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn uninstalled_the_statefulset_is_its_owners_again_and_nobody_rolls() -> Result {
    given_back("given-back", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn uninstalled_the_statefulset_is_its_owners_again_and_nobody_rolls_with_helm_3() -> Result {
    given_back("given-back-3", Helm::V3).await
}

async fn given_back(name: &str, helm: Helm) -> Result {
    if !is_bed() {
        println!("not the test bed: no node is rebooted");
        return Ok(());
    }
    scenario::run_alone(Release::of(name, helm), async |release| {
        adopted_and_scaled(release).await?;
        let before = release.pods().await?;
        ensure!(release.partition().await? == 4, "during our time the partition is {}", release.partition().await?);
        release.uninstall().await?;
        let env = release.env("ETCD_INITIAL_CLUSTER").await?;
        ensure!(env == [release.initial_cluster(3)], "ETCD_INITIAL_CLUSTER is {env:?}");
        let state = release.env("ETCD_INITIAL_CLUSTER_STATE").await?;
        ensure!(state == ["new"], "ETCD_INITIAL_CLUSTER_STATE is {state:?}");
        let partition = release.partition().await?;
        ensure!(partition == u64::from(PARTITION), "the partition is {partition}, its owner's is {PARTITION}");
        let left = release.cluster_objects().await?;
        ensure!(left.is_empty(), "left in the cluster: {left:?}");
        release.say(&format!("given back: {env:?}, {state:?}, partition {partition}"));
        nobody_rolls(release, &before).await?;
        // Its owner applies it again as it was, with the new count.
        tests::process::apply(&release.foreign_statefulset(4)).await?;
        nobody_rolls(release, &before).await?;
        lives_on(release, 3).await?;
        lives_on(release, 2).await
    })
    .await
}

/// Three members of a StatefulSet that is not ours, adopted while they run, and a fourth.
async fn adopted_and_scaled(release: &Release) -> Result {
    release.apply_foreign().await?;
    let status = ["rollout", "status", "statefulset", &release.statefulset(), "--timeout=25s"];
    until("three members serve", BACK, async || release.kubectl(&status).await).await?;
    let load = Load::start(release).await?;
    let before = release.pods().await?;
    let adopted = release.adopt_foreign().await?;
    release.is_settled(3).await?;
    release.say(&format!("adopted in {:.1} s: the record is {}", adopted.seconds(), release.record().await?));
    let from = now();
    release.patch_replicas(4).await?;
    until("the fourth is a member", SCALED, async || release.is_settled(4).await).await?;
    release.names_peers(4).await?;
    release.kept(&before).await?;
    let scaled = Ran { ended: adopted.ended, from, to: now() };
    load.lost_nothing(4, &scaled).await?;
    release.say(&format!("3 → 4 by kubectl patch in {:.1} s", scaled.seconds()));
    Ok(())
}

/// A member's container is killed, its node is killed and started, its pod is deleted: it comes
/// back each time, on its data, and the others are as they were.
async fn lives_on(release: &Release, ordinal: usize) -> Result {
    let all: Vec<usize> = (0..4).collect();
    let members = release.members().await?;
    let name = release.pod(ordinal);
    let back = async |what: &str| {
        until(what, BACK, async || {
            let ready = ["get", "pod", &name, "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"];
            let ready = release.kubectl(&ready).await?;
            ensure!(ready == "True", "{name} is Ready: {ready:?}");
            release.go_on(&all, &members).await
        })
        .await?;
        release.say(&format!("{name} is back after {what}"));
        anyhow::Ok(())
    };
    release.restart_container(&name, "etcd").await?;
    back("a kill of its container").await?;
    let node = release.disk(ordinal).await?.node;
    kill_node(&node).await?;
    start_node(&node).await?;
    back("a reboot of its node").await?;
    let uid = release.pods().await?[&name].uid.clone();
    release.kubectl(&["delete", "pod", &name]).await?;
    back("the deletion of its pod").await?;
    ensure!(release.pods().await?[&name].uid != uid, "{name} was not made again");
    Ok(())
}

/// Neither now nor when the StatefulSet controller has seen everything.
async fn nobody_rolls(release: &Release, before: &std::collections::BTreeMap<String, tests::members::Pod>) -> Result {
    until("the controller has seen the StatefulSet", BACK, async || {
        let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        let (seen, written) = (&set["status"]["observedGeneration"], &set["metadata"]["generation"]);
        ensure!(seen == written, "it has seen generation {seen} of {written}");
        Ok(())
    })
    .await?;
    let now = release.pods().await?;
    ensure!(now == *before, "pods were {before:?} and are {now:?}");
    Ok(())
}
