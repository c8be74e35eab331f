//! What was seen just now. Everything that was not positively seen is named as such.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::names::{Ordinal, Target};
use crate::record::{Id, Record};

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
    /// The alarms and errors it reports.
    pub errors: Vec<String>,
    /// The member list it holds. Learners refuse to tell it: `None`.
    pub list: Option<Vec<ListedMember>>,
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
    /// URLs tell (design, "The next step").
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
    /// Its UID: what is deleted is this pod and no later one.
    pub uid: String,
    /// The node it is scheduled to.
    pub node: Option<String>,
    /// Made a joiner by the webhook.
    pub joiner: bool,
    /// `ETCD_INITIAL_CLUSTER` as it stands in the pod.
    pub initial_cluster: Option<String>,
    /// `admit` runs and waits: image pulled, volume mounted, chart's own init containers done.
    pub waits_in_admit: bool,
    /// The permission that the Job wrote, if any: for which member ID.
    pub permitted: Option<Id>,
    /// It was there before this run began: what keeps it may have been repaired since.
    pub older: bool,
    /// Its etcd has run: what it wrote is where the pod is.
    pub started: bool,
    /// Its etcd has positively never run: nothing of it is lost with the pod. Neither of the two:
    /// the kubelet has not said anything yet.
    pub never_started: bool,
    /// Made again, it would be made from another revision of the template.
    pub outdated: bool,
    /// On an empty directory its etcd would start as new, and annotations of the pod can change that.
    pub unsettled: bool,
    /// Being deleted.
    pub terminating: bool,
    /// It should have ended long ago: nobody on its node does it.
    pub overdue: bool,
    /// The Ready condition.
    pub ready: bool,
    /// Why it does not get on, in the kubelet's or scheduler's own words ("etcd-version: ErrImagePull: …").
    pub trouble: Option<Trouble>,
}

/// Why a pod does not get on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// In the kubelet's or the scheduler's words.
    pub what: String,
    /// Whether waiting is pointless (an image that cannot be pulled, a container that fails),
    /// as against what may still come (a volume, a node).
    pub fatal: bool,
}

/// The claim of an ordinal and its volume.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Volume {
    /// The claim exists.
    pub claimed: bool,
    /// The claim, for a sentence: its name and class.
    pub claim: String,
    /// The claim is bound.
    pub bound: bool,
    /// The claim's class has no provisioner: its volume is ours to make.
    pub ours: bool,
    /// The volume exists.
    pub exists: bool,
    /// What differs between the volume that exists and the one that is needed.
    pub misfit: Option<String>,
    /// The volume is reserved for an earlier claim of this name, so this one cannot have it.
    pub stale: bool,
    /// The volume is tied to a node (or pinning is turned off).
    pub pinned: bool,
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
    /// The Lease's copy, looked for where the annotation is gone: the StatefulSet was made again.
    pub copy: Option<Record>,
    /// The roll-out of the pod template that is under way, in a sentence.
    pub rollout: Option<String>,
    /// By ordinal, every one up to the larger of desired, record and member list.
    pub answers: BTreeMap<Ordinal, Answered>,
    /// By ordinal, those that exist.
    pub pods: BTreeMap<Ordinal, Pod>,
    /// By ordinal.
    pub volumes: BTreeMap<Ordinal, Volume>,
    /// The UIDs of the claims of ordinals that are not wanted, by ordinal; none where they are kept.
    pub claims: BTreeMap<Ordinal, String>,
    /// How long the member that is joining has been in the member list, as far as this run knows.
    pub joining_for: Option<Duration>,
}

/// The member list on which all who answered agree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The cluster's ID.
    pub cluster: Id,
    /// The leader, where all who answered know the same.
    pub leader: Option<Id>,
    /// By ID.
    pub members: Vec<ListedMember>,
}

impl Observed {
    /// The answer of an ordinal, if it gave one.
    #[must_use]
    pub fn answer(&self, ordinal: Ordinal) -> Option<&Answer> {
        self.answers.get(&ordinal)?.as_ref().ok()
    }

    /// The member list, when a quorum of its voters holds the same one.
    ///
    /// # Errors
    /// What was not observed, in a sentence.
    pub fn agreed(&self) -> Result<Agreed, String> {
        agreed(&self.target, &self.answers)
    }
}

/// The member list, when a quorum of its voters holds the same one.
///
/// The client's list is not linearizable, so every member is asked and all who tell must
/// agree (design, "Three truths").
///
/// # Errors
/// What was not observed, in a sentence.
pub fn agreed(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> Result<Agreed, String> {
    let mut agreed: Option<(Ordinal, Agreed)> = None;
    let mut tellers = Vec::new();
    for (&ordinal, answered) in answers {
        let Ok(Answer { cluster, leader, list: Some(list), member, .. }) = answered else {
            continue;
        };
        tellers.push(*member);
        let mut members = list.clone();
        members.sort();
        let now = Agreed { cluster: *cluster, leader: *leader, members };
        match &mut agreed {
            None => agreed = Some((ordinal, now)),
            Some((first, before)) => {
                let (a, b) = (target.pod(*first), target.pod(ordinal));
                if before.cluster != now.cluster {
                    return Err(format!("{a} is in cluster {} and {b} in cluster {}", before.cluster, now.cluster));
                }
                if before.members != now.members {
                    return Err(format!("{a} and {b} hold different member lists"));
                }
                if before.leader != now.leader {
                    before.leader = None;
                }
            }
        }
    }
    let Some((_, agreed)) = agreed else {
        return Err(format!("no member answered ({})", silence(target, answers)));
    };
    let voters: Vec<Id> = agreed.members.iter().filter(|m| !m.learner).map(|m| m.id).collect();
    let heard = voters.iter().filter(|id| tellers.contains(id)).count();
    if heard < crate::quorum::quorum(voters.len()) {
        return Err(format!("{heard} of {} voting members answered ({})", voters.len(), silence(target, answers)));
    }
    Ok(agreed)
}

/// Who did not answer, and why, for a sentence.
fn silence(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> String {
    let silent: Vec<String> = answers
        .iter()
        .filter_map(|(&o, answered)| answered.as_ref().err().map(|why| format!("{}: {why}", target.pod(o))))
        .collect();
    if silent.is_empty() { "none was asked".into() } else { silent.join("; ") }
}
