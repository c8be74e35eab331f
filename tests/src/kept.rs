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
    /// The StatefulSet outlives the installation, stopped, with the record in its annotations.
    pub statefulset: bool,
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
    /// The same cluster with the count that is asked for, at once.
    Restart,
    /// A new cluster, at once.
    Begin,
    /// A question; taken back it is the old cluster, begun anew a new one.
    AskOrTakeBack,
    /// A question; it cannot be taken back as it is, and says so; begun anew it is a new cluster.
    AskOnlyAnew,
    /// A cluster of another count is known: refused, with the count that it had as the way out. With that it ends as
    /// [`Row::with_its_own_count`], and if that is the old cluster, it comes to the other count.
    StartFirst,
    /// The same cluster without those whose data is not there, and they do not start as new.
    Without,
    /// A cluster is known of whose data no quorum is there: none starts as new, and it is said. With the StatefulSet
    /// deleted it is a bootstrap, and a new cluster once that was decided.
    Refuse,
    /// By how many old directories lie where the pods come to lie, see [`Row::must_end_in_over`].
    ByPlaces,
}

impl Row {
    /// Whether it can be at all: what holds another thing cannot go before it.
    #[must_use]
    pub fn can_be(&self) -> bool {
        let provisioned = self.storage == Storage::Provisioned;
        // A claim, a Lease and a StatefulSet are in their namespace.
        (self.namespace || !self.claims && !self.lease && !self.statefulset)
            // A bound volume waits for its claim.
            && (self.volumes || !self.claims)
            // A provisioner removes its volumes and their directories with the claims.
            && (!provisioned || self.volumes == self.claims && (self.directories == Share::All) == self.claims)
            && !(provisioned && self.directories == Share::One)
    }

    /// What it must end in, as far as that is known before it is run.
    #[must_use]
    pub fn must_end_in(&self) -> End {
        // Nothing says then where the directories are.
        if self.is_by_places() { End::ByPlaces } else { self.must_end_in_over(self.places()) }
    }

    /// Whether pods come to lie where they will, and old directories lie on nodes. For a member that is recorded no volume
    /// is made anew: its pod lies nowhere.
    fn is_by_places(&self) -> bool {
        !self.statefulset && !self.lease && !self.volumes && self.directories != Share::None
    }

    /// Of how many of the old members the data is in what is mounted, where volumes say so.
    fn places(&self) -> usize {
        let (before, after) = self.counts;
        match self.directories {
            _ if !self.volumes => 0,
            Share::All => before.min(after),
            Share::One => 1,
            Share::None => 0,
        }
    }

    /// What it must end in where the data of so many of the old members is in what their pods mount.
    #[must_use]
    pub fn must_end_in_over(&self, here: usize) -> End {
        let (before, after) = self.counts;
        let quorum = before / 2 + 1;
        let whole = self.directories == Share::All || before == 1 && self.directories == Share::One;
        if self.statefulset {
            return match here {
                _ if before != after => End::StartFirst,
                _ if here == before => End::Restart,
                _ if here >= quorum => End::Without,
                _ => End::Refuse,
            };
        }
        if !self.volumes {
            return if self.lease || here > 0 { End::AskOnlyAnew } else { End::Begin };
        }
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

    /// The row of what was taken back and lost the same once more.
    #[must_use]
    pub fn taken_back(&self) -> Self {
        Self { counts: (self.counts.1, self.counts.1), ..*self }
    }

    /// The row that is installed with the count that it had.
    #[must_use]
    pub fn with_its_own_count(&self) -> Self {
        Self { counts: (self.counts.0, self.counts.0), ..*self }
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts: (before, after), storage, by, .. } = self;
        let kept = |what: bool| if what { "kept" } else { "gone" };
        write!(
            f,
            "{before} → {after}, {storage:?}, {by:?}: namespace {}, StatefulSet {}, claims {}, volumes {}, directories {:?}, Lease {}; must end in {:?}",
            kept(self.namespace),
            kept(self.statefulset),
            kept(self.claims),
            kept(self.volumes),
            self.directories,
            kept(self.lease),
            self.must_end_in()
        )
    }
}
