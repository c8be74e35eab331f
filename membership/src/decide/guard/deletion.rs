//! Whether the StatefulSet controller may delete a pod.
//!
//! The pod of an ordinal that is not wanted any more may be deleted once its member has left etcd's member list
//! (invariant 3): deleted earlier, it costs a vote that still counts. The pod of a wanted ordinal may be deleted for a
//! roll-out only.

use std::collections::BTreeMap;

use crate::decide::drift::at_pod;
use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Answered, agreed};

/// Whether the pod of an ordinal that is not wanted any more may be deleted, from what the members say just now.
///
/// # Errors
/// The sentence with which the deletion is refused.
pub fn may_go(
    target: &Target,
    ordinal: Ordinal,
    wanted: u32,
    answers: &BTreeMap<Ordinal, Answered>,
) -> Result<(), String> {
    let pod = target.pod(ordinal);
    let refused = |found: &str, why: &str, way_out: &str| {
        format!("deleting {pod} because {target} wants {wanted} replicas is refused: {found}. {why} {way_out}")
    };
    let list = agreed(target, answers, None).map_err(|unseen| {
        refused(
            &format!("whether its member is still in etcd's member list is not known ({unseen})"),
            "A pod that goes before its member is removed costs a vote of the quorum.",
            "It is tried again by itself once a quorum answers; to keep the pod, go back to the count before.",
        )
    })?;
    // Also a member whose peer URL is spelled in another way than ours.
    match list.members.iter().find(|member| at_pod(target, answers, member) == Some(ordinal)) {
        None => Ok(()),
        Some(member) => Err(refused(
            &format!("its member {} is still in etcd's member list", member.id),
            "A pod that goes before its member is removed costs a vote of the quorum.",
            "The etcd-scaler Job removes the member first and the pod goes then; to keep both, go back to the count before.",
        )),
    }
}

/// The sentence that refuses to delete the pod of a wanted ordinal while nothing rolls. The controller then acts on a
/// count that was lower a moment ago, and the member would be restarted for nothing.
#[must_use]
pub fn outdated(target: &Target, ordinal: Ordinal, wanted: u32) -> String {
    let pod = target.pod(ordinal);
    format!(
        "deleting {pod} is refused: {target} wants {wanted} replicas, {pod} is one of them, and no roll-out is under way. The count was lower a moment ago; the StatefulSet controller looks again by itself."
    )
}

/// The sentence that refuses to delete a Ready pod whose StatefulSet was made again and has not its record back yet. It
/// rolls only because the managed environment is not yet in its template.
#[must_use]
pub fn unrecorded(target: &Target, ordinal: Ordinal) -> String {
    let pod = target.pod(ordinal);
    format!(
        "deleting {pod} is refused: it is Ready, and {target} was made again and its record is not back yet. The etcd-scaler Job writes it within seconds, once a quorum of the members answers, and from then on nobody is restarted for the environment alone."
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;
    use crate::know::observed::{Answer, ListedMember};
    use crate::know::record::Id;

    fn answers(listed: u32, answering: u32) -> BTreeMap<Ordinal, Answered> {
        let list: Vec<ListedMember> = (0..listed)
            .map(|o| ListedMember {
                id: Id(o.into()),
                name: puls8().pod(o),
                peer_urls: vec![puls8().peer_url(o)],
                client_urls: vec![puls8().client_url(o)],
                learner: false,
            })
            .collect();
        let answer = |o: u32| Answer {
            member: Id(o.into()),
            cluster: Id(9),
            leader: Some(Id(0)),
            learner: false,
            version: "3.6.0".into(),
            revision: 1,
            raft_index: 1,
            applied_index: 1,
            errors: Vec::new(),
            alarms: Vec::new(),
            db: crate::know::observed::Database::default(),
            list: Some(list.clone()),
        };
        (0..listed).map(|o| (o, if o < answering { Ok(answer(o)) } else { Err("no answer".into()) })).collect()
    }

    #[test]
    fn a_pod_goes_after_its_member_only() {
        assert_eq!(may_go(&puls8(), 3, 3, &answers(3, 3)), Ok(()));
        assert_eq!(may_go(&puls8(), 3, 3, &answers(3, 2)), Ok(()), "a quorum tells");
        insta::assert_snapshot!(may_go(&puls8(), 3, 3, &answers(4, 4)).unwrap_err(), @"deleting puls8-etcd-3 because StatefulSet puls8/puls8-etcd wants 3 replicas is refused: its member 0000000000000003 is still in etcd's member list. A pod that goes before its member is removed costs a vote of the quorum. The etcd-scaler Job removes the member first and the pod goes then; to keep both, go back to the count before.");
    }

    #[test]
    fn a_member_under_another_url_is_one() {
        let mut answers = answers(4, 4);
        for answer in answers.values_mut().flatten() {
            for member in answer.list.iter_mut().flatten() {
                member.peer_urls = vec![format!("http://10.0.0.{}:2380", member.id.0)];
            }
        }
        assert!(may_go(&puls8(), 3, 3, &answers).is_err(), "its pod answers with its ID, and it is named as its pod");
        answers.insert(3, Err("no answer".into()));
        assert!(may_go(&puls8(), 3, 3, &answers).is_err(), "it is named as its pod");
    }

    #[test]
    fn a_deletion_that_comes_too_late_is_named() {
        insta::assert_snapshot!(outdated(&puls8(), 3, 4), @"deleting puls8-etcd-3 is refused: StatefulSet puls8/puls8-etcd wants 4 replicas, puls8-etcd-3 is one of them, and no roll-out is under way. The count was lower a moment ago; the StatefulSet controller looks again by itself.");
    }

    #[test]
    fn unknown_refuses() {
        insta::assert_snapshot!(may_go(&puls8(), 3, 3, &answers(3, 1)).unwrap_err(), @"deleting puls8-etcd-3 because StatefulSet puls8/puls8-etcd wants 3 replicas is refused: whether its member is still in etcd's member list is not known (1 of 3 voting members answered (puls8-etcd-1: no answer; puls8-etcd-2: no answer)). A pod that goes before its member is removed costs a vote of the quorum. It is tried again by itself once a quorum answers; to keep the pod, go back to the count before.");
        assert!(may_go(&puls8(), 3, 3, &BTreeMap::new()).is_err());
    }
}
