//! The answer of `hook validate`, for people and for programs. Its fields are a contract
//! (docs/commands.md).

use etcd::{Diff, Difference, Held, Keys, Kind, Verdict as Hashes};
use membership::know::names::{Ordinal, Target};
use membership::know::record::Id;
use membership::know::summary::Status;
use serde::Serialize;

use crate::table::{known, table};

/// A voting member that is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Voter {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// Its ID.
    pub member: Id,
}

/// Whether the members hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// All hold the same keys.
    Equal,
    /// They differ, confirmed key by key.
    Differ,
    /// Could not be told.
    Unknown,
}

impl Verdict {
    /// The program's exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Equal => 0,
            Self::Differ => 3,
            Self::Unknown => 1,
        }
    }
}

impl From<Verdict> for Status {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Equal => Self::True,
            Verdict::Differ => Self::False,
            Verdict::Unknown => Self::Unknown,
        }
    }
}

/// How many differing keys the sentence names.
const IN_WORDS: usize = 3;

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    namespace: String,
    statefulset: String,
    /// Equal, different, or not told.
    pub verdict: Verdict,
    /// In one sentence, with what to do.
    pub reason: String,
    /// At which revision the hashes were taken.
    hash_revision: Option<i64>,
    /// At which revision the keys were compared one by one; `None`: they were not.
    key_revision: Option<i64>,
    members: Vec<Member>,
    differing: Option<u64>,
    undecided: Option<u64>,
    /// The member that is certainly the one to replace.
    replace: Option<String>,
    /// The first differing keys.
    first: Vec<Key>,
}

/// One member's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Member {
    pod: String,
    member: Id,
    hash: Option<String>,
    compact_revision: Option<i64>,
    keys: Option<u64>,
    missing: Option<u64>,
    extra: Option<u64>,
    value: Option<u64>,
    metadata: Option<u64>,
    #[serde(skip)]
    ordinal: Ordinal,
}

/// One key that differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Key {
    /// With what is not printable escaped as in Rust and C.
    key: String,
    majority: bool,
    held: Vec<HeldBy>,
}

/// What one member holds of a key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct HeldBy {
    pod: String,
    differs: Option<&'static str>,
    present: bool,
    mod_revision: Option<i64>,
    create_revision: Option<i64>,
    version: Option<i64>,
    lease: Option<String>,
    value_hash: Option<String>,
    value_bytes: Option<usize>,
}

impl Answer {
    /// The answer that it could not be told, and nothing is known about any member.
    pub fn unknown(target: &Target, why: String) -> Self {
        let mut answer = Self::about(target, Vec::new());
        answer.reason = format!("whether the members hold the same could not be told: {why}");
        answer
    }

    /// The answer before anything is compared.
    pub fn about(target: &Target, voters: Vec<Voter>) -> Self {
        let members = voters.into_iter().map(|Voter { ordinal, member }| Member {
            pod: target.pod(ordinal),
            member,
            hash: None,
            compact_revision: None,
            keys: None,
            missing: None,
            extra: None,
            value: None,
            metadata: None,
            ordinal,
        });
        Self {
            namespace: target.namespace.clone(),
            statefulset: target.statefulset.clone(),
            verdict: Verdict::Unknown,
            reason: "whether the members hold the same was not told".into(),
            hash_revision: None,
            key_revision: None,
            members: members.collect(),
            differing: None,
            undecided: None,
            replace: None,
            first: Vec::new(),
        }
    }

    /// Takes the result of HashKV. A difference is confirmed only by [`Self::compared`].
    pub fn hashed(&mut self, hashes: &Hashes) {
        match hashes {
            Hashes::Equal(keys) => {
                self.take(keys);
                self.verdict = Verdict::Equal;
                let hash = keys.members.values().next().map_or(0, |one| one.hash);
                let at = format!("at revision {} (HashKV {hash:08x})", keys.revision);
                self.reason = match self.members.len() {
                    1 => format!("the one voting member is {at}; there is no other to compare it with"),
                    voters => format!("{voters} voting members hold the same keys {at}"),
                };
            }
            Hashes::Differ(keys) => {
                self.take(keys);
                self.reason = format!("HashKV differs at revision {}, which is not confirmed", keys.revision);
            }
            Hashes::Unknown(why) => {
                self.reason = format!(
                    "whether the members hold the same could not be told: {why}; validate again when it has passed"
                );
            }
        }
    }

    fn all_hold(&self, keys: u64) -> String {
        match self.members.len() {
            1 => format!("the one voting member holds {keys} keys"),
            voters => format!("{voters} voting members hold the same {keys} keys"),
        }
    }

    fn take(&mut self, Keys { revision, members, .. }: &Keys) {
        self.hash_revision = Some(*revision);
        for member in &mut self.members {
            if let Some(hashed) = members.get(&member.ordinal) {
                member.hash = Some(format!("{:08x}", hashed.hash));
                member.compact_revision = Some(hashed.compact_revision);
            }
        }
    }

    /// Takes the result of the comparison key by key, which decides; `hashes`: the result of HashKV, if it was asked
    /// for.
    pub fn compared(&mut self, hashes: Option<&Hashes>, diff: Result<Diff, String>) {
        let diff = match diff {
            Ok(diff) => diff,
            Err(why) => {
                self.verdict = Verdict::Unknown;
                let before = match hashes {
                    Some(Hashes::Differ(keys)) => format!("HashKV differs at revision {}, and ", keys.revision),
                    Some(Hashes::Unknown(why)) => format!("{why}, and "),
                    Some(Hashes::Equal(_)) | None => String::new(),
                };
                self.reason = format!(
                    "{before}the keys could not be compared one by one: {why}; validate again when it has passed"
                );
                return;
            }
        };
        self.key_revision = Some(diff.revision);
        self.differing = Some(diff.differing);
        self.undecided = Some(diff.undecided);
        for member in &mut self.members {
            if let Some(counts) = diff.members.get(&member.ordinal) {
                member.keys = Some(counts.keys);
                member.missing = Some(counts.missing);
                member.extra = Some(counts.extra);
                member.value = Some(counts.value);
                member.metadata = Some(counts.metadata);
            }
        }
        self.first = diff.first.iter().map(|difference| self.key(difference)).collect();
        self.replace = diff.outlier().and_then(|ordinal| self.pod(ordinal));
        self.verdict = if diff.is_equal() { Verdict::Equal } else { Verdict::Differ };
        self.reason = self.told(hashes, &diff);
    }

    fn told(&self, hashes: Option<&Hashes>, diff: &Diff) -> String {
        let (voters, revision) = (self.members.len(), diff.revision);
        if diff.is_equal() {
            let keys = diff.members.values().next().map_or(0, |counts| counts.keys);
            let told = format!("{} at revision {revision}, compared key by key", self.all_hold(keys));
            return match hashes {
                // A hash also covers older versions of keys, and deleted keys, that are not compacted yet.
                Some(Hashes::Differ(_)) => {
                    format!(
                        "{told}; HashKV differs, so it is in what was overwritten or deleted since the last compaction"
                    )
                }
                _ => told,
            };
        }
        let what = format!("{} keys differ at revision {revision}", diff.differing);
        let what = if diff.differing == 1 { what.replacen("keys differ", "key differs", 1) } else { what };
        let named: Vec<&str> = self.first.iter().take(IN_WORDS).map(|key| key.key.as_str()).collect();
        let more = if diff.differing > named.len() as u64 { ", …" } else { "" };
        let what = format!("{what} ({}{more})", named.join(", "));
        match &self.replace {
            Some(pod) => format!(
                "{what}: {pod} alone holds other keys than the {} others, which agree. Replace its member; until then do not scale or restart anything",
                voters - 1
            ),
            None => format!(
                "{what}, and no majority agrees in all of them against one member: who is wrong cannot be told. Do not scale or restart anything; compare the keys with what wrote them"
            ),
        }
    }

    fn pod(&self, ordinal: Ordinal) -> Option<String> {
        self.members.iter().find(|member| member.ordinal == ordinal).map(|member| member.pod.clone())
    }

    fn key(&self, Difference { key, held, differ, majority }: &Difference) -> Key {
        let held = held.iter().map(|(ordinal, held)| {
            let held = held.as_ref();
            HeldBy {
                pod: self.pod(*ordinal).unwrap_or_default(),
                differs: differ.get(ordinal).map(|kind| word(*kind)),
                present: held.is_some(),
                mod_revision: held.map(|held| held.mod_revision),
                create_revision: held.map(|held| held.create_revision),
                version: held.map(|held| held.version),
                lease: held.map(|held| format!("{:016x}", held.lease)),
                value_hash: held.map(|Held { value_hash, .. }| format!("{value_hash:016x}")),
                value_bytes: held.map(|held| held.value_bytes),
            }
        });
        Key { key: key.escape_ascii().to_string(), majority: *majority, held: held.collect() }
    }

    /// For people, in etcdctl's words.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.members.is_empty() {
            let mut heading = vec!["MEMBER", "ID", "HASH", "COMPACT REVISION"];
            if self.key_revision.is_some() {
                heading.extend(["KEYS", "MISSING", "EXTRA", "VALUE", "METADATA"]);
            }
            let row = |member: &Member| {
                let mut row = vec![member.pod.clone(), member.member.to_string(), known(member.hash.as_ref())];
                row.extend([known(member.compact_revision), known(member.keys)]);
                row.extend([member.missing, member.extra, member.value, member.metadata].map(known));
                row
            };
            text += &table(&heading, &self.members.iter().map(row).collect::<Vec<_>>());
        }
        if !self.first.is_empty() {
            let heading = ["KEY", "MEMBER", "DIFFERS", "MOD REVISION", "VERSION", "LEASE", "VALUE HASH", "BYTES"];
            let rows = self.first.iter().flat_map(|key| {
                key.held.iter().map(|held| {
                    let mut row = vec![key.key.clone(), held.pod.clone(), known(held.differs)];
                    row.extend([known(held.mod_revision), known(held.version), known(held.lease.as_ref())]);
                    row.extend([known(held.value_hash.as_ref()), known(held.value_bytes)]);
                    row
                })
            });
            text += &format!("\n{}", table(&heading, &rows.collect::<Vec<_>>()));
            let rest = self.differing.unwrap_or(0).saturating_sub(self.first.len() as u64);
            if rest > 0 {
                text += &format!("and {rest} more\n");
            }
        }
        let gap = if text.is_empty() { "" } else { "\n" };
        format!("{text}{gap}{}\n", self.reason)
    }
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Missing => "missing",
        Kind::Extra => "extra",
        Kind::Value => "value",
        Kind::Metadata => "metadata",
    }
}

#[cfg(test)]
mod tests;
