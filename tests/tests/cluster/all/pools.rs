//! Storage that is not well: no member joins until it is. The kind is ours, with the fields and columns of the real one
//! (facts-etcd 1.4); no program of Mayastor's runs.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::process::{apply, kubectl, until};
use tests::release::{Helm, Release};
use tests::scenario;

use crate::said::said;

type Result = anyhow::Result<()>;

/// The launcher's pauses after failed attempts, and a join.
const JOINED: Duration = Duration::from_secs(180);
const KIND: &str = "diskpools.openebs.io";

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn no_member_joins_while_a_disk_pool_is_not_online() -> Result {
    scenario::run("pools", Helm::V4, async |release| {
        let looked = unwell(release, "v1beta2").await;
        kubectl(["delete", "crd", KIND, "--ignore-not-found"]).await?;
        looked
    })
    .await
}

async fn unwell(release: &Release, version: &str) -> Result {
    apply(&kind()).await?;
    kubectl(["wait", "--for=condition=Established", &format!("crd/{KIND}"), "--timeout=30s"]).await?;
    release.install(3, &[]).await?;
    for (node, status) in [(0, "Online"), (1, "Faulted"), (2, "Online")] {
        pool(release, version, node, status).await?;
    }
    release.say(&release.kubectl(&["get", "dsp"]).await?);
    // What the refusal names.
    release.kubectl(&["describe", "dsp"]).await?;
    let (before, members) = (release.pods().await?, release.members().await?);

    // Helm is stopped before it has changed anything.
    let refused = release.try_upgrade(4, &[]).await?.refused()?;
    said(release, "pools-by-helm-4", &refused);
    release.kept(&before).await?;
    ensure!(release.pods().await?.len() == 3, "a fourth pod was made");

    // kubectl scale has nobody before it: the Job does not begin.
    release.kubectl(&["scale", "statefulset", &release.statefulset(), "--replicas=4"]).await?;
    let told = until("the Job says why", JOINED, async || {
        let events = release.events_since(0).await?;
        events.into_iter().rev().find(|event| event.reason == "ScaleFailed").context("no Event ScaleFailed")
    })
    .await?;
    said(release, "pools", &told.note);
    ensure!(release.members().await? == members, "the member list changed");
    release.kept(&before).await?;

    // Well again, nothing is left to do for a person.
    pool(release, version, 1, "Online").await?;
    until("the fourth has joined", JOINED, async || release.is_settled(4).await).await?;
    release.kept(&before).await?;

    // An upgrade that changes no count is none of storage's business.
    pool(release, version, 2, "Unknown").await?;
    release.upgrade(4, &[]).await?;
    // Where there must be pools, none is not enough.
    kubectl(["delete", "crd", KIND]).await?;
    let required = ["--set", "diskPools.required=true"];
    let refused = release.try_upgrade(5, &required).await?.refused()?;
    said(release, "pools-required", &refused);
    release.upgrade(5, &[]).await?;
    release.is_settled(5).await
}

async fn pool(release: &Release, version: &str, node: usize, status: &str) -> Result {
    let (name, node) = (format!("pool-on-node-{node}"), format!("node-{node}"));
    apply(&json!({
        "apiVersion": format!("openebs.io/{version}"),
        "kind": "DiskPool",
        "metadata": { "name": name, "namespace": release.namespace },
        "spec": { "node": node, "disks": [] },
        "status": { "cr_state": "Created", "pool_status": status, "capacity": 1, "used": 0, "available": 1 },
    }))
    .await
    .map(drop)
}

/// Two of the versions that are served, the newer one stored.
fn kind() -> Value {
    let column = |name: &str, path: &str| json!({ "name": name, "type": "string", "jsonPath": path });
    let version = |name: &str, stored: bool| {
        json!({
            "name": name,
            "served": true,
            "storage": stored,
            "schema": { "openAPIV3Schema": { "type": "object", "x-kubernetes-preserve-unknown-fields": true } },
            "additionalPrinterColumns": [
                column("Node", ".spec.node"),
                column("State", ".status.cr_state"),
                column("Pool_status", ".status.pool_status"),
                column("Capacity", ".status.capacity"),
                column("Used", ".status.used"),
                column("Available", ".status.available"),
            ],
        })
    };
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": KIND },
        "spec": {
            "group": "openebs.io",
            "names": { "kind": "DiskPool", "plural": "diskpools", "singular": "diskpool", "shortNames": ["dsp"] },
            "scope": "Namespaced",
            "versions": [version("v1beta2", false), version("v1beta3", true)],
        },
    })
}
