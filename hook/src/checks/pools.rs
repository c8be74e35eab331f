//! Mayastor's DiskPools, looked at before members join.

use anyhow::Context;
use kube::api::{DynamicObject, ListParams};
use kube::error::DiscoveryError;
use kube::{Api, Client, discovery};
use membership::know::pools::{Pool, unwell};
use serde_json::{Value, json};
use tracing::info;

const GROUP: &str = "openebs.io";
const KIND: &str = "DiskPool";

/// Where DiskPools are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPools {
    /// Their namespace.
    pub namespace: String,
    /// Whether members may join only if there are DiskPools.
    pub required: bool,
}

impl DiskPools {
    /// What keeps members from joining: pools that are not Created and Online.
    ///
    /// # Errors
    /// When they could not be read.
    pub async fn found(&self, client: &Client) -> anyhow::Result<Option<String>> {
        let Self { namespace, required } = self;
        let group = match discovery::group(client, GROUP).await {
            Ok(group) => Some(group),
            Err(kube::Error::Discovery(DiscoveryError::MissingApiGroup(_))) => None,
            Err(error) => return Err(error).context("failed to ask the API server for its DiskPools (openebs.io)"),
        };
        let kind = group.and_then(|group| group.recommended_kind(KIND));
        let pools = match &kind {
            None => Vec::new(),
            Some((resource, _)) => {
                let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, resource);
                let listed = api.list(&ListParams::default()).await;
                let listed = listed.with_context(|| {
                    format!(
                        "failed to list the DiskPools of namespace {namespace}, so whether storage is well is not known"
                    )
                })?;
                listed.items.iter().map(|pool| Pool::of(&value_of(pool))).collect()
            }
        };
        if pools.is_empty() {
            let none = match kind {
                None => "the cluster has no DiskPools (diskpools.openebs.io)".to_owned(),
                Some(_) => format!("namespace {namespace} has no DiskPools"),
            };
            if *required {
                return Ok(Some(format!("{none}, and diskPools.required says that there are")));
            }
            info!("{none}: none are looked at");
        }
        Ok(unwell(&pools))
    }
}

fn value_of(pool: &DynamicObject) -> Value {
    let mut value = pool.data.clone();
    value["metadata"] = json!({ "name": pool.metadata.name });
    value
}
