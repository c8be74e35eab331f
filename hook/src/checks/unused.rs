//! A StatefulSet in which etcd never ran. Its immutable fields are changed by deleting it, so that Helm makes it again:
//! nothing can be lost yet.

use std::fmt::Debug;
use std::time::Duration;

use anyhow::{Context, ensure};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Api, DeleteParams, Preconditions, PropagationPolicy};
use kubernetes::objects::{Objects, patiently};
use kubernetes::pods;
use kubernetes::statefulset::record;
use kubernetes::volumes::{claim_name, is_unbound};
use membership::know::names::{MOST_MEMBERS, RECORD, Target};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tracing::info;

/// The pause between two looks whether what was deleted is gone.
const LOOK: Duration = Duration::from_millis(200);

/// A StatefulSet that was positively seen to be unused.
struct Unused {
    statefulset: ObjectMeta,
    /// Claims that no volume was ever bound to, by name.
    claims: Vec<String>,
}

/// Deletes the StatefulSet with its pods and claims, and waits until they are gone, if etcd never ran in any of its
/// pods; inner `Err`: why it may have. `deleting` is set before the first delete.
///
/// # Errors
/// Which object it was that could not be deleted, or was still there at `end`.
pub async fn remove(
    objects: &Objects,
    target: &Target,
    lease: &str,
    deleting: &mut bool,
    end: Instant,
) -> anyhow::Result<Result<(), String>> {
    let claims = loop {
        let live = patiently(end, || objects.statefulset(target)).await?;
        let unused = match prove(objects, target, &live, lease).await? {
            Ok(unused) => unused,
            Err(used) => return Ok(Err(used)),
        };
        *deleting = true;
        // If it has changed since, it is looked at again.
        if delete(&objects.statefulsets, &unused.statefulset, end).await? {
            break unused.claims;
        }
    };
    // The garbage collector deletes the pods after their owner.
    for ordinal in 0..MOST_MEMBERS {
        is_gone(&objects.pods, &target.pod(ordinal), end).await?;
    }
    for name in &claims {
        let read = || async { read(&objects.claims, name).await };
        // A claim that was bound meanwhile is left with its volume.
        while let Some(claim) = patiently(end, read).await?.filter(is_unbound) {
            if delete(&objects.claims, &claim.metadata, end).await? {
                is_gone(&objects.claims, name, end).await?;
                break;
            }
        }
    }
    Ok(Ok(()))
}

async fn prove(
    objects: &Objects,
    target: &Target,
    live: &StatefulSet,
    lease: &str,
) -> anyhow::Result<Result<Unused, String>> {
    if record(live)?.is_some() {
        return Ok(Err("its etcd cluster is recorded".into()));
    }
    let kept = objects.leases.get_opt(lease).await.with_context(|| format!("failed to read Lease {lease}"))?;
    if kept.and_then(|lease| lease.metadata.annotations).is_some_and(|all| all.contains_key(RECORD)) {
        return Ok(Err(format!("Lease {lease} has the record of an etcd cluster")));
    }
    let mut claims = Vec::new();
    for ordinal in 0..MOST_MEMBERS {
        let Some(name) = claim_name(live, target, ordinal) else {
            return Ok(Err("its pods have no claims, so nothing tells whether they ran before".into()));
        };
        let claim = objects.claims.get_opt(&name).await.with_context(|| format!("failed to read claim {name}"))?;
        match claim {
            Some(claim) if is_unbound(&claim) => claims.push(name),
            Some(_) => return Ok(Err(format!("claim {name} has a volume"))),
            None => {}
        }
    }
    let pods = pods::of(objects, target, live).await?;
    if let Some((&ordinal, _)) = pods.iter().find(|(_, pod)| !pod.never_started) {
        return Ok(Err(format!("pod {} may have started etcd", target.pod(ordinal))));
    }
    Ok(Ok(Unused { statefulset: live.metadata.clone(), claims }))
}

/// Deletes the object in exactly the version that was seen, its dependants afterwards; false: it has changed since.
async fn delete<K>(api: &Api<K>, seen: &ObjectMeta, end: Instant) -> anyhow::Result<bool>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let name = seen.name.as_deref().unwrap_or_default();
    let (kind, uid, resource_version) = (K::kind(&()), seen.uid.clone(), seen.resource_version.clone());
    let params = DeleteParams {
        preconditions: Some(Preconditions { uid, resource_version }),
        propagation_policy: Some(PropagationPolicy::Background),
        ..DeleteParams::default()
    };
    let request = || async {
        match api.delete(name, &params).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(true),
            deleted => deleted.map(|_| true).with_context(|| format!("failed to delete {kind} {name}")),
        }
    };
    let deleted = patiently(end, request).await?;
    if deleted {
        info!("deleted {kind} {name}: etcd never ran there");
    } else {
        ensure!(Instant::now() + LOOK < end, "{kind} {name} changed whenever it was looked at; upgrade again");
        tokio::time::sleep(LOOK).await;
    }
    Ok(deleted)
}

async fn read<K>(api: &Api<K>, name: &str) -> anyhow::Result<Option<K>>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    api.get_opt(name).await.with_context(|| format!("failed to read {} {name}", K::kind(&())))
}

/// Waits until no object of this name is left.
async fn is_gone<K>(api: &Api<K>, name: &str, end: Instant) -> anyhow::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    while patiently(end, || read(api, name)).await?.is_some() {
        let kind = K::kind(&());
        ensure!(
            Instant::now() + LOOK < end,
            "{kind} {name} was deleted and is still there: look at it (kubectl describe), then upgrade again"
        );
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
