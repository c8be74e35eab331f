//! Reads the typed StatefulSet.

use anyhow::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use membership::know::names::{RECORD, Target};
use membership::know::record::Record;
use membership::know::start;

/// Takes what the live StatefulSet tells about the target: the name of its headless Service.
///
/// # Errors
/// When it is one this product does not support.
pub fn adopt(statefulset: &StatefulSet, target: &mut Target) -> anyhow::Result<()> {
    let spec = statefulset.spec.as_ref().with_context(|| format!("{target} has no spec"))?;
    target.service = spec.service_name.clone().unwrap_or_default();
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    anyhow::ensure!(start == 0, "{target} numbers its pods from {start} (spec.ordinals.start); only 0 is supported");
    Ok(())
}

/// Fails if it is not understood how its etcd is started. Called before anything is written.
///
/// # Errors
/// What is not understood.
pub fn understood(statefulset: &StatefulSet, target: &Target) -> anyhow::Result<()> {
    let live = serde_json::to_value(statefulset)?;
    start::of_statefulset(&live, target).map(drop).map_err(|why| anyhow::anyhow!(why.sentence(target)))
}

/// The record in the StatefulSet's annotation.
///
/// # Errors
/// When the annotation is there and not a record.
pub fn record(statefulset: &StatefulSet) -> anyhow::Result<Option<Record>> {
    let annotations = statefulset.metadata.annotations.as_ref();
    Ok(annotations.and_then(|all| all.get(RECORD)).map(|text| Record::parse(text)).transpose()?)
}

/// The object that Events are about, complete enough for `kubectl describe statefulset` to find them.
#[must_use]
pub fn reference(statefulset: &StatefulSet) -> ObjectReference {
    statefulset.object_ref(&())
}

/// The StatefulSet's desired count; 1 where it names none, as Kubernetes has it.
#[must_use]
pub fn replicas(statefulset: &StatefulSet) -> u32 {
    let replicas = statefulset.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    u32::try_from(replicas).unwrap_or(0)
}
