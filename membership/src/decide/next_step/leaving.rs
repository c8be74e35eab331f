//! How a member leaves that is not wanted any more: it is removed from etcd first, then its pod is deleted.

use super::{Limits, Step, everybody_answers};
use crate::know::names::Ordinal;
use crate::know::observed::{Agreed, ListedMember, Observed};
use crate::know::quorum::quorum;
use crate::know::record::{Record, State};

/// Waits until the pod of an ordinal that is not wanted, and has no member, is gone. A pod on a dead node never ends by
/// itself, so one that is overdue is not waited for: its member is out of etcd, and it has no vote.
pub(super) fn pod_gone(seen: &Observed, ordinal: Ordinal) -> Result<(), Step> {
    match seen.pods.get(&ordinal) {
        Some(pod) if !pod.terminating => Err(Step::RemovePod(ordinal, pod.uid.clone())),
        Some(pod) if !pod.overdue => Err(Step::Wait(format!("pod {} to end", seen.target.pod(ordinal)))),
        Some(_) | None => Ok(()),
    }
}

/// Takes the highest member that is not wanted a step further, until it is out of the member list. Members that leave
/// may be sick. Those that stay must be healthy, because they are the cluster afterwards.
pub(super) fn leave(
    seen: &Observed,
    limits: &Limits,
    record: &Record,
    agreed: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
) -> Result<(), Step> {
    let Some(&(ordinal, member)) = listed.last().filter(|(ordinal, _)| *ordinal >= seen.desired) else {
        return Ok(());
    };
    let pod = seen.target.pod(ordinal);
    let staying: Vec<_> = listed.iter().filter(|(ordinal, _)| *ordinal < seen.desired).copied().collect();
    everybody_answers(seen, &staying, None)?;
    let rest: Vec<_> = listed.iter().filter(|(other, member)| *other != ordinal && !member.learner).copied().collect();
    let serving = rest.iter().filter(|(ordinal, member)| seen.serves(*ordinal, member).is_ok()).count();
    let needed = quorum(rest.len());
    if serving < needed {
        return Err(Step::Wait(format!(
            "{needed} of the {} members beside {pod} to be healthy, {serving} are: repair one of them, or go back",
            rest.len()
        )));
    }
    if limits.left.is_zero() {
        return Err(Step::Fail(format!(
            "the deadline passed before {pod} was removed from etcd: nothing was changed for it. Raise hook.deadlineSeconds (and helm --timeout above it), then upgrade again"
        )));
    }
    // The record says `leaving` before the member is removed: if this run is killed in between, the next one knows that
    // the removal was ours.
    if record.state(ordinal) != Some(State::Leaving) {
        let record = record.clone().with(ordinal, member.id, State::Leaving);
        return Err(Step::Record(record, format!("{pod} is to leave, {} replicas are wanted", seen.desired)));
    }
    let Some(leader) = agreed.leader else {
        return Err(Step::Wait(format!("a leader, to remove {pod}")));
    };
    if leader == member.id {
        let heir = staying.iter().max_by_key(|(ordinal, _)| {
            let applied = seen.answer(*ordinal).map_or(0, |answer| answer.applied_index);
            (applied, std::cmp::Reverse(*ordinal))
        });
        if let Some(&(heir, _)) = heir {
            return Err(Step::MoveLeader(heir, member.id));
        }
    }
    Err(Step::Remove(ordinal, member.id))
}
