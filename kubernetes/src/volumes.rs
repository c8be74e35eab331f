//! The claims and volumes of the ordinals: reads them, makes volumes, ties them to nodes.

use std::collections::BTreeMap;

use anyhow::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use kube::api::{Patch, PatchParams, PostParams};
use membership::know::names::{Ordinal, Target};
use membership::know::observed::Volume;
use membership::know::volume::{VolumePlan, is_pinned_to, is_provisioned, is_stale};
use membership::write::volume::pinned_to;
use serde_json::{Value, json};

use crate::objects::{Objects, this_one};

/// The volumes as this run has seen them. One that is bound and tied to a node stays so, and is not read again in every
/// round.
#[derive(Default)]
pub struct Volumes {
    settled: BTreeMap<Ordinal, Volume>,
    /// By class name, whether it has no provisioner.
    classes: BTreeMap<String, bool>,
}

/// The name of an ordinal's claim: `<template>-<statefulset>-<ordinal>`; `None`: there is no claim template.
#[must_use]
pub fn claim_name(statefulset: &StatefulSet, target: &Target, ordinal: Ordinal) -> Option<String> {
    let templates = statefulset.spec.as_ref()?.volume_claim_templates.as_ref()?;
    let template = templates.first()?.metadata.name.as_ref()?;
    Some(target.claim(template, ordinal))
}

impl Volumes {
    /// The claim and the volume of an ordinal.
    ///
    /// # Errors
    /// When the API server did not tell.
    pub async fn observe(
        &mut self,
        objects: &Objects,
        target: &Target,
        plan: &VolumePlan,
        claim: &str,
        ordinal: Ordinal,
    ) -> anyhow::Result<Volume> {
        if let Some(settled) = self.settled.get(&ordinal) {
            return Ok(settled.clone());
        }
        let found = objects.claims.get_opt(claim).await.with_context(|| format!("failed to read claim {claim}"))?;
        let Some(found) = found else {
            return Ok(Volume::default());
        };
        let uid = found.metadata.uid.unwrap_or_default();
        let spec = found.spec.unwrap_or_default();
        let bound = found.status.and_then(|status| status.phase).is_some_and(|phase| phase == "Bound");
        let class = spec.storage_class_name.unwrap_or_default();
        let ours = self.without_provisioner(objects, &class).await?;
        let name = format!("claim {claim} of class {class:?}");
        let mut volume = Volume { claimed: true, claim: name, bound, ours, ..Volume::default() };
        if ours {
            let name = spec.volume_name.filter(|_| bound).unwrap_or_else(|| plan.name(ordinal));
            // If the claim is bound to a volume of another name, that is somebody else's and is not touched.
            volume.ours = name == plan.name(ordinal);
            if volume.ours {
                let found =
                    objects.volumes.get_opt(&name).await.with_context(|| format!("failed to read volume {name}"))?;
                volume.exists = found.is_some();
                volume.pinned = !plan.pin || found.as_ref().is_some_and(is_pinned);
                if let Some(existing) = found {
                    let existing = serde_json::to_value(existing).context("a volume that cannot be written as JSON")?;
                    volume.misfit = plan.misfit(&existing, target, claim, &class);
                    volume.stale = !bound && is_stale(&existing, &uid);
                    volume.pinned_to = is_pinned_to(&existing).map(str::to_owned);
                }
            }
        }
        if volume.bound && (!volume.ours || volume.pinned) {
            self.settled.insert(ordinal, volume.clone());
        }
        Ok(volume)
    }

    /// Whether a class has no provisioner, so that the Job makes its volumes: there is no StorageClass object of that
    /// name, or it says so. A claim without a class is left to the cluster.
    async fn without_provisioner(&mut self, objects: &Objects, class: &str) -> anyhow::Result<bool> {
        if class.is_empty() {
            return Ok(false);
        }
        if let Some(&known) = self.classes.get(class) {
            return Ok(known);
        }
        let found =
            objects.classes.get_opt(class).await.with_context(|| format!("failed to read StorageClass {class}"))?;
        let known = !is_provisioned(found.as_ref().map(|class| class.provisioner.as_str()));
        self.classes.insert(class.to_owned(), known);
        Ok(known)
    }
}

fn is_pinned(volume: &PersistentVolume) -> bool {
    volume.spec.as_ref().is_some_and(|spec| spec.node_affinity.is_some())
}

/// Makes the volume. Its claim is to be touched then ([`wake`]).
///
/// # Errors
/// When the API server refused it.
pub async fn create(
    objects: &Objects,
    target: &Target,
    plan: &VolumePlan,
    claim: &str,
    ordinal: Ordinal,
) -> anyhow::Result<()> {
    let name = plan.name(ordinal);
    let found = objects.claims.get(claim).await.with_context(|| format!("failed to read claim {claim}"))?;
    let class = found.spec.and_then(|spec| spec.storage_class_name).unwrap_or_default();
    let object = serde_json::from_value(plan.object(target, claim, &class, ordinal))
        .with_context(|| format!("the values of volume {name} make no PersistentVolume"))?;
    match objects.volumes.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        // Somebody was faster; the next round sees whether it fits.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        Err(error) => Err(error).with_context(|| format!("failed to make volume {name}")),
    }
}

/// Touches the claim, so that the volume controller looks at it at once.
///
/// # Errors
/// When the API server refused it.
pub async fn wake(objects: &Objects, plan: &VolumePlan, claim: &str, ordinal: Ordinal) -> anyhow::Result<()> {
    objects
        .claims
        .patch(claim, &PatchParams::default(), &Patch::Merge(plan.touch(ordinal)))
        .await
        .with_context(|| format!("failed to touch claim {claim}"))?;
    Ok(())
}

/// Clears the earlier claim's UID from a volume, so that the claim that is there now can be bound to it.
///
/// # Errors
/// When the API server refused it.
pub async fn free(objects: &Objects, plan: &VolumePlan, claim: &str, ordinal: Ordinal) -> anyhow::Result<()> {
    let name = plan.name(ordinal);
    let patch = json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } });
    let freed = objects.volumes.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
    freed.with_context(|| format!("failed to free volume {name} for claim {claim}"))?;
    wake(objects, plan, claim, ordinal).await
}

/// The UID of the volume that was made for a claim, if it is there.
///
/// # Errors
/// When the API server did not tell.
pub async fn made_for(
    objects: &Objects,
    target: &Target,
    plan: &VolumePlan,
    claim: &str,
    ordinal: Ordinal,
) -> anyhow::Result<Option<String>> {
    let name = plan.name(ordinal);
    let found = objects.volumes.get_opt(&name).await.with_context(|| format!("failed to read volume {name}"))?;
    let ours = |volume: &PersistentVolume| {
        let reserved = volume.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
        reserved.is_some_and(|reserved| {
            reserved.name.as_deref() == Some(claim) && reserved.namespace.as_deref() == Some(target.namespace.as_str())
        })
    };
    Ok(found.filter(ours).and_then(|volume| volume.metadata.uid))
}

/// The volume of an ordinal that is still reserved for an earlier claim of that name: its name, and the node that it is
/// tied to.
///
/// # Errors
/// When the API server did not tell.
pub async fn kept(
    objects: &Objects,
    target: &Target,
    plan: &VolumePlan,
    claim: &str,
    ordinal: Ordinal,
    now: Option<&PersistentVolumeClaim>,
) -> anyhow::Result<Option<(String, Option<String>)>> {
    let name = plan.name(ordinal);
    let found = objects.volumes.get_opt(&name).await.with_context(|| format!("failed to read volume {name}"))?;
    let Some(found) = found else { return Ok(None) };
    let reserved = found.spec.as_ref().and_then(|spec| spec.claim_ref.as_ref());
    let ours = reserved.is_some_and(|reserved| {
        reserved.name.as_deref() == Some(claim) && reserved.namespace.as_deref() == Some(target.namespace.as_str())
    });
    let found = serde_json::to_value(found).context("a volume that cannot be written as JSON")?;
    let uid = now.and_then(|claim| claim.metadata.uid.as_deref()).unwrap_or_default();
    Ok((ours && is_stale(&found, uid)).then(|| (name, is_pinned_to(&found).map(str::to_owned))))
}

/// Whether a node's kubelet says that it is Ready.
#[must_use]
pub fn is_ready(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Whether no volume is bound to the claim and none is chosen for it, so that there is no data.
#[must_use]
pub fn is_unbound(claim: &PersistentVolumeClaim) -> bool {
    let phase = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    phase == Some("Pending") && claim.spec.as_ref().is_none_or(|spec| spec.volume_name.is_none())
}

/// Deletes the volume that was made for a claim, if it is there; whether it was.
///
/// # Errors
/// When the API server refused it.
pub async fn remove(
    objects: &Objects,
    target: &Target,
    plan: &VolumePlan,
    claim: &str,
    ordinal: Ordinal,
) -> anyhow::Result<bool> {
    let name = plan.name(ordinal);
    let Some(uid) = made_for(objects, target, plan, claim, ordinal).await? else { return Ok(false) };
    match objects.volumes.delete(&name, &this_one(&uid)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("failed to delete volume {name}")),
    }
}

/// Ties the volume to a node. Without that, a pod that is made again on another node would find an empty directory.
///
/// # Errors
/// When the node or the volume could not be read or written.
pub async fn pin(objects: &Objects, plan: &VolumePlan, ordinal: Ordinal, node: &str) -> anyhow::Result<()> {
    let found = objects.nodes.get(node).await.with_context(|| format!("failed to read node {node}"))?;
    let affinity: Value = pinned_to(&hostname(&found, node));
    let name = plan.name(ordinal);
    let patch = json!({ "spec": { "nodeAffinity": affinity } });
    objects
        .volumes
        .patch(&name, &PatchParams::default(), &Patch::Merge(&patch))
        .await
        .with_context(|| format!("failed to pin volume {name} to node {node}"))?;
    Ok(())
}

/// The node's hostname label, by which volumes are tied to it; usually its name.
fn hostname(node: &Node, name: &str) -> String {
    let labels = node.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get("kubernetes.io/hostname")).cloned().unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_unbound_only_where_that_is_said() {
        let claim = |value| is_unbound(&serde_json::from_value(value).unwrap());
        assert!(claim(json!({ "spec": {}, "status": { "phase": "Pending" } })));
        assert!(!claim(json!({ "spec": { "volumeName": "v" }, "status": { "phase": "Pending" } })), "chosen");
        assert!(!claim(json!({ "spec": {}, "status": { "phase": "Bound" } })));
        assert!(!claim(json!({ "spec": {}, "status": { "phase": "Lost" } })));
        assert!(!claim(json!({ "spec": {} })), "nobody has looked at it yet");
    }
}
