//! The Kubernetes objects that one run reads and writes, and how requests fail.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::Role;
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client, Config};
use membership::know::names::Target;
use tokio::time::Instant;

/// How long a request may take: the client itself has no limit for an answer.
const ANSWER: Duration = Duration::from_secs(10);
/// The pause before a request is made again after an error that may pass.
const AGAIN: Duration = Duration::from_secs(1);

/// The interfaces to the API server, one per kind.
pub struct Objects {
    /// For Events.
    pub client: Client,
    /// The namespace's.
    pub statefulsets: Api<StatefulSet>,
    /// The namespace's.
    pub revisions: Api<ControllerRevision>,
    /// The namespace's.
    pub pods: Api<Pod>,
    /// The namespace's.
    pub claims: Api<PersistentVolumeClaim>,
    /// The cluster's.
    pub volumes: Api<PersistentVolume>,
    /// The cluster's.
    pub classes: Api<StorageClass>,
    /// The cluster's.
    pub nodes: Api<Node>,
    /// The namespace's.
    pub leases: Api<Lease>,
    /// The namespace's.
    pub roles: Api<Role>,
    /// The namespace's.
    pub budgets: Api<PodDisruptionBudget>,
    /// The namespace's.
    pub configmaps: Api<ConfigMap>,
}

impl Objects {
    /// Connects as the pod's ServiceAccount, or as KUBECONFIG says.
    ///
    /// # Errors
    /// When there is neither.
    pub async fn connect(namespace: &str) -> anyhow::Result<Self> {
        let mut config =
            Config::infer().await.context("failed to find the API server: neither in a pod nor with KUBECONFIG")?;
        config.connect_timeout = Some(ANSWER);
        config.read_timeout = Some(ANSWER);
        config.write_timeout = Some(ANSWER);
        let client = Client::try_from(config).context("failed to set up the connection to the API server")?;
        Ok(Self {
            statefulsets: Api::namespaced(client.clone(), namespace),
            revisions: Api::namespaced(client.clone(), namespace),
            pods: Api::namespaced(client.clone(), namespace),
            claims: Api::namespaced(client.clone(), namespace),
            volumes: Api::all(client.clone()),
            classes: Api::all(client.clone()),
            nodes: Api::all(client.clone()),
            leases: Api::namespaced(client.clone(), namespace),
            roles: Api::namespaced(client.clone(), namespace),
            budgets: Api::namespaced(client.clone(), namespace),
            configmaps: Api::namespaced(client.clone(), namespace),
            client,
        })
    }

    /// The StatefulSet.
    ///
    /// # Errors
    /// When it is not there, or the API server does not answer.
    pub async fn statefulset(&self, target: &Target) -> anyhow::Result<StatefulSet> {
        self.statefulsets.get(&target.statefulset).await.with_context(|| format!("failed to read {target}"))
    }
}

/// The parameters that delete the object of this UID, and no later one of its name.
#[must_use]
pub fn this_one(uid: &str) -> DeleteParams {
    let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    DeleteParams { preconditions, ..DeleteParams::default() }
}

/// Whether an error of the API server may pass by itself: no answer, too busy, a conflict, a
/// webhook that is restarting.
#[must_use]
pub fn is_passing(error: &anyhow::Error) -> bool {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => status.code == 409 || status.code == 429 || status.code >= 500,
        Some(kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::ReadEvents(_)) => true,
        _ => false,
    }
}

/// Tries a request again while its error may pass by itself, until `end`.
///
/// # Errors
/// The last error.
pub async fn patiently<T, F: Future<Output = anyhow::Result<T>>>(
    end: Instant,
    request: impl Fn() -> F,
) -> anyhow::Result<T> {
    loop {
        match request().await {
            Err(error) if is_passing(&error) && Instant::now() + AGAIN < end => {
                tracing::info!("waiting for the API server: {error:#}");
                tokio::time::sleep(AGAIN).await;
            }
            done => return done,
        }
    }
}
