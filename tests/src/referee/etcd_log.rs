//! The logs of etcd's containers: when a member list changed, and when etcd was started.
//!
//! Each line is the container runtime's (`TIME stream tag text`) around etcd's own, which has the
//! time at which it happened: JSON from 3.5 on; before, text without it, for which the runtime's
//! time is taken, a moment later.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use membership::know::record::Id;
use serde_json::Value;

use super::audit::time;
use super::history::{Log, Micros, Start, What};

/// What a log line says of membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Applied {
    /// A member was added.
    Added,
    /// A learner was promoted.
    Promoted,
    /// A member was removed.
    Removed,
    /// A member has told its client URLs.
    Published,
}

/// When each change was told, by anybody. A member that starts again tells them all again, later.
pub type Times = BTreeMap<(Applied, Id), BTreeSet<Micros>>;

/// Notes what one log tells.
pub fn note_times(log: &str, times: &mut Times) {
    for line in log.lines() {
        if let Some((key, at)) = line.splitn(4, ' ').nth(3).and_then(|text| applied(line, text)) {
            times.entry(key).or_default().insert(at);
        }
    }
}

fn applied(line: &str, text: &str) -> Option<((Applied, Id), Micros)> {
    let Ok(json) = serde_json::from_str::<Value>(text) else { return applied_in_text(line, text) };
    let (what, id) = match json["msg"].as_str()? {
        "added member" => (Applied::Added, "added-peer-id"),
        "promote member" => (Applied::Promoted, "promoted-member-id"),
        "removed member" => (Applied::Removed, "removed-remote-peer-id"),
        "published local member to cluster through raft" => (Applied::Published, "local-member-id"),
        _ => return None,
    };
    Some(((what, json[id].as_str()?.parse().ok()?), etcds_time(&json)?))
}

/// As 3.4 has it: `etcdserver/membership: added member ID [URLS] to cluster ID`.
fn applied_in_text(line: &str, text: &str) -> Option<((Applied, Id), Micros)> {
    let says = |words: &str| text.split_once(words).map(|(_, rest)| rest);
    let (what, rest) = None
        .or_else(|| says("added member ").map(|rest| (Applied::Added, rest)))
        .or_else(|| says("promoted member ").or_else(|| says("promote member ")).map(|rest| (Applied::Promoted, rest)))
        .or_else(|| says("removed member ").map(|rest| (Applied::Removed, rest)))?;
    let id = rest.split_whitespace().next()?.parse().ok()?;
    Some(((what, id), time(line.split(' ').next()?)?))
}

fn etcds_time(json: &Value) -> Option<Micros> {
    time(json["ts"].as_str()?)
}

/// The start that a log is of: it lies at `NAMESPACE_POD_UID/etcd/RESTARTS.log`.
#[must_use]
pub fn start(path: &Path, log: &str) -> Option<Start> {
    let restarts = path.file_name()?.to_str()?.strip_suffix(".log")?.parse().ok()?;
    let pod = path.parent()?.parent()?.file_name()?.to_str()?;
    let mut parts = pod.split('_').skip(1);
    let (pod, uid) = (parts.next()?.to_owned(), parts.next()?.to_owned());
    let line = log.lines().next()?;
    let text = line.splitn(4, ' ').nth(3)?;
    let own = serde_json::from_str::<Value>(text).ok().and_then(|json| etcds_time(&json));
    let at = own.or_else(|| time(line.split(' ').next()?))?;
    Some(Start { pod, uid, restarts, at })
}

/// Gives the entries the times at which the first member told them. An installation over nothing
/// has the IDs of the one before: what was told earlier is of that one.
pub fn give_times(log: &mut Log, times: &Times) {
    let mut given = BTreeSet::new();
    for entry in &mut log.entries {
        let key = match &entry.what {
            What::Add { member, .. } => (Applied::Added, *member),
            What::Promote(member) => (Applied::Promoted, *member),
            What::Remove(member) => (Applied::Removed, *member),
            What::Publish(member) => (Applied::Published, *member),
            What::Update(..) | What::Load(..) | What::Foreign(..) | What::Own => continue,
        };
        // A second addition of one ID was refused; a second publication changes nothing.
        if given.insert(key) {
            entry.at = times.get(&key).and_then(|told| told.range(log.since..).next().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::referee::history::Entry;

    #[test]
    fn the_first_to_tell_counts() {
        let first = r#"2026-11-24T19:15:33.130000001Z stderr F {"level":"info","ts":"2026-11-24T19:15:33.123456Z","caller":"membership/cluster.go:424","msg":"added member","cluster-id":"cdf8181e325501cc","local-member-id":"8e9e05c52164694d","added-peer-id":"91bc3c398fb3c146","added-peer-peer-urls":["http://a:2380"],"added-peer-is-learner":true}"#;
        let replayed = first.replace("19:15:33", "19:20:00");
        let mut times = Times::new();
        note_times(&format!("{replayed}\n{first}\nno line of it\n"), &mut times);
        let at = time("2026-11-24T19:15:33.123456Z").unwrap();
        assert_eq!(times.len(), 1);
        let entries = [1, 2].map(|index| Entry {
            index,
            term: 2,
            at: None,
            what: What::Add { member: Id(0x91bc_3c39_8fb3_c146), learner: true, urls: vec![], first: false },
        });
        let mut log = Log { cluster: Id(1), since: Micros::MIN, entries: entries.to_vec() };
        give_times(&mut log, &times);
        assert_eq!(log.entries.iter().map(|entry| entry.at).collect::<Vec<_>>(), [Some(at), None]);
        log.since = at + 1;
        give_times(&mut log, &times);
        assert_eq!(log.entries[0].at, time("2026-11-24T19:20:00.123456Z"), "installed anew with the same IDs");
    }

    #[test]
    fn the_log_of_3_4_is_text() {
        let line = "2026-11-24T19:15:33.13Z stderr F 2026-11-24 19:15:33.123456 I | etcdserver/membership: added member 91bc3c398fb3c146 [http://a:2380] to cluster cdf8181e325501cc";
        let mut times = Times::new();
        note_times(line, &mut times);
        assert_eq!(times.len(), 1, "{times:?}");
    }

    #[test]
    fn a_start_is_told_by_path_and_first_line() {
        let log = "2026-11-24T19:15:33.13Z stderr F {\"ts\":\"2026-11-24T19:15:33.1Z\",\"msg\":\"Running\"}\n";
        let path = Path::new("/x/test-a_a-r-etcd-3_0123-uid/etcd/1.log");
        let told = start(path, log).unwrap();
        assert_eq!((told.pod.as_str(), told.uid.as_str(), told.restarts), ("a-r-etcd-3", "0123-uid", 1));
        assert_eq!(told.at, time("2026-11-24T19:15:33.1Z").unwrap());
    }
}
