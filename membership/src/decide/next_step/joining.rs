//! How a newcomer joins: its pod waits, `member add`, its etcd starts, its ordinary pod takes over, it is promoted. And
//! how a join that fails is taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use super::ending::or_go_back;
use super::{Limits, Step, everybody_answers, gap, trouble};
use crate::decide::guard::condition::{Way, concerns};
use crate::know::names::{MOST_MEMBERS, Ordinal};
use crate::know::observed::{Agreed, Answer, ListedMember, Observed, Pod};
use crate::know::record::{Permission, Record, State};
use crate::know::version::join_as;

/// A learner is promoted when it is behind the leader by at most this many raft entries, or one percent of the leader's
/// index, whichever is more. etcd itself asks for 90 % of that index only, which with a large index is far behind.
const LAG: u64 = 1000;

/// The slowest rate, in bytes a second, at which a database is expected to be sent to a newcomer's disk and read there;
/// both come before it serves. On the safe side: on two cores with nothing else to do, 376 MB take 6 s.
const SLOWEST: u64 = 4_000_000;

/// Records members that answer for the first time, and takes the one newcomer between `member add` and promotion a step
/// further, or back.
pub(super) fn join_in_progress(
    seen: &Observed,
    limits: &Limits,
    record: &Record,
    agreed: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
) -> Result<(), Step> {
    for &(ordinal, member) in listed {
        let pod = seen.target.pod(ordinal);
        let state = record.state(ordinal);
        let serving = seen.answer(ordinal).filter(|answer| answer.member == member.id);
        let made_for_joining = seen.pods.get(&ordinal).filter(|pod| pod.joiner && !pod.terminating);
        if state == Some(State::Leaving) {
            continue;
        }
        let settled = state != Some(State::Joining) && !member.learner;
        if !settled {
            // Past the run's deadline, a newcomer that never served is taken back. A learner that serves is left for
            // the next run: it costs no quorum, and is promoted within seconds.
            let time = join_time(seen, limits, member);
            let late = seen.joining_for.is_some_and(|since| since > time);
            let never_served = state == Some(State::Joining) && serving.is_none();
            // A voter that serves is a member already, and leaves like one.
            let why = if serving.is_some() && !member.learner {
                None
            } else if ordinal >= seen.desired {
                Some(format!("{} replicas are wanted now", seen.desired))
            } else if let Some(lower) = never_served.then(|| gap(listed)).flatten().filter(|lower| *lower < ordinal) {
                // The initial cluster in its pod names every ordinal below it, also the missing one, so it can never
                // equal the live list.
                Some(format!("{} was removed meanwhile and joins first", seen.target.pod(lower)))
            } else if late || (limits.left.is_zero() && never_served) {
                let waited = seen.joining_for.map_or(time, |since| since.min(time));
                Some(late_join(seen, waited, ordinal, serving))
            } else {
                None
            };
            if let Some(why) = why {
                // The record says `joining` before the member is removed: if this run is killed in between, the next
                // one sees a join to take back, not a member that was lost.
                if state == Some(State::Member) {
                    let record = record.clone().with(ordinal, member.id, State::Joining);
                    return Err(Step::Record(record, format!("{pod} is taken back")));
                }
                if never_served && !limits.left.is_zero() {
                    not_about_to_start(seen, ordinal, member, late, &why)?;
                }
                return Err(Step::TakeBack(ordinal, member.id, why));
            }
        }
        if serving.is_some() && state != Some(State::Member) {
            let record = record.clone().with(ordinal, member.id, State::Member);
            return Err(Step::Record(record, format!("{pod} serves as member {}", member.id)));
        }
        // A held pod is reported by `held_again`, later. Skipped here, it does not keep a newcomer above it from being
        // taken back.
        if settled && (made_for_joining.is_none() || ordinal >= seen.desired || seen.is_held(ordinal)) {
            continue;
        }
        let Some(answer) = serving else {
            return Err(start(seen, agreed, listed, ordinal, member, state));
        };
        if let Some(pod) = made_for_joining {
            // A newcomer that joined as a voter counts for the quorum: its joining pod is deleted only while every
            // other member is healthy.
            if !member.learner {
                everybody_answers(seen, listed, Some(ordinal))?;
            }
            return Err(Step::Swap(ordinal, pod.uid.clone()));
        }
        let ordinary = seen.pods.get(&ordinal).is_some_and(|pod| !pod.terminating);
        if !ordinary {
            return Err(Step::Wait(format!("the ordinary pod {pod} to take over")));
        }
        return Err(promote(seen, agreed, ordinal, member, answer));
    }
    Ok(())
}

/// Holds a removal back while the newcomer's pod is about to start etcd.
///
/// A pod that has its permission starts etcd within seconds, and cannot be stopped any more. The live member list must
/// then be the one that the pod was given (invariant 4), so no member is removed until etcd has started. If it is past
/// the join's deadline: a pod that is still wanted is deleted before its member is removed; the member of a pod that is
/// not wanted is removed first (invariant 3). A pod whose start has failed (the kubelet names a trouble) is not about
/// to start, and holds nothing back.
fn not_about_to_start(
    seen: &Observed,
    ordinal: Ordinal,
    member: &ListedMember,
    late: bool,
    why: &str,
) -> Result<(), Step> {
    let about_to =
        |pod: &&Pod| pod.permitted == Some(member.id) && !pod.started && pod.trouble.is_none() && !pod.overdue;
    let Some(seen_pod) = seen.pods.get(&ordinal).filter(about_to) else {
        return Ok(());
    };
    let pod = seen.target.pod(ordinal);
    match (seen_pod.terminating, late, ordinal < seen.desired) {
        (true, ..) => Err(Step::Wait(format!("pod {pod} to end; it is taken back then: {why}"))),
        (false, false, _) => {
            Err(Step::Wait(format!("etcd in {pod}, which is permitted, to start; it is taken back then: {why}")))
        }
        (false, true, true) => Err(Step::Renew(ordinal, seen_pod.uid.clone(), why.into())),
        (false, true, false) => Ok(()),
    }
}

/// Why a join is taken back, with what its pod or the kubelet says.
fn late_join(seen: &Observed, waited: Duration, ordinal: Ordinal, serving: Option<&Answer>) -> String {
    let pod = seen.pods.get(&ordinal);
    let node = pod.and_then(|pod| pod.node.as_ref()).map_or_else(String::new, |node| format!(" on {node}"));
    let state = match (serving, pod.and_then(|pod| pod.trouble.as_ref())) {
        (Some(_), _) => format!("it serves{node} but did not catch up"),
        (None, Some(trouble)) => format!("it does not serve{node} ({})", trouble.what),
        (None, None) => format!("it does not serve{node}"),
    };
    format!("{state} within {} s", waited.as_secs())
}

/// How long a join may take from `member add`. A learner costs no quorum, so it has additional time by the size of the
/// database; nothing tells how far it has got, because etcd listens for clients only once it has caught up. A voter
/// that does not serve yet leaves the others no member to lose, so it has the plain time.
fn join_time(seen: &Observed, limits: &Limits, member: &ListedMember) -> Duration {
    if !member.learner {
        return limits.join;
    }
    let largest = seen.answers.values().flatten().map(|answer| answer.db.size).max().unwrap_or(0);
    limits.join + Duration::from_secs(largest / SLOWEST)
}

/// The next step of a newcomer that is in the member list and does not serve yet.
fn start(
    seen: &Observed,
    agreed: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
    ordinal: Ordinal,
    member: &ListedMember,
    state: Option<State>,
) -> Step {
    let pod = seen.target.pod(ordinal);
    let Some(seen_pod) = seen.pods.get(&ordinal).filter(|pod| !pod.terminating) else {
        return Step::Wait(format!("pod {pod} to be made again"));
    };
    if state != Some(State::Joining) {
        return Step::Wait(format!("the ordinary pod {pod} to serve{}", trouble(seen_pod)));
    }
    if !seen_pod.joiner {
        // A pod that is Ready has served. That it did not answer in one look is no reason to delete it.
        if seen_pod.ready {
            return Step::Wait(format!("{pod} to answer: it is Ready and was not heard"));
        }
        return Step::Renew(
            ordinal,
            seen_pod.uid.clone(),
            "it was made while the webhook was away and is not held".into(),
        );
    }
    if seen_pod.gated {
        return Step::Schedule(ordinal, seen_pod.uid.clone());
    }
    match seen_pod.permitted {
        Some(id) if id == member.id => Step::Wait(format!("etcd in {pod} to start and catch up{}", trouble(seen_pod))),
        Some(id) => Step::Renew(
            ordinal,
            seen_pod.uid.clone(),
            format!("it was permitted to start as {id}, which is no member now"),
        ),
        None if !seen_pod.waits_in_admit => {
            Step::Wait(format!("{pod} to reach its init container admit{}", trouble(seen_pod)))
        }
        None if seen_pod.initial_cluster.as_deref() != Some(&expected(seen, listed, ordinal)) => {
            wrong_cluster(seen_pod, ordinal)
        }
        None => {
            let live = agreed.members.iter().map(|member| member.id).collect();
            let permission = Permission { member: member.id, cluster: agreed.cluster, live };
            Step::Permit(ordinal, seen_pod.uid.clone(), permission)
        }
    }
}

fn expected(seen: &Observed, listed: &[(Ordinal, &ListedMember)], newcomer: Ordinal) -> String {
    let listed = listed.iter().map(|(ordinal, _)| *ordinal);
    seen.target.initial_cluster(listed.chain([newcomer]).collect::<BTreeSet<_>>())
}

fn wrong_cluster(pod: &Pod, ordinal: Ordinal) -> Step {
    let why = "its ETCD_INITIAL_CLUSTER is not the live member list and itself";
    Step::Renew(ordinal, pod.uid.clone(), why.into())
}

fn promote(seen: &Observed, agreed: &Agreed, ordinal: Ordinal, member: &ListedMember, answer: &Answer) -> Step {
    let pod = seen.target.pod(ordinal);
    let leader = agreed.leader.and_then(|id| seen.answers.values().flatten().find(|answer| answer.member == id));
    let Some(leader) = leader else {
        return Step::Wait(format!("a leader, to promote {pod}"));
    };
    let lag = leader.raft_index.saturating_sub(answer.applied_index);
    if lag > LAG.max(leader.raft_index / 100) {
        return Step::Wait(format!("{pod} to catch up: {lag} raft entries behind the leader"));
    }
    Step::Promote(ordinal, member.id)
}

/// Takes the lowest missing ordinal from its pod to `member add`.
pub(super) fn newcomer(
    seen: &Observed,
    limits: &Limits,
    agreed: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
) -> Result<(), Step> {
    let missing = (0..seen.desired).find(|ordinal| listed.iter().all(|(at, _)| at != ordinal));
    let Some(ordinal) = missing else { return Ok(()) };
    if seen.desired > MOST_MEMBERS {
        return Err(Step::Fail(format!(
            "{} wants {} replicas; etcd is not run with more than {MOST_MEMBERS} members",
            seen.target, seen.desired
        )));
    }
    let pod = seen.target.pod(ordinal);
    let waiting = seen.pods.get(&ordinal).filter(|pod| !pod.terminating);
    // First what cleans up behind a failed join, because a run past its deadline still does that.
    if let Some(waiting) = waiting {
        if !waiting.joiner {
            let why = "its ordinal has no member, and it is not held until it joins";
            return Err(Step::Renew(ordinal, waiting.uid.clone(), why.into()));
        }
        if let Some(id) = waiting.permitted {
            let why = format!("it was permitted to start as {id}, which is no member now");
            return Err(Step::Renew(ordinal, waiting.uid.clone(), why));
        }
    }
    let lifted = seen.override_.as_ref().is_some_and(|it| it.count == seen.desired);
    let mut concerns = concerns(&seen.target, &seen.answers, seen.room, Way::Up).into_iter();
    if let Some(concern) = concerns.find(|concern| !(lifted && concern.liftable)) {
        return Err(Step::Fail(format!(
            "{}. {} So {pod} was not added. {}{}",
            concern.found,
            concern.why,
            concern.way_out,
            or_go_back(seen, ordinal)
        )));
    }
    if limits.left < limits.join {
        return Err(Step::Fail(format!(
            "{} s are left until the deadline and a join may need {} s, so {pod} was not added: nothing was changed for it. Raise hook.deadlineSeconds (and helm --timeout above it), then upgrade again",
            limits.left.as_secs(),
            limits.join.as_secs()
        )));
    }
    let Some(waiting) = waiting else {
        return Err(Step::Wait(format!("the StatefulSet controller to make pod {pod}")));
    };
    if waiting.gated {
        return Err(Step::Schedule(ordinal, waiting.uid.clone()));
    }
    if !waiting.waits_in_admit {
        return Err(match &waiting.trouble {
            // The cause may be repaired by now, but the kubelet only tries again after its back-off, which belongs to
            // the pod: a new pod tries at once.
            Some(trouble) if trouble.fatal && waiting.older => Step::Renew(
                ordinal,
                waiting.uid.clone(),
                format!("it cannot start ({}) and is tried once more", trouble.what),
            ),
            Some(trouble) if trouble.fatal => Step::Fail(format!(
                "{pod} cannot start: {}. It was not added to etcd. Repair it and upgrade again{}",
                trouble.what,
                or_go_back(seen, ordinal)
            )),
            _ if let Some(step) = make_room(seen, ordinal, waiting) => step,
            _ => Step::Wait(format!(
                "{pod} to be scheduled, its volume mounted and its image pulled{}",
                trouble(waiting)
            )),
        });
    }
    if waiting.initial_cluster.as_deref() != Some(&expected(seen, listed, ordinal)) {
        return Err(wrong_cluster(waiting, ordinal));
    }
    let version = seen.answers.values().flatten().map(|answer| answer.version.as_str()).min().unwrap_or_default();
    let version = version.parse().map_err(|why| Step::Fail(format!("the members' version is not known: {why}")))?;
    let voters = agreed.members.iter().filter(|member| !member.learner).count();
    Err(Step::Add(ordinal, join_as(version, voters)))
}

/// Newcomers are scheduled in any order. If a later one's pod is on the only node that this one's volume is tied to,
/// and members share no node, both would wait for ever. So the later one's pod is deleted, and made again on another
/// node.
fn make_room(seen: &Observed, ordinal: Ordinal, waiting: &Pod) -> Option<Step> {
    let node = seen.volumes.get(&ordinal)?.pinned_to.as_ref().filter(|_| waiting.node.is_none())?;
    let in_the_way = |(later, pod): &(&Ordinal, &Pod)| {
        let free = seen.volumes.get(later).is_some_and(|volume| volume.ours && !volume.pinned);
        **later > ordinal && pod.joiner && pod.permitted.is_none() && free && pod.node.as_ref() == Some(node)
    };
    let (&later, pod) = seen.pods.iter().filter(|(_, pod)| !pod.terminating).find(in_the_way)?;
    let why = format!("it is on {node}, where the volume of {} is, which joins first", seen.target.pod(ordinal));
    Some(Step::Renew(later, pod.uid.clone(), why))
}
