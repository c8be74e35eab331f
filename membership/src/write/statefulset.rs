//! What an update of the StatefulSet changes, whether it may touch our annotations, and what the webhook rewrites in
//! it.
//!
//! It rewrites the managed environment (`ETCD_INITIAL_CLUSTER`, `ETCD_INITIAL_CLUSTER_STATE`) and the partition, so
//! that a scale rolls no pod and a roll-out of an image reaches every pod (docs/decisions/0004-partition.md).
//!
//! The annotation [`KEPT_PARTITION`] is there exactly while our partition is in force. It holds the person's or chart's
//! own one, `"0"` if there was none. Without the annotation the live partition is their own, also if it was set before
//! etcd-scaler was installed.

use json_patch::Patch;
use serde_json::{Map, Value};

use super::{Edit, env, own, ownership};
use crate::know::environment::{INITIAL_CLUSTER, INITIAL_CLUSTER_STATE, container};
use crate::know::names::{DECIDED, KEPT_PARTITION, LEAVING, LEFT, RECORD, SCALED_TO, Target};
use crate::know::object::{annotation, get, text};
use crate::know::record::{ParseRecordError, Record, State};
use crate::know::start::{self, Start};
use crate::know::statefulset::{
    PARTITION, TEMPLATE, first_ordinal, managed_of, on_delete, partition, replicas, rollout, rolls_by_partition,
    waits_for_token,
};

/// The patch for a StatefulSet that is being created. `living`: the record of the members that answer now under its
/// name, if it is made again over them; `newest`: the data of the newest ControllerRevision that their pods may be made
/// from.
///
/// # Errors
/// The sentence that refuses it: its template has what only etcd-scaler writes, or its count is not that of the living
/// members.
pub fn created(new: &Value, target: &Target, living: Option<&Record>, newest: Option<&Value>) -> Result<Patch, String> {
    if let Some(what) = get(new, &TEMPLATE).and_then(|template| own::added(template, None)) {
        return Err(own::refusal(target, &what));
    }
    let mut edit = Edit::new(new);
    let place = ["metadata", "annotations", RECORD];
    match living {
        Some(record) if record.count() != replicas(new) => {
            let count = record.count();
            return Err(format!(
                "creating {target} with {} replicas is refused: {count} etcd members answer in its place ({}). Created with another count it would delete a living member's pod, or start one beside them. Create it with {count}: helm upgrade --set etcd.replicaCount={count}, and scale then.",
                replicas(new),
                record.members.keys().map(|ordinal| target.pod(*ordinal)).collect::<Vec<_>>().join(", "),
            ));
        }
        Some(record) => {
            // If it is not understood how etcd is started, nothing is written.
            let Ok(start) = start::of_statefulset(new, target) else { return Ok(Patch::default()) };
            edit.set(&place, record.annotation().into());
            // From now on all its pods are made from this template.
            let known = rolls_by_partition(new) || on_delete(new);
            if let Some(container) = etcd_container(new, target).filter(|_| known) {
                let container = container.each_ref().map(String::as_str);
                manage(&mut edit, &container, &target.initial_cluster(0..replicas(new)), true, record, &start);
            }
            // If the template differs from the newest revision by the managed environment alone, our partition keeps
            // the pods from rolling, as at an update.
            let same = newest.is_some_and(|newest| {
                let bare =
                    |object| env::without_managed(get(object, &TEMPLATE).unwrap_or(&Value::Null), &target.container);
                as_stored(bare(newest)) == as_stored(bare(new))
            });
            if same && rolls_by_partition(new) && annotation(new, KEPT_PARTITION).is_none() {
                let own = partition(new).unwrap_or(0);
                edit.set(&["metadata", "annotations", KEPT_PARTITION], own.to_string().into());
                edit.set(&PARTITION, replicas(new).max(own).into());
            }
        }
        // No members answer: a record in a saved manifest is not verified, and is dropped.
        None => edit.remove(&place),
    }
    Ok(edit.finish())
}

/// Why a StatefulSet is not created with another count, while pods of recorded members run that were not heard as one
/// cluster (`unheard`, because of `why`). `None`: the count is the same, or there is no such pod.
#[must_use]
pub fn over_unheard(new: &Value, target: &Target, record: &Record, unheard: &[String], why: &str) -> Option<String> {
    let (count, asked) = (record.count(), replicas(new));
    (asked != count && !unheard.is_empty()).then(|| {
        format!(
            "creating {target} with {asked} replicas is refused: pods of the {count} recorded members run ({}) and were not heard as one cluster ({why}). Created with another count it would delete a living member's pod, or start one beside them. Create it with {count}: helm upgrade --set etcd.replicaCount={count}, and scale when they answer.",
            unheard.join(", "),
        )
    })
}

/// Why a StatefulSet is not created with more members than `record` has, while their claims are kept (`claims`) and
/// none of them answers. The additional members would begin a cluster of their own, and serve as one if they are a
/// quorum, beside the old members that come back on their data. Not for our own chart, whose pods start no etcd before
/// that is decided ([`crate::decide::bootstrap`]).
#[must_use]
pub fn over_kept_volumes(new: &Value, target: &Target, record: &Record, claims: &[String]) -> Option<String> {
    let (count, asked) = (record.count(), replicas(new));
    (asked > count && !claims.is_empty() && !waits_for_token(new, target)).then(|| {
        format!(
            "creating {target} with {asked} replicas is refused: the volumes of an earlier cluster with {count} members are kept ({}). The others would begin a cluster of their own beside it. Create it with {count}, and scale then.",
            claims.join(", "),
        )
    })
}

/// A template without what a ControllerRevision stores in another way: fields that are null, and `$patch`.
fn as_stored(template: Value) -> Value {
    match template {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(key, value)| !value.is_null() && key != "$patch");
            Value::Object(kept.map(|(key, value)| (key, as_stored(value))).collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(as_stored).collect()),
        other => other,
    }
}

/// The update with the live count instead of the release's, noted in an annotation; and the patch for that.
#[must_use]
pub fn keep_count(old: &Value, new: &Value) -> (Value, Patch) {
    let mut edit = Edit::new(new);
    edit.set(&["spec", "replicas"], replicas(old).into());
    edit.set(&["metadata", "annotations", SCALED_TO], replicas(old).to_string().into());
    (edit.object.clone(), edit.finish())
}

/// One update of the target, as it was asked for.
pub struct Update<'a> {
    old: &'a Value,
    new: &'a Value,
    target: &'a Target,
    /// The record annotation's value after this update.
    record: Option<&'a str>,
    /// The write repeats a manifest ([`ownership::is_declared`]), so its count is not asked for just now.
    declared: bool,
    changes_template: bool,
}

impl<'a> Update<'a> {
    /// An update from the live object to the one that is asked for; `by_hook`: our Job's ServiceAccount asks.
    ///
    /// # Errors
    /// The sentence that refuses the update: somebody else than the Job changes what only the Job writes, or the
    /// template has what only etcd-scaler writes. A record that was dropped is no error: a PUT of a manifest drops it,
    /// and it is put back.
    pub fn new(old: &'a Value, new: &'a Value, target: &'a Target, by_hook: bool) -> Result<Self, String> {
        let (before, asked) = (annotation(old, RECORD), annotation(new, RECORD));
        let record = if by_hook { asked } else { before };
        for (key, what) in [
            (RECORD, "it holds what was verified about the etcd cluster"),
            (DECIDED, "it has data set aside, or started on"),
            (LEAVING, "it turns the care for the etcd cluster off"),
            (LEFT, "it turns the care for the etcd cluster off"),
        ] {
            let asked = annotation(new, key);
            if !by_hook && asked.is_some() && asked != annotation(old, key) {
                return Err(format!(
                    "changing the annotation {key} of {target} is refused: {what}, and only the etcd-scaler Job \
                     writes it. Leave the annotation out of the change."
                ));
            }
        }
        let template = |object| get(object, &TEMPLATE).unwrap_or(&Value::Null);
        if let Some(what) = own::added(template(new), Some(template(old))) {
            return Err(own::refusal(target, &what));
        }
        let bare = |object| env::without_managed(template(object), &target.container);
        // Templates are large, so equal ones are not looked into.
        let changes_template = template(old) != template(new) && bare(old) != bare(new);
        Ok(Self { old, new, target, record, declared: false, changes_template })
    }

    /// The same update, by this field manager.
    #[must_use]
    pub fn by(mut self, manager: &str) -> Self {
        self.declared = ownership::is_declared(manager);
        self
    }

    /// Whether a release sets the count again that was changed with `statefulsets/scale` since.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        self.declared && self.changes_count() && ownership::is_scaled(self.old)
    }

    fn changes_count(&self) -> bool {
        replicas(self.old) != replicas(self.new)
    }

    /// The record as it stands after this update.
    #[must_use]
    pub fn record(&self) -> Option<Result<Record, ParseRecordError>> {
        self.record.map(Record::parse)
    }

    /// Whether anything in the pod template changes but the managed environment.
    #[must_use]
    pub fn changes_template(&self) -> bool {
        self.changes_template
    }

    /// What is rewritten.
    #[must_use]
    pub fn patch(&self) -> Patch {
        let mut edit = Edit::new(self.new);
        // The note about a kept count ends when somebody sets another count, or when the release sets the count itself.
        let noted = annotation(self.old, SCALED_TO);
        if noted.is_some() && annotation(self.new, SCALED_TO) == noted && (self.changes_count() || self.declared) {
            edit.remove(&["metadata", "annotations", SCALED_TO]);
        }
        if let Some(record) = self.record {
            edit.set(&["metadata", "annotations", RECORD], record.into());
        }
        let rollout = rollout(self.old);
        let same_template = get(self.old, &TEMPLATE) == get(self.new, &TEMPLATE);
        // While a roll-out is under way, a rewritten template would restart it and our partition would cut it in half.
        // So nothing is rewritten; it is with the next change.
        if rollout.is_none() || !same_template {
            self.set_env(&mut edit);
        }
        let kept = ["metadata", "annotations", KEPT_PARTITION];
        match self.set_partition(&mut edit, rollout.is_some()) {
            Some(own) => edit.set(&kept, own.to_string().into()),
            None => edit.remove(&kept),
        }
        edit.finish()
    }

    /// Whether the cluster was verified. Before that, the bootstrap needs the chart's own environment.
    fn is_verified(&self) -> bool {
        matches!(self.record(), Some(Ok(_))) && first_ordinal(self.new) == 0 && replicas(self.new) > 0
    }

    /// Whether its update strategy is one that is known here.
    fn knows_strategy(&self) -> bool {
        rolls_by_partition(self.new) || on_delete(self.new)
    }

    /// Whether the webhook writes environment and partition: the cluster is verified, and its start and its update
    /// strategy are understood.
    fn manages(&self) -> bool {
        self.is_verified() && self.knows_strategy() && start::of_statefulset(self.new, self.target).is_ok()
    }

    fn set_env(&self, edit: &mut Edit) {
        let Some(container) = etcd_container(self.new, self.target).filter(|_| self.is_verified()) else {
            return;
        };
        let container = container.each_ref().map(String::as_str);
        if let Some(own) = self.leaving() {
            env::restore(edit, &container, &own);
            return;
        }
        let live = managed_of(self.old, self.target);
        let start = match start::of_statefulset(self.new, self.target) {
            Ok(start) => start,
            // The chart goes over from variables to flags. etcd exits if it is given both, and the chart does not know
            // of our variables, so they are taken out.
            Err(_) if self.newly_shadowed().is_some() => {
                env::take_back(edit, &container, &live, &managed_of(self.new, self.target));
                return;
            }
            Err(_) => return,
        };
        if !self.knows_strategy() {
            return;
        }
        let live = live.get(INITIAL_CLUSTER).and_then(|entry| text(entry, &["value"]));
        // While the count stays, the peer that does not exist stays in the list once it is there: taken out by the next
        // write of an annotation, it would change the template and so make another revision.
        let stays = live.is_some_and(|live| live.ends_with(env::NO_START_WITHOUT_DATA)) && !self.changes_count();
        let made_from = self.changes_template || on_delete(self.new) || stays;
        if let Some(Ok(record)) = self.record() {
            manage(edit, &container, &self.target.initial_cluster(0..replicas(self.new)), made_from, &record, &start);
        }
    }

    /// The flag that this update gives beside its variable, if it was not so before.
    fn newly_shadowed(&self) -> Option<&'static str> {
        start::shadowed(self.new, self.target).filter(|_| start::shadowed(self.old, self.target).is_none())
    }

    /// Why the update is refused: it gives a setting both as a flag and as a variable, so etcd would exit at each
    /// start.
    #[must_use]
    pub fn never_starts(&self) -> Option<String> {
        self.newly_shadowed()?;
        let mut written = self.new.clone();
        json_patch::patch(&mut written, &self.patch()).ok()?;
        let flag = start::shadowed(&written, self.target)?;
        Some(format!(
            "this change of {} is refused: it gives etcd the flag --{flag} and the variable of that name. etcd ends where a setting is given twice, so no pod that is made again would start. Leave one of the two out.",
            self.target
        ))
    }

    /// The managed environment that is to be put back before an uninstall.
    fn leaving(&self) -> Option<Map<String, Value>> {
        serde_json::from_str(annotation(self.new, LEAVING)?).ok()
    }

    /// Writes the partition. Returns the person's or chart's own one if ours is in force afterwards, to be kept in the
    /// annotation.
    fn set_partition(&self, edit: &mut Edit, rollout: bool) -> Option<u32> {
        let kept = annotation(self.old, KEPT_PARTITION).and_then(|kept| kept.parse::<u32>().ok());
        if kept.is_none() && !self.manages() {
            return None;
        }
        // This request gives the StatefulSet back to its chart: its own partition again.
        if annotation(self.new, LEFT).is_some() && annotation(self.old, LEFT) != annotation(self.new, LEFT) {
            if let Some(own) = kept.filter(|_| rolls_by_partition(self.new)) {
                edit.set(&PARTITION, own.into());
            }
            return None;
        }
        if !rolls_by_partition(self.new) {
            // OnDelete needs no partition, and nothing is written into a strategy of a kind that is not known. The
            // annotation with the person's or chart's own partition stays while the pods differ from the template by
            // the managed environment alone: it is needed again if the strategy goes back to RollingUpdate.
            return kept.filter(|_| !self.changes_template);
        }
        let (before, asked) = (partition(self.old).unwrap_or(0), partition(self.new).unwrap_or(0));
        if self.changes_template {
            let own = if asked == before { kept.unwrap_or(before) } else { asked };
            // While it rolls without a number here, the controller makes the pod of a low ordinal from the template
            // before. The pod of a sick member, deleted to be cured, would come back as sick.
            if own != asked || partition(self.new).is_none() {
                edit.set(&PARTITION, own.into());
            }
            return None;
        }
        let changes = replicas(self.old) != replicas(self.new) || get(self.old, &TEMPLATE) != edit.get(&TEMPLATE);
        if kept.is_none() && (!changes || rollout) {
            return None;
        }
        let largest = replicas(self.old).max(replicas(self.new));
        let ours = if changes { largest } else { before.max(largest) };
        edit.set(&PARTITION, ours.into());
        // The API server may call the webhook twice for one request, the second time with what the first call made of
        // it.
        let kept_by_us = annotation(self.new, KEPT_PARTITION).and_then(|kept| kept.parse().ok());
        Some(match kept_by_us {
            Some(own) if asked == ours => own,
            _ if asked == before => kept.unwrap_or(before),
            _ => asked,
        })
    }
}

/// The path to the etcd container in the template.
fn etcd_container(object: &Value, target: &Target) -> Option<[String; 5]> {
    let index = container(get(object, &TEMPLATE[..])?.get("spec")?, &target.container)?.to_string();
    Some(["spec".into(), "template".into(), "spec".into(), "containers".into(), index])
}

/// Writes the managed environment into a template's etcd container.
///
/// `made_from`: whether the StatefulSet controller makes pods from this very template. It does for a new template,
/// under OnDelete and for a StatefulSet that was made again; after a scale it makes them from the revision before,
/// because of our partition. While no webhook runs, nobody changes such a pod, and if the template named just the
/// members, etcd would start empty under its live ID on a lost disk. So [`env::NO_START_WITHOUT_DATA`] is added.
///
/// It is not added while a member has never run (it has no data yet and must start), nor for images with start scripts
/// of their own, which read the list at every start and refuse by themselves (facts-etcd 7).
fn manage(edit: &mut Edit, container: &[&str], peers: &str, made_from: bool, record: &Record, start: &Start) {
    let all_ran = record.members.values().all(|member| member.state != State::Bootstrapping);
    if made_from && all_ran && !start.scripts {
        env::set(edit, container, INITIAL_CLUSTER, &env::without_start_on_no_data(peers));
    } else {
        env::set(edit, container, INITIAL_CLUSTER, peers);
    }
    if !start.state_does_harm {
        env::set(edit, container, INITIAL_CLUSTER_STATE, "existing");
    }
}

#[cfg(test)]
mod tests;
