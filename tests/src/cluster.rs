//! The cluster that KUBECONFIG names, and what of the test bed a test may use besides it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::process::{apply, kubectl, kubectl_json, run};

/// The images that the nodes have already, or can pull.
#[derive(Clone, Debug)]
pub struct Images {
    /// The product's.
    pub scaler: String,
    /// The product's with failpoints: a Job can be stopped where a test wants it.
    pub failpoints: String,
    /// The load's.
    pub traffic: String,
    /// etcd.
    pub etcd: String,
    /// A shell and `chown`.
    pub busybox: String,
}

impl Images {
    /// As the test bed has them, unless the environment names others (the same variables as demo.sh).
    #[must_use]
    pub fn from_environment() -> Self {
        let named = |variable: &str, default: &str| std::env::var(variable).unwrap_or_else(|_| default.to_owned());
        Self {
            scaler: named("IMAGE", "localhost/etcd-scaler:dev"),
            failpoints: named("FAILPOINTS", "localhost/etcd-scaler:failpoints"),
            traffic: named("TRAFFIC", "localhost/etcd-scaler-traffic:dev"),
            etcd: named("ETCD_IMAGE", "localhost/etcd:3.6.16"),
            busybox: named("BUSYBOX", "localhost/busybox:1"),
        }
    }

    /// The etcd image of another version: the same repository, the tag in the same form.
    #[must_use]
    pub fn etcd_of(&self, version: &str) -> String {
        let (repository, tag) = self.etcd.rsplit_once(':').unwrap_or((&self.etcd, ""));
        let v = if tag.starts_with('v') { "v" } else { "" };
        format!("{repository}:{v}{version}")
    }
}

/// The top of the source tree.
#[must_use]
pub fn top() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The names of all nodes.
///
/// # Errors
/// When the cluster does not answer.
pub async fn nodes() -> anyhow::Result<Vec<String>> {
    let nodes = kubectl_json(["get", "nodes"]).await.context("kubectl reaches no cluster: see tests/README.md")?;
    Ok(names(&nodes))
}

/// The names of a list's items.
#[must_use]
pub fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|item| item["metadata"]["name"].as_str().map(str::to_owned)).collect()
}

/// Whether the cluster is the test bed, so that its nodes can be entered.
#[must_use]
pub fn is_bed() -> bool {
    std::env::var("BED").is_ok_and(|bed| bed != "none")
}

/// Runs a command in a node of the bed.
///
/// # Errors
/// When it fails.
pub async fn in_node(node: &str, command: &[&str]) -> anyhow::Result<String> {
    self::node(node, &[&["enter"], command].concat()).await
}

/// `tests/bed/node N …`: kill, start, freeze, thaw, cut, join or enter a node of the bed.
///
/// # Errors
/// When it fails, and on another cluster.
pub async fn node(name: &str, words: &[&str]) -> anyhow::Result<String> {
    ensure!(is_bed(), "{name} is not the test bed's: {words:?} cannot be done to it");
    let number = name.strip_prefix("node-").with_context(|| format!("{name} is not a node of the bed"))?;
    let script = top().join("tests/bed/node");
    run(&script.to_string_lossy(), [&[number], words].concat(), "", Duration::from_secs(30)).await?.ok()
}

/// `tests/bed/control-plane …`: kill a program of the bed's control plane, or let it run again.
///
/// # Errors
/// When it fails, and on another cluster.
pub async fn control_plane(words: &[&str]) -> anyhow::Result<()> {
    ensure!(is_bed(), "the control plane is not the test bed's: {words:?} cannot be done to it");
    let script = top().join("tests/bed/control-plane");
    run(&script.to_string_lossy(), words, "", Duration::from_secs(70)).await?.ok().map(drop)
}

/// Where the bed's API server writes its audit log.
pub async fn audit_log() -> Option<PathBuf> {
    if !is_bed() {
        return None;
    }
    let script = top().join("tests/bed/bed");
    let printed =
        run(&script.to_string_lossy(), ["path", "audit"], "", Duration::from_secs(10)).await.ok()?.ok().ok()?;
    Some(PathBuf::from(printed.trim()))
}

/// Removes a directory on every node, by a pod on each.
///
/// # Errors
/// When a pod does not succeed.
pub async fn remove_on_nodes(parent: &str, directory: &str, busybox: &str) -> anyhow::Result<()> {
    let label = format!("etcd-scaler-tests-clean={directory}");
    let pods: Vec<Value> = nodes()
        .await?
        .iter()
        .map(|node| {
            json!({
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": format!("clean-{directory}-{node}"),
                    "namespace": "default",
                    "labels": { "etcd-scaler-tests-clean": directory },
                },
                "spec": {
                    "nodeName": node,
                    "restartPolicy": "Never",
                    "terminationGracePeriodSeconds": 0,
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": "clean",
                        "image": busybox,
                        "imagePullPolicy": "IfNotPresent",
                        "command": ["rm", "-rf", format!("/on-the-node/{directory}")],
                        "volumeMounts": [{ "name": "on-the-node", "mountPath": "/on-the-node" }],
                    }],
                    "volumes": [{ "name": "on-the-node", "hostPath": { "path": parent, "type": "DirectoryOrCreate" } }],
                },
            })
        })
        .collect();
    ensure!(!pods.is_empty(), "the cluster has no node");
    let remove = ["-n", "default", "delete", "pods", "-l", &label, "--ignore-not-found"];
    kubectl(remove).await?;
    apply(&json!({ "apiVersion": "v1", "kind": "List", "items": pods })).await?;
    let succeeded = "--for=jsonpath={.status.phase}=Succeeded";
    let wait = ["-n", "default", "wait", "pods", "-l", &label, succeeded, "--timeout=60s"];
    run("kubectl", wait, "", Duration::from_secs(70)).await?.ok()?;
    kubectl(remove).await.map(drop)
}
