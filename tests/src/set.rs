//! The StatefulSet as a manifest: saved, deleted over its living pods, created again; and the webhook
//! taken away meanwhile.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::cluster::names;
use crate::process::{Ended, run, until};
use crate::release::Release;

/// The annotation that holds what was verified.
pub const RECORD: &str = "etcd-scaler.io/record";
/// How long the webhook may take to come and to go.
const WEBHOOK: Duration = Duration::from_secs(90);

impl Release {
    /// The live StatefulSet as a person saves it, without what only the API server writes.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn saved(&self) -> anyhow::Result<Value> {
        let mut saved = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        if let Some(object) = saved.as_object_mut() {
            object.remove("status");
        }
        if let Some(metadata) = saved["metadata"].as_object_mut() {
            for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields"] {
                metadata.remove(field);
            }
        }
        Ok(saved)
    }

    /// Deletes the StatefulSet and leaves its pods.
    ///
    /// # Errors
    /// When it does not go.
    pub async fn orphan(&self) -> anyhow::Result<()> {
        self.kubectl(&["delete", "statefulset", &self.statefulset(), "--cascade=orphan"]).await.map(drop)
    }

    /// `kubectl create` of a manifest, however it ends.
    ///
    /// # Errors
    /// When kubectl cannot be run.
    pub async fn try_create(&self, manifest: &Value) -> anyhow::Result<Ended> {
        run("kubectl", ["create", "-f", "-"], &manifest.to_string(), Duration::from_secs(30)).await
    }

    /// The record's copy in the Lease.
    ///
    /// # Errors
    /// When there is none.
    pub async fn lease_record(&self) -> anyhow::Result<Value> {
        let lease = self.json(&["get", "lease", &self.lease_name()]).await?;
        let record = lease["metadata"]["annotations"][RECORD].as_str().unwrap_or_default();
        ensure!(!record.is_empty(), "the Lease has no record: {}", lease["metadata"]);
        Ok(serde_json::from_str(record)?)
    }

    /// The name of the Lease.
    #[must_use]
    pub fn lease_name(&self) -> String {
        format!("{}-scaler", self.statefulset())
    }

    /// Ends every replica of the webhook, for as long as the test wants.
    ///
    /// # Errors
    /// When one stays.
    pub async fn webhook_down(&self) -> anyhow::Result<()> {
        self.webhook_replicas("0").await?;
        self.no_webhook().await
    }

    /// Removes the webhook's Deployment and so every replica; an upgrade makes it again.
    ///
    /// # Errors
    /// When one stays.
    pub async fn webhook_removed(&self) -> anyhow::Result<()> {
        self.kubectl(&["delete", "deployment", &format!("{}-etcd-scaler-webhook", self.name)]).await?;
        self.no_webhook().await
    }

    async fn no_webhook(&self) -> anyhow::Result<()> {
        let label = format!("app.kubernetes.io/component=webhook,app.kubernetes.io/instance={}", self.name);
        until("no webhook runs", WEBHOOK, async || {
            let left = names(&self.json(&["get", "pods", "-l", &label]).await?);
            ensure!(left.is_empty(), "still there: {left:?}");
            Ok(())
        })
        .await
    }

    /// Starts two replicas of the webhook; returns when both are Ready.
    ///
    /// # Errors
    /// When they do not come.
    pub async fn webhook_up(&self) -> anyhow::Result<()> {
        self.webhook_replicas("2").await?;
        let deployment = format!("deployment/{}-etcd-scaler-webhook", self.name);
        let status = ["-n", &self.namespace, "rollout", "status", &deployment, "--timeout=90s"];
        run("kubectl", status, "", WEBHOOK + Duration::from_secs(5)).await?.ok().map(drop)
    }

    async fn webhook_replicas(&self, replicas: &str) -> anyhow::Result<()> {
        let (deployment, replicas) = (format!("{}-etcd-scaler-webhook", self.name), format!("--replicas={replicas}"));
        self.kubectl(&["scale", "deployment", &deployment, &replicas]).await.map(drop)
    }
}
