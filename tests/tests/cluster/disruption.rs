//! A pod that goes for a while takes a vote along: a roll-out and an eviction leave the quorum that serves.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tests::cluster::is_bed;
use tests::faults::{freeze_container, thaw_container};
use tests::load::Load;
use tests::process::{Ended, run, until};
use tests::release::{Helm, Release, now};
use tests::rolls::{Look, Watch, made_again, most_down};
use tests::scenario;

use crate::ways::{only_these, scale};
use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// A check before an upgrade, and the controller's first tries.
pub const HELD: Duration = Duration::from_secs(90);
/// So long it is looked whether somebody goes who must not.
pub const STAYS: Duration = Duration::from_secs(6);
/// Three members stop and start.
pub const ROLLED: Duration = Duration::from_secs(240);
/// What another template is, without another image.
pub const ANOTHER_TEMPLATE: [&str; 2] = ["--set", "etcd.podAnnotations.rolled=once"];

/// At 93d759c the controller deleted the second and then the third while the first was away: no quorum, twice.
#[tokio::test]
#[ignore = "needs the test bed: make test"]
async fn a_roll_out_waits_while_a_member_is_sick() -> Result {
    scenario::run("sick-roll", Helm::V4, async |release| {
        if !is_bed() {
            release.say("not the test bed: no member can be made to stand still");
            return Ok(());
        }
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        let sick = release.running(&release.pod(0), "etcd").await?;
        let watch = Watch::start(release, 3).await?;
        let mut during = from_now();
        freeze_container(&sick.node, &sick.id).await?;
        let (upgraded, held) = tokio::join!(release.try_upgrade(3, &ANOTHER_TEMPLATE), async {
            let held = is_held(release, 2).await;
            tokio::time::sleep(STAYS).await;
            ensure!(release.pods().await? == before, "{:?} became {:?}", before, release.pods().await?);
            thaw_container(&sick.node, &sick.id).await?;
            held
        });
        let said = held?;
        release.say(&said);
        let upgraded = upgraded?.ended;
        let printed = upgraded.printed();
        upgraded.ok()?;
        ensure!(printed.contains("Its roll-out stands still"), "the check did not warn:\n{printed}");
        rolled(release, 3).await?;
        during.to = now();
        let looks = watch.stop().await?;
        let order: Vec<String> = made_again(&looks).into_iter().map(|(_, name)| name).collect();
        ensure!(order == [2, 1, 0].map(|ordinal| release.pod(ordinal)), "made again were {order:?}");
        // The first one serves before the kubelet says so.
        let others: Vec<Look> = looks.into_iter().filter(|look| look.name != release.pod(0)).collect();
        ensure!(most_down(&others).len() == 1, "down at the same time: {:?}", most_down(&others));
        release.is_settled(3).await?;
        let counts = load.lost_nothing(3, &during).await?;
        release.say(&format!("held and rolled: {}", counts["window"]));
        Ok(())
    })
    .await
}

/// At 93d759c all three went, and no count but the one before brings a quorum back.
#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn a_lowered_count_lets_no_quorum_be_evicted() -> Result {
    scenario::run("evict", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        no_jobs(release).await?;
        scale(release, 1).await?.ok()?;
        // Two of three are a quorum.
        evict(release, 2).await?.ok()?;
        until("it is gone", HELD, async || only_these(release, 2).await).await?;
        let mut refused = String::new();
        for ordinal in [1, 0] {
            refused = refused_for_now(&evict(release, ordinal).await?)?;
            release.say(&refused);
        }
        only_these(release, 2).await?;
        load_goes_on(&load).await?;
        // Its own way out.
        run_to_the_letter(&refused, "kubectl scale ", ".").await?;
        until("they are three again", ROLLED, async || release.is_settled(3).await).await?;
        jobs(release).await?;
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// That the controller is kept from deleting this pod for a roll-out; the sentence.
pub async fn is_held(release: &Release, ordinal: usize) -> anyhow::Result<String> {
    let pod = release.pod(ordinal);
    until("the roll-out is held", HELD, async || {
        let events = [
            "get",
            "events",
            "--field-selector",
            "reason=FailedDelete",
            "-o",
            "jsonpath={range .items[*]}{.message}{\"\\n\"}{end}",
        ];
        let said = release.kubectl(&events).await?;
        let held = said.lines().find(|line| line.contains(&format!("deleting {pod} for the roll-out")));
        held.map(str::to_owned).with_context(|| format!("the controller was told {said:?}"))
    })
    .await
}

/// That every pod is made from the template as it is now.
pub async fn rolled(release: &Release, members: usize) -> Result {
    until("the roll-out has ended", ROLLED, async || {
        let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        let (spec, status) = (&set["metadata"]["generation"], &set["status"]);
        ensure!(status["observedGeneration"] == *spec, "{status}");
        ensure!(status["updatedReplicas"] == members && status["readyReplicas"] == members, "{status}");
        Ok(())
    })
    .await
}

/// `pods/eviction`, however it ends.
pub async fn evict(release: &Release, ordinal: usize) -> anyhow::Result<Ended> {
    let (namespace, pod) = (&release.namespace, release.pod(ordinal));
    let eviction =
        json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod, "namespace": namespace } });
    let raw = format!("/api/v1/namespaces/{namespace}/pods/{pod}/eviction");
    run("kubectl", ["create", "--raw", &raw, "-f", "-"], &eviction.to_string(), Duration::from_secs(30)).await
}

/// That it is the webhook's 429; the sentence.
pub fn refused_for_now(asked: &Ended) -> anyhow::Result<String> {
    ensure!(!asked.success, "{} was let pass: {}", asked.command, asked.printed());
    let said = asked.printed();
    ensure!(said.contains("TooManyRequests") && said.contains("evict.etcd-scaler.io"), "{said}");
    Ok(said)
}

/// That no Job of any kind can be made, as where a quota is full.
pub async fn no_jobs(release: &Release) -> Result {
    release.kubectl(&["create", "quota", "no-jobs", "--hard=count/jobs.batch=0"]).await.map(drop)
}

/// That they can again.
pub async fn jobs(release: &Release) -> Result {
    release.kubectl(&["delete", "quota", "no-jobs"]).await.map(drop)
}

/// That keys are acknowledged now.
pub async fn load_goes_on(load: &Load<'_>) -> Result {
    let before = load.stats().await?["acknowledged"].as_u64().unwrap_or(u64::MAX);
    until("keys are acknowledged", Duration::from_secs(20), async || {
        let now = load.stats().await?;
        if now["acknowledged"].as_u64() > Some(before.saturating_add(50)) {
            Ok(())
        } else {
            bail!("{before}, then {now}")
        }
    })
    .await
}

/// Runs the command that a sentence names, from `begin` to before `end`.
pub async fn run_to_the_letter(sentence: &str, begin: &str, end: &str) -> anyhow::Result<String> {
    let from = sentence.find(begin).with_context(|| format!("{begin:?} is not in: {sentence}"))?;
    let line = &sentence[from..];
    let line = &line[..line.find(end).with_context(|| format!("{end:?} is not in: {line}"))?];
    run("sh", ["-c", line], "", Duration::from_secs(60)).await?.ok()
}
