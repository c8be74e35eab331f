//! The comparison itself: the members' keys, each member's in order, side by side. Pages may end at any key; kept in
//! memory are keys that some member has not reached yet.

use std::collections::{BTreeMap, VecDeque};

use membership::know::names::Ordinal;
use ring::digest::{SHA256, digest};

use super::entry::{Entry, Through};

/// One key as a member holds it, the value by its hash only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The revision that wrote it last.
    pub mod_revision: i64,
    /// The revision that made it.
    pub create_revision: i64,
    /// How often it was written since it was made.
    pub version: i64,
    /// The ID of its lease, 0 for none.
    pub lease: i64,
    /// SHA-256 of the value, its first 8 bytes.
    pub value_hash: u64,
    /// The value's length in bytes.
    pub value_bytes: usize,
}

/// How a member's key differs from what the others hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// It lacks the key.
    Missing,
    /// It has a key that the others lack.
    Extra,
    /// The value differs.
    Value,
    /// The value is the same; lease, version or a revision differs.
    Metadata,
}

/// How many keys of one member differ, by how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys it has.
    pub keys: u64,
    /// [`Kind::Missing`].
    pub missing: u64,
    /// [`Kind::Extra`].
    pub extra: u64,
    /// [`Kind::Value`].
    pub value: u64,
    /// [`Kind::Metadata`].
    pub metadata: u64,
}

impl Counts {
    fn count(&mut self, kind: Kind) {
        *match kind {
            Kind::Missing => &mut self.missing,
            Kind::Extra => &mut self.extra,
            Kind::Value => &mut self.value,
            Kind::Metadata => &mut self.metadata,
        } += 1;
    }

    /// All that differ.
    #[must_use]
    pub fn differing(&self) -> u64 {
        self.missing + self.extra + self.value + self.metadata
    }
}

/// One key that members hold differently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: Vec<u8>,
    /// What each member holds; `None`: it lacks the key.
    pub held: BTreeMap<Ordinal, Option<Held>>,
    /// The members that differ, and how: from the majority or, if there is none, from the first member.
    pub differ: BTreeMap<Ordinal, Kind>,
    /// More than half of the members hold the same.
    pub majority: bool,
}

/// What all members hold at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// The pinned revision.
    pub revision: i64,
    /// By ordinal.
    pub members: BTreeMap<Ordinal, Counts>,
    /// How many keys differ.
    pub differing: u64,
    /// Of these, on how many no majority agrees.
    pub undecided: u64,
    /// The first of them, in the order of keys.
    pub first: Vec<Difference>,
}

impl Diff {
    /// Whether every member holds the same.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.differing == 0
    }

    /// The one member that differs, if all others agree in every key and are a majority. `None`: it cannot be told who
    /// is wrong, or nobody is.
    #[must_use]
    pub fn outlier(&self) -> Option<Ordinal> {
        let mut differing = self.members.iter().filter(|(_, counts)| counts.differing() > 0);
        let (&ordinal, _) = differing.next()?;
        (self.undecided == 0 && differing.next().is_none()).then_some(ordinal)
    }
}

/// One member's keys that are not compared yet.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<Entry>,
    through: Through,
    counts: Counts,
}

/// The comparison under way.
#[derive(Debug)]
pub struct Merge {
    ordinals: Vec<Ordinal>,
    lanes: Vec<Lane>,
    revision: i64,
    /// How many differences are named.
    named: usize,
    differing: u64,
    undecided: u64,
    first: Vec<Difference>,
}

impl Merge {
    /// A comparison of these members, before any key is read.
    pub fn new(ordinals: impl IntoIterator<Item = Ordinal>, revision: i64, named: usize) -> Self {
        let ordinals: Vec<Ordinal> = ordinals.into_iter().collect();
        let lane = |_| Lane { waiting: VecDeque::new(), through: Through::start(), counts: Counts::default() };
        let lanes = ordinals.iter().map(lane).collect();
        Self { ordinals, lanes, revision, named, differing: 0, undecided: 0, first: Vec::new() }
    }

    /// How many keys of the first member are compared.
    pub fn compared(&self) -> u64 {
        self.lanes.first().map_or(0, |lane| lane.counts.keys)
    }

    /// Takes a member's next keys, in order, up to `through`. `lane`: the member, numbered in the order of
    /// [`Self::new`].
    pub fn feed(&mut self, lane: usize, entries: Vec<Entry>, through: Through) {
        let lane = &mut self.lanes[lane];
        lane.waiting.extend(entries);
        lane.through = through;
    }

    /// Compares every key up to which all members are read.
    pub fn advance(&mut self) {
        let Some(known) = self.lanes.iter().map(|lane| lane.through.clone()).min() else { return };
        let known = |entry: &&Entry| match &known {
            Through::Before(bound) => entry.key < *bound,
            Through::End => true,
        };
        loop {
            let heads = || self.lanes.iter().map(|lane| lane.waiting.front().filter(known));
            let Some(least) = heads().flatten().min_by(|a, b| a.key.cmp(&b.key)) else { return };
            // The usual case: all hold the same.
            if heads().all(|head| head == Some(least)) {
                for lane in &mut self.lanes {
                    lane.waiting.pop_front();
                    lane.counts.keys += 1;
                }
                continue;
            }
            let key = least.key.clone();
            let held = self.lanes.iter_mut().map(|lane| {
                let entry = lane.waiting.pop_front_if(|entry| entry.key == key);
                lane.counts.keys += u64::from(entry.is_some());
                entry
            });
            let held: Vec<Option<Entry>> = held.collect();
            self.differ(key, &held);
        }
    }

    /// Counts a key that members hold differently, and keeps it if it is among the first.
    fn differ(&mut self, key: Vec<u8>, held: &[Option<Entry>]) {
        let same = |one: &&Option<Entry>| held.iter().filter(|other| other == one).count() * 2 > held.len();
        let majority = held.iter().find(same);
        let base = majority.unwrap_or(&held[0]).as_ref();
        let mut differ = BTreeMap::new();
        for ((&ordinal, lane), entry) in self.ordinals.iter().zip(&mut self.lanes).zip(held) {
            if let Some(kind) = kind(base, entry.as_ref()) {
                lane.counts.count(kind);
                differ.insert(ordinal, kind);
            }
        }
        self.differing += 1;
        self.undecided += u64::from(majority.is_none());
        if self.first.len() < self.named {
            let held = self.ordinals.iter().copied().zip(held.iter().map(|entry| entry.as_ref().map(Held::of)));
            self.first.push(Difference { key, held: held.collect(), differ, majority: majority.is_some() });
        }
    }

    /// What was found.
    pub fn finish(self) -> Diff {
        let Self { ordinals, lanes, revision, differing, undecided, first, named: _ } = self;
        let members = ordinals.into_iter().zip(lanes.into_iter().map(|lane| lane.counts)).collect();
        Diff { revision, members, differing, undecided, first }
    }
}

/// How `entry` differs from `base`.
fn kind(base: Option<&Entry>, entry: Option<&Entry>) -> Option<Kind> {
    match (base, entry) {
        (None, None) => None,
        (Some(_), None) => Some(Kind::Missing),
        (None, Some(_)) => Some(Kind::Extra),
        (Some(base), Some(entry)) if base.value != entry.value => Some(Kind::Value),
        (Some(base), Some(entry)) => (base != entry).then_some(Kind::Metadata),
    }
}

impl Held {
    fn of(entry: &Entry) -> Self {
        let hash = digest(&SHA256, &entry.value);
        let value_hash = hash.as_ref().iter().take(8).fold(0, |number, &byte| number << 8 | u64::from(byte));
        let &Entry { lease, version, created, modified, .. } = entry;
        Self {
            mod_revision: modified,
            create_revision: created,
            version,
            lease,
            value_hash,
            value_bytes: entry.value.len(),
        }
    }
}
