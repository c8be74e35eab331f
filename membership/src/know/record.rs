//! The record: what was verified about the cluster, as an annotation of the StatefulSet.
//!
//! Its format is a contract: `{"v":1,"cluster":"<16 hex>","members":{"0":{"id":"<16 hex>","state":"member"}}}`.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::know::names::Ordinal;

/// An etcd member ID or cluster ID, written as etcdctl writes it but padded to 16 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub u64);

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Id {
    type Err = std::num::ParseIntError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(s, 16).map(Self)
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How far a member has come. Voter or learner is not in it: that is always read live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In the first member list, never yet answered under its ID. Its pod is as its chart made it.
    Bootstrapping,
    /// Added by us, never yet seen serving. Its pod is held by `admit` until permitted.
    Joining,
    /// Has answered under its own ID. Its pod is ordinary and is never held again.
    Member,
    /// Not wanted any more: it is being removed, or just was. Written before `member remove`, so
    /// that a run after a killed one knows that the removal was ours. Its pod is ordinary.
    Leaving,
}

impl State {
    /// Whether the member must be in etcd's member list. One that joins or leaves may be in it or not.
    #[must_use]
    pub fn is_settled(self) -> bool {
        matches!(self, Self::Bootstrapping | Self::Member)
    }
}

/// One ordinal of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// The member's ID.
    pub id: Id,
    /// How far it has come.
    pub state: State,
}

/// What was verified. Only the Job writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version, 1.
    pub v: u32,
    /// The cluster's ID.
    pub cluster: Id,
    /// By ordinal, ascending.
    pub members: BTreeMap<Ordinal, Recorded>,
}

/// Why an annotation is not a record.
#[derive(Debug, thiserror::Error)]
pub enum ParseRecordError {
    /// Not the JSON of a record.
    #[error("the annotation etcd-scaler.io/record is not a record: {0}")]
    Format(#[from] serde_json::Error),
    /// A later release wrote it.
    #[error(
        "the annotation etcd-scaler.io/record has version {0}, this program knows version 1: use the newer program"
    )]
    Version(u32),
}

impl Record {
    /// An empty record of a cluster.
    #[must_use]
    pub fn new(cluster: Id) -> Self {
        Self { v: 1, cluster, members: BTreeMap::new() }
    }

    /// Reads the annotation's value.
    ///
    /// # Errors
    /// When it is not a record of a version known here.
    pub fn parse(annotation: &str) -> Result<Self, ParseRecordError> {
        let record: Self = serde_json::from_str(annotation)?;
        if record.v == 1 { Ok(record) } else { Err(ParseRecordError::Version(record.v)) }
    }

    /// The annotation's value.
    #[must_use]
    pub fn annotation(&self) -> String {
        // A struct of strings and integers always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The state of an ordinal.
    #[must_use]
    pub fn state(&self, ordinal: Ordinal) -> Option<State> {
        self.members.get(&ordinal).map(|recorded| recorded.state)
    }

    /// The count of replicas at which every recorded member has its pod; members that are still joining do not count.
    /// Scaling to this count is going back.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.verified().last().map_or(0, |last| last + 1)
    }

    /// The lowest ordinal without a member, if a higher one has a member: its own was removed by hand.
    #[must_use]
    pub fn gap(&self) -> Option<Ordinal> {
        (0..).zip(self.verified()).find(|(expected, ordinal)| expected != ordinal).map(|(expected, _)| expected)
    }

    fn verified(&self) -> impl Iterator<Item = Ordinal> {
        let verified = self.members.iter().filter(|(_, recorded)| recorded.state != State::Joining);
        verified.map(|(&ordinal, _)| ordinal)
    }

    /// This record with one ordinal set.
    #[must_use]
    pub fn with(mut self, ordinal: Ordinal, id: Id, state: State) -> Self {
        self.members.insert(ordinal, Recorded { id, state });
        self
    }

    /// This record without one ordinal.
    #[must_use]
    pub fn without(mut self, ordinal: Ordinal) -> Self {
        self.members.remove(&ordinal);
        self
    }
}

/// What the Job lets a joining pod know (annotation [`crate::know::names::PERMISSION`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permission {
    /// The ID under which the pod may start.
    pub member: Id,
    /// The cluster it joins.
    pub cluster: Id,
    /// The IDs in the live member list, its own included.
    pub live: Vec<Id>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_a_contract() {
        let record = Record::new(Id(0xabc)).with(10, Id(3), State::Bootstrapping).with(3, Id(2), State::Joining).with(
            0,
            Id(1),
            State::Member,
        );
        let text = record.annotation();
        insta::assert_snapshot!(text, @r#"{"v":1,"cluster":"0000000000000abc","members":{"0":{"id":"0000000000000001","state":"member"},"3":{"id":"0000000000000002","state":"joining"},"10":{"id":"0000000000000003","state":"bootstrapping"}}}"#);
        assert_eq!(Record::parse(&text).unwrap(), record);
        assert_eq!((record.count(), record.gap()), (11, Some(1)));
        assert!(record.with(3, Id(2), State::Leaving).annotation().contains(r#""state":"leaving""#));
    }

    #[test]
    fn a_joining_member_counts_neither_above_nor_in_a_gap() {
        let record = Record::new(Id(1)).with(0, Id(1), State::Member).with(1, Id(2), State::Leaving);
        let joining = record.clone().with(2, Id(3), State::Joining);
        assert_eq!((joining.count(), joining.gap()), (2, None));
        let filling = joining.with(3, Id(4), State::Member);
        assert_eq!((filling.count(), filling.gap()), (4, Some(2)));
        assert_eq!(Record::new(Id(1)).count(), 0);
    }

    #[test]
    fn a_later_version_is_not_guessed_at() {
        let error = Record::parse(r#"{"v":2,"cluster":"1","members":{}}"#).unwrap_err();
        assert!(error.to_string().contains("version 2"), "{error}");
        assert!(Record::parse("yes").is_err());
    }
}
