//! The file name of a snapshot, and what follows from the names: which snapshot is recent, which ones are too many.
//! Pure.
//!
//! `NAMESPACE_STATEFULSET_CLUSTER_TIME_MEMBER_rREVISION.db`: names of Kubernetes have no `_`, IDs are
//! 16 hex digits, the time is UTC to the millisecond and before the first byte was read, and the
//! revision is the one that the database holds at least. Sorted by name, one cluster's are in order.

use std::fmt;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use membership::know::names::Target;
use membership::know::record::Id;

const TIME: &str = "%Y%m%dT%H%M%S.%3fZ";
/// How far the clock of another machine may be ahead. A snapshot from later than that does not count as recent.
const AHEAD: Duration = Duration::from_secs(60);

/// What is recorded of a snapshot besides its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The StatefulSet's namespace.
    pub namespace: String,
    /// The StatefulSet's name.
    pub statefulset: String,
    /// The cluster's ID.
    pub cluster: Id,
    /// When it was begun, to the millisecond.
    pub taken: Timestamp,
    /// The member's ID.
    pub member: Id,
    /// It holds this revision, and may hold some after it.
    pub revision: i64,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, statefulset, cluster, taken, member, revision } = self;
        write!(f, "{namespace}_{statefulset}_{cluster}_{}_{member}_r{revision}.db", taken.strftime(TIME))
    }
}

impl Name {
    /// The name of a file, if it is one that this program gives.
    #[must_use]
    pub fn parse(file: &str) -> Option<Self> {
        let parts: Vec<&str> = file.strip_suffix(".db")?.split('_').collect();
        let [namespace, statefulset, cluster, taken, member, revision] = parts[..] else {
            return None;
        };
        let taken = DateTime::strptime("%Y%m%dT%H%M%S%.fZ", taken).ok()?;
        let name = Self {
            namespace: namespace.to_owned(),
            statefulset: statefulset.to_owned(),
            cluster: cluster.parse().ok()?,
            taken: taken.to_zoned(TimeZone::UTC).ok()?.timestamp(),
            member: member.parse().ok()?,
            revision: revision.strip_prefix('r')?.parse().ok()?,
        };
        // A name that parses but is spelled in another way is not ours.
        (name.to_string() == file).then_some(name)
    }
}

/// A time as a name holds it.
#[must_use]
pub fn rounded(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

/// What the names of one StatefulSet's snapshots begin with.
#[must_use]
pub fn prefix(target: &Target) -> String {
    format!("{}_{}", target.namespace, target.statefulset)
}

/// The snapshots of this cluster among these files, the newest first.
#[must_use]
pub fn newest(files: &[String], target: &Target, cluster: Id) -> Vec<Name> {
    let ours = |name: &Name| {
        name.namespace == target.namespace && name.statefulset == target.statefulset && name.cluster == cluster
    };
    let mut names: Vec<Name> = files.iter().filter_map(|file| Name::parse(file)).filter(ours).collect();
    names.sort_by_key(|name| std::cmp::Reverse((name.taken, name.revision, name.member)));
    names
}

/// Those that are not older than this, the newest first.
#[must_use]
pub fn recent(newest: &[Name], now: Timestamp, max_age: Duration) -> Vec<&Name> {
    let is_recent = |name: &&Name| {
        let age = now.duration_since(name.taken);
        age <= jiff::SignedDuration::try_from(max_age).unwrap_or(jiff::SignedDuration::MAX)
            && age >= -jiff::SignedDuration::try_from(AHEAD).unwrap_or(jiff::SignedDuration::ZERO)
    };
    newest.iter().filter(is_recent).collect()
}

/// The snapshots to delete so that `keep` stay; never the one that was just made.
#[must_use]
pub fn superfluous<'a>(newest: &'a [Name], keep: usize, made: &Name) -> Vec<&'a Name> {
    newest.iter().filter(|name| *name != made).skip(keep.saturating_sub(1)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MADE: &str = "puls8_puls8-etcd_000000000000abcd_20261122T101502.070Z_0000000000000001_r5301.db";

    fn target() -> Target {
        Target {
            namespace: "puls8".into(),
            statefulset: "puls8-etcd".into(),
            service: String::new(),
            cluster_domain: String::new(),
            container: String::new(),
            peer_scheme: String::new(),
            peer_port: 0,
            client_scheme: String::new(),
            client_port: 0,
            cronjob: String::new(),
        }
    }

    fn name(milliseconds: i64) -> Name {
        let taken = Timestamp::from_millisecond(milliseconds).unwrap();
        Name { taken, ..Name::parse(MADE).unwrap() }
    }

    #[test]
    fn a_name_says_all_that_is_recorded() {
        let name = Name::parse(MADE).unwrap();
        assert_eq!((name.namespace.as_str(), name.statefulset.as_str()), ("puls8", "puls8-etcd"));
        assert_eq!((name.cluster, name.member, name.revision), (Id(0xabcd), Id(1), 5301));
        assert_eq!(name.taken.to_string(), "2026-11-22T10:15:02.07Z");
        assert_eq!(name.to_string(), MADE);
    }

    #[test]
    fn what_a_person_or_another_cluster_put_there_is_not_ours() {
        let cluster = Name::parse(MADE).unwrap().cluster;
        let ours = |file: &str| !newest(&[file.to_owned()], &target(), cluster).is_empty();
        assert!(ours(MADE));
        for (from, to) in [
            ("puls8_", "puls9_"),
            ("puls8-etcd", "puls8-etcd2"),
            ("000000000000abcd", "000000000000abce"),
            ("000000000000abcd", "abcd"),
            ("000000000000abcd", "000000000000ABCD"),
            (".070Z", "Z"),
            (".070Z", ".07Z"),
            ("T10", "T25"),
            ("_r5301", "_5301"),
            ("r5301", "r+5301"),
            ("r5301", "r05301"),
            (".db", ".db.bak"),
            (".db", ".json"),
            (".db", "_copy.db"),
            ("puls8_", ".puls8_"),
        ] {
            let other = MADE.replacen(from, to, 1);
            assert!(other != MADE && !ours(&other), "{other}");
        }
    }

    #[test]
    fn recent_is_neither_older_than_asked_nor_from_the_future() {
        let hour = Duration::from_secs(3600);
        let now = Timestamp::from_millisecond(10_000_000).unwrap();
        let is_recent = |milliseconds| !recent(&[name(milliseconds)], now, hour).is_empty();
        assert!(is_recent(10_000_000) && is_recent(6_400_000) && is_recent(10_060_000));
        assert!(!is_recent(6_399_999) && !is_recent(10_060_001));
    }

    proptest! {
        #[test]
        fn so_many_stay_the_newest_and_the_one_just_made(
            times in prop::collection::btree_set(0..1_000_000_i64, 1..12), keep in 1..6_usize, made in any::<prop::sample::Index>(),
        ) {
            let files: Vec<String> = times.iter().map(|&time| name(time).to_string()).collect();
            let all = newest(&files, &target(), Id(0xabcd));
            prop_assert!(all.len() == files.len() && all.is_sorted_by(|a, b| a.taken > b.taken));
            let made = made.get(&all);
            let go = superfluous(&all, keep, made);
            prop_assert!(!go.contains(&made));
            prop_assert_eq!(all.len() - go.len(), keep.min(all.len()));
            let stay = all.iter().filter(|name| !go.contains(name) && *name != made);
            prop_assert!(stay.into_iter().all(|stays| go.iter().all(|gone| gone.taken < stays.taken)));
        }

        #[test]
        fn what_is_written_is_read(milliseconds in 0..4_102_444_800_000_i64, revision in 0..i64::MAX, member in any::<u64>()) {
            let name = Name { revision, member: Id(member), ..name(milliseconds) };
            prop_assert_eq!(Name::parse(&name.to_string()), Some(name));
        }
    }
}
