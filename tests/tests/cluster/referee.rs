//! The referee can fail a scenario: rules are broken by hand, with a real etcd and a real API
//! server, and each time it finds just that. What each rule means is unit-tested in
//! `referee::judge`; here is shown that it sees.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::cluster::is_bed;
use tests::load::Load;
use tests::members::Pod;
use tests::process::{apply, kubectl, until};
use tests::referee::judge::{Rule, Violation, judge};
use tests::referee::{Referee, told};
use tests::release::{Helm, Release};
use tests::scenario::{Excused, run_excused};

type Result = anyhow::Result<()>;

/// etcd waits 5 s after a member became active before it takes another.
const SETTLED: Duration = Duration::from_secs(60);
/// A pod that ends and is made again, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

const EXCUSED: [Excused<'_>; 7] = [
    (Rule::OnlyMembershipCalls, "broken by hand"),
    (Rule::NothingIsLost, "broken by hand"),
    (Rule::OneCluster, "broken by hand"),
    (Rule::RestartsNobody, "broken by hand"),
    (Rule::RemovedBeforeItsPod, "broken by hand"),
    (Rule::NeverTwoUnstarted, "broken by hand"),
    (Rule::QuorumOfStarted, "broken by hand"),
];

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn each_rule_that_is_broken_by_hand_is_found_and_no_other() -> Result {
    let release = Release::of("referee", Helm::V4);
    if !is_bed() {
        release.say("not the test bed: without its audit log and its nodes' disks there is nothing to see");
        return Ok(());
    }
    run_excused(release, &EXCUSED, async |release| {
        // One member: what is broken below then ends every time in the same way. More learners than
        // etcd has by default, so that two of them can be unstarted without harm to the quorum.
        let learners = "etcd.extraEnv[0].name=ETCD_MAX_LEARNERS,etcd.extraEnv[0].value=3";
        let mut seen = Seen { referee: Referee::start(release).await?, before: Vec::new() };
        release.install(1, &["--set-string", learners]).await?;
        Load::start(release).await?;
        seen.broken(release, "nothing", &[]).await?;

        release.etcdctl(&["put", "etcd-scaler/probe", "x"]).await?;
        seen.broken(release, "a key of somebody else's", &[Rule::OnlyMembershipCalls]).await?;

        release.etcdctl(&["del", "traffic/0/0000000005"]).await?;
        let rules = [Rule::OnlyMembershipCalls, Rule::NothingIsLost];
        seen.broken(release, "an acknowledged key deleted", &rules).await?;

        another_cluster(release).await?;
        seen.broken(release, "another cluster behind the Service", &[Rule::OneCluster]).await?;

        without_webhook(release).await?;
        let peers = release.initial_cluster(2);
        let env = json!([{ "name": "ETCD_INITIAL_CLUSTER", "value": peers, "valueFrom": null }]);
        let change = json!({ "spec": {
            "updateStrategy": { "rollingUpdate": { "partition": 0 } },
            "template": { "spec": { "containers": [{ "name": "etcd", "env": env }] } },
        } });
        let (set, first) = (release.statefulset(), release.pods().await?);
        release.kubectl(&["patch", "statefulset", &set, "-p", &change.to_string()]).await?;
        is_another(release, &first).await?;
        seen.broken(release, "a pod restarted for its environment", &[Rule::RestartsNobody]).await?;

        let first = release.pods().await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=0"]).await?;
        until("the pod is gone", PATIENCE, async || {
            let pods = release.pods().await?;
            ensure!(pods.is_empty(), "there is {pods:?}");
            Ok(())
        })
        .await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=1"]).await?;
        is_another(release, &first).await?;
        seen.broken(release, "a pod deleted before its member", &[Rule::RemovedBeforeItsPod]).await?;

        add(release, "one", &["--learner"]).await?;
        seen.broken(release, "one unstarted member", &[]).await?;
        add(release, "two", &["--learner"]).await?;
        seen.broken(release, "two unstarted members", &[Rule::NeverTwoUnstarted]).await?;
        // The last one: it takes the quorum away.
        add(release, "three", &[]).await?;
        let rules = [Rule::NeverTwoUnstarted, Rule::QuorumOfStarted];
        seen.broken(release, "a voter that is not there", &rules).await
    })
    .await
}

/// The referee, and what it has found so far.
struct Seen {
    referee: Referee,
    before: Vec<Violation>,
}

impl Seen {
    /// That these rules, and no others, were broken since the last look.
    async fn broken(&mut self, release: &Release, what: &str, rules: &[Rule]) -> Result {
        let expected: BTreeSet<Rule> = rules.iter().copied().collect();
        // What the load notes comes a moment later.
        until(what, Duration::from_secs(20), async || {
            let (_, found) = self.look(release).await?;
            ensure!(found.iter().map(|it| it.rule).collect::<BTreeSet<_>>() == expected, "found is {found:#?}");
            Ok(())
        })
        .await?;
        let (history, found) = self.look(release).await?;
        for violation in &found {
            release.say(&format!("{what}: {}", told(&history, violation)));
        }
        self.before.extend(found);
        Ok(())
    }

    /// What was not there at the last look.
    async fn look(&self, release: &Release) -> anyhow::Result<(tests::referee::history::History, Vec<Violation>)> {
        let history = self.referee.history(release).await?;
        let mut found = judge(&history);
        found.retain(|new| !self.before.iter().any(|old| is_same(old, new)));
        Ok((history, found))
    }
}

/// A lost key is lost at every look from then on, and counted.
fn is_same(old: &Violation, new: &Violation) -> bool {
    old == new || (old.rule == new.rule && new.rule == Rule::NothingIsLost)
}

async fn add(release: &Release, name: &str, options: &[&str]) -> Result {
    let url = format!("--peer-urls=http://{name}.invalid:2380");
    let command = [&["member", "add", name, &url], options].concat();
    until("a member is added", SETTLED, async || release.etcdctl(&command).await).await.map(drop)
}

/// An etcd of its own behind the Service, until the load has met it.
async fn another_cluster(release: &Release) -> Result {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "another", "namespace": release.namespace, "labels": { "app": "etcd" } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "etcd",
                "image": release.images.etcd,
                "imagePullPolicy": "IfNotPresent",
                "ports": [{ "name": "client", "containerPort": 2379 }],
                "command": ["etcd", "--listen-client-urls=http://0.0.0.0:2379",
                            "--advertise-client-urls=http://another.invalid:2379", "--data-dir=/tmp/etcd"],
                "volumeMounts": [{ "name": "data", "mountPath": "/tmp" }],
            }],
            "volumes": [{ "name": "data", "emptyDir": {} }],
        },
    });
    let service = release.json(&["get", "service", &release.statefulset()]).await?;
    let mut pod = pod;
    pod["metadata"]["labels"] = service["spec"]["selector"].clone();
    apply(&pod).await?;
    release.kubectl(&["wait", "--for=condition=Ready", "pod/another", "--timeout=60s"]).await?;
    let first = release.json(&["get", "pod", &release.pod(0)]).await?["metadata"]["uid"].clone();
    ensure!(first.is_string(), "{} is not there", release.pod(0));
    // The readers connect anew twice a second, to either.
    until("the load met it", Duration::from_secs(30), async || {
        let load = Load::of(release).await?.ok_or_else(|| anyhow::anyhow!("there is no load"))?;
        let reads = load.journals().await?.into_iter().filter(|(name, _)| name == tests::journal::READS);
        let clusters: BTreeSet<String> = reads
            .flat_map(|(_, text)| tests::journal::Reads::parse(&text))
            .flat_map(|reads| reads.answers)
            .map(|answer| answer.cluster.to_string())
            .collect();
        ensure!(clusters.len() == 2, "it has met {clusters:?}");
        Ok(())
    })
    .await?;
    release.kubectl(&["delete", "pod", "another", "--wait=true", "--timeout=30s"]).await.map(drop)
}

/// Takes our guard away, so that everything can be done.
async fn without_webhook(release: &Release) -> Result {
    for kind in ["mutatingwebhookconfigurations", "validatingwebhookconfigurations"] {
        let all = tests::cluster::names(&tests::process::kubectl_json(["get", kind]).await?);
        for name in all.iter().filter(|name| name.starts_with(&format!("{}-", release.name))) {
            kubectl(["delete", kind, name]).await?;
        }
    }
    Ok(())
}

/// Until the first pod is another one and serves.
async fn is_another(release: &Release, before: &BTreeMap<String, Pod>) -> Result {
    let pod = release.pod(0);
    until("another pod serves", PATIENCE, async || {
        let now = release.pods().await?;
        let is_another = now.get(&pod).is_some_and(|now| before.get(&pod).is_some_and(|old| old.uid != now.uid));
        ensure!(is_another, "the pods are {now:?}");
        release.kubectl(&["wait", "--for=condition=Ready", &format!("pod/{pod}"), "--timeout=1s"]).await
    })
    .await
    .map(drop)
}
