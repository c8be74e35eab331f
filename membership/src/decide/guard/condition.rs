//! What keeps members from joining or leaving although each of them answers and is healthy by itself: alarms, different
//! versions, the size of the database, how far the members are apart.
//!
//! The webhook judges its latest answers by this list, the run those that it has just had.

use std::collections::{BTreeMap, BTreeSet};

use crate::know::limits::Room;
use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Alarm, Answer, Answered};
use crate::know::size::size;
use crate::know::version::Version;

/// The most that a database may use of its quota, in percent, for members to join.
pub const QUOTA_PERCENT: u64 = 80;
/// How many revisions two members may be apart. They are asked side by side within 2 s, in which a busy etcd makes a
/// few thousand revisions; a member that is further behind has not caught up.
pub const MOST_APART: i64 = 10_000;
/// What etcd needs beside its database, in bytes: the log segment in use and the one that it prepares (64 MiB each,
/// etcd server/storage/wal).
pub const LOG: u64 = 128 << 20;
/// Below this size, in bytes, it is not said that much of a database is free.
const SMALL: u64 = 64 << 20;

/// Whether the count goes up or down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Members join.
    Up,
    /// Members leave.
    Down,
}

/// Something that was found, with its consequence and its cure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Concern {
    /// What was found, with numbers and members.
    pub found: String,
    /// Why it is unsafe.
    pub why: &'static str,
    /// What to do.
    pub way_out: String,
    /// Whether a person may lift it ([`Override`]).
    pub liftable: bool,
}

/// The first thing that keeps members from joining or leaving.
#[must_use]
pub fn concern(target: &Target, answers: &BTreeMap<Ordinal, Answered>, room: Room, way: Way) -> Option<Concern> {
    concerns(target, answers, room, way).into_iter().next()
}

/// Everything that keeps members from joining or leaving, what cannot be lifted first.
#[must_use]
pub fn concerns(target: &Target, answers: &BTreeMap<Ordinal, Answered>, room: Room, way: Way) -> Vec<Concern> {
    let members: BTreeMap<Ordinal, &Answer> = heard(answers);
    let found = [
        corrupt(target, &members),
        diverged(target, &members),
        no_space(target, &members),
        versions(target, &members, way),
        apart(target, &members),
        near_quota(target, &members, room).filter(|_| way == Way::Up),
        too_large(target, &members, room).filter(|_| way == Way::Up),
    ];
    found.into_iter().flatten().collect()
}

/// Warnings for a person who adds members.
#[must_use]
pub fn warnings(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> Vec<String> {
    let members = heard(answers);
    let mut warnings = Vec::new();
    let sparse = |answer: &Answer| answer.db.size >= SMALL && answer.db.in_use < answer.db.size / 2;
    if let Some((ordinal, answer)) = members.iter().find(|(_, answer)| sparse(answer)) {
        warnings.push(format!(
            "the database of {} is {} and {} of it are in use: a newcomer copies all of it; etcdctl defrag, one member at a time, makes it small",
            target.pod(*ordinal),
            size(answer.db.size),
            size(answer.db.in_use),
        ));
    }
    // With such a version the second and third member are promoted; later ones join as voters.
    let forgets = |answer: &&&Answer| answer.version.parse::<Version>().is_ok_and(|it| !it.keeps_promotions());
    if let Some(answer) = members.values().find(forgets) {
        warnings.push(format!(
            "etcd {} does not keep a promotion where 3.6 looks for it: go to 3.5.20 or later and let every member run it before 3.6 (etcd-io/etcd#19563)",
            answer.version
        ));
    }
    warnings
}

fn heard(answers: &BTreeMap<Ordinal, Answered>) -> BTreeMap<Ordinal, &Answer> {
    answers.iter().filter_map(|(&ordinal, answered)| Some((ordinal, answered.as_ref().ok()?))).collect()
}

/// The members with an alarm of this kind, by pod; a member that did not answer by its ID.
fn alarmed(target: &Target, members: &BTreeMap<Ordinal, &Answer>, kind: &str) -> Option<String> {
    let of_kind = |alarm: &&Alarm| alarm.kind == kind;
    let whose: BTreeSet<_> =
        members.values().flat_map(|answer| answer.alarms.iter().filter(of_kind)).map(|alarm| alarm.member).collect();
    let name = |id| {
        let at = members.iter().find(|(_, answer)| answer.member == id);
        at.map_or_else(|| format!("member {id}"), |(&ordinal, _)| target.pod(ordinal))
    };
    let names: Vec<String> = whose.into_iter().map(name).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn corrupt(target: &Target, members: &BTreeMap<Ordinal, &Answer>) -> Option<Concern> {
    let whose = alarmed(target, members, "CORRUPT")?;
    Some(Concern {
        found: format!("etcd has the alarm CORRUPT ({whose})"),
        why: "A member's data is not what the others have, and a change of members can leave the wrong ones in the majority.",
        way_out: "Find out which (hook validate --keys, docs/commands.md) and replace that member; then etcdctl alarm disarm, and ask again.".into(),
        liftable: false,
    })
}

fn diverged(target: &Target, members: &BTreeMap<Ordinal, &Answer>) -> Option<Concern> {
    let mut pairs = members.iter().flat_map(|ahead| members.iter().map(move |behind| (ahead, behind)));
    let found = pairs.find_map(|((&ahead, first), (&behind, last))| {
        let (revisions, entries) = beyond(first, last)?;
        Some(format!(
            "{} has {revisions} revisions more than {} ({} and {}) and has applied {entries} entries more of etcd's log",
            target.pod(ahead),
            target.pod(behind),
            first.revision,
            last.revision
        ))
    })?;
    Some(Concern {
        found,
        why: "An entry makes one revision, so one of the two holds what etcd did not write, and a change of members can leave the wrong ones in the majority.",
        way_out: "Find out which (hook validate --keys, docs/commands.md), replace that member (hook replace), and ask again.".into(),
        liftable: false,
    })
}

/// How many revisions and how many log entries the first member is ahead of the last, if that cannot come from the log:
/// an entry makes at most one revision. A status reports its two numbers from two moments, and a busy etcd goes on in
/// between, by less than [`MOST_APART`] revisions.
fn beyond(first: &Answer, last: &Answer) -> Option<(i64, i64)> {
    // A member that has applied nothing yet proves nothing.
    let told = first.applied_index > 0 && last.applied_index > 0;
    let revisions = first.revision.saturating_sub(last.revision);
    let entries = i64::try_from(first.applied_index.saturating_sub(last.applied_index)).unwrap_or(i64::MAX);
    (told && revisions > entries.saturating_add(MOST_APART)).then_some((revisions, entries))
}

fn no_space(target: &Target, members: &BTreeMap<Ordinal, &Answer>) -> Option<Concern> {
    let whose = alarmed(target, members, "NOSPACE")?;
    Some(Concern {
        found: format!("etcd has the alarm NOSPACE ({whose})"),
        why: "It takes no writes until there is room again, and another count of members makes none.",
        way_out: "Make room (etcdctl compact, then etcdctl defrag, one member at a time) or raise the quota (etcd.quotaBackendBytes); then etcdctl alarm disarm, and ask again.".into(),
        liftable: true,
    })
}

fn versions(target: &Target, members: &BTreeMap<Ordinal, &Answer>, way: Way) -> Option<Concern> {
    let different: BTreeSet<&str> = members.values().map(|answer| answer.version.as_str()).collect();
    if different.len() < 2 {
        return None;
    }
    let each: Vec<String> =
        members.iter().map(|(&ordinal, answer)| format!("{} {}", target.pod(ordinal), answer.version)).collect();
    Some(Concern {
        found: format!("the members run different versions of etcd ({})", each.join(", ")),
        why: match way {
            Way::Up => "A newcomer is one of them, and what the newer writes the older may not understand.",
            Way::Down => "Members restart on the way to one version, and fewer bear that worse.",
        },
        way_out: "Finish the roll-out or take it back, so that all run one image, and ask again.".into(),
        liftable: true,
    })
}

fn apart(target: &Target, members: &BTreeMap<Ordinal, &Answer>) -> Option<Concern> {
    let by_revision = |(_, answer): &(&Ordinal, &&Answer)| answer.revision;
    let (behind, last) = members.iter().min_by_key(by_revision)?;
    let (ahead, first) = members.iter().max_by_key(by_revision)?;
    let apart = first.revision - last.revision;
    (apart > MOST_APART).then(|| Concern {
        found: format!(
            "{} is {apart} revisions behind {} ({} and {})",
            target.pod(*behind),
            target.pod(*ahead),
            last.revision,
            first.revision
        ),
        why: "Until it has caught up it does not hold what was acknowledged, and a majority counts on it.",
        way_out: "Wait until it has (etcdctl endpoint status), or see what slows it down, and ask again.".into(),
        liftable: true,
    })
}

fn near_quota(target: &Target, members: &BTreeMap<Ordinal, &Answer>, room: Room) -> Option<Concern> {
    // The quota that the server reports, else that of the StatefulSet, where 0 stands for etcd's default.
    let quota = |answer: &Answer| answer.db.quota.unwrap_or(room.quota).max(1);
    let percent = |answer: &Answer| answer.db.size.saturating_mul(100) / quota(answer);
    let (ordinal, answer) = members.iter().max_by_key(|(_, answer)| percent(answer))?;
    let percent = percent(answer);
    (percent > QUOTA_PERCENT).then(|| Concern {
        found: format!(
            "the database of {} is {}, {percent} % of its quota of {}, the limit is {QUOTA_PERCENT} %",
            target.pod(*ordinal),
            size(answer.db.size),
            size(quota(answer)),
        ),
        why: "At its quota etcd takes no more writes, and a newcomer starts as full as the others are.",
        way_out: "Make room (etcdctl compact, then etcdctl defrag, one member at a time) or raise the quota (etcd.quotaBackendBytes), and ask again.".into(),
        liftable: true,
    })
}

fn too_large(target: &Target, members: &BTreeMap<Ordinal, &Answer>, room: Room) -> Option<Concern> {
    let volume = room.volume?;
    let (ordinal, answer) = members.iter().max_by_key(|(_, answer)| answer.db.size)?;
    (answer.db.size.saturating_add(LOG) > volume).then(|| Concern {
        found: format!(
            "the database of {} is {}, and a newcomer's volume of {} has to hold it and {} of log",
            target.pod(*ordinal),
            size(answer.db.size),
            size(volume),
            size(LOG),
        ),
        why: "It would run full while the newcomer catches up.",
        way_out: "Make the database smaller (etcdctl compact, then etcdctl defrag, one member at a time), or give newcomers larger volumes (etcd.persistence.size), and ask again.".into(),
        liftable: true,
    })
}
