//! etcd versions, and what of membership depends on them.

use std::str::FromStr;

/// A server version as `Status` reports it, for example `3.5.30`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Always 3 here.
    pub major: u32,
    /// 4 to 7 are supported.
    pub minor: u32,
    /// The patch level.
    pub patch: u32,
}

/// A version that could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an etcd version")]
pub struct ParseVersionError(String);

impl FromStr for Version {
    type Err = ParseVersionError;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let wrong = || ParseVersionError(s.to_owned());
        // Pre-releases ("3.6.0-rc.3") count as their release.
        let release = s.split(['-', '+']).next().unwrap_or_default();
        let mut parts = release.split('.').map(str::parse);
        let mut next = || parts.next().and_then(Result::ok).ok_or_else(wrong);
        Ok(Self { major: next()?, minor: next()?, patch: next()? })
    }
}

impl Version {
    /// Whether the promotion of a learner survives the upgrade to 3.6: 3.5.1–3.5.19 do not write it into the store that
    /// 3.6 reads (facts-etcd 5.2, 5.4).
    #[must_use]
    pub fn keeps_promotions(self) -> bool {
        let first = Self { major: 3, minor: 5, patch: 1 };
        let last = Self { major: 3, minor: 5, patch: 19 };
        !(first..=last).contains(&self)
    }
}

/// How a newcomer is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JoinAs {
    /// As a learner, promoted once it serves.
    Learner,
    /// As a voter at once.
    Voter,
}

/// How a member joins a cluster of this version and number of voters.
///
/// If a promotion does not survive ([`Version::keeps_promotions`]), a newcomer to three or more members joins as a
/// voter. With fewer it joins as a learner all the same: 1 → 2 as a voter cannot be undone, because the second would be
/// needed for the quorum that removes it.
#[must_use]
pub fn join_as(version: Version, voters: usize) -> JoinAs {
    if voters >= 3 && !version.keeps_promotions() { JoinAs::Voter } else { JoinAs::Learner }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_where_a_promotion_is_not_persisted_a_newcomer_is_a_voter() {
        let join = |text: &str, voters| join_as(text.parse().unwrap(), voters);
        for learner in ["3.4.23", "3.5.0", "3.5.20", "3.5.35", "3.6.0-rc.3", "3.7.1"] {
            assert_eq!(join(learner, 3), JoinAs::Learner, "{learner}");
        }
        assert_eq!(join("3.5.6", 3), JoinAs::Voter);
        assert_eq!(join("3.5.6", 2), JoinAs::Learner);
        assert!("3.x".parse::<Version>().is_err());
    }
}
