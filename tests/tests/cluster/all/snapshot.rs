//! Snapshots into a claim by the chart's CronJob; then every member's data is lost, and etcd comes back
//! from our file by the steps of docs/restore.md, run as they stand there.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::{in_node, is_bed, nodes};
use tests::disk::Start;
use tests::process::{apply, kubectl, run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Release};
use tests::scenario::{self, Excused};

type Result = anyhow::Result<()>;

/// A Job of a few seconds, a pod, a file of some megabytes: each on a busy machine.
const SOON: Duration = Duration::from_secs(120);
/// The launcher's pauses, and members that start.
const BACK: Duration = Duration::from_secs(240);
const CLAIM: &str = "etcd-snapshots";
/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEYS: &str = "traffic/907/";
/// What each step's line has that no other has, in their order.
const READ: &str = "-- cat /snapshots/FILE";
const STOP: &str = "etcd-scaler.io/stop=true";
const TO_ZERO: &str = "--replicas=0";
const SEND: &str = "touch /snapshot/complete";
const BACK_TO_N: &str = "--replicas=N";
const NO_STOP: &str = "etcd-scaler.io/stop-";
const STATUS: &str = "endpoint status --cluster";
const FORGET: &str = "[\"/hook\",\"forget\",\"--yes\"]";
const VERIFY: &str = "job verify-1 --from";
const STEPS: &str = include_str!("../../../../docs/restore.md");
const POD: &str = include_str!("../../../../docs/restore-pod.yaml");

/// No load: what was acknowledged after the snapshot is lost by a restore.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn all_data_lost_etcd_comes_back_from_a_snapshot_by_the_documented_steps() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    let excused: [Excused<'_>; 1] = [(Rule::OneCluster, "restored by hand")];
    scenario::run_excused(Release::of("snapshot", Helm::V4), &excused, async |release| {
        remove_volume(release).await?;
        make_volume(release).await?;
        let values = format!("snapshot.enabled=true,snapshot.persistentVolumeClaim={CLAIM},snapshot.keep=2");
        let values = ["--set", values.as_str()];
        release.install(3, &values).await?;
        for key in 0..100 {
            release.etcdctl(&["put", &format!("{KEYS}{key:010}"), "value"]).await?;
        }
        for number in 1..=3 {
            let said = take(release, &format!("snapshot-{number}")).await?;
            release.say(&said);
        }
        let kept = listed(release).await?;
        let cluster = release.record().await?["cluster"].as_str().context("no cluster ID")?.to_owned();
        ensure!(kept.len() == 2 && kept.iter().all(|file| file.contains(&cluster)), "kept are {kept:?}");
        release.etcdctl(&["put", &format!("{KEYS}9999999999"), "value"]).await?;
        release.upgrade(4, &values).await?;
        release.is_settled(4).await?;

        // What nobody should live through: no member has its data any more.
        for ordinal in 0..4 {
            release.lose_disk(ordinal, Start::Container).await?;
        }
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("snapshot.db");
        restore(release, &file, 4).await?;

        until("the new cluster is recorded", BACK, async || release.is_settled(4).await).await?;
        let now = release.record().await?["cluster"].as_str().context("no cluster ID")?.to_owned();
        ensure!(now != cluster, "it is still cluster {cluster}");
        for ordinal in 0..4 {
            let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
            let keys = release.etcdctl_in(ordinal, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
            let keys: Vec<&str> = keys.lines().filter(|line| !line.is_empty()).collect();
            let pod = release.pod(ordinal);
            ensure!(keys.len() == 100, "{pod} has {} of 100 keys, or one that was put later: {keys:?}", keys.len());
        }
        // The old cluster's are not counted with the new one's, and stay.
        take(release, "snapshot-4").await?;
        let after = listed(release).await?;
        ensure!(kept.iter().all(|old| after.contains(old)), "{kept:?} were there, now there are {after:?}");
        ensure!(after.iter().filter(|file| file.contains(&now)).count() == 1, "there are {after:?}");
        release.kubectl(&["delete", "pod", "snapshot-reader", "--grace-period=1"]).await?;
        // The claim is in use as long as there is a pod that names it, also one that has ended.
        release.kubectl(&["delete", "jobs", "--all", "--cascade=foreground", "--timeout=25s"]).await?;
        release.kubectl(&["delete", "pvc", CLAIM, "--timeout=25s"]).await?;
        remove_volume(release).await
    })
    .await
}

/// A directory of a node as a volume, as docs/snapshot.md has it, and a pod that reads it.
async fn make_volume(release: &Release) -> Result {
    let node = nodes().await?.pop().context("the cluster has no node")?;
    let path = release.directory(0).replace("/pod-0", "/snapshots");
    in_node(&node, &["sh", "-ec", "mkdir -p \"$1\"; chown 65532:65532 \"$1\"", "sh", &path]).await?;
    let namespace = &release.namespace;
    let size = json!({ "storage": "1Gi" });
    let here = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": [node] });
    let confined = json!({ "allowPrivilegeEscalation": false, "capabilities": { "drop": ["ALL"] } });
    let items = [
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": { "name": volume(release) },
            "spec": {
                "capacity": size,
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "manual",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": { "namespace": namespace, "name": CLAIM },
                "hostPath": { "path": path, "type": "Directory" },
                "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } },
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": { "name": CLAIM, "namespace": namespace },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "manual",
                "resources": { "requests": size },
            },
        }),
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "snapshot-reader", "namespace": namespace },
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "securityContext": { "runAsUser": 65532, "runAsGroup": 65532, "runAsNonRoot": true },
                "containers": [{
                    "name": "reader",
                    "image": release.images.busybox,
                    "imagePullPolicy": "IfNotPresent",
                    "command": ["sleep", "86400"],
                    "securityContext": confined,
                    "volumeMounts": [{ "name": "snapshots", "mountPath": "/snapshots", "readOnly": true }],
                }],
                "volumes": [{ "name": "snapshots", "persistentVolumeClaim": { "claimName": CLAIM } }],
            },
        }),
    ];
    let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
    // The namespace's ServiceAccount comes a moment after it, and no pod before.
    until("the reader's pod is made", SOON, async || apply(&list).await).await.map(drop)
}

fn volume(release: &Release) -> String {
    format!("{}-snapshots", release.name)
}

async fn remove_volume(release: &Release) -> Result {
    kubectl(["delete", "pv", &volume(release), "--ignore-not-found", "--timeout=25s"]).await.map(drop)
}

/// Takes a snapshot by the chart's CronJob; its pod's last word.
async fn take(release: &Release, job: &str) -> anyhow::Result<String> {
    let from = format!("--from=cronjob/{}-etcd-scaler-snapshot", release.name);
    release.kubectl(&["create", "job", job, &from]).await?;
    let ended = until("the Job has ended", SOON, async || {
        let object = release.json(&["get", "job", job]).await?;
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let is_true = |condition: &&Value| condition["status"] == "True";
        let ended = conditions.filter(is_true).filter_map(|condition| condition["type"].as_str());
        let ended: Vec<String> = ended.map(str::to_owned).collect();
        ensure!(ended.iter().any(|kind| kind == "Complete" || kind == "Failed"), "it is {object}");
        Ok(ended)
    })
    .await?;
    let log = release.kubectl(&["logs", &format!("job/{job}")]).await?;
    ensure!(ended.iter().any(|kind| kind == "Complete"), "{job} failed: {log}");
    let said = log.lines().find(|line| line.contains("snapshot saved at /snapshots/"));
    ensure!(log.contains("taken and verified"), "it printed {log}");
    Ok(said.with_context(|| format!("it said {log}"))?.to_owned())
}

/// The files in the claim, in the order of their names.
async fn listed(release: &Release) -> anyhow::Result<Vec<String>> {
    let printed = until("the reader runs", SOON, async || {
        release.kubectl(&["exec", "snapshot-reader", "--", "ls", "-A", "/snapshots"]).await
    })
    .await?;
    let mut files: Vec<String> = printed.lines().map(str::to_owned).collect();
    files.sort();
    Ok(files)
}

/// The one command line of docs/restore.md with this in it.
fn documented(part: &str) -> anyhow::Result<&'static str> {
    let lines: Vec<&str> = STEPS.lines().filter(|line| line.starts_with("kubectl") && line.contains(part)).collect();
    let [line] = lines[..] else { anyhow::bail!("docs/restore.md has {} lines with {part:?}", lines.len()) };
    Ok(line)
}

/// The steps of docs/restore.md.
async fn restore(release: &Release, file: &Path, members: usize) -> Result {
    let newest = listed(release).await?.pop().context("there is no snapshot")?;
    let local = file.to_string_lossy().into_owned();
    let replaced = [
        ("snapshot.db -w", format!("{local} -w")),
        ("> snapshot.db", format!("> {local}")),
        ("STATEFULSET", release.statefulset()),
        ("NAMESPACE", release.namespace.clone()),
        ("RELEASE", release.name.clone()),
        ("FILE", newest),
        ("replicas=N", format!("replicas={members}")),
    ];
    let step = async |part: &str| {
        let line = documented(part)?;
        let line = replaced.iter().fold(line.to_owned(), |line, (from, to)| line.replace(from, to));
        run("bash", ["-ec", &format!("set -o pipefail; {line}")], "", SOON).await?.ok()
    };
    // 1
    step(READ).await?;
    // 2
    step(STOP).await?;
    step(TO_ZERO).await?;
    until("the members' pods are gone", SOON, async || {
        let pods = release.pods().await?;
        ensure!(pods.is_empty(), "there is {pods:?}");
        Ok(())
    })
    .await?;
    // 3 and 4
    restore_each(release, file, members).await?;
    // 5
    step(BACK_TO_N).await?;
    step(NO_STOP).await?;
    until("the members answer", BACK, async || step(STATUS).await).await?;
    // 6
    step(FORGET).await?;
    until("the record is dropped, or another one", BACK, async || {
        let job = release.json(&["get", "job", "forget-1"]).await?;
        ensure!(job["status"]["succeeded"] == 1, "hook forget is {}", job["status"]);
        Ok(())
    })
    .await?;
    step(VERIFY).await.map(drop)
}

/// Step 4 of docs/restore.md, for each member: its claim is there, and its pod is not.
pub async fn restore_each(release: &Release, file: &Path, members: usize) -> Result {
    let replaced = [
        ("< snapshot.db", format!("< {}", file.display())),
        ("STATEFULSET", release.statefulset()),
        ("NAMESPACE", release.namespace.clone()),
    ];
    for ordinal in 0..members {
        let pod = [
            ("INITIAL_CLUSTER", release.initial_cluster(members)),
            ("TOKEN", "restored".to_owned()),
            ("BUSYBOX_IMAGE", release.images.busybox.clone()),
            ("ETCD_IMAGE", release.images.etcd.clone()),
            ("ORDINAL", ordinal.to_string()),
        ];
        let pod = pod.iter().chain(&replaced).fold(POD.to_owned(), |pod, (from, to)| pod.replace(from, to));
        run("kubectl", ["apply", "-f", "-"], &pod, SOON).await?.ok()?;
        let name = format!("restore-{ordinal}");
        until("it waits for the file", SOON, async || {
            release.kubectl(&["exec", &name, "-c", "receive", "--", "true"]).await
        })
        .await?;
        let send = replaced.iter().fold(documented(SEND)?.to_owned(), |line, (from, to)| line.replace(from, to));
        run("bash", ["-ec", &send.replace("restore-0", &name)], "", SOON).await?.ok()?;
        until("etcdutl has restored it", SOON, async || {
            let phase = release.kubectl(&["get", "pod", &name, "-o", "jsonpath={.status.phase}"]).await?;
            ensure!(phase == "Succeeded", "{name} is {phase}");
            Ok(())
        })
        .await?;
        release.kubectl(&["delete", "pod", &name]).await?;
    }
    Ok(())
}

#[test]
fn each_step_is_in_the_docs_once_and_in_order() {
    let steps = [READ, STOP, TO_ZERO, SEND, BACK_TO_N, NO_STOP, STATUS, FORGET, VERIFY];
    let at = steps.map(|part| STEPS.find(documented(part).unwrap()).unwrap());
    assert!(at.is_sorted(), "{at:?}");
}
