//! How a run ends that did not succeed: the sentence, with the way out.

use crate::know::names::Ordinal;
use crate::know::observed::Observed;
use crate::know::record::State;

/// The sentence for a deadline that has passed; `waited_for`: what the run was waiting for.
#[must_use]
pub fn out_of_time(seen: &Observed, waited_for: Option<&str>) -> String {
    let longer = "raise hook.deadlineSeconds (and helm --timeout above it)";
    let Some(what) = waited_for else {
        return format!("the deadline passed; {longer}, then upgrade again");
    };
    // Some waits are for a person: what is waited for says already what to do.
    if what.contains("upgrade again") {
        return format!("the deadline passed while waiting for {what}");
    }
    let namespace = &seen.target.namespace;
    // The count to go back to. If no ordinal is missing in the record, it is the record's count. If one is missing (a
    // gap), that count would wait for the missing member as well. Then only a wanted count below the gap has a way
    // back: up to the gap, which brings back the pods of members that etcd still lists.
    let record = seen.record.as_ref().or(seen.copy.as_ref());
    let back = record.map_or(0, |record| match record.gap() {
        None => record.count(),
        Some(gap) if gap > seen.desired => gap,
        Some(_) => 0,
    });
    let back = match back {
        0 => String::new(),
        same if same == seen.desired => String::new(),
        back => format!(", or go back with --set etcd.replicaCount={back}"),
    };
    format!(
        "the deadline passed while waiting for {what}. See what keeps it (kubectl describe pods -n {namespace}) and repair that, or {longer} if it only takes longer; then upgrade again{back}"
    )
}

/// The sentence about members whose pods are gone and are not made again, because fewer replicas are wanted; with the
/// way back to them.
pub(super) fn not_made(seen: &Observed) -> Option<String> {
    let Observed { target, desired, .. } = seen;
    let record = seen.record.as_ref()?;
    let above = record.members.iter().filter(|(ordinal, it)| *ordinal >= desired && it.state == State::Member);
    let gone: Vec<String> =
        above.filter(|(ordinal, _)| !seen.pods.contains_key(ordinal)).map(|(&o, _)| target.pod(o)).collect();
    let count = record.count();
    (!gone.is_empty()).then(|| {
        format!(
            "; {} voted and had no chance to leave, and nobody makes such a pod again while {desired} replicas are wanted. Going back to {count} does, and nothing is lost: kubectl scale -n {} statefulset/{} --replicas={count}",
            gone.join(", "), target.namespace, target.statefulset
        )
    })
}

/// The sentence for a join that was taken back; `why`.
#[must_use]
pub fn did_not_join(seen: &Observed, ordinal: Ordinal, why: &str) -> String {
    let pod = seen.target.pod(ordinal);
    let back = or_go_back(seen, ordinal);
    format!(
        "{pod} did not join: {why}. It was removed from etcd again, the member list is as before. Repair it (kubectl describe pod {pod}) and upgrade again{back}"
    )
}

/// The other way out where a join fails: back to the count before it. Empty for a gap below other members, where that
/// count is no way out.
pub(super) fn or_go_back(seen: &Observed, ordinal: Ordinal) -> String {
    if seen.record.iter().any(|record| record.count() > ordinal) {
        return String::new();
    }
    format!(", or go back with --set etcd.replicaCount={ordinal}")
}
