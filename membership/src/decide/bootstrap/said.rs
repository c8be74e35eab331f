//! What is said before etcd may start, and the ways out.

use super::{Claim, Data, Place, Seen, wanted};
use crate::know::annotations::Decided;
use crate::know::names::{BOOTSTRAP, Ordinal};
use crate::know::record::{Id, State};

/// The question: etcd was not started, what was found, and what a person can answer; `but`: why an earlier answer is
/// not followed.
pub(super) fn question(seen: &Seen, code: &str, but: Option<&str>) -> String {
    let target = seen.target;
    let (namespace, name) = (&target.namespace, &target.statefulset);
    let (back, anew) = (Decided::TakeBack, Decided::Anew);
    let why = but.map_or_else(
        || "an earlier cluster may be kept, and a second one must not begin beside it".to_owned(),
        |but| format!("it cannot be taken back as it is: {but}"),
    );
    let count = match &seen.copy {
        Some(copy) if copy.count() != seen.desired => format!(
            " Its cluster had {0} members: to have that back, uninstall and install it with --set etcd.replicaCount={0}.",
            copy.count()
        ),
        _ => String::new(),
    };
    format!(
        "{target} is not started: {why}. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n {namespace} annotate --overwrite statefulset {name} {BOOTSTRAP}=WORD): {back}-{code} starts it on the data that is there; {anew}-{code} begins a new cluster, and what is in the directories is set aside. For a snapshot: {anew}-{code}, then docs/restore.md.{count} Found: {}",
        found(seen)
    )
}

/// What was found, place by place.
fn found(seen: &Seen) -> String {
    let mut found = Vec::new();
    if let Some(copy) = &seen.copy {
        let members = copy.members.values().filter(|recorded| recorded.state != State::Joining).count();
        found.push(format!("Lease {}: cluster {} with {members} members", seen.lease, copy.cluster));
    }
    for (&ordinal, place) in &seen.places {
        let pod = seen.target.pod(ordinal);
        let on = |node: Option<&String>| node.map_or_else(String::new, |node| format!(" on {node}"));
        if let Some((volume, node)) = &place.kept {
            let node = on(node.as_ref());
            found.push(format!("{pod}: volume {volume}{node} kept of an earlier claim, not looked at"));
        } else if ordinal < seen.desired {
            let node = on(place.pod.as_ref().and_then(|pod| pod.node.as_ref()));
            found.push(match &place.data {
                Data::Empty => format!("{pod}: empty{node}"),
                Data::Unreadable => format!("{pod}: a log that cannot be read{node}"),
                Data::Member { member, cluster } => format!("{pod}: member {member} of cluster {cluster}{node}"),
                Data::NotLooked { why, .. } => format!("{pod}: not looked at{node} ({why})"),
            });
        } else if place.claim != Claim::Absent {
            found.push(format!("{pod}: claim kept, not looked at"));
        }
    }
    found.push("other nodes: not looked at".into());
    found.join("; ")
}

/// What is waited for: a look into these directories.
pub(super) fn look(seen: &Seen, ordinals: &[Ordinal]) -> String {
    let why = |place: &Place| match &place.data {
        Data::NotLooked { why, .. } => why.clone(),
        _ => String::new(),
    };
    let each = wanted(seen).filter(|(ordinal, _)| ordinals.contains(ordinal));
    let each: Vec<String> =
        each.map(|(ordinal, place)| format!("{} ({})", seen.target.pod(ordinal), why(place))).collect();
    format!("a look into the data directories before etcd starts: {}", each.join(", "))
}

pub(super) fn made_again(seen: &Seen, ordinal: Ordinal) -> String {
    format!("the StatefulSet controller to make pod {}", seen.target.pod(ordinal))
}

pub(super) fn clearing(seen: &Seen, ordinal: Ordinal) -> String {
    format!("what is in the data directory of {} to be set aside", seen.target.pod(ordinal))
}

pub(super) fn to_clear() -> String {
    "what is in its data directory is to be set aside before etcd starts".into()
}

pub(super) fn in_the_way(seen: &Seen, node: &str, ordinal: Ordinal) -> String {
    format!("it is on {node}, where the volume of {} is", seen.target.pod(ordinal))
}

pub(super) fn starts_again(seen: &Seen, cluster: Option<Id>) -> String {
    let cluster = cluster.map_or_else(String::new, |cluster| format!(" of cluster {cluster}"));
    format!("etcd starts again on the claims{cluster} that are kept, {} as before", members(seen.desired))
}

pub(super) fn begins(seen: &Seen) -> String {
    format!("a new cluster begins with {}: nothing of an earlier one was found", members(seen.desired))
}

pub(super) fn begins_anew(seen: &Seen) -> String {
    format!("a new cluster begins with {}, as was decided; what was there is set aside", members(seen.desired))
}

pub(super) fn taken_back(seen: &Seen, cluster: Id, with: usize) -> String {
    format!("{} takes cluster {cluster} back, as was decided: data of {with} of its members is here", seen.target)
}

pub(super) fn twice(member: Id) -> String {
    format!("two directories hold the data of member {member}")
}

pub(super) fn unreadable(seen: &Seen, ordinal: Ordinal) -> String {
    format!("the log in the directory of {} cannot be read", seen.target.pod(ordinal))
}

pub(super) fn would_begin(seen: &Seen, ordinal: Ordinal) -> String {
    format!(
        "{} has no data there, and with the values etcd.initialCluster and etcd.initialClusterState it would begin as new beside the others",
        seen.target.pod(ordinal)
    )
}

pub(super) fn nothing() -> String {
    "no directory that was looked at holds a member's data".into()
}

pub(super) fn two_clusters(one: Id, other: Id) -> String {
    format!("the directories hold data of two clusters ({one} and {other})")
}

pub(super) fn no_quorum(seen: &Seen, cluster: Id, here: usize, all: usize) -> String {
    format!(
        "{here} of the {all} members of cluster {cluster} have their data in what {} mounts, no quorum",
        seen.target
    )
}

/// The run has ended before etcd could start.
#[must_use]
pub fn not_decided_in_time(seen: &str, statefulset: &str, namespace: &str) -> String {
    format!(
        "the deadline passed while waiting for {seen}. etcd was not started and nothing was changed; see to what is named (kubectl describe pods -n {namespace}), the next run goes on from there (StatefulSet {statefulset})"
    )
}

fn members(count: u32) -> String {
    if count == 1 { "1 member".into() } else { format!("{count} members") }
}
