//! The webhook of a release, taken away and given back.

use std::time::Duration;

use anyhow::{bail, ensure};

use crate::cluster::names;
use crate::faults::kill_container;
use crate::process::{run, until};
use crate::release::{Release, now};

/// How long its pods may take to go or to come.
const PATIENCE: Duration = Duration::from_secs(90);

impl Release {
    /// The name of its Deployment and its Service.
    #[must_use]
    pub fn webhook(&self) -> String {
        format!("{}-etcd-scaler-webhook", self.name)
    }

    fn webhook_pods(&self) -> String {
        format!("app.kubernetes.io/component=webhook,app.kubernetes.io/instance={}", self.name)
    }

    async fn webhook_replicas(&self) -> anyhow::Result<Vec<String>> {
        Ok(names(&self.json(&["get", "pods", "-l", &self.webhook_pods()]).await?))
    }

    /// Has it run in one replica, which answers every call from then on; that replica's pod.
    ///
    /// # Errors
    /// When another stays, or it does not serve.
    pub async fn one_webhook(&self) -> anyhow::Result<String> {
        self.kubectl(&["scale", "deployment", &self.webhook(), "--replicas=1"]).await?;
        let only = until("one replica of the webhook is left", PATIENCE, async || {
            let left = self.webhook_replicas().await?;
            ensure!(left.len() == 1, "there are {left:?}");
            Ok(left[0].clone())
        })
        .await?;
        self.webhook_is_whole().await?;
        Ok(only)
    }

    /// Ends every replica at once, and none comes back until [`Release::start_webhook`].
    ///
    /// # Errors
    /// When they do not go.
    pub async fn stop_webhook(&self) -> anyhow::Result<()> {
        self.kubectl(&["scale", "deployment", &self.webhook(), "--replicas=0"]).await?;
        self.webhook_is_gone().await
    }

    /// Kills the process of every replica of the bed and removes their pods; the Deployment makes
    /// others, which need a moment.
    ///
    /// # Errors
    /// When there is none that runs.
    pub async fn kill_webhook(&self) -> anyhow::Result<()> {
        let pods = self.webhook_pods();
        let replicas = self.webhook_replicas().await?;
        ensure!(!replicas.is_empty(), "there is no replica of the webhook");
        for pod in replicas {
            let process = self.running(&pod, "webhook").await?;
            kill_container(&process.node, &process.id).await?;
        }
        self.kubectl(&["delete", "pods", "-l", &pods, "--grace-period=0", "--force"]).await.map(drop)
    }

    /// Removes the Deployment and with it every replica at once; an upgrade makes it again, with
    /// no field in it that another than Helm owns.
    ///
    /// # Errors
    /// When they do not go.
    pub async fn remove_webhook(&self) -> anyhow::Result<()> {
        self.kubectl(&["delete", "deployment", &self.webhook(), "--cascade=foreground", "--wait=false"]).await?;
        self.webhook_is_gone().await
    }

    /// Ends its pods without a word, and waits until there is none.
    async fn webhook_is_gone(&self) -> anyhow::Result<()> {
        let pods = self.webhook_pods();
        let end = ["delete", "pods", "-l", &pods, "--grace-period=0", "--force", "--ignore-not-found"];
        until("no replica of the webhook is left", PATIENCE, async || {
            self.kubectl(&end).await?;
            let left = self.kubectl(&["get", "pods", "-l", &pods, "-o", "name"]).await?;
            ensure!(left.is_empty(), "left: {left}");
            Ok(())
        })
        .await?;
        self.nobody_reaches_the_webhook().await
    }

    /// Waits until the API server finds none: a process outlives its pod's object by a moment, and
    /// kube-proxy leads to it as long.
    ///
    /// # Errors
    /// When one still answers.
    pub async fn nobody_reaches_the_webhook(&self) -> anyhow::Result<()> {
        let set = self.statefulset();
        let try_out =
            ["annotate", "statefulset", &set, "--overwrite", "--dry-run=server", "etcd-scaler.io/test=reached"];
        until("nobody reaches the webhook", PATIENCE, async || match self.kubectl(&try_out).await {
            Ok(_) => bail!("a change is still answered"),
            Err(error) => {
                let said = format!("{error:#}");
                // Without a StatefulSet there is nothing to try out.
                ensure!(said.contains("failed calling webhook") || said.contains("NotFound"), "{said}");
                Ok(())
            }
        })
        .await
    }

    /// Starts its replicas again; when the first of them was Ready, in milliseconds since 1970.
    ///
    /// # Errors
    /// When none is.
    pub async fn start_webhook(&self) -> anyhow::Result<i64> {
        self.kubectl(&["scale", "deployment", &self.webhook(), "--replicas=2"]).await?;
        self.webhook_serves().await
    }

    /// Waits until a replica is Ready; when it was, in milliseconds since 1970.
    ///
    /// # Errors
    /// When none is.
    pub async fn webhook_serves(&self) -> anyhow::Result<i64> {
        let ready = ["get", "deployment", &self.webhook(), "-o", "jsonpath={.status.readyReplicas}"];
        until("a replica of the webhook is Ready", PATIENCE, async || {
            let ready = self.kubectl(&ready).await?;
            ensure!(!ready.is_empty() && ready != "0", "{ready:?} are");
            Ok(())
        })
        .await?;
        Ok(now())
    }

    /// Waits until every replica is Ready: the Service then leads to one that serves.
    ///
    /// # Errors
    /// When one is not.
    pub async fn webhook_is_whole(&self) -> anyhow::Result<()> {
        let deployment = format!("deployment/{}", self.webhook());
        let status = ["-n", &self.namespace, "rollout", "status", &deployment, "--timeout=90s"];
        run("kubectl", status, "", PATIENCE + Duration::from_secs(5)).await?.ok().map(drop)
    }
}
