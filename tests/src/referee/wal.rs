//! What the members themselves wrote down, in the order in which it was agreed: their write-ahead
//! logs, read while etcd runs.
//!
//! Field numbers are those of `raftpb`, `etcdserverpb` and `membershippb` of etcd 3.4 to 3.6.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Read;
use std::path::Path;

use anyhow::Context;
use etcd::{Fields, Records};
use membership::know::record::Id;
use serde_json::Value;

use super::history::{Entry, Log, Micros, What};
use super::watch::Held;

/// Types of records.
const METADATA: u64 = 1;
const ENTRY: u64 = 2;
const STATE: u64 = 3;
const SNAPSHOT: u64 = 5;

/// What one member wrote.
#[derive(Clone, Debug)]
pub struct MemberLog {
    /// Its ID.
    pub member: Id,
    /// Its cluster.
    pub cluster: Id,
    /// When it was first seen: on this node, or moved aside.
    pub seen: Micros,
    /// By index; with a digest of what it was read from.
    entries: BTreeMap<u64, (Entry, u64)>,
    /// Up to here it knows that its entries are agreed.
    commit: u64,
}

impl MemberLog {
    /// Reads a member's segments, in their order; nothing, if etcd has only just made them.
    ///
    /// # Errors
    /// When they are damaged before their end.
    pub fn read<R: Read>(segments: impl IntoIterator<Item = R>, seen: Micros) -> anyhow::Result<Option<Self>> {
        let mut log = Self { member: Id(0), cluster: Id(0), seen, entries: BTreeMap::new(), commit: 0 };
        for segment in segments {
            for record in Records::of(segment) {
                let record = record?;
                log.add(record.kind, &record.data).map_err(|why| anyhow::anyhow!("{why} in a log of etcd"))?;
            }
        }
        log.mark_the_first();
        Ok(Some(log).filter(|log| log.cluster != Id(0)))
    }

    fn add(&mut self, kind: u64, data: &[u8]) -> Result<(), &'static str> {
        let fields = || Fields::of(data);
        match kind {
            METADATA => {
                let fields = fields()?;
                let ids = (fields.number(1).unwrap_or(0), fields.number(2).unwrap_or(0));
                (self.member, self.cluster) = (Id(ids.0), Id(ids.1));
            }
            ENTRY => {
                let entry = entry(data)?;
                // What comes later at the same place replaces it and all that was behind.
                self.entries.split_off(&entry.index);
                self.entries.insert(entry.index, (entry, digest(data)));
            }
            STATE => self.commit = self.commit.max(fields()?.number(3).unwrap_or(0)),
            // What a snapshot holds is agreed.
            SNAPSHOT => self.commit = self.commit.max(fields()?.number(1).unwrap_or(0)),
            _ => {}
        }
        Ok(())
    }

    /// What it knows to be agreed. Behind that, a member that was away may hold what the others have
    /// replaced.
    fn committed(&self) -> impl Iterator<Item = (u64, &(Entry, u64))> {
        self.entries.range(..=self.commit).map(|(&index, entry)| (index, entry))
    }

    /// The first place at which both know of something else, in words.
    fn differs(&self, other: &Self) -> Option<String> {
        self.committed().find_map(|(index, (entry, digest))| {
            let (others, other_digest) = other.entries.get(&index).filter(|_| index <= other.commit)?;
            let (one, two) = (self.member, other.member);
            (digest != other_digest).then(|| {
                format!(
                    "{one} and {two} have committed at #{index}: {} (term {}), and {} (term {})",
                    entry.what, entry.term, others.what, others.term
                )
            })
        })
    }

    /// The first member list is the row of additions that each member begins its log with.
    fn mark_the_first(&mut self) {
        for (due, (index, (entry, _))) in (1..).zip(&mut self.entries) {
            match &mut entry.what {
                What::Add { first, .. } if *index == due && entry.term <= 1 => *first = true,
                _ => break,
            }
        }
    }
}

/// What clusters agreed on, put together from their members' logs.
#[derive(Clone, Debug, Default)]
pub struct Agreed {
    /// By cluster, in the order in which they began.
    pub logs: Vec<Log>,
    /// Written by some member, behind all that is known to be agreed.
    pub ahead: Vec<Entry>,
    /// Each begins with the first entry and nothing is left out.
    pub whole: bool,
    /// Where two members disagree on what is agreed, or one began anew, in words.
    pub differences: Vec<String>,
}

/// Puts logs together. The ID of a cluster follows from its names: installed anew over nothing it
/// has the same one, so logs that disagree are of two clusters if one was made `anew` in between.
#[must_use]
pub fn agreed(logs: &[MemberLog], anew: &[Micros]) -> Agreed {
    let mut logs: Vec<&MemberLog> = logs.iter().collect();
    logs.sort_by_key(|log| log.seen);
    let mut clusters: Vec<Vec<&MemberLog>> = Vec::new();
    let mut found = Agreed { whole: true, ..Agreed::default() };
    for log in logs {
        let its = clusters.iter_mut().rev().find(|cluster| cluster.iter().all(|other| other.cluster == log.cluster));
        let Some(its) = its else {
            clusters.push(vec![log]);
            continue;
        };
        let differs = its.iter().find_map(|other| other.differs(log));
        let is_new = its.iter().any(|other| anew.iter().any(|at| other.seen < *at && *at < log.seen));
        match differs {
            Some(_) if is_new => clusters.push(vec![log]),
            Some(how) => found.differences.push(how),
            None => {
                if its.iter().any(|other| other.member == log.member) {
                    found
                        .differences
                        .push(format!("{} began a second log: it came back empty under its ID", log.member));
                }
                its.push(log);
            }
        }
    }
    for cluster in clusters {
        let commit = cluster.iter().map(|log| log.commit).max().unwrap_or(0);
        let ahead = cluster.iter().flat_map(|log| log.entries.range(commit + 1..));
        found.ahead.extend(ahead.map(|(_, (entry, _))| entry.clone()));
        // A later member's log begins with a snapshot: what was before is told by others.
        let committed = cluster.iter().flat_map(|log| log.committed());
        let entries: BTreeMap<u64, &Entry> = committed.map(|(index, (entry, _))| (index, entry)).collect();
        found.whole &= (1..).zip(entries.keys()).all(|(due, &index)| due == index);
        let entries = entries.into_values().cloned().collect();
        let since = |first: &MemberLog| anew.iter().copied().filter(|&at| at < first.seen).max().unwrap_or(Micros::MIN);
        found.logs.extend(cluster.first().map(|first| Log { cluster: first.cluster, since: since(first), entries }));
    }
    found
}

fn digest(data: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

/// `raftpb.Entry`.
fn entry(data: &[u8]) -> Result<Entry, &'static str> {
    let fields = Fields::of(data)?;
    let number = |field| fields.number(field).unwrap_or(0);
    let data = fields.bytes(4).unwrap_or_default();
    let what = match number(1) {
        0 if data.is_empty() => What::Own,
        0 => request(data)?,
        1 => change(data)?,
        _ => return Err("an entry of unknown type"),
    };
    Ok(Entry { index: number(3), term: number(2), at: None, what })
}

/// `raftpb.ConfChange`, whose context is JSON.
fn change(data: &[u8]) -> Result<What, &'static str> {
    let fields = Fields::of(data)?;
    let member = Id(fields.number(3).unwrap_or(0));
    let context: Value = match fields.bytes(4) {
        None | Some([]) => Value::Null,
        Some(json) => serde_json::from_slice(json).map_err(|_| "a membership change that is not JSON")?,
    };
    let urls = context["peerURLs"].as_array().into_iter().flatten();
    let urls = urls.filter_map(|url| url.as_str().map(str::to_owned)).collect();
    let learner = context["isLearner"] == true;
    match fields.number(2).unwrap_or(0) {
        0 | 3 if context["isPromote"] == true => Ok(What::Promote(member)),
        0 | 3 => Ok(What::Add { member, learner, urls, first: false }),
        1 => Ok(What::Remove(member)),
        2 => Ok(What::Update(member, urls)),
        _ => Err("a membership change of unknown type"),
    }
}

/// `etcdserverpb.InternalRaftRequest`; before 3.6 also a bare `etcdserverpb.Request`, the v2 store's.
fn request(data: &[u8]) -> Result<What, &'static str> {
    let fields = Fields::of(data)?;
    if let Some(second) = fields.bytes(2) {
        // The second field is a v2 request, or, in a bare one, the method.
        return if second.iter().all(u8::is_ascii_uppercase) { v2(&fields) } else { v2(&Fields::of(second)?) };
    }
    for field in fields.numbers().collect::<Vec<_>>() {
        let inner = || Fields::of(fields.bytes(field).unwrap_or_default());
        return Ok(match field {
            // The ID, the header.
            1 | 100 => continue,
            4 => written("put", inner()?.bytes(1).unwrap_or_default()),
            5 => foreign("delete", inner()?.bytes(1).unwrap_or_default()),
            6 => transaction(&inner()?)?,
            // Compaction (etcd's own, by its configuration), alarms, versions, downgrades.
            7 | 10 | 1300 | 1302 => What::Own,
            1301 => What::Publish(Id(inner()?.number(1).unwrap_or(0))),
            3 => What::Own, // A range in the log changes nothing.
            8 => foreign("lease grant", b""),
            9 => foreign("lease revoke", b""),
            11 => foreign("lease checkpoint", b""),
            1012 => What::Own,
            other => foreign(&format!("auth change {other}"), b""),
        });
    }
    Ok(What::Own)
}

/// `etcdserverpb.Request {method = 2, path = 3}`: members tell their client URLs with it.
fn v2(request: &Fields<'_>) -> Result<What, &'static str> {
    let path = String::from_utf8_lossy(request.bytes(3).unwrap_or_default()).into_owned();
    let member = path.strip_prefix("/0/members/").and_then(|rest| rest.strip_suffix("/attributes"));
    if let Some(member) = member {
        let id = u64::from_str_radix(member, 16).map_err(|_| "an ID that is not hexadecimal")?;
        return Ok(What::Publish(Id(id)));
    }
    let own = path.starts_with("/0/") || request.bytes(2) == Some(b"SYNC");
    Ok(if own { What::Own } else { What::Foreign("v2 request".to_owned(), path) })
}

/// `etcdserverpb.TxnRequest {success = 2, failure = 3}` of `RequestOp {range, put, delete, txn}`. One that only puts keys
/// of the load's kind is the scenario's own.
fn transaction(txn: &Fields<'_>) -> Result<What, &'static str> {
    for operation in txn.all(2).chain(txn.all(3)) {
        let operation = Fields::of(operation)?;
        if let Some(put) = operation.bytes(2)
            && let foreign @ What::Foreign(..) =
                written("put in a transaction", Fields::of(put)?.bytes(1).unwrap_or_default())
        {
            return Ok(foreign);
        }
        if let Some(delete) = operation.bytes(3) {
            return Ok(foreign("delete in a transaction", Fields::of(delete)?.bytes(1).unwrap_or_default()));
        }
        if let Some(inner) = operation.bytes(4) {
            let inner = transaction(&Fields::of(inner)?)?;
            if inner != What::Own {
                return Ok(inner);
            }
        }
    }
    Ok(What::Own)
}

fn written(call: &str, key: &[u8]) -> What {
    let text = String::from_utf8_lossy(key);
    let mut parts = text.strip_prefix("traffic/").into_iter().flat_map(|rest| rest.split('/'));
    match (parts.next().map(str::parse), parts.next().map(str::parse), parts.next()) {
        (Some(Ok(client)), Some(Ok(number)), None) => What::Load(client, number),
        _ => foreign(call, key),
    }
}

fn foreign(call: &str, key: &[u8]) -> What {
    What::Foreign(call.to_owned(), String::from_utf8_lossy(key).into_owned())
}

/// Reads the segments that were held: one log for each row of them. A member whose directory was
/// emptied and that came back under its ID has two.
///
/// # Errors
/// As [`MemberLog::read`], with the paths.
pub fn read_held(held: &[Held]) -> anyhow::Result<Vec<MemberLog>> {
    let segments = held.iter().filter(|held| held.path.extension().is_some_and(|it| it == "wal"));
    let mut rows: Vec<Vec<&Held>> = Vec::new();
    for segment in segments {
        // Moved aside or not, a directory's first segment begins a row, the others go on with it.
        let its = |row: &&mut Vec<&Held>| row.last().is_some_and(|last| goes_on(&last.path, &segment.path));
        match rows.iter_mut().rev().find(its) {
            Some(row) => row.push(segment),
            None => rows.push(vec![segment]),
        }
    }
    let read = rows.iter().map(|row| {
        let paths: Vec<String> = row.iter().map(|held| held.path.display().to_string()).collect();
        let seen = row.first().map_or(0, |first| first.seen);
        let log = MemberLog::read(row.iter().map(|held| held.reader()), seen);
        log.with_context(|| format!("failed to read {}", paths.join(", "))).transpose()
    });
    read.flatten().collect()
}

/// Whether a segment comes right behind another: `SEQUENCE-INDEX.wal` in one directory.
fn goes_on(last: &Path, next: &Path) -> bool {
    let sequence = |path: &Path| {
        let name = path.file_name()?.to_str()?;
        u64::from_str_radix(name.split('-').next()?, 16).ok()
    };
    last.parent() == next.parent() && sequence(next).is_some() && sequence(next) == sequence(last).map(|it| it + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log that is first seen at a time, with these entries (index, term) and this commit.
    fn log(member: u64, seen: Micros, entries: &[(u64, u64)], commit: u64) -> MemberLog {
        let entry = |&(index, term): &(u64, u64)| {
            let entry = Entry { index, term, at: None, what: What::Load(0, index) };
            (index, (entry, term))
        };
        let entries = entries.iter().map(entry).collect();
        MemberLog { member: Id(member), cluster: Id(7), seen, entries, commit }
    }

    fn terms(log: &Log) -> Vec<u64> {
        log.entries.iter().map(|entry| entry.term).collect()
    }

    #[test]
    fn what_was_replaced_before_it_was_agreed_is_nothing() {
        let away = log(1, 10, &[(1, 1), (2, 1), (3, 1)], 2);
        let others = log(2, 11, &[(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)], 4);
        let agreed = agreed(&[away, others], &[]);
        assert_eq!(terms(&agreed.logs[0]), [1, 1, 2, 2]);
        assert_eq!(agreed.ahead.len(), 1, "written, and not known to be agreed");
        assert!(agreed.whole && agreed.differences.is_empty());
    }

    #[test]
    fn two_that_agreed_on_something_else_are_found() {
        let logs = [log(1, 10, &[(1, 1), (2, 1)], 2), log(2, 11, &[(1, 1), (2, 2)], 2)];
        assert_eq!(agreed(&logs, &[]).differences.len(), 1);
        assert_eq!(agreed(&logs, &[5, 20]).differences.len(), 1, "nothing was made anew in between");
    }

    #[test]
    fn one_that_began_a_second_log_came_back_empty() {
        let logs = [log(1, 10, &[(1, 1), (2, 1)], 2), log(1, 20, &[(2, 1)], 2)];
        let found = agreed(&logs, &[]);
        assert!(found.differences[0].contains("came back empty"), "{:?}", found.differences);
    }

    #[test]
    fn installed_anew_over_nothing_it_is_another_cluster_of_the_same_name() {
        let logs = [log(1, 10, &[(1, 1), (2, 1)], 2), log(1, 20, &[(1, 1), (2, 2)], 2)];
        let found = agreed(&logs, &[15]);
        assert_eq!(found.logs.iter().map(terms).collect::<Vec<_>>(), [[1, 1], [1, 2]]);
        assert_eq!((found.logs[0].since, found.logs[1].since), (Micros::MIN, 15));
        assert!(found.differences.is_empty());
    }

    #[test]
    fn a_log_without_its_beginning_is_not_whole() {
        assert!(!agreed(&[log(1, 10, &[(5, 1), (6, 1)], 6)], &[]).whole);
        let logs = [log(1, 10, &[(1, 1), (2, 1), (3, 1)], 3), log(2, 11, &[(3, 1), (4, 1)], 4)];
        assert!(agreed(&logs, &[]).whole, "one tells what the other does not have");
    }
}
