//! The next step towards the desired count, from what was seen just now.
//!
//! One step is decided and applied, and then everything is observed again. So a run that was killed between two steps,
//! and a change by somebody else, need no code of their own: each is just another observation
//! (docs/decisions/0011-the-order-of-steps.md).

use std::time::Duration;

use crate::decide::drift;
use crate::know::names::{ADMIT, Ordinal, Target};
use crate::know::observed::{Agreed, ListedMember, Observed, Pod};
use crate::know::record::{Id, Permission, Record, State};
use crate::know::version::JoinAs;
use crate::know::volume::does_not_fit;

mod ending;
mod joining;
mod leaving;

use joining::{join_in_progress, newcomer};
use leaving::{leave, pod_gone};

pub use ending::{did_not_join, out_of_time};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From `member add` to promotion. After that time the join is taken back. A learner has more time, by the size of
    /// the database.
    pub join: Duration,
    /// Time until the run's deadline. Zero: the deadline has passed, and the run only undoes what is half done.
    pub left: Duration,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The members are as wanted.
    Done,
    /// Look again later; what is waited for.
    Wait(String),
    /// End the run with this error: what, why, and what to do. Nothing is half done.
    Fail(String),
    /// Make the PersistentVolume that an ordinal's claim waits for.
    CreateVolume(Ordinal),
    /// Tie an ordinal's volume to the node of its pod.
    PinVolume(Ordinal, String),
    /// Write this record; what was verified, for the log.
    Record(Record, String),
    /// `member add` of this ordinal.
    Add(Ordinal, JoinAs),
    /// Permit the waiting pod, by UID, to start etcd.
    Permit(Ordinal, String, Permission),
    /// Delete the joining pod, by UID, so that the ordinary pod, without our init container, takes over on its data.
    Swap(Ordinal, String),
    /// Write into a member's pod, by UID, that its etcd never again starts as a new cluster.
    Settle(Ordinal, String),
    /// `member promote`, to be sent to the leader.
    Promote(Ordinal, Id),
    /// `member remove` of a newcomer whose join is taken back; why.
    TakeBack(Ordinal, Id, String),
    /// Delete a pod, by UID, so that the controller makes it again; why.
    Renew(Ordinal, String, String),
    /// Remove the scheduling gate from a joining pod, by UID: its turn has come.
    Schedule(Ordinal, String),
    /// `move-leader` to the member of this ordinal, from the member of this ID, which is to leave.
    MoveLeader(Ordinal, Id),
    /// `member remove` of a member that is not wanted any more.
    Remove(Ordinal, Id),
    /// Delete the pod, by UID, of an ordinal that is not wanted any more and has no member.
    RemovePod(Ordinal, String),
    /// Clear the earlier claim's UID from a volume, so that the claim that was made again can be bound to it.
    FreeVolume(Ordinal),
    /// Delete the claim, by UID, of an ordinal that is not wanted any more, and the volume made for it.
    RemoveClaim(Ordinal, String),
}

impl Step {
    /// Whether the step only cleans up behind a failed join or a removal. Such a step is still done when the deadline
    /// has passed.
    #[must_use]
    pub fn is_undo(&self) -> bool {
        matches!(self, Self::TakeBack(..) | Self::Record(..) | Self::Renew(..) | Self::RemovePod(..))
    }
}

/// The next step. Pure: the same observation gives the same step.
#[must_use]
pub fn next_step(seen: &Observed, limits: &Limits) -> Step {
    decide(seen, limits).unwrap_or_else(|stop| stop)
}

/// The rules in their order. `Err(step)` is no failure: it means "stop here, this step comes first". A rule that has
/// nothing to do returns `Ok`, and `?` goes on to the next rule.
fn decide(seen: &Observed, limits: &Limits) -> Result<Step, Step> {
    // Stopped on purpose: no member is removed, and the same members start when the count is set again.
    if seen.desired == 0 {
        return Ok(Step::Done);
    }
    volumes(seen, limits)?;
    repaired(seen)?;
    never_held(seen)?;
    if let Some(drift) = seen.record.as_ref().and_then(|record| drift::split(&seen.target, record, &seen.answers)) {
        return Err(Step::Fail(drift.sentence()));
    }
    let agreed = agreed(seen).or_else(|wait| held_again(seen).and(Err(wait)))?;
    let listed = agreed
        .by_ordinal(&seen.target)
        .map_err(|member| Step::Fail(drift::stranger(&seen.target, &seen.answers, &agreed, member).sentence()))?;
    let Some(record) = &seen.record else {
        // There is no record. The copy in the Lease is taken if it is of this cluster: the same cluster ID, and every
        // settled member in the list. The cluster ID alone proves nothing: IDs follow from the peer URLs, so a new
        // bootstrap under the old names has the same ones, but not the ID of a member that was added later.
        let same = |copy: &Record| {
            let mut settled = copy.members.values().filter(|recorded| recorded.state.is_settled());
            copy.cluster == agreed.cluster
                && settled.all(|recorded| agreed.members.iter().any(|member| member.id == recorded.id))
        };
        let Some(copy) = seen.copy.clone().filter(same) else {
            return first_record(seen, &agreed, &listed);
        };
        return Ok(Step::Record(copy, format!("cluster {} is known from before", agreed.cluster)));
    };
    if record.cluster != agreed.cluster {
        return Err(Step::Fail(drift::another_cluster(&seen.target, record, &agreed).sentence()));
    }
    reconcile(seen, record, &listed)?;
    started_for_good(seen, record)?;
    join_in_progress(seen, limits, record, &agreed, &listed)?;
    held_again(seen)?;
    // If every member is healthy, an ordinal without a member below others (a gap) joins before the higher ones leave:
    // with a lowered count it may be the only one that stays.
    if gap(&listed).is_some_and(|gap| gap < seen.desired) && healthy(seen, record, &listed).is_ok() {
        newcomer(seen, limits, &agreed, &listed)?;
    }
    leave(seen, limits, record, &agreed, &listed)?;
    healthy(seen, record, &listed)?;
    newcomer(seen, limits, &agreed, &listed)?;
    settled(seen, record)
}

/// Makes, frees and ties the volumes of classes without a provisioner. At an install this comes before any member
/// answers.
fn volumes(seen: &Observed, limits: &Limits) -> Result<(), Step> {
    if limits.left.is_zero() {
        return Ok(());
    }
    for ordinal in 0..seen.desired {
        let Some(volume) = seen.volumes.get(&ordinal).filter(|volume| volume.ours && volume.claimed) else {
            continue;
        };
        let pod = seen.target.pod(ordinal);
        if let Some(misfit) = volume.misfit.as_ref().filter(|_| !volume.bound) {
            return Err(Step::Fail(does_not_fit(&pod, misfit)));
        }
        if !volume.exists && !volume.bound {
            return Err(Step::CreateVolume(ordinal));
        }
        // Without a record, whose data is on it is decided first ([`crate::decide::bootstrap`]).
        if volume.stale && seen.record.is_some() {
            return Err(Step::FreeVolume(ordinal));
        }
        // The volume of a newcomer whose turn has not come is not tied yet: its pod may have to make room for the one
        // before it.
        if !in_turn(seen, ordinal) {
            continue;
        }
        // Before the volume is mounted by the pod that is to use it, nothing is on it and the pod may still be moved.
        // Only then is the node chosen for good.
        let mounted = |pod: &&Pod| !pod.terminating && (pod.waits_in_admit || pod.started);
        let node = seen.pods.get(&ordinal).filter(mounted).and_then(|pod| pod.node.clone());
        if let Some(node) = node.filter(|_| !volume.pinned) {
            return Err(Step::PinVolume(ordinal, node));
        }
    }
    Ok(())
}

/// Whether an ordinal is recorded, or is the next to join. Without a record all members start together, so all are.
fn in_turn(seen: &Observed, ordinal: Ordinal) -> bool {
    let Some(record) = &seen.record else { return true };
    let recorded = |ordinal: Ordinal| record.members.contains_key(&ordinal);
    recorded(ordinal) || (0..ordinal).all(recorded)
}

/// Makes a pod again that cannot start and whose template was changed since. The StatefulSet controller waits for such
/// a pod to become Ready before it goes on, which it never will (kubernetes/website, "Forced rollback"). Its etcd never
/// ran, so nothing is lost with it.
fn repaired(seen: &Observed) -> Result<(), Step> {
    let stuck = seen.pods.iter().find(|(ordinal, pod)| {
        let stuck = pod.outdated && pod.never_started && !pod.terminating && pod.trouble.is_some();
        // A pod with our scheduling gate is not stuck: its turn has not come.
        **ordinal < seen.desired && stuck && !pod.gated
    });
    match stuck {
        Some((&ordinal, pod)) => {
            let why = format!("its template was changed since and it never started{}", trouble(pod));
            Err(Step::Renew(ordinal, pod.uid.clone(), why))
        }
        None => Ok(()),
    }
}

/// Makes a pod again that is held although its member has served ([`Observed::is_held`]). That happens if the joining
/// pod is deleted after it was seen to serve and before the record says so: the pod that is made again is a joiner too,
/// and nobody gives it a permission. Nothing is asked of the members first: its vote may be the one that the quorum
/// lacks.
fn never_held(seen: &Observed) -> Result<(), Step> {
    let held = seen.pods.iter().find(|(ordinal, pod)| seen.is_held(**ordinal) && !pod.freed);
    let why = "its member has served, and it was made before that was recorded, so it would be held for ever";
    held.map_or(Ok(()), |(&ordinal, pod)| Err(Step::Renew(ordinal, pod.uid.clone(), why.into())))
}

/// Fails if a pod is held a second time. From the record as it is now the webhook makes a member's pod an ordinary one,
/// so somebody else has put the init container there, and deleting the pod again would only take the member away again.
fn held_again(seen: &Observed) -> Result<(), Step> {
    let Some((&ordinal, _)) = seen.pods.iter().find(|(ordinal, pod)| seen.is_held(**ordinal) && pod.freed) else {
        return Ok(());
    };
    let Target { namespace, statefulset, .. } = &seen.target;
    let pod = seen.target.pod(ordinal);
    Err(Step::Fail(format!(
        "{pod} waits in an init container {ADMIT} though its member has served. It was deleted once for that, and was made again with the same container, so it is left alone now: etcd-scaler puts that container only into the pods of ordinals that are no members yet, so the template of StatefulSet {statefulset} has it, or another webhook. Look for it (kubectl -n {namespace} get statefulset {statefulset} -o yaml) and take it out; then upgrade again"
    )))
}

fn agreed(seen: &Observed) -> Result<Agreed, Step> {
    seen.agreed().map_err(|why| {
        let stuck: Vec<String> = seen
            .pods
            .iter()
            .filter_map(|(&o, pod)| pod.trouble.as_ref().map(|t| format!("{}: {}", seen.target.pod(o), t.what)))
            .collect();
        let pods = if stuck.is_empty() { String::new() } else { format!("; {}", stuck.join("; ")) };
        let not_made = ending::not_made(seen).unwrap_or_default();
        Step::Wait(format!("a quorum of etcd members to answer: {why}{pods}{not_made}"))
    })
}

/// Writes the first record, from the member list as it is. In a new cluster that list names members that have not
/// started yet: they are recorded as `bootstrapping`.
fn first_record(seen: &Observed, agreed: &Agreed, listed: &[(Ordinal, &ListedMember)]) -> Result<Step, Step> {
    let mut record = Record::new(agreed.cluster);
    for &(ordinal, member) in listed {
        let serves = seen.answer(ordinal).is_some_and(|answer| answer.member == member.id);
        // A member of the first list is never a learner, so an unstarted learner was added later: it is joining.
        let state = match (serves || member.started(), member.learner) {
            (true, _) => State::Member,
            (false, true) => State::Joining,
            (false, false) => State::Bootstrapping,
        };
        record = record.with(ordinal, member.id, state);
    }
    contiguous(seen, listed)?;
    let what = format!("cluster {} with {} members is verified", agreed.cluster, listed.len());
    Ok(Step::Record(record, what))
}

/// Fails if an ordinal below a member has none: without a record nobody knows why it is missing.
fn contiguous(seen: &Observed, listed: &[(Ordinal, &ListedMember)]) -> Result<(), Step> {
    for (expected, &(ordinal, member)) in (0..).zip(listed) {
        if ordinal != expected {
            return Err(Step::Fail(format!(
                "etcd's member list has {} ({}) but no member at {}, and there is no record that tells why. Nothing was changed. If that is how it is meant, have it recorded, and the missing ordinal joins: {}",
                seen.target.pod(ordinal),
                member.id,
                seen.target.pod(expected),
                drift::command(&seen.target, "reconcile")
            )));
        }
    }
    Ok(())
}

/// Where record and member list differ because of a change of ours, corrects the record. Where somebody else made the
/// difference, fails.
fn reconcile(seen: &Observed, record: &Record, listed: &[(Ordinal, &ListedMember)]) -> Result<(), Step> {
    let live = |ordinal: Ordinal| listed.iter().find(|(o, _)| *o == ordinal).map(|(_, member)| *member);
    for (&ordinal, recorded) in &record.members {
        let pod = seen.target.pod(ordinal);
        let wanted = ordinal < seen.desired;
        match (live(ordinal), recorded.state) {
            (Some(member), State::Leaving) if member.id == recorded.id && wanted => {
                let record = record.clone().with(ordinal, member.id, State::Member);
                return Err(Step::Record(record, format!("{pod} is wanted again and stays member {}", member.id)));
            }
            (Some(member), _) if member.id == recorded.id => {}
            (_, State::Joining) => {
                return Err(Step::Record(record.clone().without(ordinal), format!("{pod} is not joining any more")));
            }
            // It was removed, and its image's start script has added it again before its pod was gone (Bitnami).
            (Some(ghost), State::Leaving) => return Err(Step::Remove(ordinal, ghost.id)),
            // It is wanted again. If its old pod is still there, the join has it made again.
            (None, State::Leaving) if wanted => {
                let what = format!("{pod} (member {}) has left etcd and is to join anew", recorded.id);
                return Err(Step::Record(record.clone().without(ordinal), what));
            }
            (None, State::Leaving | State::Member) if !wanted => {
                pod_gone(seen, ordinal)?;
                let what = format!("{pod} (member {}) has left etcd and its pod is gone", recorded.id);
                return Err(Step::Record(record.clone().without(ordinal), what));
            }
            (_, State::Member | State::Bootstrapping | State::Leaving) => return Err(by_hand(seen, record, listed)),
        }
    }
    for &(ordinal, member) in listed {
        if record.members.contains_key(&ordinal) {
            continue;
        }
        let pod = seen.target.pod(ordinal);
        // An earlier run was killed between `member add` and the record.
        if !member.started() || member.learner {
            let record = record.clone().with(ordinal, member.id, State::Joining);
            return Err(Step::Record(record, format!("{pod} is joining as member {}", member.id)));
        }
        return Err(by_hand(seen, record, listed));
    }
    Ok(())
}

fn by_hand(seen: &Observed, record: &Record, listed: &[(Ordinal, &ListedMember)]) -> Step {
    let drift = drift::changed(&seen.target, record, listed);
    Step::Fail(drift.map_or_else(|| "the record and etcd's member list differ".into(), |drift| drift.sentence()))
}

/// The pod of a member of the first list still has the environment of a new cluster. If its disk were lost while it
/// reaches no other member, its etcd would start as new, under its old ID. Once the member has served, the pod's
/// annotations are written so that it does not.
fn started_for_good(seen: &Observed, record: &Record) -> Result<(), Step> {
    let unsettled = seen
        .pods
        .iter()
        .find(|(ordinal, pod)| pod.unsettled && !pod.terminating && record.state(**ordinal) == Some(State::Member));
    unsettled.map_or(Ok(()), |(&ordinal, pod)| Err(Step::Settle(ordinal, pod.uid.clone())))
}

fn trouble(pod: &Pod) -> String {
    pod.trouble.as_ref().map_or_else(String::new, |trouble| format!(" ({})", trouble.what))
}

/// The lowest ordinal without a member, if a higher one has a member.
fn gap(listed: &[(Ordinal, &ListedMember)]) -> Option<Ordinal> {
    (0..).zip(listed).find(|(expected, (ordinal, _))| expected != ordinal).map(|(expected, _)| expected)
}

/// Waits until every listed member is seen healthy; nobody is added before.
fn healthy(seen: &Observed, record: &Record, listed: &[(Ordinal, &ListedMember)]) -> Result<(), Step> {
    everybody_answers(seen, listed, None)?;
    let waiting = record.members.iter().find(|(_, recorded)| recorded.state == State::Bootstrapping);
    if let Some((&ordinal, _)) = waiting {
        return Err(Step::Wait(format!("{} to answer for the first time", seen.target.pod(ordinal))));
    }
    Ok(())
}

fn everybody_answers(
    seen: &Observed,
    listed: &[(Ordinal, &ListedMember)],
    except: Option<Ordinal>,
) -> Result<(), Step> {
    for &(ordinal, member) in listed.iter().filter(|(ordinal, _)| Some(*ordinal) != except) {
        if let Err(state) = seen.serves(ordinal, member) {
            let pod = seen.target.pod(ordinal);
            let trouble = seen.pods.get(&ordinal).map(trouble).unwrap_or_default();
            return Err(Step::Wait(format!(
                "every member to be healthy: {pod} {state}{trouble}; repair it (kubectl describe pod {pod}), then upgrade again"
            )));
        }
    }
    Ok(())
}

/// The member list is as wanted. Waits until the pods are too, and deletes claims that are to go.
fn settled(seen: &Observed, record: &Record) -> Result<Step, Step> {
    for ordinal in 0..seen.desired {
        let pod = seen.target.pod(ordinal);
        if record.state(ordinal) != Some(State::Member) {
            return Ok(Step::Wait(format!("{pod} to answer under its own ID")));
        }
        match seen.pods.get(&ordinal) {
            Some(pod) if pod.ready && !pod.terminating => {}
            Some(seen_pod) => {
                return Ok(Step::Wait(format!("pod {pod} to be Ready{}", trouble(seen_pod))));
            }
            None => {
                return Ok(Step::Wait(format!("the StatefulSet controller to make pod {pod}")));
            }
        }
    }
    for (&ordinal, _) in seen.pods.range(seen.desired..) {
        if let Err(step) = pod_gone(seen, ordinal) {
            return Ok(step);
        }
    }
    // All pods are Ready. In a roll-out that is also so between two pods, so its end is waited for.
    if let Some(rollout) = &seen.rollout {
        return Ok(Step::Wait(format!("the roll-out of the pod template to end: {rollout}")));
    }
    let mut spare = seen.claims.iter().filter(|(ordinal, _)| {
        // As long as there is a pod of the ordinal, it may have the volume mounted.
        **ordinal >= seen.desired && !seen.pods.contains_key(*ordinal)
    });
    if let Some((&ordinal, uid)) = spare.next_back() {
        return Ok(Step::RemoveClaim(ordinal, uid.clone()));
    }
    Ok(Step::Done)
}

#[cfg(test)]
mod explored;
#[cfg(test)]
mod tests;
