//! What stays of an installation, and what the next one must make of it: the rows, and what each must
//! end in, as the issue has it (not as the product does it).
//!
//! [`rows::pairwise`] makes the set: each pair of values of two factors is in one of its rows.
//! [`run::row`] runs one.

use std::fmt;

use crate::release::{Helm, Storage};

pub mod rows;
pub mod run;

/// How much of something stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// All of it.
    All,
    /// That of the first member.
    One,
    /// Nothing.
    None,
}

/// Who installs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Helm 4.
    Helm4,
    /// Helm 3.
    Helm3,
    /// `helm template`, and kubectl: nothing is looked up, and there are no hooks.
    Rendered,
}

impl By {
    /// The Helm that renders.
    #[must_use]
    pub fn helm(self) -> Helm {
        if self == Self::Helm3 { Helm::V3 } else { Helm::V4 }
    }
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Members before and after.
    pub counts: (usize, usize),
    /// Where volumes come from.
    pub storage: Storage,
    /// Who installs.
    pub by: By,
    /// The namespace stays.
    pub namespace: bool,
    /// The claims stay.
    pub claims: bool,
    /// The volumes stay, Released where their claims do not.
    pub volumes: bool,
    /// The directories on the nodes.
    pub directories: Share,
    /// The Lease with the record's copy stays.
    pub lease: bool,
}

/// What a row must end in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The same cluster, at once.
    Restart,
    /// A new cluster, at once.
    Begin,
    /// A question; taken back it is the old cluster, begun anew a new one.
    AskOrTakeBack,
    /// A question; it cannot be taken back as it is, and says so; begun anew it is a new cluster.
    AskOnlyAnew,
    /// Old directories may or may not be where the pods come to lie: a new cluster, or a question; begun anew it is a
    /// new one.
    BeginOrAsk,
}

impl Row {
    /// Whether it can be at all: what holds another thing cannot go before it.
    #[must_use]
    pub fn can_be(&self) -> bool {
        let provisioned = self.storage == Storage::Provisioned;
        // A claim and a Lease are in their namespace.
        (self.namespace || !self.claims && !self.lease)
            // A bound volume waits for its claim.
            && (self.volumes || !self.claims)
            // A provisioner removes its volumes and their directories with the claims.
            && (!provisioned || self.volumes == self.claims && (self.directories == Share::All) == self.claims)
            && !(provisioned && self.directories == Share::One)
    }

    /// What it must end in.
    #[must_use]
    pub fn must_end_in(&self) -> End {
        let (before, after) = self.counts;
        let here = match self.directories {
            Share::All => before.min(after),
            Share::One => 1,
            Share::None => 0,
        };
        let quorum = before / 2 + 1;
        if !self.volumes {
            // Nothing says where the directories are.
            return match (self.lease, self.directories) {
                (true, Share::None) => End::AskOnlyAnew,
                (false, Share::None) => End::Begin,
                (true, _) => End::AskOnlyAnew,
                (false, _) => End::BeginOrAsk,
            };
        }
        let whole = self.directories == Share::All || before == 1 && self.directories == Share::One;
        if self.claims && whole && before == after {
            return End::Restart;
        }
        // Every place was looked at and is empty.
        if self.claims && here == 0 && !self.lease && after >= before {
            return End::Begin;
        }
        // Without a Lease nobody knows how many they were, but for what is kept of them.
        if here >= quorum && (self.lease || whole) && after >= before { End::AskOrTakeBack } else { End::AskOnlyAnew }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts: (before, after), storage, by, .. } = self;
        let kept = |what: bool| if what { "kept" } else { "gone" };
        write!(
            f,
            "{before} → {after}, {storage:?}, {by:?}: namespace {}, claims {}, volumes {}, directories {:?}, Lease {}; must end in {:?}",
            kept(self.namespace),
            kept(self.claims),
            kept(self.volumes),
            self.directories,
            kept(self.lease),
            self.must_end_in()
        )
    }
}
