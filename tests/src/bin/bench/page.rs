//! The same 3 → 4 by the steps of "Scaling Etcd Members", scripted, on a StatefulSet that nothing of ours
//! looks after; and the repairs without which they cannot succeed.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::load::Load;
use tests::process::{Ended, apply, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

use crate::Numbers;
use crate::scaled::{Scaled, stall};

/// A pod's start, and a roll-out of four.
const DONE: Duration = Duration::from_secs(240);

/// What the page's way does that ours does not.
const BROKEN: [(Rule, &str); 2] = [
    (Rule::RestartsNobody, "the page's edit of the template rolls every member"),
    (Rule::NeverTwoUnstarted, "the page adds a member before its pod can start"),
];

/// Runs the page's steps and prints them beside what the same took with us.
pub async fn bench(ours: &Scaled, numbers: &mut Numbers) -> anyhow::Result<()> {
    let release = Release::of("bench-page", Helm::V4);
    scenario::run_excused(release, &BROKEN, async |release| {
        release.apply_foreign().await?;
        let status = ["rollout", "status", "statefulset", &release.statefulset(), "--timeout=25s"];
        until("three members serve", DONE, async || release.kubectl(&status).await).await?;
        let load = Load::busy(release).await?;
        let before = release.pods().await?;
        println!("\nthe page's steps, 3 → 4 under 300 writes a second");
        let ran = steps(release).await?;
        let after = release.pods().await?;
        let again = before.iter().filter(|(name, pod)| after.get(*name) != Some(pod)).count();
        let stall = stall(&load, 4, &ran).await?;
        let row = |what: &str, ours: f64, page: f64, unit: &str| {
            println!("{what:<44} {ours:>7.2} {unit} with us, {page:>7.2} {unit} by the page");
        };
        row("3 → 4 under load", ours.seconds, ran.seconds(), "s");
        row("longest stall of writes", ours.stall, stall, "s");
        row("members that were made again", 0.0, again as f64, "");
        numbers.told("time of ours to that of the page's", ours.seconds / ran.seconds(), "", None);
        Ok(())
    })
    .await
}

/// The page's four steps in its order, but for the repairs.
async fn steps(release: &Release) -> anyhow::Result<Ran> {
    let (set, fourth) = (release.statefulset(), release.pod(3));
    // A roll-out begins where its owner's partition lets it; the page knows of none.
    let all = json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": 0 } } } });
    release.kubectl(&["patch", "statefulset", &set, "-p", &all.to_string()]).await?;
    say(
        "   repair: each volume is tied to its node; the page's are not, and a member that rolls may start elsewhere, empty",
    );
    for (ordinal, pod) in release.pods().await?.values().enumerate() {
        let here = json!([{ "key": "kubernetes.io/hostname", "operator": "In", "values": [pod.node] }]);
        let tied = json!({ "required": { "nodeSelectorTerms": [{ "matchExpressions": here }] } });
        let tied = json!({ "spec": { "nodeAffinity": tied } }).to_string();
        release.kubectl(&["patch", "pv", &release.volume(ordinal), "-p", &tied]).await?;
    }
    let from = now();
    say("1. kubectl scale sts --replicas=4");
    release.kubectl(&["scale", "statefulset", &set, "--replicas=4"]).await?;
    say("2. kubectl edit sts: ETCD_INITIAL_CLUSTER_STATE=existing, ETCD_INITIAL_CLUSTER with the fourth member");
    let env = json!([
        { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "existing" },
        { "name": "ETCD_INITIAL_CLUSTER", "value": release.initial_cluster(4) },
    ]);
    let edit = json!({ "spec": { "template": { "spec": { "containers": [{ "name": "etcd", "env": env }] } } } });
    release.kubectl(&["patch", "statefulset", &set, "-p", &edit.to_string()]).await?;
    say("   repair: etcdctl member add, which the page leaves out; its etcd would find three members, not four");
    // A person tries again: in its first 5 s etcd takes none ("unhealthy cluster").
    let (add, url) = (["member", "add", &fourth], format!("--peer-urls={}", release.peer_url(3)));
    until("etcd takes the fourth member", DONE, async || release.etcdctl(&[&add[..], &[&url]].concat()).await).await?;
    say("3. kubectl apply of the PersistentVolume");
    apply(&json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": { "name": release.volume(3) },
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": { "storage": "2Gi" },
            "claimRef": { "namespace": release.namespace, "name": release.claim(3) },
            "hostPath": { "path": release.directory(3) },
            "persistentVolumeReclaimPolicy": "Retain",
            "storageClassName": "manual",
        },
    }))
    .await?;
    say("4. etcdctl get --prefix \"\" in each, compared, when the roll-out is over");
    let status = ["rollout", "status", "statefulset", &set, "--timeout=25s"];
    until("the roll-out is over", DONE, async || release.kubectl(&status).await).await?;
    let ended = until("four voters hold the same", DONE, async || same_keys(release).await).await?;
    Ok(Ran { ended, from, to: now() })
}

/// The page compares what etcdctl prints; here the members' own hash of it at one revision.
async fn same_keys(release: &Release) -> anyhow::Result<Ended> {
    let members = release.members().await?;
    ensure!(members.len() == 4 && members.iter().all(|member| member.started && !member.learner), "{members:?}");
    let hashes: BTreeMap<String, String> = release.hashes().await?;
    let mut values: Vec<&String> = hashes.values().collect();
    values.dedup();
    ensure!(hashes.len() == 4 && values.len() == 1, "the members' hashes are {hashes:?}");
    Ok(Ended { command: "the page's steps".into(), success: true, stdout: String::new(), stderr: String::new() })
}

fn say(step: &str) {
    println!("          {step}");
}
