//! The next step towards the desired count, from what was seen just now.
//!
//! One step is decided, applied, and everything is observed again: so being killed between any
//! two steps, or somebody else's change, is only another observation (design, "The next step").

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
    /// From `member add` to promotion; after it the join is taken back. A learner has the time that the database needs
    /// in addition.
    pub join: Duration,
    /// What is left until the run's deadline; zero: only undo what is half done.
    pub left: Duration,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Everything is as desired.
    Done,
    /// Nothing to do but look again; what is waited for.
    Wait(String),
    /// It cannot get on, and nothing is half done. What, why, and what to do.
    Fail(String),
    /// Make the volume that an ordinal's claim waits for.
    CreateVolume(Ordinal),
    /// Tie an ordinal's volume to the node its pod was scheduled to.
    PinVolume(Ordinal, String),
    /// Write the record; what was verified.
    Record(Record, String),
    /// `member add` of this ordinal.
    Add(Ordinal, JoinAs),
    /// Let the waiting pod start.
    Permit(Ordinal, String, Permission),
    /// Delete the joining pod, by UID, so that the ordinary one takes over.
    Swap(Ordinal, String),
    /// Write into a member's pod, by UID, that its etcd never again starts as new.
    Settle(Ordinal, String),
    /// `member promote`, to be sent to the leader.
    Promote(Ordinal, Id),
    /// `member remove` of a newcomer that did not make it; why.
    TakeBack(Ordinal, Id, String),
    /// Delete a pod, by UID, that cannot go on as it was made; why.
    Renew(Ordinal, String, String),
    /// Let the scheduler have a joining pod, by UID: its turn has come.
    Schedule(Ordinal, String),
    /// `move-leader` away from a member that is not wanted any more, to the member of this ordinal.
    MoveLeader(Ordinal, Id),
    /// `member remove` of a member that is not wanted any more.
    Remove(Ordinal, Id),
    /// Delete the pod, by UID, of an ordinal that is not wanted any more and has no member.
    RemovePod(Ordinal, String),
    /// Let a volume, whose claim was deleted and made again, be bound once more.
    FreeVolume(Ordinal),
    /// Delete the claim, by UID, and the volume made for it, of an ordinal that is not wanted any more.
    RemoveClaim(Ordinal, String),
}

impl Step {
    /// Whether it only cleans up behind a join that failed, or a removal: what a run past its
    /// deadline still does.
    #[must_use]
    pub fn is_undo(&self) -> bool {
        matches!(self, Self::TakeBack(..) | Self::Record(..) | Self::Renew(..) | Self::RemovePod(..))
    }
}

/// Decides.
#[must_use]
pub fn next_step(seen: &Observed, limits: &Limits) -> Step {
    decide(seen, limits).unwrap_or_else(|stop| stop)
}

/// The rules in their order. `Err(step)` is no failure: it means "stop here, this step comes first". A rule that has
/// nothing to do returns `Ok`, and `?` goes on to the next rule.
fn decide(seen: &Observed, limits: &Limits) -> Result<Step, Step> {
    // Stopped: nothing of etcd's is touched, the members are as they were when it comes back.
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
        // A copy of another cluster is what an earlier installation left behind. One of the same
        // ID may be, too: the IDs follow from the peer URLs, so a new bootstrap under the old
        // names has them again, but not that of a member that was added.
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
    // A gap is filled first where everybody is well: it may be all that is to stay.
    if gap(&listed).is_some_and(|gap| gap < seen.desired) && healthy(seen, record, &listed).is_ok() {
        newcomer(seen, limits, &agreed, &listed)?;
    }
    leave(seen, limits, record, &agreed, &listed)?;
    healthy(seen, record, &listed)?;
    newcomer(seen, limits, &agreed, &listed)?;
    settled(seen, record)
}

/// What only the volume's maker can do; at install it comes before any member answers.
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
        // Whose it is nobody knows before there is a record ([`crate::decide::bootstrap`]).
        if volume.stale && seen.record.is_some() {
            return Err(Step::FreeVolume(ordinal));
        }
        // A newcomer's whose turn has not come is not tied yet: it may be in another one's way.
        if !in_turn(seen, ordinal) {
            continue;
        }
        // Where nothing was written yet, the pod may still be wanted elsewhere: a node is chosen for
        // good only once the volume is mounted, and that by the pod that is to use it.
        let mounted = |pod: &&Pod| !pod.terminating && (pod.waits_in_admit || pod.started);
        let node = seen.pods.get(&ordinal).filter(mounted).and_then(|pod| pod.node.clone());
        if let Some(node) = node.filter(|_| !volume.pinned) {
            return Err(Step::PinVolume(ordinal, node));
        }
    }
    Ok(())
}

/// Whether an ordinal is recorded, or the next to join; without a record all start together.
fn in_turn(seen: &Observed, ordinal: Ordinal) -> bool {
    let Some(record) = &seen.record else { return true };
    let recorded = |ordinal: Ordinal| record.members.contains_key(&ordinal);
    recorded(ordinal) || (0..ordinal).all(recorded)
}

/// A pod that could not start, and that the template it was made from no longer speaks for, is made
/// again: the StatefulSet controller waits for such a pod to become Ready before it goes on, which
/// it never will (kubernetes/website, "Forced rollback"). Its etcd never ran, so nobody misses it.
fn repaired(seen: &Observed) -> Result<(), Step> {
    let stuck = seen.pods.iter().find(|(ordinal, pod)| {
        let stuck = pod.outdated && pod.never_started && !pod.terminating && pod.trouble.is_some();
        // One whose turn has not come is not stuck.
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

/// A pod whose member has served is never held. One is when the joiner is deleted after it was seen
/// to serve and before that is recorded: made again, it is a joiner still, and nobody permits it. Its
/// etcd did not run, so it is asked of nobody; its vote may be the one that a quorum lacks.
fn never_held(seen: &Observed) -> Result<(), Step> {
    let held = seen.pods.iter().find(|(ordinal, pod)| seen.is_held(**ordinal) && !pod.freed);
    let why = "its member has served, and it was made before that was recorded, so it would be held for ever";
    held.map_or(Ok(()), |(&ordinal, pod)| Err(Step::Renew(ordinal, pod.uid.clone(), why.into())))
}

/// Made again from the record as it is now, a member's pod is ordinary. One that is held all the same is so by somebody
/// else's hand, and deleting it once more would only take the member away once more.
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

/// No record yet: what answers now is written down. The first member list of a new cluster names
/// members that have not started; they are `bootstrapping`.
fn first_record(seen: &Observed, agreed: &Agreed, listed: &[(Ordinal, &ListedMember)]) -> Result<Step, Step> {
    let mut record = Record::new(agreed.cluster);
    for &(ordinal, member) in listed {
        let serves = seen.answer(ordinal).is_some_and(|answer| answer.member == member.id);
        // A bootstrapped member is never a learner: an unstarted learner was added by us.
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

/// Without a record nobody knows whose the missing ordinal was.
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

/// Brings the record up to the live list where the difference is ours, and stops where it is not.
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
            // Its image added it again on its own, before its pod was gone.
            (Some(ghost), State::Leaving) => return Err(Step::Remove(ordinal, ghost.id)),
            // Wanted again: what is left of its pod is renewed by the join.
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
        // A run that was killed between `member add` and the record: the newcomer never started.
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

/// A pod that bootstrapped still says so. With its disk lost, and nobody reachable to tell it
/// better, it would start as new under its old ID: never, once it has served.
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

/// The lowest ordinal without a member though a higher one has one.
fn gap(listed: &[(Ordinal, &ListedMember)]) -> Option<Ordinal> {
    (0..).zip(listed).find(|(expected, (ordinal, _))| expected != ordinal).map(|(expected, _)| expected)
}

/// Before anything is added, everybody who is there must be seen healthy.
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

/// The list is as desired; so must the pods be.
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
    // Between two members of a roll-out everybody is Ready for a moment, and then one is not.
    if let Some(rollout) = &seen.rollout {
        return Ok(Step::Wait(format!("the roll-out of the pod template to end: {rollout}")));
    }
    let mut spare = seen.claims.iter().filter(|(ordinal, _)| {
        // A pod that will not end may still have it mounted.
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
