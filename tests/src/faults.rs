//! What goes wrong on purpose.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::cluster::{in_node, names, nodes};
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

/// A name of its own for an image, on every node of the bed: it can be taken off a node without
/// harm to others.
///
/// # Errors
/// When a node cannot be entered.
pub async fn own_name(image: &str, tag: &str) -> anyhow::Result<String> {
    let (repository, _) = image.rsplit_once(':').with_context(|| format!("image {image} has no tag"))?;
    let own = format!("{repository}:{tag}");
    put_back(image, &own, &nodes().await?).await?;
    Ok(own)
}

/// Takes an image's name off these nodes.
///
/// # Errors
/// When a node cannot be entered.
pub async fn take_off(image: &str, nodes: &[String]) -> anyhow::Result<()> {
    for node in nodes {
        in_node(node, &["ctr", "-n", "k8s.io", "images", "remove", "--sync", image]).await?;
    }
    Ok(())
}

/// Gives it to these nodes again, from the image that it is another name of.
///
/// # Errors
/// When a node cannot be entered.
pub async fn put_back(of: &str, image: &str, nodes: &[String]) -> anyhow::Result<()> {
    for node in nodes {
        in_node(node, &["ctr", "-n", "k8s.io", "images", "tag", "--force", of, image]).await?;
    }
    Ok(())
}
