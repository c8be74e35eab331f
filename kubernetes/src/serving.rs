//! The Role that tells the admission policy which pods may be made without our init container
//! ([`membership::write::serving`]).
//!
//! It is written before and after each write of the record: before, with the names of both records, so that no member's
//! pod is ever denied because its name is missing; after, without the names that are gone.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{DeleteParams, PostParams};
use membership::know::names::{TARGET, Target};
use membership::write::serving::{GROUP, RESOURCE, VERB};

use crate::objects::Objects;

/// Has the Role permit these names and no others.
///
/// # Errors
/// When the API server did not answer or somebody else changed it meanwhile.
pub async fn permit(
    objects: &Objects,
    role: &str,
    target: &Target,
    statefulset: &StatefulSet,
    names: &BTreeSet<String>,
) -> anyhow::Result<()> {
    let failed = || format!("failed to tell the admission policy of {target} who serves (Role {role})");
    let found = objects.roles.get_opt(role).await.with_context(failed)?;
    let rules = Some(vec![PolicyRule {
        api_groups: Some(vec![GROUP.into()]),
        resources: Some(vec![RESOURCE.into()]),
        verbs: vec![VERB.into()],
        resource_names: Some(names.iter().cloned().collect()),
        ..PolicyRule::default()
    }]);
    // The garbage collector deletes the Role if the StatefulSet is deleted with its pods, and leaves it if the pods are
    // orphaned.
    let owner_references = statefulset.owner_ref(&()).map(|owner| vec![owner]);
    let labels = BTreeMap::from([(TARGET.to_owned(), target.statefulset.clone())]);
    let metadata =
        ObjectMeta { name: Some(role.into()), labels: Some(labels), owner_references, ..ObjectMeta::default() };
    let params = PostParams::default();
    let Some(found) = found else {
        return objects.roles.create(&params, &Role { metadata, rules }).await.map(drop).with_context(failed);
    };
    if found.rules == rules && found.metadata.owner_references == metadata.owner_references {
        return Ok(());
    }
    let metadata = ObjectMeta { resource_version: found.metadata.resource_version, ..metadata };
    objects.roles.replace(role, &params, &Role { metadata, rules }).await.map(drop).with_context(failed)
}

/// Deletes the Role, so that the policy denies no pod any more.
///
/// # Errors
/// When the API server did not answer.
pub async fn forget(objects: &Objects, role: &str) -> anyhow::Result<()> {
    match objects.roles.delete(role, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(drop).with_context(|| format!("failed to delete Role {role}")),
    }
}
