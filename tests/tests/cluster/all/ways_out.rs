//! Commands in messages, run: those that harm nobody as they stand in `tests/ways_out.md`, filled in; and one that is taken
//! from its message.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::load::Load;
use tests::process::{apply, kubectl, kubectl_json, run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Release, Storage, now};
use tests::scenario;
use tests::ways_out::of_the_tree;

use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

const THIS: &str = "all::ways_out::each_that_harms_nobody_runs_to_its_end";
/// What only looks, and a Job that compares.
const ENDS: Duration = Duration::from_secs(120);
/// Pods that end, and others in their place.
const MADE: Duration = Duration::from_secs(180);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn each_that_harms_nobody_runs_to_its_end() -> Result {
    scenario::run("ways-out", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        let (before, members) = (release.pods().await?, release.members().await?);
        let ours = of_the_tree()?.into_iter().filter(|it| it.scenario.as_deref() == Some(THIS));
        // What makes a Job comes first: others look at it.
        let mut commands: Vec<String> = ours.map(|it| it.command).collect();
        commands.sort_by_key(|command| !command.contains("create job"));
        ensure!(commands.len() > 20, "there are only {commands:?}");
        for command in commands {
            runs(release, &command).await.with_context(|| format!("`{command}`"))?;
        }
        std::fs::remove_file(saved(release)).context("the saved snapshot")?;
        release.kept(&before).await?;
        release.is_settled(3).await?;
        ensure!(release.members().await? == members, "the member list changed");
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// A command of the table, for this release, to its end.
async fn runs(release: &Release, command: &str) -> Result {
    if let Some(values) = command.strip_prefix("helm upgrade ").or_else(|| command.strip_prefix("--set ")) {
        ensure!(values.trim_start_matches("--set ").starts_with("etcd.replicaCount=<"), "another value");
        return release.upgrade(3, &[]).await.map(drop);
    }
    let line = filled(release, command).await?;
    ensure!(!line.contains(['<', '>']), "what is to be filled in? {line}");
    release.say(&format!("$ {line}"));
    run("sh", ["-c", &line], "", ENDS).await?.ok()?;
    let Some(job) = line.split(' ').next_back().filter(|_| line.contains("create job")) else { return Ok(()) };
    until("the Job has ended well", ENDS, async || {
        let job = release.json(&["get", "job", job]).await?;
        ensure!(job["status"]["succeeded"] == 1, "its status is {}", job["status"]);
        Ok(())
    })
    .await
}

/// Where a snapshot is saved by hand.
fn saved(release: &Release) -> PathBuf {
    std::env::temp_dir().join(format!("{}.db", release.namespace))
}

/// The same with what the placeholders stand for.
async fn filled(release: &Release, command: &str) -> anyhow::Result<String> {
    let (set, cronjob) = (release.statefulset(), format!("{}-etcd-scaler", release.name));
    let by_hand = format!("{cronjob}-by-hand");
    let line = command
        .replace("<etcd-scaler.io/target>", "etcd-scaler.io/target")
        .replace("<cronjob>", &cronjob)
        .replace("<name>", &set)
        .replace("<count>", "3")
        .replace("<reconcile>", &by_hand)
        .replace("<namespace>", &release.namespace);
    let pod = if line.starts_with("kubectl logs") { format!("job/{by_hand}") } else { release.pod(1) };
    let line = line.replace("<pod>", &pod);
    if let Some(words) = line.strip_prefix("etcdctl ") {
        let file =
            if words.ends_with("snapshot save") { format!(" {}", saved(release).display()) } else { String::new() };
        return Ok(format!("etcdctl --endpoints=http://{}:2379 {words}{file}", release.host(0)));
    }
    // A person is in the namespace, and names what he looks at.
    let line = match line.as_str() {
        "kubectl describe" | "kubectl describe pod" => format!("kubectl describe pod {}", release.pod(1)),
        _ => line,
    };
    let in_namespace = format!(" -n {}", release.namespace);
    Ok(if line.starts_with("kubectl ") && !line.contains(&in_namespace) {
        format!("{line}{in_namespace}")
    } else {
        line
    })
}

/// The policy denies a newcomer by a Role of a cluster that is gone with its data; its message names the command.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_role_of_a_cluster_that_is_gone_is_deleted_and_another_begins() -> Result {
    let release = Release::of("gone-role", Helm::V4).on(Storage::Provisioned);
    let another = (Rule::OneCluster, "the cluster before is gone with all its data, and another begins on purpose");
    scenario::run_excused(release, &[another], async |release| {
        release.install(3, &[]).await?;
        release.stop_webhook().await?;
        release.orphan().await?;
        release.kubectl(&["delete", "pods,pvc", "-l", "app=etcd", "--timeout=60s"]).await?;
        let four = release.rendered(4).await?;
        run("kubectl", ["-n", &release.namespace, "apply", "-f", "-"], &four, ENDS).await?.ok()?;
        let begin = "kubectl delete role ";
        let told = until("the fourth pod is denied", MADE, async || {
            let events = kubectl_json(["-n", &release.namespace, "get", "events"]).await?;
            let notes = events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
            let told = notes.into_iter().find(|note| note.contains(begin)).map(str::to_owned);
            told.context("no Event names the command")
        })
        .await?;
        release.say(&told);
        let line = &told[told.find(begin).unwrap_or_default()..];
        run("sh", ["-c", line.trim()], "", ENDS).await?.ok()?;
        until("four members begin anew", MADE, async || {
            let members = release.members().await?;
            ensure!(members.len() == 4 && members.iter().all(|member| member.started), "there are {members:?}");
            Ok(())
        })
        .await?;
        release.start_webhook().await?;
        until("they are recorded", MADE, async || release.is_settled(4).await).await
    })
    .await
}

/// A volume of that name is somebody else's: it is left as it is, and this etcd is given names of its own.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_volume_that_does_not_fit_is_left_and_volumes_of_its_own_are_named() -> Result {
    scenario::run("not-fit", Helm::V4, async |release| {
        let name = release.volume(1);
        let claim = json!({ "namespace": "somebody", "name": "data-somebody-1" });
        apply(&json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": { "name": name },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "capacity": { "storage": "2Gi" }, "claimRef": claim,
                "hostPath": { "path": release.directory(8) }, "storageClassName": "manual",
                "persistentVolumeReclaimPolicy": "Retain",
            },
        }))
        .await?;
        let theirs = async || anyhow::Ok(kubectl_json(["get", "pv", &name]).await?["spec"].take());
        let before = theirs().await?;
        let installed = release.try_install(3, &[]).await?;
        let seconds = installed.seconds();
        let told = installed.refused()?;
        release.say(&format!("after {seconds:.1} s: {}", crate::said::error(&told)));
        ensure!(told.contains("exists and does not fit: it is reserved for claim somebody/data-somebody-1"), "{told}");
        ensure!(told.contains("(pv.namePrefix, and pv.hostPath for their directories), then upgrade again"), "{told}");
        let own = format!(
            "pv.namePrefix={0}-own,pv.hostPath={1}",
            release.name,
            release.directory(0).replace("/pod-0", "/own-")
        );
        release.upgrade(3, &["--set", &own]).await?;
        release.is_settled(3).await?;
        ensure!(theirs().await? == before, "{name} was {before} and is {}", theirs().await?);
        // They go when their claims do.
        let own: Vec<String> = (0..3).map(|ordinal| format!("{}-own-{ordinal}", release.name)).collect();
        let gone = ["delete", "pv", "--wait=false", "--ignore-not-found", &name, &own[0], &own[1], &own[2]];
        kubectl(gone).await.map(drop)
    })
    .await
}
