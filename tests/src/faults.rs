//! What goes wrong on purpose.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use crate::cluster::{control_plane, in_node, names, node, nodes};
use crate::members::text;
use crate::process::{kubectl, kubectl_json, run, until};
use crate::release::Release;

/// Keeps a deleted pod's object, so that the StatefulSet controller makes no new one: the member
/// stays down for as long as the test wants, on any cluster.
const FINALIZER: &str = "etcd-scaler.io/test-keeps-it-down";
/// How long a member, or a node, may take to stop or to come back.
const PATIENCE: Duration = Duration::from_secs(180);

impl Release {
    /// Stops members; they stay down until [`Release::bring_back`].
    ///
    /// # Errors
    /// When they do not stop.
    pub async fn take_down(&self, ordinals: &[usize]) -> anyhow::Result<()> {
        for &ordinal in ordinals {
            self.keep_object(ordinal).await?;
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

    /// Has a pod's object stay when the pod is deleted, as one that is slow to end does, until
    /// [`Release::let_go`].
    ///
    /// # Errors
    /// When there is no such pod.
    pub async fn keep_object(&self, ordinal: usize) -> anyhow::Result<()> {
        let keep = json!({ "metadata": { "finalizers": [FINALIZER] } }).to_string();
        self.kubectl(&["patch", "pod", &self.pod(ordinal), "--type=merge", "-p", &keep]).await.map(drop)
    }

    /// Lets all members come back, and waits until they are Ready.
    ///
    /// # Errors
    /// When they do not.
    pub async fn bring_back(&self) -> anyhow::Result<()> {
        self.let_go().await?;
        let status = ["-n", &self.namespace, "rollout", "status", "statefulset", &self.statefulset(), "--timeout=180s"];
        run("kubectl", status, "", PATIENCE + Duration::from_secs(5)).await?.ok().map(drop)
    }

    /// Kills the process of a pod's container without a word; the kubelet starts it again.
    ///
    /// # Errors
    /// When there is none, or no other takes its place.
    pub async fn restart_container(&self, pod: &str, container: &str) -> anyhow::Result<()> {
        let before = self.running(pod, container).await?;
        kill_container(&before.node, &before.id).await?;
        until("the container runs again", PATIENCE, async || {
            let now = self.running(pod, container).await?;
            ensure!(now.id != before.id, "container {container} of {pod} is still {}", now.id);
            Ok(())
        })
        .await
    }

    /// A running container, and where.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn running(&self, pod: &str, container: &str) -> anyhow::Result<Running> {
        let object = self.json(&["get", "pod", pod]).await?;
        let kinds = ["containerStatuses", "initContainerStatuses"].map(|kind| object["status"][kind].as_array());
        let status = kinds.into_iter().flatten().flatten().find(|status| status["name"] == container);
        let status = status.with_context(|| format!("{pod} has no container {container} yet"))?;
        ensure!(status["state"]["running"].is_object(), "container {container} of {pod} is {}", status["state"]);
        let id = text(&status["containerID"]);
        let id = id.rsplit_once("//").map(|(_, id)| id.to_owned()).with_context(|| format!("no container ID: {id}"))?;
        Ok(Running { node: text(&object["spec"]["nodeName"]), id })
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

/// A container that runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// Its node.
    pub node: String,
    /// Its ID, as its node's containerd knows it.
    pub id: String,
}

/// Has the process of a container on the bed stand still: it writes nothing any more, and nobody starts it
/// again.
///
/// # Errors
/// When it does not run.
pub async fn freeze_container(node: &str, id: &str) -> anyhow::Result<()> {
    signal_container(node, id, "SIGSTOP").await
}

/// Lets it go on.
///
/// # Errors
/// When it is not there.
pub async fn thaw_container(node: &str, id: &str) -> anyhow::Result<()> {
    signal_container(node, id, "SIGCONT").await
}

async fn signal_container(node: &str, id: &str, signal: &str) -> anyhow::Result<()> {
    in_node(node, &["ctr", "-n", "k8s.io", "tasks", "kill", "--signal", signal, id]).await.map(drop)
}

/// Ends the process of a container on the bed, as the kernel does when memory is short.
///
/// # Errors
/// When it does not run.
pub async fn kill_container(node: &str, id: &str) -> anyhow::Result<()> {
    in_node(node, &["ctr", "-n", "k8s.io", "tasks", "kill", "--all", "--signal", "SIGKILL", id]).await.map(drop)
}

/// Ends everything on a node of the bed at once, as a power cut does.
///
/// # Errors
/// When something of it stays.
pub async fn kill_node(name: &str) -> anyhow::Result<()> {
    node(name, &["kill"]).await.map(drop)
}

/// Starts a node of the bed again on the same disk, and waits until it is Ready.
///
/// # Errors
/// When it is not in time.
pub async fn start_node(name: &str) -> anyhow::Result<()> {
    node(name, &["start"]).await?;
    // A node that was away for less than its lease is Ready on paper: ask for a new life.
    until("the node is Ready", PATIENCE, async || {
        // Each time: while it starts, it still shows the machine's own.
        let boot = in_node(name, &["cat", "/proc/sys/kernel/random/boot_id"]).await?;
        let object = kubectl_json(["get", "node", name]).await?;
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.filter(|condition| condition["type"] == "Ready").any(|ready| ready["status"] == "True");
        let info = &object["status"]["nodeInfo"]["bootID"];
        ensure!(ready && info == boot.trim(), "{name}: Ready is {ready}, boot {info}, now {}", boot.trim());
        Ok(())
    })
    .await
}

/// Ends the bed's API server without a word; it stays away until [`start_api_server`].
///
/// # Errors
/// When it does not run.
pub async fn kill_api_server() -> anyhow::Result<()> {
    control_plane(&["kill", "kube-apiserver"]).await
}

/// Lets the bed's API server run again, and waits until it answers.
///
/// # Errors
/// When it does not.
pub async fn start_api_server() -> anyhow::Result<()> {
    api_server_with(&[]).await
}

/// Has the bed's controllers run with these flags behind their own; with none as the bed starts them.
///
/// # Errors
/// When they do not run.
pub async fn controllers_with(flags: &[&str]) -> anyhow::Result<()> {
    control_plane(&[&["start", "kube-controller-manager"], flags].concat()).await
}

/// Has the bed's API server run with these flags behind its own; with none as the bed starts it.
///
/// # Errors
/// When it does not run.
pub async fn api_server_with(flags: &[&str]) -> anyhow::Result<()> {
    control_plane(&[&["start", "kube-apiserver"], flags].concat()).await
}

/// Takes the network link of a node of the bed down: its processes run on and reach nobody.
///
/// # Errors
/// When it does not run.
pub async fn cut_node(name: &str) -> anyhow::Result<()> {
    node(name, &["cut"]).await.map(drop)
}

/// Takes it up again.
///
/// # Errors
/// When it does not run.
pub async fn join_node(name: &str) -> anyhow::Result<()> {
    node(name, &["join"]).await.map(drop)
}

/// Starts the bed's API server and controllers, and starts and thaws every node: what a scenario that failed may
/// have left behind.
///
/// # Errors
/// When one does not come back.
pub async fn repair_bed() -> anyhow::Result<()> {
    start_api_server().await?;
    controllers_with(&[]).await?;
    for name in nodes().await? {
        // One that runs is thawed and joined by it.
        start_node(&name).await?;
        kubectl(["uncordon", &name]).await?;
    }
    Ok(())
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
