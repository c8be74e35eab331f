//! Access to the one StatefulSet: watches it, reads it, and wakes its controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client};
use kubernetes::watch::{Change, follow};
use membership::know::names::{Ordinal, RECORD, Target};
use membership::know::record::Record;
use membership::know::start::{self, NotUnderstood};
use membership::know::statefulset;
use membership::write::ownership;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

/// How long the API server may take for a read during admission: less than the webhooks' `timeoutSeconds` (2 s for
/// pods), so that the answer can say what did not answer.
const READ_DEADLINE: Duration = Duration::from_millis(1500);
/// How often the controller is woken at most. After each time it is looked whether it has caught up.
const MOST_WAKES: u32 = 10;
const WAKE_AGAIN: Duration = Duration::from_secs(2);
/// The field manager of our writes.
pub const FIELD_MANAGER: &str = "etcd-scaler-webhook";

/// The StatefulSet as the watch last saw it, as the API server's own JSON: a typed object would
/// lose the fields that this program does not know.
#[derive(Clone, Debug, PartialEq)]
pub enum Live {
    /// The watch has not answered yet.
    Unknown,
    /// There is none.
    Absent,
    /// This one.
    Present(Arc<Value>),
}

impl Live {
    /// The object, where there is one.
    pub fn object(&self) -> Option<Arc<Value>> {
        match self {
            Self::Present(object) => Some(object.clone()),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// Access to the StatefulSet. Cheap to clone.
#[derive(Clone)]
pub struct Cluster {
    api: Api<DynamicObject>,
    leases: Api<Lease>,
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    revisions: Api<ControllerRevision>,
    names: Arc<Target>,
    lease: Arc<str>,
    started: Timestamp,
}

impl Cluster {
    /// Access to this StatefulSet, and to the Lease of its Jobs.
    pub fn new(client: &Client, names: Target, lease: String) -> Self {
        let kind = ApiResource::erase::<StatefulSet>(&());
        let api = Api::namespaced_with(client.clone(), &names.namespace, &kind);
        let leases = Api::namespaced(client.clone(), &names.namespace);
        let pods = Api::namespaced(client.clone(), &names.namespace);
        let claims = Api::namespaced(client.clone(), &names.namespace);
        let revisions = Api::namespaced(client.clone(), &names.namespace);
        let (names, lease, started) = (Arc::new(names), lease.into(), Timestamp::now());
        Self { api, leases, pods, claims, revisions, names, lease, started }
    }

    /// Access to this StatefulSet, and a watch of it that never ends.
    pub fn watch(client: &Client, names: Target, lease: String) -> (Self, watch::Receiver<Live>) {
        let cluster = Self::new(client, names, lease);
        let (sender, receiver) = watch::channel(Live::Unknown);
        let config = watcher::Config::default().fields(&format!("metadata.name={}", cluster.names.statefulset));
        let api = cluster.api.clone();
        let releasing = cluster.clone();
        tokio::spawn(follow(api, config, "the StatefulSet", move |change| {
            if let Change::Is(object) = &change {
                releasing.release_count(object);
            }
            sender.send_replace(match change {
                Change::Is(object) => Live::Present(Arc::new(value_of(&object))),
                Change::Gone(_) => Live::Absent,
                Change::All(objects) => objects.first().map_or(Live::Absent, |o| Live::Present(Arc::new(value_of(o)))),
            });
        }));
        (cluster, receiver)
    }

    /// Whether a request names our StatefulSet.
    pub fn is_target(&self, namespace: Option<&str>, name: &str) -> bool {
        namespace == Some(self.names.namespace.as_str()) && name == self.names.statefulset
    }

    /// Whether a name is that of a pod of our StatefulSet.
    pub fn is_pod(&self, namespace: Option<&str>, name: &str) -> bool {
        namespace == Some(self.names.namespace.as_str()) && self.names.ordinal_of(name).is_some()
    }

    /// The names and addresses, with the headless Service that the object names.
    pub fn target(&self, object: &Value) -> Target {
        let service = object["spec"]["serviceName"].as_str().unwrap_or_default().to_owned();
        Target { service, ..(*self.names).clone() }
    }

    /// What is not understood about how its etcd is started, if anything: then nothing is written into it.
    pub fn not_understood(&self, object: &Value) -> Option<NotUnderstood> {
        start::of_statefulset(object, &self.target(object)).err()
    }

    /// Whether the StatefulSet was given back to its chart after this process started: until our installation is gone,
    /// it is left alone. A later installation looks after it again.
    pub fn left(&self, object: &Value) -> bool {
        let since = statefulset::left(object).and_then(|since| since.parse::<Timestamp>().ok());
        since.is_some_and(|since| since > self.started)
    }

    /// Reads the StatefulSet from the API server, not from the watch: what a pod may do follows from the record, and an
    /// old one could hold a member's pod or let a joiner go.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn read(&self) -> Result<Option<Value>, String> {
        let read = tokio::time::timeout(READ_DEADLINE, self.api.get_opt(&self.names.statefulset)).await;
        let name = &self.names.statefulset;
        match read {
            Ok(Ok(object)) => Ok(object.as_ref().map(value_of)),
            Ok(Err(error)) => Err(format!("cannot read StatefulSet {name}: {error}")),
            Err(_) => Err(format!("cannot read StatefulSet {name}: no answer in {:.1} s", READ_DEADLINE.as_secs_f64())),
        }
    }

    /// The copy of the record in the Lease, which is left when the StatefulSet is gone. A copy that cannot be read
    /// counts as none.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn copy(&self) -> Result<Option<Record>, String> {
        let name = &self.lease;
        match tokio::time::timeout(READ_DEADLINE, self.leases.get_opt(name)).await {
            Ok(Ok(lease)) => {
                let annotations = lease.and_then(|lease| lease.metadata.annotations);
                Ok(annotations.and_then(|all| Record::parse(all.get(RECORD)?).ok()))
            }
            Ok(Err(error)) => Err(format!("cannot read Lease {name}: {error}")),
            Err(_) => Err(format!("cannot read Lease {name}: no answer in {:.1} s", READ_DEADLINE.as_secs_f64())),
        }
    }

    /// The names of those of these claims that exist.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn kept(&self, claims: &[String]) -> Result<Vec<String>, String> {
        let reads = claims.iter().map(|claim| self.claims.get_metadata_opt(claim));
        match tokio::time::timeout(READ_DEADLINE, futures::future::try_join_all(reads)).await {
            Ok(Ok(found)) => Ok(found.into_iter().flatten().filter_map(|claim| claim.metadata.name).collect()),
            Ok(Err(error)) => Err(format!("cannot read the claims {}: {error}", claims.join(", "))),
            Err(_) => Err(format!("cannot read the claims {}: no answer in time", claims.join(", "))),
        }
    }

    /// The pods of these ordinals that exist, read within `deadline`.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn pods(
        &self,
        target: &Target,
        ordinals: impl IntoIterator<Item = Ordinal>,
        deadline: Duration,
    ) -> Result<BTreeMap<Ordinal, Pod>, String> {
        let reads = ordinals.into_iter().map(|ordinal| async move {
            let read = self.pods.get_opt(&target.pod(ordinal)).await.map_err(|error| error.to_string());
            read.map(|pod| pod.map(|pod| (ordinal, pod)))
        });
        let read = tokio::time::timeout(deadline, futures::future::try_join_all(reads)).await;
        let read = read.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let pods = read.map_err(|why| format!("cannot read the pods of {target}: {why}"))?;
        Ok(pods.into_iter().flatten().collect())
    }

    /// The names of the pods of these ordinals that run and are not being deleted.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn running(&self, target: &Target, ordinals: &[Ordinal]) -> Result<Vec<String>, String> {
        let pods = self.pods(target, ordinals.iter().copied(), READ_DEADLINE).await?;
        let running = pods.into_values().filter(|pod| {
            let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
            pod.metadata.deletion_timestamp.is_none() && phase == Some("Running")
        });
        Ok(running.filter_map(|pod| pod.metadata.name).collect())
    }

    /// The data of the newest ControllerRevision with the labels of this StatefulSet's pods: what the pods that an
    /// orphan delete has left were made from.
    ///
    /// # Errors
    /// When the API server did not answer in time.
    pub async fn newest_revision(&self, object: &Value) -> Result<Option<Value>, String> {
        let labels = object["spec"]["selector"]["matchLabels"].as_object();
        let labels = labels.into_iter().flatten().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?)));
        let labels = ListParams::default().labels(&labels.collect::<Vec<_>>().join(","));
        match tokio::time::timeout(READ_DEADLINE, self.revisions.list(&labels)).await {
            Ok(Ok(revisions)) => {
                let newest = revisions.items.into_iter().max_by_key(|revision| revision.revision);
                Ok(newest.and_then(|revision| revision.data).map(|data| data.0))
            }
            Ok(Err(error)) => Err(format!("cannot list ControllerRevisions: {error}")),
            Err(_) => Err("cannot list ControllerRevisions: no answer in time".into()),
        }
    }

    /// Wakes the StatefulSet's controller while it has something to do: it may have been refused while no webhook
    /// served, and then waits up to 1000 s before it tries again (facts-kubernetes D). Any write of the StatefulSet
    /// makes it try at once (K5). It is woken more than once, because the Service may not lead to this process yet at
    /// the first try.
    pub async fn wake_while_behind(self) {
        for _ in 0..MOST_WAKES {
            match self.read().await {
                Ok(Some(object)) if self.not_understood(&object).is_some() => return,
                Ok(Some(object)) => match statefulset::behind(&object) {
                    Some(how) => drop(self.wake(&how).await),
                    None => return,
                },
                Ok(None) => return,
                Err(error) => warn!(error, "cannot tell whether the StatefulSet's status lags its spec"),
            }
            tokio::time::sleep(WAKE_AGAIN).await;
        }
    }

    /// If a release has the same count that was set with `kubectl scale`, both own the field, and Helm 4 would fail at
    /// its next change of the count. So the ownership of the scale is removed. The other replica does the same, and the
    /// later one is refused.
    fn release_count(&self, object: &DynamicObject) {
        let object = serde_json::to_value(object).unwrap_or_default();
        if !ownership::is_shared(&object) || self.left(&object) || self.not_understood(&object).is_some() {
            return;
        }
        let Some(patch) = ownership::release(&object, false) else { return };
        let (api, name) = (self.api.clone(), self.names.statefulset.clone());
        tokio::spawn(async move {
            match api.patch(&name, &PatchParams::default(), &Patch::<Value>::Json(patch)).await {
                Ok(_) => info!("a release has the count that was scaled: it owns it alone now"),
                Err(error) => info!(%error, "the count's ownership was not released, somebody was faster"),
            }
        });
    }

    /// Writes an annotation of the StatefulSet.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn annotate(&self, key: &str, value: &str) -> kube::Result<()> {
        let patch = json!({ "metadata": { "annotations": { key: value } } });
        let params = PatchParams::apply(FIELD_MANAGER);
        self.api.patch(&self.names.statefulset, &params, &Patch::Merge(&patch)).await.map(drop)
    }

    /// Writes into the status of the StatefulSet, in exactly the version that was seen.
    ///
    /// # Errors
    /// When it has another version now, or the API server refuses it.
    pub async fn patch_status(&self, seen: &Value, mut patch: Value) -> kube::Result<()> {
        patch["metadata"] = json!({ "resourceVersion": seen["metadata"]["resourceVersion"] });
        let params = PatchParams::apply(FIELD_MANAGER);
        self.api.patch_status(&self.names.statefulset, &params, &Patch::Merge(&patch)).await.map(drop)
    }

    /// Touches the StatefulSet, so that its controller looks at it at once; returns whether that was written.
    pub async fn wake(&self, how: &str) -> bool {
        let now = Timestamp::now().to_string();
        let touch = json!({ "metadata": { "annotations": { "etcd-scaler.io/woken": now } } });
        let params = PatchParams::apply(FIELD_MANAGER);
        match self.api.patch(&self.names.statefulset, &params, &Patch::Merge(&touch)).await {
            Ok(_) => info!(how, "the StatefulSet's status lags its spec: its controller was woken"),
            Err(error) => {
                warn!(%error, "cannot wake the StatefulSet's controller");
                return false;
            }
        }
        true
    }
}

/// The object as JSON, without the bulk that is not read here: of managedFields only the entry of `statefulsets/scale`
/// stays.
fn value_of(object: &DynamicObject) -> Value {
    let mut object = object.clone();
    if let Some(entries) = &mut object.metadata.managed_fields {
        entries.retain(|entry| entry.subresource.as_deref() == Some("scale"));
    }
    serde_json::to_value(object).unwrap_or_default()
}

#[cfg(test)]
pub mod tests {
    use super::*;
    pub use membership::world::puls8 as target;

    /// The page's cluster, at this API server.
    pub fn cluster(client: &Client) -> Cluster {
        Cluster::new(client, target(), "puls8-etcd-scaler".into())
    }
}
