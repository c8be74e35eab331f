//! The StatefulSet as a manifest: saved, deleted over its living pods, created again.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;

use crate::process::{Ended, run};
use crate::release::Release;

/// The annotation that holds what was verified.
pub const RECORD: &str = "etcd-scaler.io/record";

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
}
