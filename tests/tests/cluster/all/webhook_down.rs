//! Both replicas of the webhook are down: power cuts, roll-outs, scales and upgrades.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::cluster::nodes;
use tests::faults::{kill_node, own_name, put_back, start_node, take_off};
use tests::load::Load;
use tests::members::text;
use tests::process::until;
use tests::release::{Helm, Release, Storage, now};
use tests::rolls::{Watch, made_again, most_down};
use tests::scenario;

use crate::webhook_down::{BACK, a_scale_is_refused_by, from_now};

/// Among the keys of the load, whose own have lower numbers: the referee takes any other for a foreign one.
const KEY: &str = "traffic/902/0000000000";

type Result = anyhow::Result<()>;

/// What waited for the webhook goes on after its return within this.
const RESUMES: i64 = 10_000;

/// A power cut, and nobody there to be asked anything.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn all_nodes_killed_and_started_come_back() -> Result {
    let release = Release::of("dark", Helm::V3).on(Storage::Provisioned);
    scenario::run_alone(release, async |release| {
        release.install(3, &[]).await?;
        release.upgrade(4, &[]).await?;
        let held = release.held().await?;
        release.etcdctl(&["put", KEY, "the power cut"]).await?;
        release.stop_webhook().await?;
        let nodes = nodes().await?;
        let began = now();
        for node in &nodes {
            kill_node(node).await?;
        }
        for node in &nodes {
            start_node(node).await?;
        }
        until("every member serves again", BACK, async || release.is_settled(4).await).await?;
        release.say(&format!("settled {:.1} s after the first node was killed", (now() - began) as f64 / 1000.0));
        // And again with nothing left of the pods: made anew on the same disks.
        let pods: Vec<String> = (0..4).map(|ordinal| release.pod(ordinal)).collect();
        let pods: Vec<&str> = pods.iter().map(String::as_str).collect();
        release.kubectl(&[&["delete", "pods", "--force", "--grace-period=0"], &*pods].concat()).await?;
        until("every member serves again", BACK, async || release.is_settled(4).await).await?;
        ensure!(release.held().await? == held, "members had {held:?} and have {:?}", release.held().await?);
        let kept = release.etcdctl(&["get", KEY, "--print-value-only"]).await?;
        ensure!(kept.trim() == "the power cut", "the key is {kept:?}");
        release.start_webhook().await?;
        release.upgrade(5, &[]).await?;
        release.is_settled(5).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_rolling_update_goes_on_when_the_webhook_is_back() -> Result {
    scenario::run("halted", Helm::V4, async |release| {
        let next = own_name(&release.images.etcd, "halted").await?;
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.upgrade(4, &[]).await?;
        let held = release.held().await?;
        let watch = Watch::start(release, 4).await?;
        let (repository, tag) = next.rsplit_once(':').context("an image without tag")?;
        let to = format!("etcd.image.repository={repository},etcd.image.tag={tag}");
        let mut during = release.upgrade(4, &["--no-hooks", "--set", &to]).await?;
        release.stop_webhook().await?;
        // What was begun before is finished: whoever was deleted is back.
        until("every member serves", BACK, async || every_member_serves(&watch, release, 4)).await?;
        let before = made_again(&watch.looks());
        release.say(&format!("made again before the webhook was gone, and since: {before:?}"));
        let back = release.start_webhook().await?;
        until("every member has the new image", Duration::from_secs(240), async || {
            let images = release.images().await?;
            ensure!(images.values().all(|image| *image == next), "{images:?}");
            every_member_serves(&watch, release, 4)
        })
        .await?;
        during.to = now();
        let looks = watch.stop().await?;
        let made = made_again(&looks);
        ensure!(made.len() == 4, "made again: {made:?}");
        ensure!(most_down(&looks).len() == 1, "down at the same time: {:?}", most_down(&looks));
        // Else nothing was left to resume, and this has shown nothing.
        let next = made.get(before.len()).context("the roll-out was over before the webhook was back")?;
        let waited = next.0 - back;
        release.say(&format!("the roll-out went on {waited} ms after the webhook was back"));
        ensure!(waited <= RESUMES, "it went on {waited} ms after the webhook was back");
        ensure!(release.held().await? == held, "members had {held:?} and have {:?}", release.held().await?);
        release.is_settled(4).await?;
        load.lost_nothing(4, &during).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_scale_admitted_before_it_died_waits_for_its_return() -> Result {
    scenario::run("held", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let members = release.members().await?;
        let cluster = release.record().await?["cluster"].clone();
        // No room for another pod, nor in place of the webhook's: the scale is admitted, and its pod
        // not yet made.
        let pods = release.json(&["get", "pods"]).await?;
        let running = pods["items"].as_array().into_iter().flatten();
        let running = running.filter(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed")));
        let room = running.count().to_string();
        release.kubectl(&["create", "quota", "no-room", "--hard=pods=0"]).await?;
        until("the quota counts", BACK, async || {
            let used = ["get", "quota", "no-room", "-o", "jsonpath={.status.used.pods}"];
            let used = release.kubectl(&used).await?;
            ensure!(used == room, "it counts {used:?} of {room}");
            Ok(())
        })
        .await?;
        let upgrade = release.upgrade(4, &["--no-hooks"]).await?;
        until("the newcomer finds no room", BACK, async || event(release, "exceeded quota").await).await?;
        release.stop_webhook().await?;
        release.kubectl(&["delete", "quota", "no-room"]).await?;
        wake(release).await?;
        let told = "was not prepared to join";
        let told = until("the policy holds the newcomer", BACK, async || event(release, told).await).await?;
        release.say(&told);
        for part in [&release.webhook(), &release.namespace, &release.pod(3)] {
            ensure!(told.contains(part), "{part:?} is not in {told:?}");
        }
        // However often it is tried.
        wake(release).await?;
        let pods = release.pods().await?;
        ensure!(!pods.contains_key(&release.pod(3)), "the newcomer's pod was made: {pods:?}");
        ensure!(release.members().await? == members, "the member list changed");
        let back = release.start_webhook().await?;
        until("the newcomer's pod is made", BACK, async || {
            let pods = release.pods().await?;
            pods.contains_key(&release.pod(3)).then_some(()).context("not yet")
        })
        .await?;
        let waited = now() - back;
        release.say(&format!("the newcomer's pod was made {waited} ms after the webhook was back"));
        ensure!(waited <= RESUMES, "it was made {waited} ms after the webhook was back");
        // The launcher does the rest.
        until("the newcomer is a member", Duration::from_secs(120), async || release.is_settled(4).await).await?;
        ensure!(release.record().await?["cluster"] == cluster, "another cluster than before");
        load.lost_nothing(4, &upgrade).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_release_is_upgraded_with_a_fixed_webhook_helm_4() -> Result {
    fixed_webhook("fixed", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_release_is_upgraded_with_a_fixed_webhook_helm_3() -> Result {
    fixed_webhook("fixed-3", Helm::V3).await
}

/// A webhook whose image cannot be pulled keeps the one before it; when that one's image is gone
/// as well and its pods are made again, there is none. An upgrade of the release, otherwise
/// identical, brings one that works.
async fn fixed_webhook(name: &str, helm: Helm) -> Result {
    let mut release = Release::of(name, helm);
    let good = release.images.scaler.clone();
    release.images.scaler = own_name(&good, name).await?;
    let gone = release.images.scaler.clone();
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.upgrade(4, &[]).await?;
        let before = release.pods().await?;
        let mut during = from_now();
        // Its own check runs in the image that cannot be pulled: the upgrade fails before anything.
        let broken = ["--set", "image.tag=no-such-tag"];
        let short = ["--set", "hook.preflightDeadlineSeconds=10", "--timeout", "60s"];
        let refused = release.try_upgrade(4, &[&broken[..], &short].concat()).await?.refused()?;
        release.say(&format!("with an image that is nowhere:\n{}", refused.trim()));
        // Forced past it, the old replicas go on serving until they are lost.
        release.upgrade(4, &[&broken[..], &["--no-hooks"]].concat()).await?;
        release.webhook_serves().await?;
        take_off(&gone, &nodes().await?).await?;
        let pods = format!("app.kubernetes.io/component=webhook,app.kubernetes.io/instance={}", release.name);
        release.kubectl(&["delete", "pods", "-l", &pods, "--grace-period=0", "--force"]).await?;
        until("no replica of the webhook is Ready", BACK, async || {
            let ready = ["get", "deployment", &release.webhook(), "-o", "jsonpath={.status.readyReplicas}"];
            let ready = release.kubectl(&ready).await?;
            ensure!(ready.is_empty() || ready == "0", "{ready} are");
            Ok(())
        })
        .await?;
        release.nobody_reaches_the_webhook().await?;
        a_scale_is_refused_by(
            &release.kubectl(&["scale", "statefulset", &release.statefulset(), "--replicas=5"]).await,
        )?;
        // The cure. (An own name, given again: what a registry that is back would be.)
        put_back(&good, &format!("{gone}-fixed"), &nodes().await?).await?;
        let (_, tag) = gone.rsplit_once(':').context("an image without tag")?;
        let fixed = format!("image.tag={tag}-fixed");
        let cure = release.upgrade(4, &["--set", &fixed]).await?;
        release.say(&format!("upgraded with a fixed webhook in {:.1} s", cure.seconds()));
        release.webhook_serves().await?;
        release.kept(&before).await?;
        release.is_settled(4).await?;
        during.to = now();
        load.lost_nothing(4, &during).await?;
        release.upgrade(5, &["--set", &fixed]).await?;
        release.is_settled(5).await
    })
    .await
}

/// Wakes the StatefulSet's controller, as anybody's write of the object does.
async fn wake(release: &Release) -> Result {
    let woken = format!("etcd-scaler-tests={}", now());
    release.kubectl(&["annotate", "statefulset", &release.statefulset(), &woken, "--overwrite"]).await.map(drop)
}

/// The StatefulSet controller's own Event that says so.
async fn event(release: &Release, says: &str) -> anyhow::Result<String> {
    let field = format!("involvedObject.name={}", release.statefulset());
    let events = release.json(&["get", "events", "--field-selector", &field]).await?;
    let mut told = events["items"].as_array().into_iter().flatten().map(|event: &Value| text(&event["message"]));
    told.find(|told| told.contains(says)).with_context(|| format!("no Event says {says:?}"))
}

fn every_member_serves(watch: &Watch, release: &Release, members: usize) -> Result {
    let looks = watch.looks();
    for ordinal in 0..members {
        let pod = release.pod(ordinal);
        let last = looks.iter().rfind(|look| look.name == pod).context("not told")?;
        ensure!(last.serves, "{pod} does not");
    }
    Ok(())
}
