//! Replaces a member that is lost: its disk is empty, its node gone for good, its claim lost, or its data not what the
//! others have. It is removed from etcd, its pod and claim are deleted, and its ordinal joins anew.
//!
//! As in [`crate::decide::next_step`], one step is decided from what was seen just now, so a run that was killed can
//! simply be run again. After the last step comes an ordinary join, which the scaling run does.

use crate::decide::drift;
use crate::know::names::Ordinal;
use crate::know::observed::{Agreed, ListedMember, Observed, Pod};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};

/// What a person asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// The ordinal of the member.
    pub ordinal: Ordinal,
    /// Also if the member serves, because its data is known to be wrong.
    pub even_if_it_serves: bool,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// `move-leader` to the member of this ordinal, from the member of this ID, which is replaced.
    MoveLeader(Ordinal, Id),
    /// `member remove`.
    Remove(Id),
    /// Write the record without it.
    Record(Record),
    /// Delete its claim and the volume made for it; both end when the pod does.
    RemoveClaim,
    /// Delete its pod, by UID.
    RemovePod {
        /// The pod's UID.
        uid: String,
        /// Without waiting for its kubelet: the node does not answer.
        forced: bool,
    },
    /// Look again; what is waited for.
    Wait(String),
    /// Nothing of the member is left, in etcd or outside: the ordinal may join.
    Out,
}

impl Step {
    /// Whether the step takes the member out of etcd or prepares that, so that nothing of it is lost before.
    #[must_use]
    pub fn takes_out(&self) -> bool {
        matches!(self, Self::MoveLeader(..) | Self::Remove(_))
    }
}

/// What is left of the member outside etcd.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Left {
    /// Its claim has a volume and is not being deleted.
    pub claim: bool,
    /// Something of its storage is left: a claim with a volume, a claim that is being deleted, or the volume made for
    /// it.
    pub storage: bool,
    /// Its pod's node does not answer (no such node, or not Ready).
    pub node_is_away: bool,
}

/// The next step.
///
/// # Errors
/// Why it is refused, with the way out; nothing is half done by that.
pub fn next(seen: &Observed, asked: Asked, left: &Left) -> Result<Step, String> {
    let Asked { ordinal, .. } = asked;
    let (target, pod) = (&seen.target, seen.target.pod(ordinal));
    let refuse = |found: &str, why: &str, way_out: &str| {
        Err(format!("replacing {pod} is refused: {found}. {why} {way_out} Nothing was changed."))
    };
    if ordinal >= seen.desired {
        return refuse(
            &format!("{} replicas are wanted, so {target} has no {pod}", seen.desired),
            "Replaced is who is to stay.",
            "To have another count, scale.",
        );
    }
    let Some(record) = &seen.record else {
        return refuse(
            "the cluster has not been verified yet (no record)",
            "Who its members are is not known.",
            "Wait until a quorum of its members answers; the record is written then.",
        );
    };
    if let Some(rollout) = &seen.rollout {
        return refuse(
            &format!("a roll-out is under way ({rollout})"),
            "It restarts members while one is away.",
            &format!(
                "Wait for it (kubectl rollout status -n {} statefulset/{}).",
                target.namespace, target.statefulset
            ),
        );
    }
    if let Some(drift) = drift::split(target, record, &seen.answers) {
        return Err(drift.sentence());
    }
    let live = match seen.agreed() {
        Ok(live) => live,
        Err(why) => {
            return refuse(
                &format!("etcd has no quorum, or it was not heard ({why})"),
                "Without one no member can leave or join.",
                "Bring back as many members as a majority needs; if they are lost for good, restore from a snapshot (docs/restore.md).",
            );
        }
    };
    let listed = match live.by_ordinal(target) {
        Ok(listed) => listed,
        Err(member) => return Err(drift::stranger(target, &seen.answers, &live, member).sentence()),
    };
    if live.cluster != record.cluster {
        return Err(drift::another_cluster(target, record, &live).sentence());
    }
    others_are_as_recorded(seen, record, &listed, ordinal)?;
    let recorded = record.members.get(&ordinal);
    let member = listed.iter().find(|(at, _)| *at == ordinal).map(|(_, member)| *member);
    match (member, recorded) {
        (Some(member), Some(recorded)) if member.id == recorded.id && recorded.state == State::Member => {
            leaves(seen, asked, &live, &listed, member)
        }
        (Some(member), _) => refuse(
            &format!("member {} at {pod} is not a verified one: it joins, or was changed by hand", member.id),
            "What is on its way in or out is taken to its end first.",
            "Wait for the scale to end (hook status), or see hook reconcile.",
        ),
        (None, Some(_)) => Ok(Step::Record(record.clone().without(ordinal))),
        (None, None) => Ok(clears(seen, ordinal, left)),
    }
}

/// A replacement changes one member: the others must be settled, and those of the record.
fn others_are_as_recorded(
    seen: &Observed,
    record: &Record,
    listed: &[(Ordinal, &ListedMember)],
    ordinal: Ordinal,
) -> Result<(), String> {
    let of_others = |at: Ordinal| at != ordinal;
    let recorded = record.members.iter().filter(|(at, _)| of_others(**at));
    if let Some((at, it)) = recorded.clone().find(|(_, it)| it.state != State::Member) {
        let does = if it.state == State::Leaving { "leaving" } else { "joining" };
        return Err(format!(
            "replacing {} is refused: {} is {does} etcd (member {}). One member changes at a time. Wait until that has ended (hook status). Nothing was changed.",
            seen.target.pod(ordinal),
            seen.target.pod(*at),
            it.id
        ));
    }
    let same = recorded
        .map(|(&at, it)| (at, it.id))
        .eq(listed.iter().filter(|(at, _)| of_others(*at)).map(|(at, member)| (*at, member.id)));
    if same {
        return Ok(());
    }
    match drift::changed(&seen.target, record, listed) {
        Some(drift) => Err(drift.sentence()),
        None => Err("the record and etcd's member list differ; wait until the run that is under way has ended".into()),
    }
}

/// Takes the member out of etcd, if every other member is healthy.
fn leaves(
    seen: &Observed,
    asked: Asked,
    live: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
    member: &ListedMember,
) -> Result<Step, String> {
    let pod = seen.target.pod(asked.ordinal);
    let ready = || seen.pods.get(&asked.ordinal).is_some_and(|pod| pod.ready);
    match seen.serves(asked.ordinal, member) {
        _ if asked.even_if_it_serves => {}
        Ok(()) => {
            return Err(format!(
                "replacing {pod} is refused: its member {} serves. Taken out it would be missed until it has joined again. If its data is known to be wrong (hook validate), say so: --even-if-it-serves. Nothing was changed.",
                member.id
            ));
        }
        Err(state) if ready() => {
            return Err(format!(
                "replacing {pod} is refused: its member {} {state}, but the pod is Ready: its node says that it serves. One that is only late or cut off from here is not lost, and taken out it would be missed. Wait until it answers or the pod is not Ready; if it is known to be lost, say so: --even-if-it-serves. Nothing was changed.",
                member.id
            ));
        }
        Err(_) => {}
    }
    let rest: Vec<_> = listed.iter().filter(|(at, it)| *at != asked.ordinal && !it.learner).collect();
    let well = rest.iter().filter(|(at, it)| seen.serves(*at, it).is_ok()).count();
    if well < rest.len() || rest.is_empty() {
        let needed = if rest.is_empty() {
            "it is the only member: there is nobody to join".to_owned()
        } else {
            let sick = rest.iter().filter(|(at, it)| seen.serves(*at, it).is_err()).map(|(at, _)| seen.target.pod(*at));
            format!(
                "{} of the {} other members not healthy ({}), and {} of them must be for a quorum",
                rest.len() - well,
                rest.len(),
                sick.collect::<Vec<_>>().join(", "),
                quorum(rest.len())
            )
        };
        return Err(format!(
            "replacing {pod} is refused: {needed}. A newcomer is added only while everybody else is well. Repair those first; what is lost for good with its quorum comes back from a snapshot (docs/restore.md). Nothing was changed."
        ));
    }
    if live.leader == Some(member.id) {
        let heir = rest.iter().max_by_key(|(at, _)| seen.answer(*at).map_or(0, |answer| answer.applied_index));
        if let Some((heir, _)) = heir {
            return Ok(Step::MoveLeader(*heir, member.id));
        }
    }
    Ok(Step::Remove(member.id))
}

/// Deletes what the member had: the claim first, so that the pod that is made next waits for a new one.
fn clears(seen: &Observed, ordinal: Ordinal, left: &Left) -> Step {
    if left.claim {
        return Step::RemoveClaim;
    }
    let pod = seen.target.pod(ordinal);
    match seen.pods.get(&ordinal) {
        // A joining pod, made after the old claim was gone.
        Some(Pod { joiner: true, permitted: None, terminating: false, .. }) if !left.storage => Step::Out,
        Some(Pod { terminating: false, uid, .. }) => Step::RemovePod { uid: uid.clone(), forced: false },
        // Its member is removed from etcd, so whatever still runs on that node has no vote.
        Some(Pod { overdue: true, uid, .. }) if left.node_is_away => Step::RemovePod { uid: uid.clone(), forced: true },
        Some(_) => Step::Wait(format!("pod {pod} to end")),
        None if left.storage => Step::Wait(format!("the claim and the volume of {pod} to end")),
        None => Step::Out,
    }
}

/// The plan, in a sentence.
#[must_use]
pub fn plan(seen: &Observed, ordinal: Ordinal, first: &Step) -> String {
    let pod = seen.target.pod(ordinal);
    let listed = seen.record.as_ref().and_then(|record| record.members.get(&ordinal));
    let leaves = match (first, listed) {
        (Step::MoveLeader(heir, _), Some(it)) => {
            format!("{} leads instead of it, member {} is removed from etcd, ", seen.target.pod(*heir), it.id)
        }
        (Step::Remove(id), _) => format!("member {id} is removed from etcd, "),
        _ => "its member is out of etcd already, ".to_owned(),
    };
    format!(
        "{pod}: {leaves}its pod is deleted, its claim and the volume made for it are deleted, and it joins anew, empty, as another member; the other members are left alone"
    )
}

#[cfg(test)]
mod tests;
