//! Each sentence about an etcd that is not understood, said of one that runs, beside ours and without ours; and what it
//! offers, done to its end.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::failpoints::Failpoint;
use tests::foreign::Starts;
use tests::members::Member;
use tests::process::{apply, kubectl, run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Release, now};
use tests::rolls::{Watch, made_again as rolled, most_down};
use tests::scenario::{self, Excused};

use super::snapshot::restore_each;
use crate::foreign::{BACK, lasting, left_alone, refuses, serve};

type Result = anyhow::Result<()>;

/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEYS: &str = "traffic/911/";

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn in_a_container_of_another_name_it_is_named_and_scaled() -> Result {
    with_a_way_out("not-container", Starts::Container, "its pods have no container \"etcd\".", async |release, _| {
        release.install(3, &["--set", &format!("{},target.container=server", release.foreign_values())]).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn under_another_name_it_is_renamed_and_scaled() -> Result {
    with_a_way_out("not-name", Starts::Name, "is named \"member-not-name-r-etcd-0\".", by_variables).await
}

/// They began by a list of their own: a service tells each as many as are there when it is asked.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn found_by_a_service_it_is_given_its_members_and_scaled() -> Result {
    const SAYS: &str = "its etcd finds the first members by a service (--discovery-srv).";
    with_a_way_out("not-discovery", Starts::Discovery, SAYS, by_variables).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn alone_again_at_each_start_it_is_not_any_more_and_scaled() -> Result {
    const SAYS: &str = "its etcd is started with --force-new-cluster.";
    with_a_way_out("not-alone", Starts::ForceNewCluster, SAYS, async |release, _| {
        let mut object = release.foreign_statefulset(1);
        object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
        apply(&object).await?;
        release.adopt_foreign().await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_its_directory_told_elsewhere_it_is_told_and_scaled() -> Result {
    const SAYS: &str = "its data directory cannot be told.";
    with_a_way_out("not-told", Starts::DataDirectory, SAYS, by_variables).await
}

/// A stand-in for Bitnami's image.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn by_scripts_that_make_a_file_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    const SAYS: &str = "its etcd is given a configuration file (ETCD_CFG_NAME).";
    with_a_way_out("not-cfg", Starts::ScriptsFile, SAYS, by_variables).await
}

/// A stand-in for Bitnami's image.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn by_scripts_and_a_mounted_file_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    const SAYS: &str = "its etcd is given a configuration file (/opt/bitnami/etcd/conf/etcd.yaml).";
    with_a_way_out("not-mounted", Starts::ScriptsMounted, SAYS, by_variables).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_its_log_elsewhere_a_new_one_takes_it_over_and_is_scaled() -> Result {
    const SAYS: &str = "its write-ahead log has a directory of its own (--wal-dir, ETCD_WAL_DIR).";
    taken_over("not-log", Starts::LogElsewhere, SAYS).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn in_directories_of_its_nodes_a_new_one_takes_it_over_and_is_scaled() -> Result {
    taken_over("not-host", Starts::HostPath, "is on a hostPath of the pod template,").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn on_one_claim_a_new_one_takes_it_over_and_is_scaled() -> Result {
    taken_over("not-one", Starts::OneClaim, "is on one claim for all pods (").await
}

/// What is on an emptyDir goes with its pod: nobody is made again but by a person.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn on_an_empty_dir_a_new_one_takes_it_over_and_is_scaled() -> Result {
    const SAYS: &str = "its data directory /var/lib/etcd/data is on an emptyDir, not on a claim of each pod's own.";
    taken_over("not-kept", Starts::EmptyDir, SAYS).await
}

/// The same without ours.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_flags_it_lives_on_as_without_ours() -> Result {
    scenario::run_on(lasting("not-flags", Helm::V4), async |release| {
        as_without_us(release, Starts::Flags, crate::foreign::FLAGS, 3).await.map(drop)
    })
    .await
}

/// As without us; then what the sentence offers is done, and a newcomer joins.
async fn with_a_way_out(
    name: &str,
    starts: Starts,
    says: &str,
    way_out: impl AsyncFnOnce(&Release, usize) -> Result,
) -> Result {
    scenario::run_on(lasting(name, Helm::V4), async |release| {
        let count = if starts == Starts::ForceNewCluster { 1 } else { 3 };
        as_without_us(release, starts, says, count).await?;
        way_out(release, count).await?;
        until("the members are recorded", BACK, async || release.is_settled(count).await).await?;
        let pods = release.pods().await?;
        let more = (count + 1).to_string();
        release.kubectl(&["scale", "statefulset", &release.statefulset(), &format!("--replicas={more}")]).await?;
        until("the newcomer is a member", BACK, async || release.is_settled(count + 1).await).await?;
        release.kept(&pods).await
    })
    .await
}

/// Its chart starts it by variables of its own, and ours is installed.
async fn by_variables(release: &Release, count: usize) -> Result {
    let mut object = release.foreign_statefulset(count);
    object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
    // Applied, not merged: what it had beside goes.
    run("kubectl", ["replace", "-f", "-"], &object.to_string(), BACK).await?.ok()?;
    serve(release).await?;
    release.adopt_foreign().await.map(drop)
}

/// What became of the pods at a step.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    /// Who was made again, in order; of several at once the number of those that were down together.
    made_again: Vec<String>,
    most_down: usize,
    ready: BTreeMap<String, bool>,
}

/// The same steps on the same StatefulSet before ours is there, beside ours and behind ours: each pod deleted, all rolled.
async fn as_without_us(release: &Release, starts: Starts, says: &str, count: usize) -> anyhow::Result<Vec<Member>> {
    if starts == Starts::Discovery {
        release.apply_foreign().await?;
        serve(release).await?;
    }
    release.apply_foreign_started(starts).await?;
    serve(release).await?;
    let all: Vec<usize> = (0..count).collect();
    let members = release.members().await?;
    release.go_on(&all, &members).await?;
    let without = steps(release, &all, &members).await?;
    let written = spec(release).await?;
    refuses(release, says).await?;
    ensure!(spec(release).await? == written, "the StatefulSet was written to");
    let beside = steps(release, &all, &members).await?;
    left_alone(release).await?;
    release.uninstall().await?;
    let behind = steps(release, &all, &members).await?;
    release.say(&format!("without ours: {without:?}"));
    ensure!(without == beside, "without ours {without:?}, beside ours {beside:?}");
    ensure!(without == behind, "without ours {without:?}, when ours was there {behind:?}");
    Ok(members)
}

/// What a person and a chart wrote.
async fn spec(release: &Release) -> anyhow::Result<Value> {
    let mut set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
    let annotations = set["metadata"]["annotations"].take();
    Ok(json!([set["spec"].take(), annotations]))
}

async fn steps(release: &Release, all: &[usize], members: &[Member]) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let restart = ["rollout", "restart", "statefulset", &release.statefulset()].map(str::to_owned);
    let deleted = all.iter().map(|&ordinal| ["delete", "pod", &release.pod(ordinal), "--wait=true"].map(str::to_owned));
    for words in deleted.chain([restart]) {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let watch = Watch::start(release, all.len()).await?;
        let before = release.pods().await?;
        release.kubectl(&words).await?;
        let whole = words[0] == "rollout";
        until("who goes is made again", BACK, async || {
            let now = release.pods().await?;
            let again = before.iter().filter(|(name, pod)| now.get(*name).is_some_and(|now| now.uid != pod.uid));
            ensure!(again.count() == if whole { all.len() } else { 1 }, "the pods are {now:?}");
            Ok(())
        })
        .await?;
        serve(release).await?;
        until("the members go on", BACK, async || release.go_on(all, members).await).await?;
        let looks = watch.stop().await?;
        let made_again = rolled(&looks).into_iter().map(|(_, name)| name).collect();
        outcomes.push(Outcome { made_again, most_down: most_down(&looks).len(), ready: ready(release).await? });
    }
    Ok(outcomes)
}

async fn ready(release: &Release) -> anyhow::Result<BTreeMap<String, bool>> {
    let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
    let ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let mut conditions = conditions.filter(|it| it["type"] == "Ready");
        let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        (name, conditions.any(|it| it["status"] == "True"))
    };
    Ok(pods["items"].as_array().into_iter().flatten().map(ready).collect())
}

/// docs/restore.md, "From a StatefulSet that cannot be changed": the new one is `release`'s, and the old one is beside it.
async fn taken_over(name: &str, starts: Starts, says: &str) -> Result {
    let excused: [Excused<'_>; 1] = [(Rule::OneCluster, "restored by hand")];
    scenario::run_excused(lasting(name, Helm::V4), &excused, async |release| {
        let mut old = lasting(&format!("{name}-old"), Helm::V4);
        old.namespace.clone_from(&release.namespace);
        if starts == Starts::HostPath {
            // Pod Security's baseline, which the tests' namespaces enforce, lets nobody mount a directory of a node.
            let privileged = "pod-security.kubernetes.io/enforce=privileged";
            kubectl(["label", "namespace", &release.namespace, privileged, "--overwrite"]).await?;
        }
        old.apply_foreign_started(starts).await?;
        serve(&old).await?;
        for key in 0..50 {
            old.etcdctl(&["put", &format!("{KEYS}{key:010}"), "value"]).await?;
        }
        let (members, before) = (old.members().await?, spec(&old).await?);
        refuses(&old, says).await?;
        ensure!(spec(&old).await? == before, "the StatefulSet was written to");
        old.go_on(&[0, 1, 2], &members).await?;
        left_alone(&old).await?;
        old.uninstall().await?;
        // 1
        release.apply_foreign().await?;
        serve(release).await?;
        // 2
        let directory = tempfile::tempdir()?;
        let file = directory.path().join("snapshot.db");
        save(&old, &file).await?;
        // 3
        let set = release.statefulset();
        release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop=true"]).await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=0"]).await?;
        let gone = ["wait", "pod", "-l", &format!("owner={}", release.name), "--for=delete", "--timeout=25s"];
        until("its members have stopped", BACK, async || release.kubectl(&gone).await).await?;
        restore_each(release, &file, 3).await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=3"]).await?;
        release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop-"]).await?;
        serve(release).await?;
        for ordinal in 0..3 {
            let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
            let keys = release.etcdctl_in(ordinal, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
            let keys = keys.lines().filter(|line| !line.is_empty()).count();
            ensure!(keys == 50, "{} has {keys} of 50 keys", release.pod(ordinal));
        }
        // 4: until here the old one has it all, too.
        old.go_on(&[0, 1, 2], &members).await?;
        old.kubectl(&["delete", "statefulset", &old.statefulset(), "--cascade=foreground", "--timeout=25s"]).await?;
        old.remove_directories().await?;
        release.adopt_foreign().await?;
        until("the members are recorded", BACK, async || release.is_settled(3).await).await?;
        let pods = release.pods().await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=4"]).await?;
        until("the fourth is a member", BACK, async || release.is_settled(4).await).await?;
        release.kept(&pods).await?;
        let own = format!("--endpoints=http://{}:2379", release.host(3));
        let keys = release.etcdctl_in(3, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
        ensure!(keys.lines().filter(|line| !line.is_empty()).count() == 50, "the fourth has {keys}");
        Ok(())
    })
    .await
}

/// The documented line, for the old one.
async fn save(old: &Release, file: &Path) -> Result {
    let line = include_str!("../../../../docs/restore.md")
        .lines()
        .find(|line| line.starts_with("etcdctl ") && line.contains("snapshot save"));
    let line = line.context("docs/restore.md has no line that saves the old one")?;
    let line = line
        .replace("OLD", &old.statefulset())
        .replace("NAMESPACE", &old.namespace)
        .replace("snapshot.db", &file.to_string_lossy());
    let began = now();
    run("sh", ["-c", &line], "", BACK).await?.ok()?;
    old.say(&format!("saved in {} ms: {line}", now() - began));
    Ok(())
}

/// While somebody joins, its template is not changed to one that is not understood; the join goes on.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn while_a_member_joins_it_does_not_go_over_to_flags() -> Result {
    let mut release = lasting("not-joined", Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    scenario::run_on(release, async |release| {
        release.apply_foreign().await?;
        serve(release).await?;
        release.adopt_foreign().await?;
        until("the members are recorded", BACK, async || release.is_settled(3).await).await?;
        let (pods, set) = (release.pods().await?, release.statefulset());
        let job = release.stopping_job("joins", &[Failpoint::LeaseTaken, Failpoint::Permitted]).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=4"]).await?;
        job.go_on().await?;
        job.reached(Failpoint::Permitted).await?;
        let args = json!([format!("--initial-cluster={}", release.initial_cluster(3)), "--initial-cluster-state=new"]);
        let container = json!({ "name": "etcd", "args": args, "env": [
            { "name": "ETCD_INITIAL_CLUSTER", "$patch": "delete" },
            { "name": "ETCD_INITIAL_CLUSTER_STATE", "$patch": "delete" },
        ] });
        let flags = json!({ "spec": { "template": { "spec": { "containers": [container] } } } }).to_string();
        let refused = release.kubectl(&["patch", "statefulset", &set, "-p", &flags]).await;
        let refused = format!("{:#}", refused.err().context("the template was changed while a member joins")?);
        ensure!(refused.contains("is joining etcd (member "), "{refused}");
        job.go_on().await?;
        job.done().await?;
        release.is_settled(4).await?;
        release.kept(&pods).await
    })
    .await
}
