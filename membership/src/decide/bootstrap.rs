//! Whether etcd may start in a StatefulSet without a record: as a new cluster, on the data that an earlier cluster left
//! behind, or only when a person has said which.
//!
//! The chart's etcd pods read the cluster's token from a ConfigMap that only the Job writes, so no etcd starts before
//! this is decided (docs/decisions/0042-a-new-cluster-is-a-decision.md).
//! If every place was looked at and nothing old was found, a new cluster begins
//! at once. If all claims of an earlier cluster are there, and the count is that cluster's, it starts again at once. In
//! every other case a person is asked. The answer contains a hash of what was found, so that it counts for that finding
//! alone.

use std::collections::{BTreeMap, BTreeSet};

use crate::know::annotations::Decided;
use crate::know::names::{MOST_MEMBERS, Ordinal, Target};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};

mod said;

pub use said::not_decided_in_time;

/// The claim of an ordinal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// There is no claim.
    Absent,
    /// It was made for this StatefulSet, or was never bound: nobody has written to it.
    Fresh,
    /// It is older than the StatefulSet, and bound: it may hold data of an earlier cluster.
    Kept,
}

/// What is in a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Nobody has looked into it.
    NotLooked {
        /// Why not yet, or not at all.
        why: String,
        /// Whether waiting helps: somebody will look.
        comes: bool,
    },
    /// It is empty.
    Empty,
    /// It holds a write-ahead log that cannot be read.
    Unreadable,
    /// It holds a member's data.
    Member {
        /// The member.
        member: Id,
        /// Its cluster.
        cluster: Id,
    },
}

/// The pod of an ordinal, as far as it matters for etcd's first start.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its node.
    pub node: Option<String>,
    /// Being deleted.
    pub terminating: bool,
    /// The init container that sets old data aside has ended well: the data directory is empty.
    pub cleared: bool,
    /// It has that init container.
    pub clears: bool,
    /// It was made less than 3 s ago.
    pub young: bool,
    /// How its etcd starts on an empty directory comes from annotations of the pod, so the Job can change it.
    pub may_settle: bool,
    /// These annotations say that it does not start on an empty directory.
    pub settled: bool,
}

/// Everything about where an ordinal's data is, or may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its claim.
    pub claim: Claim,
    /// The volume that is still reserved for an earlier claim of that name: its name, and the node it is tied to.
    pub kept: Option<(String, Option<String>)>,
    /// What is in the directory that its pod mounted.
    pub data: Data,
    /// The node that its volume is tied to.
    pub tied_to: Option<String>,
    /// Its pod.
    pub pod: Option<Pod>,
}

/// Everything that was seen of one StatefulSet without a record.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// The cluster.
    pub target: &'a Target,
    /// `spec.replicas`.
    pub desired: u32,
    /// By ordinal, each up to [`MOST_MEMBERS`].
    pub places: BTreeMap<Ordinal, Place>,
    /// The copy in the Lease of an earlier StatefulSet's record.
    pub copy: Option<Record>,
    /// The name of the Lease.
    pub lease: &'a str,
    /// What a person answered, in the annotation or by the value `etcd.bootstrap`.
    pub word: Option<&'a str>,
    /// What the Job already does on such an answer.
    pub decided: Option<Decided>,
    /// OrderedReady: each pod is made when the one before it is Ready.
    pub ordered: bool,
    /// Places that will still be looked at were waited for long enough.
    pub patient: bool,
}

/// A step before etcd may start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look again later; what is waited for.
    Wait(String),
    /// End the run with this question: a person has to say what is meant.
    Ask(String),
    /// Write into the StatefulSet what a person has decided.
    Decide(Decided),
    /// Clear the earlier claim's UID from an ordinal's volume, so that the claim that is there now can be bound to it.
    Free(Ordinal),
    /// Write into a pod, by UID, that its etcd does not start on an empty directory.
    Settle(Ordinal, String),
    /// Delete a pod, by UID, whose etcd never started; why.
    Renew(Ordinal, String, String),
    /// Write the token, so that etcd starts; what is said about it.
    Start(String),
}

/// The token of the cluster that begins in a StatefulSet; `uid`: the StatefulSet's. Each bootstrap has another token
/// and so another cluster ID, by which etcd itself refuses a member of an earlier cluster.
#[must_use]
pub fn token(target: &Target, uid: &str) -> String {
    format!("{}.{}.{uid}", target.statefulset, target.namespace)
}

/// The next step. Pure: the same observation gives the same step.
#[must_use]
pub fn next_step(seen: &Seen) -> Step {
    decide(seen).unwrap_or_else(|stop| stop)
}

/// The rules in their order. `Err(step)` is no failure: it means "stop here, this step comes first". A rule that has
/// nothing to do returns `Ok`, and `?` goes on to the next rule.
fn decide(seen: &Seen) -> Result<Step, Step> {
    let evidence = evidence(seen);
    let said = seen.word.and_then(|word| word_for(word, &evidence));
    match (seen.decided, said) {
        (None, Some(said)) => Ok(Step::Decide(said)),
        // The person has changed the answer.
        (Some(Decided::TakeBack), Some(Decided::Anew)) => Ok(Step::Decide(Decided::Anew)),
        (Some(Decided::Anew), Some(Decided::TakeBack)) => Ok(Step::Decide(Decided::TakeBack)),
        (Some(Decided::TakeBack), _) => take_back(seen, &evidence),
        (Some(Decided::Anew), _) => anew(seen),
        (None, None) => undecided(seen, &evidence),
    }
}

/// Everything that points to an earlier cluster, each in a few words that do not change with time.
fn evidence(seen: &Seen) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (&ordinal, place) in &seen.places {
        let wanted = ordinal < seen.desired;
        if let Some((volume, _)) = &place.kept {
            found.insert(format!("volume {volume}"));
        }
        match &place.data {
            Data::Member { member, cluster } if wanted => {
                found.insert(format!("data {member} {cluster}"));
            }
            Data::Unreadable if wanted => {
                found.insert(format!("data unreadable {ordinal}"));
            }
            Data::NotLooked { comes: false, .. } if wanted && place.kept.is_none() && !to_be_made(seen, place) => {
                found.insert(format!("not looked at {ordinal}"));
            }
            _ => {}
        }
        let unseen = matches!(place.data, Data::NotLooked { .. });
        if place.claim == Claim::Kept && (!wanted || unseen) || place.claim != Claim::Absent && !wanted {
            found.insert(format!("claim {ordinal}"));
        }
    }
    found.extend(seen.copy.iter().map(|copy| format!("record {}", copy.cluster)));
    found
}

/// A short hash of what was found, which the answer has to contain.
fn code(evidence: &BTreeSet<String>) -> String {
    let bytes = evidence.iter().flat_map(|line| line.bytes().chain([b'\n']));
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    format!("{:08x}", (hash >> 32) ^ (hash & 0xffff_ffff))
}

/// What a person's answer means; `None`: it is no answer to what is found now.
fn word_for(word: &str, evidence: &BTreeSet<String>) -> Option<Decided> {
    let (decided, about) = word.rsplit_once('-')?;
    let decided = Decided::parse(decided)?;
    (!evidence.is_empty() && about == code(evidence)).then_some(decided)
}

fn wanted<'a>(seen: &'a Seen) -> impl Iterator<Item = (Ordinal, &'a Place)> {
    seen.places.range(..seen.desired).map(|(&ordinal, place)| (ordinal, place))
}

/// Whether its pod is made only when those before it are Ready, so that nobody can look there now.
fn to_be_made(seen: &Seen, place: &Place) -> bool {
    seen.ordered && place.pod.is_none()
}

/// The wanted ordinals whose directories are still to be looked at.
fn to_look(seen: &Seen, which: impl Fn(&Place) -> bool) -> Vec<Ordinal> {
    let comes = |place: &Place| matches!(place.data, Data::NotLooked { comes: true, .. }) && !to_be_made(seen, place);
    wanted(seen).filter(|(_, place)| comes(place) && which(place)).map(|(ordinal, _)| ordinal).collect()
}

fn undecided(seen: &Seen, evidence: &BTreeSet<String>) -> Result<Step, Step> {
    if let Some(cluster) = continues(seen) {
        settle(seen)?;
        return Ok(Step::Start(said::starts_again(seen, cluster)));
    }
    // Not waited for are volumes reserved for an earlier claim: no pod mounts them before the decision.
    let waits = to_look(seen, |place| place.kept.is_none());
    let looked_for = || Step::Wait(said::look(seen, &waits));
    match (evidence.is_empty(), waits.is_empty()) {
        (true, true) => Ok(Step::Start(said::begins(seen))),
        (true, false) => Err(looked_for()),
        (false, false) if !seen.patient => Err(looked_for()),
        (false, _) => Ok(Step::Ask(said::question(seen, &code(evidence), None))),
    }
}

/// `Some`, if all claims of an earlier StatefulSet's cluster are there and the count is that cluster's; has the
/// cluster's ID, if that was seen.
fn continues(seen: &Seen) -> Option<Option<Id>> {
    let all_kept = wanted(seen).all(|(_, place)| place.claim == Claim::Kept);
    let freed = seen.places.values().any(|place| place.kept.is_some());
    let record = seen.copy.as_ref();
    let beyond = seen.places.range(seen.desired..).any(|(_, place)| place.claim != Claim::Absent);
    if !all_kept || freed || (beyond && record.is_none()) {
        return None;
    }
    let settled = |ordinal: Ordinal| {
        let state = record.and_then(|record| record.state(ordinal));
        matches!(state, Some(State::Member | State::Bootstrapping))
    };
    if let Some(record) = record {
        let all = (0..seen.desired).all(|ordinal| record.state(ordinal).is_some());
        if !all || (seen.desired..MOST_MEMBERS).any(settled) {
            return None;
        }
    }
    let (mut cluster, mut members) = (record.map(|record| record.cluster), BTreeSet::new());
    for (ordinal, place) in wanted(seen) {
        match place.data {
            Data::Member { member, cluster: its } => {
                if *cluster.get_or_insert(its) != its || !members.insert(member) {
                    return None;
                }
            }
            // Nobody has looked, so only the record tells whose data it is. Not where a look is still to come.
            Data::NotLooked { comes, .. } if record.is_some() && (!comes || to_be_made(seen, place)) => {}
            Data::Empty if record.is_some() && !settled(ordinal) => {}
            _ => return None,
        }
    }
    Some(cluster)
}

/// Writes into every pod's annotations that its etcd does not start on an empty directory.
fn settle(seen: &Seen) -> Result<(), Step> {
    for (ordinal, place) in wanted(seen) {
        match &place.pod {
            Some(pod) if pod.terminating => return Err(Step::Wait(said::made_again(seen, ordinal))),
            Some(pod) if pod.may_settle && !pod.settled => return Err(Step::Settle(ordinal, pod.uid.clone())),
            None if !seen.ordered => return Err(Step::Wait(said::made_again(seen, ordinal))),
            _ => {}
        }
    }
    Ok(())
}

fn free(seen: &Seen) -> Result<(), Step> {
    let kept = wanted(seen).find(|(_, place)| place.kept.is_some() && place.claim != Claim::Absent);
    kept.map_or(Ok(()), |(ordinal, _)| Err(Step::Free(ordinal)))
}

/// The answer is "take back": etcd starts where data of one cluster is, and nowhere else, so there cannot be two
/// clusters.
fn take_back(seen: &Seen, evidence: &BTreeSet<String>) -> Result<Step, Step> {
    free(seen)?;
    room(seen)?;
    let waits = to_look(seen, |_| true);
    if !waits.is_empty() {
        return Err(Step::Wait(said::look(seen, &waits)));
    }
    let refuse = |why: String| Err(Step::Ask(said::question(seen, &code(evidence), Some(&why))));
    let mut members = BTreeMap::new();
    for (ordinal, place) in wanted(seen) {
        match place.data {
            Data::Member { member, cluster } => {
                if members.insert(member, cluster).is_some() {
                    return refuse(said::twice(member));
                }
            }
            Data::Unreadable => return refuse(said::unreadable(seen, ordinal)),
            // It has no data, and its start does not come from its annotations, so it would begin a cluster of its own.
            Data::Empty | Data::NotLooked { .. } if !place.pod.as_ref().is_some_and(|pod| pod.may_settle) => {
                return refuse(said::would_begin(seen, ordinal));
            }
            Data::Empty | Data::NotLooked { .. } => {}
        }
    }
    let clusters: BTreeSet<Id> = members.values().copied().collect();
    let mut clusters = clusters.into_iter();
    let cluster = match (clusters.next(), clusters.next()) {
        (None, _) => return refuse(said::nothing()),
        (Some(one), Some(other)) => return refuse(said::two_clusters(one, other)),
        (Some(cluster), None) => cluster,
    };
    if let Some(record) = seen.copy.as_ref().filter(|copy| copy.cluster == cluster) {
        let voters = record.members.values().filter(|recorded| recorded.state != State::Joining);
        let (all, here) = voters
            .fold((0, 0), |(all, here), recorded| (all + 1, here + usize::from(members.contains_key(&recorded.id))));
        if here < quorum(all) {
            return refuse(said::no_quorum(seen, cluster, here, all));
        }
    }
    settle(seen)?;
    Ok(Step::Start(said::taken_back(seen, cluster, members.len())))
}

/// Makes room: pods were scheduled before the kept volumes could be bound, so a pod may be on the only node that
/// another's volume is tied to, where members share no node. It is deleted and made again elsewhere; nothing was
/// written yet.
fn room(seen: &Seen) -> Result<(), Step> {
    for (ordinal, place) in wanted(seen) {
        let unscheduled = place.pod.as_ref().is_some_and(|pod| pod.node.is_none() && !pod.terminating);
        let Some(node) = place.tied_to.as_ref().filter(|_| unscheduled) else { continue };
        let in_the_way = |(_, other): &(Ordinal, &Place)| {
            let there = other.pod.as_ref().is_some_and(|pod| pod.node.as_ref() == Some(node) && !pod.young);
            there && other.tied_to.is_none()
        };
        if let Some((at, Place { pod: Some(pod), .. })) = wanted(seen).find(in_the_way) {
            if pod.terminating {
                return Err(Step::Wait(said::made_again(seen, at)));
            }
            return Err(Step::Renew(at, pod.uid.clone(), said::in_the_way(seen, node, ordinal)));
        }
    }
    Ok(())
}

/// The answer is "anew": an init container that the webhook adds sets old data aside. etcd starts when that is done in
/// every place.
fn anew(seen: &Seen) -> Result<Step, Step> {
    free(seen)?;
    room(seen)?;
    for (ordinal, place) in wanted(seen) {
        if to_be_made(seen, place) {
            continue;
        }
        let Some(pod) = place.pod.as_ref().filter(|pod| !pod.terminating) else {
            return Err(Step::Wait(said::made_again(seen, ordinal)));
        };
        if pod.cleared || place.data == Data::Empty {
            continue;
        }
        if matches!(place.data, Data::NotLooked { comes: true, .. }) {
            return Err(Step::Wait(said::look(seen, &[ordinal])));
        }
        if pod.clears || pod.young {
            return Err(Step::Wait(said::clearing(seen, ordinal)));
        }
        return Err(Step::Renew(ordinal, pod.uid.clone(), said::to_clear()));
    }
    Ok(Step::Start(said::begins_anew(seen)))
}

#[cfg(test)]
mod tests;
