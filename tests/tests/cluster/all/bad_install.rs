//! A first install that cannot come up: it fails in time and says why, and the next upgrade heals
//! it. Until there is a record, the StatefulSet is as its chart made it.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::nodes;
use tests::places::{label, with_places};
use tests::process::{apply, kubectl, until};
use tests::release::{Helm, Release};
use tests::scenario;

use crate::said::said;

type Result = anyhow::Result<()>;

/// A Job that waits for what never comes says so after this.
const SOON: [&str; 2] = ["--set", "hook.deadlineSeconds=60,hook.joinDeadlineSeconds=40"];
/// How long pods may take to be made, to be scheduled or to be looked at.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_image_is_healed_by_the_next_upgrade() -> Result {
    wrong_image("wrong-image", Helm::V4, &[], Webhook::Up).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_image_is_healed_under_ordered_ready_with_helm_3() -> Result {
    let ordered = ["--set", "etcd.podManagementPolicy=OrderedReady"];
    wrong_image("wrong-image-ordered", Helm::V3, &ordered, Webhook::Up).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_image_is_healed_while_the_webhook_is_down() -> Result {
    wrong_image("wrong-image-alone", Helm::V4, &[], Webhook::Down).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_image_is_healed_while_the_webhook_is_down_with_helm_3() -> Result {
    wrong_image("wrong-image-alone-3", Helm::V3, &[], Webhook::Down).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_class_is_healed_by_the_next_upgrade() -> Result {
    wrong_class("wrong-class", Helm::V4, Webhook::Up).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_class_is_healed_by_the_next_upgrade_with_helm_3() -> Result {
    wrong_class("wrong-class-3", Helm::V3, Webhook::Up).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_class_is_healed_while_the_webhook_is_down() -> Result {
    wrong_class("wrong-class-alone", Helm::V4, Webhook::Down).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_wrong_class_is_healed_while_the_webhook_is_down_with_helm_3() -> Result {
    wrong_class("wrong-class-alone-3", Helm::V3, Webhook::Down).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn nobody_starts_before_a_member_that_is_pending_has_a_node() -> Result {
    pending("pending", Helm::V4, Webhook::Up).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn nobody_starts_before_a_pending_member_has_a_node_while_the_webhook_is_down() -> Result {
    pending("pending-alone", Helm::V3, Webhook::Down).await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Webhook {
    Up,
    Down,
}

async fn wrong_image(name: &str, helm: Helm, options: &[&str], webhook: Webhook) -> Result {
    scenario::run(name, helm, async |release| {
        let wrong = ["--set", "etcd.image.tag=no-such-tag"];
        let failed = fails(release, &[&wrong, &SOON, options].concat()).await?;
        says(release, &failed, &[&release.pod(0), "no-such-tag"])?;
        let bad = last_word(release).await?;
        says(release, &bad, &[&release.pod(0), "no-such-tag"])?;
        is_as_its_chart_made_it(release).await?;
        let early = release.kubectl(&["scale", "statefulset", &release.statefulset(), "--replicas=4"]).await;
        said(
            release,
            "guard-unverified",
            &format!("{:#}", early.err().context("it scales though nothing is verified")?),
        );
        if webhook == Webhook::Down {
            release.remove_webhook().await?;
        }
        // The pods are made again by whoever: they are still the chart's.
        release.kubectl(&["delete", "pod", &release.pod(0), "--wait=false"]).await?;
        is_as_its_chart_made_it(release).await?;
        heals(release, options).await?;
        scales(release, options).await
    })
    .await
}

/// The claims' class cannot be changed in a StatefulSet. Where etcd never ran it is made again by the
/// upgrade; where it runs that is said before Helm changes anything, with the commands for it.
async fn wrong_class(name: &str, helm: Helm, webhook: Webhook) -> Result {
    scenario::run(name, helm, async |release| {
        let class = format!("{name}-no-such-provisioner");
        apply(&json!({
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": { "name": class },
            "provisioner": "etcd-scaler.io/no-such-provisioner",
        }))
        .await?;
        let outcome = with_wrong_class(release, &class, webhook).await;
        kubectl(["delete", "storageclass", &class, "--ignore-not-found"]).await?;
        outcome
    })
    .await
}

async fn with_wrong_class(release: &Release, class: &str, webhook: Webhook) -> Result {
    let wrong = format!("etcd.persistence.storageClass={class}");
    let wrong = ["--set", &wrong];
    let failed = fails(release, &[&wrong[..], &SOON].concat()).await?;
    says(release, &failed, &[&release.pod(0), &format!("data-{}", release.pod(0)), class])?;
    is_as_its_chart_made_it(release).await?;
    if webhook == Webhook::Down {
        release.remove_webhook().await?;
    }
    heals(release, &[]).await?;
    release.names_peers(3).await?;
    scales(release, &[]).await?;
    // The other way round, over members that serve.
    let before = release.pods().await?;
    let refused = release.try_upgrade(4, &wrong).await?.refused()?;
    let orphan = format!("delete statefulset {} --cascade=orphan", release.statefulset());
    says(release, &refused, &["volumeClaimTemplates", class, "manual", &orphan])?;
    ensure!(!refused.contains("delete pvc"), "claims with data are to be deleted: {refused}");
    release.is_settled(4).await?;
    // What the sentence says, to the letter.
    for command in commands(&refused) {
        release.say(&format!("$ {command}"));
        kubectl(command.split_whitespace().skip(1)).await?;
    }
    release.upgrade(4, &wrong).await?;
    release.is_settled(4).await?;
    release.kept(&before).await
}

/// Two of three members get a node. No etcd starts before the third has one, where old data may be; then all do.
async fn pending(name: &str, helm: Helm, webhook: Webhook) -> Result {
    scenario::run(name, helm, async |release| {
        let nodes = nodes().await?;
        ensure!(nodes.len() >= 3, "three nodes are needed, there are {}", nodes.len());
        with_places(release, async |place| two_of_three(release, place, &nodes, webhook).await).await
    })
    .await
}

async fn two_of_three(release: &Release, place: &str, nodes: &[String], webhook: Webhook) -> Result {
    let selector = format!("etcd.nodeSelector.{place}=here");
    let options = ["--set-string", &selector, "--set", "etcd.podAntiAffinityPreset=hard"];
    // One place: no quorum, so nothing is verified.
    label(&nodes[0], place).await?;
    let failed = fails(release, &[&options[..], &SOON].concat()).await?;
    says(release, &failed, &["a look into the data directories", "didn't match"])?;
    is_as_its_chart_made_it(release).await?;
    if webhook == Webhook::Down {
        release.stop_webhook().await?;
    }
    let pods = release.pods().await?;
    for ordinal in 0..3 {
        // Of the one that has a node, the place would only go to another.
        if pods.get(&release.pod(ordinal)).is_some_and(|pod| pod.node.is_empty()) {
            is_made_again(release, ordinal).await?;
        }
    }
    is_as_its_chart_made_it(release).await?;
    // Two places: two directories were looked at, and what the third will find is not known.
    label(&nodes[1], place).await?;
    until("two of three have a node", PATIENCE, async || {
        let pods = release.pods().await?;
        let placed = pods.values().filter(|pod| !pod.node.is_empty()).count();
        ensure!(placed == 2, "{placed} have a node");
        Ok(())
    })
    .await?;
    is_as_its_chart_made_it(release).await?;
    let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
    let ready = pods["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count();
    ensure!(ready == 0, "{ready} are Ready before all places were looked at");
    label(&nodes[2], place).await?;
    heals(release, &options).await?;
    release.names_peers(3).await
}

/// An install that fails; what Helm printed.
async fn fails(release: &Release, options: &[&str]) -> anyhow::Result<String> {
    match release.install(3, options).await {
        Ok(ran) => anyhow::bail!("{} succeeded:\n{}", ran.ended.command, ran.ended.printed()),
        Err(error) => Ok(format!("{error:#}")),
    }
}

/// The termination message of the Job after the install.
async fn last_word(release: &Release) -> anyhow::Result<String> {
    let pod = release.job_pod("post").await?;
    ensure!(pod.exit_code == 1 && pod.message.trim().lines().count() == 1, "{pod:?}");
    Ok(pod.message)
}

/// The next upgrade, with the right values: three members.
async fn heals(release: &Release, options: &[&str]) -> Result {
    let ran = release.upgrade(3, options).await?;
    let log = release.job_log("post").await?;
    let said: Vec<&str> = log.iter().map(|(_, said)| said.as_str()).collect();
    release.say(&format!("healed in {:.1} s:\n{}", ran.seconds(), said.join("\n")));
    release.is_settled(3).await?;
    let images = release.images().await?;
    ensure!(images.values().all(|image| *image == release.images.etcd), "{images:?}");
    Ok(())
}

/// The main job goes on from there.
async fn scales(release: &Release, options: &[&str]) -> Result {
    let before = release.pods().await?;
    release.upgrade(4, options).await?;
    release.is_settled(4).await?;
    release.names_peers(4).await?;
    release.kept(&before).await?;
    // Made again, a member is what the others are, not what the first install was.
    release.kubectl(&["delete", "pod", &release.pod(1)]).await?;
    until("the member serves again", PATIENCE, async || release.is_settled(4).await).await
}

/// No record, and nothing of the environment or the strategy is ours.
async fn is_as_its_chart_made_it(release: &Release) -> Result {
    ensure!(release.record().await.is_err(), "there is a record: {:?}", release.record().await);
    let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
    bootstraps(release, &set["spec"]["template"])?;
    let (partition, kept) = (release.partition().await?, release.kept_partition().await?);
    ensure!((partition, &kept) == (0, &None), "partition {partition}, kept {kept:?} without a record");
    Ok(())
}

/// Deletes a pod and waits for the next of its name, which is given.
async fn is_made_again(release: &Release, ordinal: usize) -> anyhow::Result<Value> {
    let pod = release.pod(ordinal);
    let uid = async || anyhow::Ok(release.json(&["get", "pod", &pod]).await?["metadata"]["uid"].clone());
    let before = uid().await?;
    release.kubectl(&["delete", "pod", &pod, "--wait=false", "--grace-period=1"]).await?;
    until("the pod is made again", PATIENCE, async || {
        let now = release.json(&["get", "pod", &pod]).await?;
        ensure!(now["metadata"]["uid"] != before, "{pod} is still the old one");
        Ok(now)
    })
    .await
}

/// A pod or a template starts its etcd as the chart has it: new, with all three.
fn bootstraps(release: &Release, pod: &Value) -> Result {
    let containers = pod["spec"]["containers"].as_array().context("no containers")?;
    let etcd = containers.iter().find(|container| container["name"] == "etcd").context("no container etcd")?;
    for (name, annotation, value) in [
        ("ETCD_INITIAL_CLUSTER_STATE", "etcd-scaler.io/initial-cluster-state", "new"),
        ("ETCD_INITIAL_CLUSTER", "etcd-scaler.io/initial-cluster", &release.initial_cluster(3)),
    ] {
        let mut env = etcd["env"].as_array().into_iter().flatten();
        let from = &env.find(|variable| variable["name"] == name).with_context(|| format!("no {name}"))?["valueFrom"];
        let place = format!("metadata.annotations['{annotation}']");
        ensure!(from["fieldRef"]["fieldPath"] == place.as_str(), "{name} is from {from}");
        let found = &pod["metadata"]["annotations"][annotation];
        ensure!(found == value, "{annotation} is {found}");
    }
    Ok(())
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.clone().any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// The kubectl commands in a sentence; each ends with a semicolon.
fn commands(told: &str) -> Vec<String> {
    let mut commands = Vec::new();
    for (at, _) in told.match_indices("kubectl ") {
        let command = told[at..].split_once(';').map(|(command, _)| command.to_owned());
        // Helm prints it more than once: the hook's log and its own error.
        commands.extend(command.filter(|command| command.contains(" delete ") && !commands.contains(command)));
    }
    commands
}

/// What a person is told, printed and looked at.
fn says(release: &Release, told: &str, parts: &[&str]) -> Result {
    release.say(told.trim());
    for part in parts {
        ensure!(told.contains(part), "{part:?} is not in {told:?}");
    }
    Ok(())
}
