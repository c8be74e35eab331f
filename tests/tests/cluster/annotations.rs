//! What anybody can write on a member's pod, or into a template, decides nothing about the member: not that it waits to
//! join, and so not that its pod is deleted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tests::load::Load;
use tests::members::Pod;
use tests::process::{kubectl, kubectl_json, run, until};
use tests::release::{Helm, Release, now};
use tests::scenario;

use crate::said::{error, said};
use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// What only the webhook writes, as a person might.
const JOINER: &str = "etcd-scaler.io/joiner";
/// Another annotation, nobody's: of ours the referee does not see that pods differ from their template.
const ROLLS: &str = "example.com/rolls";
/// Three pods, one after the other.
const ROLLED: Duration = Duration::from_secs(180);
/// One pod.
const BACK: Duration = Duration::from_secs(90);

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn what_anybody_can_write_on_a_pod_decides_nothing() -> Result {
    scenario::run("annotated", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        it_is_refused_in_a_template(release).await?;
        // On the pods themselves nobody can refuse it.
        for ordinal in 0..3 {
            release.kubectl(&["annotate", "pod", &release.pod(ordinal), &format!("{JOINER}=true")]).await?;
        }
        the_job_deletes_nobody(release, "on-pods").await?;
        // A template may have it from a time without us.
        let configuration = away(release).await?;
        let template = json!({ "metadata": { "annotations": { JOINER: "true", ROLLS: "once" } } });
        let rolls = json!({ "rollingUpdate": { "partition": 0 } });
        // With the partition that is the webhook's, and what says that it is.
        let own = json!({ "annotations": { "etcd-scaler.io/partition": null } });
        let marks = json!({ "metadata": own, "spec": { "template": template, "updateStrategy": rolls } });
        // The API server's own copy of the webhooks lags by a moment.
        until("no webhook is asked", BACK, async || patch(release, &marks).await).await?;
        rolled(release).await?;
        run("kubectl", ["create", "-f", "-"], &configuration.to_string(), BACK).await?.ok()?;
        until("the webhook is asked", BACK, async || it_is_asked(release).await).await?;
        ensure!(marked(release).await? == 3, "the template's annotation is not on each pod");
        the_job_deletes_nobody(release, "from-template").await?;
        let uid = release.pods().await?[&release.pod(1)].uid.clone();
        release.kubectl(&["delete", "pod", &release.pod(1), "--wait=false"]).await?;
        until("the pod is made again", BACK, async || {
            let pods = release.pods().await?;
            ensure!(pods.get(&release.pod(1)).is_some_and(|pod| pod.uid != uid), "the pods are {pods:?}");
            Ok(())
        })
        .await?;
        rolled(release).await?;
        ensure!(marked(release).await? == 2, "the webhook left it on a member's pod");
        let unmarked = json!({ "metadata": { "annotations": { JOINER: null, ROLLS: "again" } } });
        patch(release, &json!({ "spec": { "template": unmarked } })).await?;
        rolled(release).await?;
        release.is_settled(3).await?;
        during.to = now();
        let counts = load.lost_nothing(3, &during).await?;
        release.say(&format!("meanwhile: {}", counts["window"]));
        Ok(())
    })
    .await
}

/// By Helm before anything is sent, by the webhook to everybody else.
async fn it_is_refused_in_a_template(release: &Release) -> Result {
    let before = release.json(&["get", "statefulset", &release.statefulset()]).await?["spec"].clone();
    let value = r"etcd.podAnnotations.etcd-scaler\.io/joiner=true";
    let told = release.try_upgrade(3, &["--set-string", value]).await?.refused()?;
    said(release, "refused-annotation-by-helm", &error(&told));
    for (name, template) in [
        ("annotation", json!({ "metadata": { "annotations": { JOINER: "true" } } })),
        (
            "init-container",
            json!({ "spec": { "initContainers": [{ "name": "admit", "image": "localhost/pause:1" }] } }),
        ),
    ] {
        let Err(refused) = patch(release, &json!({ "spec": { "template": template } })).await else {
            anyhow::bail!("a template with the {name} was admitted");
        };
        said(release, &format!("refused-{name}-in-a-template"), &format!("{refused:#}"));
    }
    let after = release.json(&["get", "statefulset", &release.statefulset()]).await?["spec"].clone();
    ensure!(before == after, "a refused request changed {after}");
    Ok(())
}

/// A Job of a person's: it ends well and the pods are the same.
async fn the_job_deletes_nobody(release: &Release, job: &str) -> Result {
    let before: BTreeMap<String, Pod> = release.pods().await?;
    let line = format!("kubectl -n {} create job {job} --from=cronjob/{}-etcd-scaler", release.namespace, release.name);
    let ended = release.run_line(&line, job).await?;
    ensure!(ended.exit_code == 0, "the Job ended with {}: {}", ended.exit_code, ended.message);
    release.kept(&before).await
}

/// Deletes the mutating configuration, so that no webhook is asked; as it was.
async fn away(release: &Release) -> anyhow::Result<Value> {
    let name = format!("{}-etcd-scaler-{}", release.name, release.namespace);
    let mut saved = kubectl_json(["get", "mutatingwebhookconfiguration", &name]).await?;
    if let Some(metadata) = saved["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
            metadata.remove(field);
        }
    }
    kubectl(["delete", "mutatingwebhookconfiguration", &name]).await?;
    Ok(saved)
}

/// Whether what only the webhook refuses is refused.
async fn it_is_asked(release: &Release) -> Result {
    let (set, waits) = (release.statefulset(), json!([{ "name": "admit", "image": "localhost/pause:1" }]));
    let patch = json!({ "spec": { "template": { "spec": { "initContainers": waits } } } }).to_string();
    let tried = release.kubectl(&["patch", "statefulset", &set, "--dry-run=server", "-p", &patch]).await;
    ensure!(tried.is_err_and(|refused| format!("{refused:#}").contains("which only etcd-scaler writes")), "it is not");
    Ok(())
}

async fn patch(release: &Release, patch: &Value) -> Result {
    let set = release.statefulset();
    release.kubectl(&["patch", "statefulset", &set, "-p", &patch.to_string()]).await.map(drop)
}

async fn rolled(release: &Release) -> Result {
    let status =
        ["-n", &release.namespace, "rollout", "status", "statefulset", &release.statefulset(), "--timeout=170s"];
    run("kubectl", status, "", ROLLED).await?.ok().map(drop)
}

/// On how many of the members' pods the annotation is.
async fn marked(release: &Release) -> anyhow::Result<usize> {
    let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
    let pods = pods["items"].as_array().into_iter().flatten();
    Ok(pods.filter(|pod| pod["metadata"]["annotations"][JOINER] == "true").count())
}
