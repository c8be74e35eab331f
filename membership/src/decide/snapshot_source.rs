//! The member whose database is saved as a snapshot.

use std::collections::BTreeMap;

use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Answer, Answered};
use crate::know::record::{Id, Record};

/// A healthy voter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its ordinal.
    pub ordinal: Ordinal,
    /// Its cluster.
    pub cluster: Id,
    /// What a person should know about it, each a sentence; the snapshot is taken all the same.
    pub warnings: Vec<String>,
}

/// The healthy voter to ask: it has just served a linearizable read, so it holds everything that was acknowledged
/// before. If there is another one, not the leader, which has more to do. All members that answer must be of one
/// cluster.
///
/// # Errors
/// Why there is none, or why it is not known which, and what to do; in a sentence.
pub fn source(
    target: &Target,
    record: Option<&Record>,
    answers: &BTreeMap<Ordinal, Answered>,
) -> Result<Source, String> {
    let answered = || answers.iter().filter_map(|(&ordinal, answered)| Some((ordinal, answered.as_ref().ok()?)));
    let alarmed = |alarm: &str| answered().flat_map(|(_, it)| &it.alarms).any(|it| it.kind == alarm);
    if alarmed("CORRUPT") {
        return Err(format!(
            "etcd has the alarm CORRUPT: which member's data is right is not known. See etcdctl alarm list in {}, and take a snapshot of each member by hand (etcdctl snapshot save) before anything else",
            target.pod(0)
        ));
    }
    let voters = answered().filter(|(_, it)| !it.learner && it.leader.is_some());
    let best = voters.max_by_key(|(ordinal, it)| (it.leader != Some(it.member), it.applied_index, *ordinal));
    let Some((ordinal, Answer { cluster, .. })) = best else {
        return Err(format!(
            "no voting member serves ({}). Repair what is named; if it is lost for good, restore from an earlier snapshot (docs/restore.md)",
            silence(target, answers)
        ));
    };
    if let Some((other, it)) = answered().find(|(_, it)| it.cluster != *cluster) {
        return Err(format!(
            "{} is in cluster {cluster} and {} in cluster {}: which is the right one is not known. Save each by hand (etcdctl snapshot save)",
            target.pod(ordinal),
            target.pod(other),
            it.cluster
        ));
    }
    let mut warnings = Vec::new();
    if let Some(record) = record.filter(|record| record.cluster != *cluster) {
        warnings.push(format!(
            "the members answer from cluster {cluster}, the record of {target} names cluster {}: the snapshot is of the one that answers",
            record.cluster
        ));
    }
    if alarmed("NOSPACE") {
        warnings.push("etcd has the alarm NOSPACE: writes are refused until it has room again and is disarmed".into());
    }
    Ok(Source { ordinal, cluster: *cluster, warnings })
}

/// Why no member can be asked, for each of them.
fn silence(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> String {
    let each = answers.iter().map(|(&ordinal, answered)| {
        let why = match answered {
            Err(why) => why.as_str(),
            Ok(answer) if answer.learner => "is a learner",
            Ok(_) => "knows no leader",
        };
        format!("{}: {why}", target.pod(ordinal))
    });
    let each: Vec<String> = each.collect();
    if each.is_empty() { "none was asked: 0 replicas".into() } else { each.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;

    fn answer(member: u64, applied_index: u64) -> Answer {
        Answer {
            member: Id(member),
            cluster: Id(9),
            leader: Some(Id(1)),
            learner: false,
            version: "3.6.16".into(),
            revision: 7,
            raft_index: applied_index,
            applied_index,
            errors: Vec::new(),
            alarms: Vec::new(),
            db: crate::know::observed::Database::default(),
            list: None,
        }
    }

    /// The leader, a follower that is behind, one that is not, and one that does not answer.
    fn answers() -> BTreeMap<Ordinal, Answered> {
        let silent = Err("connection refused".to_owned());
        [(0, Ok(answer(1, 90))), (1, Ok(answer(2, 80))), (2, Ok(answer(3, 85))), (3, silent)].into()
    }

    fn change(ordinal: Ordinal, change: impl FnOnce(&mut Answer)) -> BTreeMap<Ordinal, Answered> {
        let mut answers = answers();
        change(answers.get_mut(&ordinal).unwrap().as_mut().unwrap());
        answers
    }

    #[test]
    fn a_follower_is_asked_that_has_applied_the_most_and_the_leader_if_there_is_none() {
        let chosen = |answers| source(&puls8(), None, &answers).map(|source| source.ordinal);
        assert_eq!(chosen(answers()), Ok(2));
        assert_eq!(chosen(change(2, |it| it.learner = true)), Ok(1));
        assert_eq!(chosen([(0, Ok(answer(1, 90)))].into()), Ok(0));
    }

    #[test]
    fn what_is_not_known_is_refused_with_the_way_out() {
        let refused = |answers| source(&puls8(), None, &answers).unwrap_err();
        insta::assert_snapshot!(refused(BTreeMap::new()), @"no voting member serves (none was asked: 0 replicas). Repair what is named; if it is lost for good, restore from an earlier snapshot (docs/restore.md)");
        insta::assert_snapshot!(refused([(0, Ok(Answer { leader: None, ..answer(1, 1) })), (1, Err("no answer within 1.5 s".into()))].into()), @"no voting member serves (puls8-etcd-0: knows no leader; puls8-etcd-1: no answer within 1.5 s). Repair what is named; if it is lost for good, restore from an earlier snapshot (docs/restore.md)");
        insta::assert_snapshot!(refused(change(1, |it| it.cluster = Id(8))), @"puls8-etcd-2 is in cluster 0000000000000009 and puls8-etcd-1 in cluster 0000000000000008: which is the right one is not known. Save each by hand (etcdctl snapshot save)");
        insta::assert_snapshot!(refused(change(0, |it| it.alarms = vec![crate::know::observed::Alarm { member: Id(1), kind: "CORRUPT".into() }])), @"etcd has the alarm CORRUPT: which member's data is right is not known. See etcdctl alarm list in puls8-etcd-0, and take a snapshot of each member by hand (etcdctl snapshot save) before anything else");
    }

    #[test]
    fn another_cluster_than_the_recorded_and_a_full_one_are_saved_with_a_word() {
        let record = Record::new(Id(5));
        let full =
            change(0, |it| it.alarms = vec![crate::know::observed::Alarm { member: Id(1), kind: "NOSPACE".into() }]);
        insta::assert_snapshot!(source(&puls8(), Some(&record), &full).unwrap().warnings.join(" | "), @"the members answer from cluster 0000000000000009, the record of StatefulSet puls8/puls8-etcd names cluster 0000000000000005: the snapshot is of the one that answers | etcd has the alarm NOSPACE: writes are refused until it has room again and is disarmed");
        assert_eq!(source(&puls8(), Some(&Record::new(Id(9))), &answers()).unwrap().warnings, Vec::<String>::new());
    }
}
