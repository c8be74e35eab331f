//! What goes wrong on purpose.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use crate::cluster::{in_node, names};
use crate::process::{run, until};
use crate::release::Release;

/// Keeps a deleted pod's object, so that the StatefulSet controller makes no new one: the member
/// stays down for as long as the test wants, on any cluster.
const FINALIZER: &str = "etcd-scaler.io/test-keeps-it-down";
/// How long a member may take to stop or to come back.
const PATIENCE: Duration = Duration::from_secs(60);

impl Release {
    /// Stops members; they stay down until [`Release::bring_back`].
    ///
    /// # Errors
    /// When they do not stop.
    pub async fn take_down(&self, ordinals: &[usize]) -> anyhow::Result<()> {
        let keep = json!({ "metadata": { "finalizers": [FINALIZER] } }).to_string();
        for &ordinal in ordinals {
            self.kubectl(&["patch", "pod", &self.pod(ordinal), "--type=merge", "-p", &keep]).await?;
            self.kubectl(&["delete", "pod", &self.pod(ordinal), "--wait=false", "--grace-period=1"]).await?;
        }
        for &ordinal in ordinals {
            let pod = self.pod(ordinal);
            until("etcd has stopped", PATIENCE, async || {
                let state = ["get", "pod", &pod, "-o", "jsonpath={.status.containerStatuses[*].state}"];
                let state = self.kubectl(&state).await?;
                ensure!(state.contains("terminated"), "{pod} is {state}");
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Lets all members come back, and waits until they are Ready.
    ///
    /// # Errors
    /// When they do not.
    pub async fn bring_back(&self) -> anyhow::Result<()> {
        self.let_go().await?;
        let status = ["-n", &self.namespace, "rollout", "status", "statefulset", &self.statefulset(), "--timeout=60s"];
        run("kubectl", status, "", PATIENCE + Duration::from_secs(5)).await?.ok().map(drop)
    }

    /// Removes what keeps deleted pods, if anything does.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn let_go(&self) -> anyhow::Result<()> {
        let pods = self.json(&["get", "pods", "-l", "app=etcd"]).await?;
        let kept = pods["items"].as_array().into_iter().flatten();
        let kept = kept.filter(|pod| pod["metadata"]["finalizers"].to_string().contains(FINALIZER)).cloned();
        for pod in names(&json!({ "items": kept.collect::<Vec<_>>() })) {
            let free = json!({ "metadata": { "finalizers": null } }).to_string();
            self.kubectl(&["patch", "pod", &pod, "--type=merge", "-p", &free]).await?;
        }
        Ok(())
    }
}

/// An image taken off nodes of the bed.
pub struct RemovedImage {
    image: String,
    nodes: Vec<String>,
}

/// Where a node keeps the image meanwhile: its own /run.
const KEPT: &str = "/run/etcd-scaler-test-image.tar";

impl RemovedImage {
    /// Takes an image off these nodes.
    ///
    /// # Errors
    /// When a node cannot be entered.
    pub async fn from(image: &str, nodes: Vec<String>) -> anyhow::Result<Self> {
        let removed = Self { image: image.to_owned(), nodes };
        for node in &removed.nodes {
            in_node(node, &["ctr", "-n", "k8s.io", "images", "export", KEPT, image]).await?;
            in_node(node, &["ctr", "-n", "k8s.io", "images", "remove", "--sync", image]).await?;
        }
        Ok(removed)
    }

    /// Puts it back.
    ///
    /// # Errors
    /// When a node cannot be entered.
    pub async fn put_back(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            in_node(node, &["ctr", "-n", "k8s.io", "images", "import", KEPT]).await?;
            let there = in_node(node, &["ctr", "-n", "k8s.io", "images", "list", "-q"]).await?;
            ensure!(there.lines().any(|line| line == self.image), "{node} has {there}");
            in_node(node, &["rm", KEPT]).await?;
        }
        Ok(())
    }
}
