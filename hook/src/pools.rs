//! Mayastor's DiskPools, looked at before members join.

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{DynamicObject, ListParams};
use kube::error::DiscoveryError;
use kube::{Api, Client, discovery};
use membership::patch::statefulset::override_of;
use membership::pools::{Pool, unwell};
use membership::record::{Record, State};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::observe::record;

const GROUP: &str = "openebs.io";
const KIND: &str = "DiskPool";

/// Where they are looked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskPools {
    /// Their namespace.
    pub namespace: String,
    /// Where there are none, members do not join.
    pub required: bool,
}

impl DiskPools {
    /// Before members join `statefulset`, which is to have `wanted`: each pool must be Created and Online. A person's
    /// override of that count lifts it.
    ///
    /// # Errors
    /// Which are not, or that they could not be read.
    pub async fn check(&self, client: &Client, statefulset: &StatefulSet, wanted: u32) -> anyhow::Result<()> {
        // Without a record nothing joins; what is half done is ended; and fewer members may be the cure.
        let joins = |record: &Record| {
            record.count() < wanted && record.members.values().all(|recorded| recorded.state == State::Member)
        };
        if !record(statefulset)?.as_ref().is_some_and(joins) {
            return Ok(());
        }
        let Some(found) = self.found(client).await? else { return Ok(()) };
        let live = serde_json::to_value(statefulset)?;
        match override_of(&live) {
            Some(Ok(lifted)) if lifted.count == wanted => {
                warn!("{found}. Lifted: {}", lifted.reason);
                Ok(())
            }
            _ => bail!("{found}. No member was added"),
        }
    }

    /// What keeps members from joining.
    async fn found(&self, client: &Client) -> anyhow::Result<Option<String>> {
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
                    format!("failed to list the DiskPools of namespace {namespace}, so whether storage is well is not known")
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
