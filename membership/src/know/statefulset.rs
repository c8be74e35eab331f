//! Reading a StatefulSet: its count, the record and what else is in its annotations, how its updates roll.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::annotations::{Decided, OnReset, Override};
use super::environment;
use super::limits::{DEFAULT_QUOTA, Room};
use super::names::{
    CONTROLLER, DECIDED, KEPT_PARTITION, LEFT, ON_RESET, OVERRIDE, Ordinal, RECORD, STOP, SUMMARY, Target,
};
use super::object::{annotation, get, list, text};
use super::observed::{Answered, agreed};
use super::record::{ParseRecordError, Record};
use super::size::quantity;
use super::summary::Summary;

pub(crate) const TEMPLATE: [&str; 2] = ["spec", "template"];
pub(crate) const PARTITION: [&str; 4] = ["spec", "updateStrategy", "rollingUpdate", "partition"];

/// `spec.replicas`, 1 where it is absent as the API server has it.
#[must_use]
pub fn replicas(object: &Value) -> u32 {
    number(object, &["spec", "replicas"]).unwrap_or(1)
}

/// `spec.ordinals.start`.
#[must_use]
pub fn first_ordinal(object: &Value) -> u32 {
    number(object, &["spec", "ordinals", "start"]).unwrap_or(0)
}

/// The record in the StatefulSet's annotation, if there is one.
#[must_use]
pub fn record(object: &Value) -> Option<Result<Record, ParseRecordError>> {
    annotation(object, RECORD).map(Record::parse)
}

/// The managed environment of a StatefulSet, or of a ControllerRevision's data: by name the entry,
/// `null` where there is none.
#[must_use]
pub fn managed_of(object: &Value, target: &Target) -> Map<String, Value> {
    let spec = get(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let container = environment::container(spec, &target.container).map(|index| &list(spec, &["containers"])[index]);
    environment::managed(container.unwrap_or(&Value::Null))
}

/// Since when etcd-scaler leaves the StatefulSet alone, if it does ([`LEFT`]).
#[must_use]
pub fn left(object: &Value) -> Option<&str> {
    annotation(object, LEFT)
}

/// What its chart says about a count that was set through `statefulsets/scale`. A value that cannot be understood
/// counts as `refuse`.
#[must_use]
pub fn on_reset(object: &Value) -> Option<OnReset> {
    annotation(object, ON_RESET).map(|text| text.parse().unwrap_or_default())
}

/// Whether a person said that 0 replicas are meant: all members stop and none is removed.
#[must_use]
pub fn may_stop(object: &Value) -> bool {
    annotation(object, STOP) == Some("true")
}

/// The limits that it sets: the quota of its etcd container, and the size of the claims it makes.
#[must_use]
pub fn room(object: &Value, target: &Target) -> Room {
    let spec = get(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let container = environment::container(spec, &target.container).map(|index| &list(spec, &["containers"])[index]);
    let quota = container.and_then(environment::quota).filter(|&quota| quota > 0);
    let claim = ["spec", "volumeClaimTemplates", "0", "spec", "resources", "requests", "storage"];
    Room { quota: quota.unwrap_or(DEFAULT_QUOTA), volume: text(object, &claim).and_then(quantity) }
}

/// The sentence that members hold different keys, if the last comparison confirmed that.
#[must_use]
pub fn diverged(object: &Value) -> Option<String> {
    let summary = Summary::parse(annotation(object, SUMMARY)?)?;
    summary.diverged().map(|it| format!("{} (since {})", it.message, it.last_transition_time))
}

/// The annotation by which a person lifts what can be lifted for one count ([`OVERRIDE`]); an error if it cannot be
/// understood.
#[must_use]
pub fn override_of(object: &Value) -> Option<Result<Override, String>> {
    annotation(object, OVERRIDE).map(Override::parse)
}

/// The user as which its controller was last seen.
#[must_use]
pub fn controller(object: &Value) -> Option<&str> {
    annotation(object, CONTROLLER)
}

/// Whether Kubernetes deletes the claim of a pod that is scaled away (`whenScaled: Delete`).
#[must_use]
pub fn deletes_claims(object: &Value) -> bool {
    text(object, &["spec", "persistentVolumeClaimRetentionPolicy", "whenScaled"]) == Some("Delete")
}

/// A roll-out that is under way, in a sentence; `None` when there is none.
///
/// While our partition is in force, nothing rolls, although the revisions differ: they differ by the managed
/// environment alone. OnDelete never rolls by itself.
#[must_use]
pub fn rollout(object: &Value) -> Option<String> {
    if rolls_nobody(object) {
        return None;
    }
    let seen = number(object, &["status", "observedGeneration"]).unwrap_or(0);
    let written = number(object, &["metadata", "generation"]).unwrap_or(0);
    if seen < written {
        return Some(format!("the StatefulSet controller has seen generation {seen} of {written}"));
    }
    let (current, update) = (["status", "currentRevision"], ["status", "updateRevision"]);
    if text(object, &current) == text(object, &update) {
        return None;
    }
    let partition = partition(object).unwrap_or(0);
    let to_update = replicas(object).saturating_sub(partition);
    let updated = number(object, &["status", "updatedReplicas"]).unwrap_or(0);
    if updated < to_update {
        return Some(format!("{updated} of {to_update} pods are updated"));
    }
    // All pods have the new template. The controller makes its revision the current one only when every pod is Ready,
    // and with a partition never. If we set our partition before that, each pod made again would come from the old
    // template.
    let ready = number(object, &["status", "readyReplicas"]).unwrap_or(0);
    (partition == 0).then(|| format!("all pods are updated, {ready} of {to_update} are Ready"))
}

/// A roll-out that the person's or chart's own partition stops half-way (a canary), in a sentence.
///
/// Nothing rolls then, but there are pods of two templates. Our partition, above all ordinals, would have each pod that
/// is made again come from the older one.
#[must_use]
pub fn canary(object: &Value) -> Option<String> {
    let partition = partition(object).filter(|partition| *partition > 0)?;
    if rolls_nobody(object) || rollout(object).is_some() {
        return None;
    }
    let revision = |which: &str| text(object, &["status", which]);
    let (updated, all) = (number(object, &["status", "updatedReplicas"]).unwrap_or(0), replicas(object));
    let two = revision("currentRevision") != revision("updateRevision") && (1..all).contains(&updated);
    two.then(|| format!("partition {partition}: {updated} of {all} pods are updated"))
}

/// Why it is not certain that `spec.updateStrategy` rolls one pod at a time, of `count` pods, in a sentence: a type of
/// a later Kubernetes, or a `maxUnavailable` of more than one. `None`: it does.
#[must_use]
pub fn unknown_strategy(object: &Value, count: u32) -> Option<String> {
    if let Some(kind) = strategy(object).filter(|kind| !["RollingUpdate", "OnDelete"].contains(kind)) {
        return Some(format!("spec.updateStrategy.type is {kind}, which this etcd-scaler does not know"));
    }
    let max = get(object, &["spec", "updateStrategy", "rollingUpdate", "maxUnavailable"])?;
    // As Kubernetes computes it: a percentage is rounded down, and is at least one pod.
    let at_once = match max.as_str() {
        None => max.as_u64(),
        Some(text) => {
            text.strip_suffix('%').and_then(|share| share.parse::<u64>().ok()).map(|it| it * u64::from(count) / 100)
        }
    };
    let one = at_once.is_some_and(|at_once| at_once <= 1);
    let max = max.as_str().map_or_else(|| max.to_string(), str::to_owned);
    (!one).then(|| format!("spec.updateStrategy.rollingUpdate.maxUnavailable is {max}"))
}

fn strategy(object: &Value) -> Option<&str> {
    text(object, &["spec", "updateStrategy", "type"])
}

/// Whether a partition has an effect: the strategy is RollingUpdate, which is the default.
pub(crate) fn rolls_by_partition(object: &Value) -> bool {
    strategy(object).is_none_or(|kind| kind == "RollingUpdate")
}

/// Whether the controller rolls no pod: while our partition is in force, and always under `OnDelete`. It then has no
/// reason to delete a pod that is wanted and has not ended.
#[must_use]
pub fn rolls_nobody(object: &Value) -> bool {
    on_delete(object) || is_frozen(object)
}

/// Whether our partition is in force, above every ordinal.
fn is_frozen(object: &Value) -> bool {
    rolls_by_partition(object) && annotation(object, KEPT_PARTITION).is_some()
}

/// What the controller has still to do, in a sentence: pods are missing, too many, not Ready, or made from an older
/// template than the strategy allows. `None`: nothing.
#[must_use]
pub fn behind(object: &Value) -> Option<String> {
    let wanted = replicas(object);
    let count = |field: &str| number(object, &["status", field]).unwrap_or(0);
    let (made, ready) = (count("replicas"), count("readyReplicas"));
    if made != wanted {
        return Some(format!("{made} of {wanted} pods are there"));
    }
    if ready != wanted {
        return Some(format!("{ready} of {wanted} pods are Ready"));
    }
    rollout(object)
}

/// Whether the recorded cluster answers now: a quorum agrees on a member list that has every recorded member.
#[must_use]
pub fn lives(record: &Record, target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> bool {
    let Ok(agreed) = agreed(target, answers, Some(record)) else { return false };
    let mut settled = record.members.values().filter(|recorded| recorded.state.is_settled());
    agreed.cluster == record.cluster
        && settled.all(|recorded| agreed.members.iter().any(|member| member.id == recorded.id))
}

/// Whether its etcd container has the cluster's token from our ConfigMap, so that no pod starts etcd before the Job has
/// written it.
#[must_use]
pub fn waits_for_token(object: &Value, target: &Target) -> bool {
    let spec = get(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    let container = environment::container(spec, &target.container).map(|index| &list(spec, &["containers"])[index]);
    container.is_some_and(|container| environment::token_is_from(container, &target.bootstrap()))
}

/// Whether, by a person's word, pods that are made now set aside what an earlier cluster left in their data
/// directories.
#[must_use]
pub fn begins_anew(object: &Value, target: &Target) -> bool {
    let decided = annotation(object, DECIDED).and_then(Decided::parse);
    decided == Some(Decided::Anew) && waits_for_token(object, target)
}

/// The names of the claims of these ordinals.
#[must_use]
pub fn claims(object: &Value, target: &Target, ordinals: impl Iterator<Item = Ordinal>) -> Vec<String> {
    let name = text(object, &["spec", "volumeClaimTemplates", "0", "metadata", "name"]);
    name.map(|name| ordinals.map(|ordinal| target.claim(name, ordinal)).collect()).unwrap_or_default()
}

pub(crate) fn partition(object: &Value) -> Option<u32> {
    number(object, &PARTITION)
}

pub(crate) fn on_delete(object: &Value) -> bool {
    strategy(object) == Some("OnDelete")
}

fn number(object: &Value, path: &[&str]) -> Option<u32> {
    get(object, path)?.as_u64().and_then(|number| u32::try_from(number).ok())
}
