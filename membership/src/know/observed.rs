//! What was seen just now. What is unknown is told from what was seen: by an error, by `None`, or by a flag of its own.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::know::annotations::Override;
use crate::know::limits::Room;
use crate::know::names::{Ordinal, Target};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};

/// One member's own answer (etcd `Status`, with a linearizable read for voters).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The ID in the answer's header.
    pub member: Id,
    /// The cluster ID in the answer's header.
    pub cluster: Id,
    /// The leader that it knows; `None`: no leader.
    pub leader: Option<Id>,
    /// Whether it is a learner, by its own word.
    pub learner: bool,
    /// The server's version.
    pub version: String,
    /// The revision it has applied.
    pub revision: i64,
    /// Its raft index.
    pub raft_index: u64,
    /// Its applied raft index.
    pub applied_index: u64,
    /// The errors it reports, alarms aside.
    pub errors: Vec<String>,
    /// The alarms that it knows of, its own and those of other members.
    pub alarms: Vec<Alarm>,
    /// Its database file.
    pub db: Database,
    /// The member list it holds. Learners refuse to tell it: `None`.
    pub list: Option<Vec<ListedMember>>,
}

/// An alarm, as `Status` has it among its errors: `memberID:123 alarm:NOSPACE`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Alarm {
    /// The ID of the member that it is about.
    pub member: Id,
    /// `NOSPACE`, `CORRUPT`.
    pub kind: String,
}

impl Alarm {
    /// Reads one of the errors of a `Status`; `None`: it is no alarm. Between the two fields may be any white space:
    /// protobuf's text form does not fix it.
    #[must_use]
    pub fn parse(error: &str) -> Option<Self> {
        let field = |name: &str| error.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix(':'));
        let member = field("memberID").and_then(|id| id.parse().ok()).unwrap_or(0);
        Some(Self { member: Id(member), kind: field("alarm")?.to_owned() })
    }
}

/// A member's database file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Database {
    /// Its size on disk in bytes: what the quota is held against.
    pub size: u64,
    /// What of it is in use, in bytes.
    pub in_use: u64,
    /// The quota in bytes, where the server tells it (from 3.6 on).
    pub quota: Option<u64>,
}

/// One entry of etcd's member list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ListedMember {
    /// The member's ID.
    pub id: Id,
    /// Its name; empty until it was started.
    pub name: String,
    /// Where other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none until it was started.
    pub client_urls: Vec<String>,
    /// Not yet a voter.
    pub learner: bool,
}

impl ListedMember {
    /// Whether it ever ran. A bootstrapped member has a name before it ever ran, so the client
    /// URLs tell (docs/decisions/0011-the-order-of-steps.md).
    #[must_use]
    pub fn started(&self) -> bool {
        !self.client_urls.is_empty()
    }
}

/// What a member said, or why it did not.
pub type Answered = Result<Answer, String>;

/// A pod of the StatefulSet.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its UID. A delete names it, so that it never hits a later pod of the same name.
    pub uid: String,
    /// The node it is scheduled to.
    pub node: Option<String>,
    /// The webhook made it a joiner: it has the init container `admit`, which waits for a permission.
    pub joiner: bool,
    /// This run has deleted an earlier pod of this ordinal because it was held ([`Observed::is_held`]).
    pub freed: bool,
    /// `ETCD_INITIAL_CLUSTER` as it stands in the pod.
    pub initial_cluster: Option<String>,
    /// It has our scheduling gate: it is not scheduled until its turn comes ([`crate::know::names::TURN`]).
    pub gated: bool,
    /// `admit` runs and waits: the image is pulled, the volume mounted, the chart's own init containers have ended.
    pub waits_in_admit: bool,
    /// The member ID under which the Job has permitted it to start, if it has.
    pub permitted: Option<Id>,
    /// It was made before this run began. If it cannot start, the cause may have been repaired since, so making it
    /// again once is worth a try.
    pub older: bool,
    /// The kubelet says that its etcd has run: its data directory may hold data.
    ///
    /// `started` and [`Pod::never_started`] are both false while the kubelet has not reported yet: unknown.
    pub started: bool,
    /// The kubelet says that its etcd has never run: deleting the pod loses nothing.
    pub never_started: bool,
    /// If it were made again now, it would be made from another revision of the template.
    pub outdated: bool,
    /// How its etcd starts on an empty directory comes from annotations of the pod, and these do not say yet what they
    /// must for a member (`existing`, and nobody but itself): on a lost disk it could start as new.
    pub unsettled: bool,
    /// The kubelet says that its etcd does not run now: it serves nobody.
    pub down: bool,
    /// Being deleted.
    pub terminating: bool,
    /// It was to end and has not, well after its grace period: its node is dead, or its kubelet.
    pub overdue: bool,
    /// The Ready condition.
    pub ready: bool,
    /// Why it does not start or is not Ready, in the kubelet's or scheduler's own words ("etcd-version: ErrImagePull:
    /// …").
    pub trouble: Option<Trouble>,
}

/// Why a pod does not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In the kubelet's or the scheduler's words.
    pub what: String,
    /// Whether waiting is pointless: an image that cannot be pulled, a container that fails. Not so for a volume or a
    /// node, which may still come.
    pub fatal: bool,
}

/// The claim of an ordinal and its volume.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Volume {
    /// The claim exists.
    pub claimed: bool,
    /// The claim's name and class, to put into a sentence.
    pub claim: String,
    /// The claim is bound.
    pub bound: bool,
    /// The claim's class has no provisioner, so the Job makes its volume.
    pub ours: bool,
    /// The volume exists.
    pub exists: bool,
    /// Why the volume that exists cannot serve the claim; `None`: it can.
    pub misfit: Option<String>,
    /// The volume is still reserved for an earlier claim of this name (`claimRef.uid`), so it is never bound to this
    /// one.
    pub stale: bool,
    /// The volume is tied to a node (or pinning is turned off).
    pub pinned: bool,
    /// The node, by its hostname label, which usually is its name.
    pub pinned_to: Option<String>,
}

/// Everything about one cluster, seen in one round.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The cluster.
    pub target: Target,
    /// `spec.replicas`.
    pub desired: u32,
    /// The record in the StatefulSet's annotation.
    pub record: Option<Record>,
    /// The copy of the record in the Lease; read only if the annotation is missing, as in a StatefulSet that was made
    /// again.
    pub copy: Option<Record>,
    /// The roll-out of the pod template that is under way, in a sentence.
    pub rollout: Option<String>,
    /// By ordinal: what each member that was asked said. Asked is each that is recorded or has a pod.
    pub answers: BTreeMap<Ordinal, Answered>,
    /// By ordinal: the pods that exist.
    pub pods: BTreeMap<Ordinal, Pod>,
    /// By ordinal.
    pub volumes: BTreeMap<Ordinal, Volume>,
    /// By ordinal: the UIDs of claims that are to be deleted because their ordinal is not wanted. Empty if claims are
    /// kept.
    pub claims: BTreeMap<Ordinal, String>,
    /// The limits that the StatefulSet sets.
    pub room: Room,
    /// The annotation by which a person lifts what can be lifted for one count.
    pub override_: Option<Override>,
    /// How long the joining member has been in the member list, counted from when this run first saw it there.
    pub joining_for: Option<Duration>,
}

/// The member list that a quorum of its voters holds ([`agreed`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The cluster's ID.
    pub cluster: Id,
    /// The leader, where all who answered know the same.
    pub leader: Option<Id>,
    /// By ID.
    pub members: Vec<ListedMember>,
}

impl Agreed {
    /// The members with their ordinals, ascending.
    ///
    /// # Errors
    /// A member whose peer URL belongs to no ordinal.
    pub fn by_ordinal(&self, target: &Target) -> Result<Vec<(Ordinal, &ListedMember)>, &ListedMember> {
        let place = |member| Ok((ordinal_of(target, member).ok_or(member)?, member));
        let mut listed = self.members.iter().map(place).collect::<Result<Vec<_>, _>>()?;
        listed.sort_by_key(|(ordinal, _)| *ordinal);
        Ok(listed)
    }
}

/// The ordinal whose peer URL a listed member has.
#[must_use]
pub fn ordinal_of(target: &Target, member: &ListedMember) -> Option<Ordinal> {
    member.peer_urls.iter().find_map(|url| target.ordinal_of_peer_url(url))
}

impl Observed {
    /// The answer of an ordinal, if it gave one.
    #[must_use]
    pub fn answer(&self, ordinal: Ordinal) -> Option<&Answer> {
        self.answers.get(&ordinal)?.as_ref().ok()
    }

    /// Whether a member's etcd has started and does not answer. It may be waiting for the next entry of etcd's log, and
    /// if no client writes, there is none until somebody makes one.
    ///
    /// An etcd 3.6 that was brought up by a database snapshot counts nothing as applied until the next entry, and until
    /// then refuses its own announcement to the cluster ("too many requests"), over and over and for ever. Run with
    /// 3.6.16 and no client: with one voter that has more than 10 000 entries, 8 of 8 learners waited; with three
    /// voters, 2 of 6. 3.5.35 and 3.4.23 serve after 7 s.
    #[must_use]
    pub fn may_wait_for_entry(&self) -> bool {
        self.pods.iter().any(|(&ordinal, pod)| pod.started && !pod.terminating && self.answer(ordinal).is_none())
    }

    /// Whether a pod waits in `admit` although its member is recorded as one that has served. The Job gives a
    /// permission to joining members only, so this pod would wait for ever. A pod that has a permission, or whose etcd
    /// has run, is not held.
    #[must_use]
    pub fn is_held(&self, ordinal: Ordinal) -> bool {
        let served = self.record.as_ref().and_then(|record| record.state(ordinal)) == Some(State::Member);
        let waits = |pod: &Pod| pod.joiner && pod.permitted.is_none() && !pod.started && !pod.terminating;
        served && ordinal < self.desired && self.pods.get(&ordinal).is_some_and(waits)
    }

    /// Whether a member answers under its own ID, knows a leader and reports no errors.
    ///
    /// # Errors
    /// What is wrong, in the end of a sentence.
    pub fn serves(&self, ordinal: Ordinal, member: &ListedMember) -> Result<(), String> {
        match self.answers.get(&ordinal) {
            None => Err("was not asked".to_owned()),
            Some(Err(why)) => Err(format!("does not answer: {why}")),
            Some(Ok(answer)) if answer.member != member.id => {
                Err(format!("answers as member {}, etcd lists {}", answer.member, member.id))
            }
            Some(Ok(answer)) if answer.leader.is_none() => Err("knows no leader".to_owned()),
            Some(Ok(answer)) if !answer.errors.is_empty() => Err(format!("reports {}", answer.errors.join(", "))),
            Some(Ok(_)) => Ok(()),
        }
    }

    /// The member list, when a quorum of its voters holds the same one.
    ///
    /// # Errors
    /// What was not observed, in a sentence.
    pub fn agreed(&self) -> Result<Agreed, String> {
        agreed(&self.target, &self.answers, self.record.as_ref())
    }
}

/// A member list, and the members that hold it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// The list.
    pub agreed: Agreed,
    /// The members that answered with this list, by the ordinal that was asked.
    pub holders: BTreeMap<Ordinal, Id>,
}

impl View {
    /// How many of its voters hold this list, and how many voters it has.
    fn heard(&self) -> (usize, usize) {
        let voters: Vec<Id> = self.agreed.members.iter().filter(|m| !m.learner).map(|m| m.id).collect();
        (voters.iter().filter(|id| self.holders.values().any(|holder| holder == *id)).count(), voters.len())
    }

    /// Whether a quorum of its voters holds this list, so that they can act as a cluster.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let (heard, voters) = self.heard();
        heard > 0 && heard >= quorum(voters)
    }

    /// Whether a quorum of the recorded members holds it.
    #[must_use]
    pub fn is_recorded(&self, record: &Record) -> bool {
        let recorded: Vec<Id> = record.members.values().filter(|it| it.state.is_settled()).map(|it| it.id).collect();
        let held = recorded.iter().filter(|id| self.holders.values().any(|holder| holder == *id)).count();
        self.agreed.cluster == record.cluster && held > 0 && held >= quorum(recorded.len())
    }
}

/// The different member lists that the members answered with, each with its holders.
#[must_use]
pub fn views(answers: &BTreeMap<Ordinal, Answered>) -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    for (&ordinal, answered) in answers {
        let Ok(Answer { cluster, leader, list: Some(list), member, .. }) = answered else {
            continue;
        };
        let mut members = list.clone();
        members.sort();
        let same = |view: &&mut View| view.agreed.cluster == *cluster && view.agreed.members == members;
        if let Some(view) = views.iter_mut().find(same) {
            if view.agreed.leader != *leader {
                view.agreed.leader = None;
            }
            view.holders.insert(ordinal, *member);
        } else {
            let agreed = Agreed { cluster: *cluster, leader: *leader, members };
            views.push(View { agreed, holders: BTreeMap::from([(ordinal, *member)]) });
        }
    }
    views
}

/// The member list, when a quorum of its voters holds the same one.
///
/// A member's list alone proves nothing (the client crate's call is not linearizable), so every member is asked, and
/// those that the list names must not hold another one
/// (docs/decisions/0002-three-truths-and-the-record.md; 0030-who-the-agreed-list-does-not-name.md there). A member that the list does not name
/// has no say: one that was removed may go on answering as a cluster of its own. If two lists each have a quorum, the
/// record tells which cluster is ours.
///
/// # Errors
/// What was not observed, in a sentence.
pub fn agreed(
    target: &Target,
    answers: &BTreeMap<Ordinal, Answered>,
    record: Option<&Record>,
) -> Result<Agreed, String> {
    let views = views(answers);
    let mut whole: Vec<&View> = views.iter().filter(|view| view.is_whole()).collect();
    if let Some(record) = record.filter(|_| whole.len() > 1) {
        whole.retain(|view| view.is_recorded(record));
    }
    let disagree = |one: &View, other: &View| {
        let pod = |view: &View| view.holders.keys().next().map_or_else(String::new, |ordinal| target.pod(*ordinal));
        let (a, b) = (pod(one), pod(other));
        if one.agreed.cluster == other.agreed.cluster {
            return Err(format!("{a} and {b} hold different member lists"));
        }
        Err(format!("{a} is in cluster {} and {b} in cluster {}", one.agreed.cluster, other.agreed.cluster))
    };
    match (&whole[..], &views[..]) {
        ([], []) => Err(format!("no member answered ({})", silence(target, answers))),
        ([], [view]) => {
            let (heard, voters) = view.heard();
            Err(format!("{heard} of {voters} voting members answered ({})", silence(target, answers)))
        }
        ([], [one, other, ..]) => disagree(one, other),
        ([one, other, ..], _) => disagree(one, other),
        ([ours], _) => {
            let named = |view: &&View| {
                let mut holders = view.holders.values();
                *view != *ours && holders.any(|id| ours.agreed.members.iter().any(|member| member.id == *id))
            };
            views.iter().find(named).map_or_else(|| Ok(ours.agreed.clone()), |other| disagree(ours, other))
        }
    }
}

/// The members that did not answer and why, to put into a sentence.
fn silence(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> String {
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(&o, answered)| answered.as_ref().err().map(|why| format!("{}: {why}", target.pod(o))))
        .collect();
    if silent.is_empty() { "none was asked".into() } else { silent.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::World;

    #[test]
    fn who_runs_and_is_not_heard_may_wait_for_an_entry() {
        let mut world = World::settled(3);
        world.settle();
        let well = world.observe();
        assert!(well.pods.values().all(|pod| pod.started) && !well.may_wait_for_entry(), "all are heard");
        let unheard = |change: &dyn Fn(&mut Pod)| {
            let mut seen = well.clone();
            seen.answers.insert(1, Err("no answer within 2 s".to_owned()));
            change(seen.pods.get_mut(&1).unwrap());
            seen.may_wait_for_entry()
        };
        assert!(unheard(&|_| {}));
        assert!(!unheard(&|pod| pod.started = false), "it waits in admit");
        assert!(!unheard(&|pod| pod.terminating = true));
    }
}
