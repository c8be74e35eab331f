//! Every small cluster, and the sentences.

use super::*;
use crate::know::names::tests::puls8;
use crate::know::observed::{Answer, Database, ListedMember};

/// What there is of a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Is {
    /// Answers, its pod is Ready.
    Well,
    /// Does not answer, its pod is Ready: nobody knows.
    Silent,
    /// Does not answer, and its pod is not Ready.
    Down,
    /// Answers for a moment more.
    Terminating,
}

const ALL: [Is; 4] = [Is::Well, Is::Silent, Is::Down, Is::Terminating];

struct Seen {
    record: Record,
    answers: BTreeMap<Ordinal, Answered>,
    pods: BTreeMap<Ordinal, Pod>,
}

impl Seen {
    fn of(voters: &[Is]) -> Self {
        let count = u32::try_from(voters.len()).unwrap();
        let list: Vec<ListedMember> = (0..count)
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
            db: Database::default(),
            list: Some(list.clone()),
        };
        let mut seen = Self { record: Record::new(Id(9)), answers: BTreeMap::new(), pods: BTreeMap::new() };
        // A member answers only where a quorum votes: it reads through the log.
        let votes = voters.iter().filter(|is| **is != Is::Down).count() >= quorum(voters.len());
        for (o, is) in (0..).zip(voters) {
            let answers = matches!(is, Is::Well | Is::Terminating) && votes;
            seen.record = seen.record.with(o, Id(o.into()), State::Member);
            seen.answers.insert(o, if answers { Ok(answer(o)) } else { Err("no answer within 1.0 s".into()) });
            seen.pods.insert(o, Pod { ready: *is != Is::Down, terminating: *is == Is::Terminating });
        }
        seen
    }

    fn leave(&self, ordinal: Ordinal, going: Going, wanted: u32) -> Result<(), String> {
        let Self { record, answers, pods } = self;
        Leave { target: &puls8(), ordinal, going, wanted, record: Some(record), answers, pods }.decide()
    }
}

/// All clusters of so many voters.
fn clusters(voters: u32) -> Vec<Vec<Is>> {
    (0..voters).fold(vec![Vec::new()], |clusters, _| {
        clusters.iter().flat_map(|one| ALL.map(|is| [&one[..], &[is]].concat())).collect()
    })
}

#[test]
fn a_quorum_that_serves_is_never_taken_away() {
    for cluster in (1..=5).flat_map(clusters) {
        let seen = Seen::of(&cluster);
        let needed = quorum(cluster.len());
        for (ordinal, is) in (0..).zip(&cluster) {
            let others = cluster.iter().enumerate().filter(|(other, _)| *other != ordinal as usize).map(|(_, is)| is);
            let well = others.clone().filter(|is| **is == Is::Well).count();
            let may_vote = cluster.iter().filter(|is| matches!(is, Is::Well | Is::Silent)).count();
            let others_are_well = others.clone().all(|is| *is == Is::Well);
            let quorum_tells = cluster.iter().filter(|is| matches!(is, Is::Well | Is::Terminating)).count() >= needed;
            let goes_down = matches!(is, Is::Down | Is::Terminating);
            let stays = well >= needed;
            let rolls = seen.leave(ordinal, Going::RollOut, 5).is_ok();
            let none_can = !quorum_tells && may_vote < needed;
            let few = others_are_well && *is == Is::Well;
            assert_eq!(rolls, goes_down || stays || few || none_can, "{cluster:?} rolls {ordinal}");
            let evicted = seen.leave(ordinal, Going::Eviction, 5).is_ok();
            let alone = cluster.len() == 1 && *is == Is::Well;
            assert_eq!(evicted, goes_down || stays || alone, "{cluster:?} evicts {ordinal}");
        }
    }
}

#[test]
fn whoever_does_not_vote_may_go() {
    let mut seen = Seen::of(&[Is::Well, Is::Well, Is::Down]);
    for answered in seen.answers.values_mut().flatten() {
        answered.list.iter_mut().flatten().filter(|member| member.id == Id(1)).for_each(|member| member.learner = true);
    }
    // Two vote: the learner goes, no voter does.
    seen.answers.insert(2, seen.answers[&0].clone().map(|answer| Answer { member: Id(2), ..answer }));
    assert_eq!(seen.leave(1, Going::Eviction, 3), Ok(()));
    assert!(seen.leave(0, Going::Eviction, 3).is_err());
    let mut newcomer = Seen::of(&[Is::Silent, Is::Silent, Is::Silent, Is::Silent]);
    newcomer.record = newcomer.record.with(3, Id(3), State::Joining);
    assert_eq!(newcomer.leave(3, Going::Eviction, 4), Ok(()));
    assert!(newcomer.leave(2, Going::Eviction, 4).is_err());
}

#[test]
fn what_was_never_verified_is_nobodys_to_hold() {
    let Seen { answers, pods, .. } = Seen::of(&[Is::Silent, Is::Silent, Is::Silent]);
    for going in [Going::RollOut, Going::Eviction] {
        let leave =
            Leave { target: &puls8(), ordinal: 2, going, wanted: 3, record: None, answers: &answers, pods: &pods };
        assert_eq!(leave.decide(), Ok(()));
    }
}

#[test]
fn the_sentences() {
    let sick = Seen::of(&[Is::Down, Is::Well, Is::Well]);
    insta::assert_snapshot!(sick.leave(2, Going::RollOut, 3).unwrap_err(), @"deleting puls8-etcd-2 for the roll-out of StatefulSet puls8/puls8-etcd is refused: puls8-etcd-0 does not answer (no answer within 1.0 s); without puls8-etcd-2 1 of 3 voting members would serve, and 2 are needed. Nothing could be read or written until one of them is back. Repair what is named, and the roll-out goes on by itself. If the new template is its cure, delete the pod, which is made again from it: kubectl delete pod -n puls8 puls8-etcd-0. Or take the change back.");
    insta::assert_snapshot!(sick.leave(2, Going::Eviction, 3).unwrap_err(), @"evicting puls8-etcd-2 is refused for now: puls8-etcd-0 does not answer (no answer within 1.0 s); without puls8-etcd-2 1 of 3 voting members would serve, and 2 are needed. Nothing could be read or written until one of them is back. Repair what is named first; kubectl drain tries again by itself until then.");
    insta::assert_snapshot!(sick.leave(2, Going::Eviction, 1).unwrap_err(), @"evicting puls8-etcd-2 is refused for now: puls8-etcd-0 does not answer (no answer within 1.0 s); without puls8-etcd-2 1 of 3 voting members would serve, and 2 are needed. Nothing could be read or written until one of them is back. 1 replicas are wanted and 3 members vote: the etcd-scaler Job takes the others out first (kubectl get jobs -n puls8). If it cannot, go back to 3: kubectl scale -n puls8 statefulset/puls8-etcd --replicas=3.");
    insta::assert_snapshot!(Seen::of(&[Is::Well, Is::Well]).leave(1, Going::Eviction, 2).unwrap_err(), @"evicting puls8-etcd-1 is refused for now: etcd has 2 voting members and needs each of them. Nothing can be read or written while one is away. Scale to 3 members first: kubectl scale -n puls8 statefulset/puls8-etcd --replicas=3.");
    let silent = Seen::of(&[Is::Silent, Is::Silent, Is::Silent]);
    insta::assert_snapshot!(silent.leave(1, Going::RollOut, 3).unwrap_err(), @"deleting puls8-etcd-1 for the roll-out of StatefulSet puls8/puls8-etcd is refused: whether a quorum would serve without it is not known (no member answered (puls8-etcd-0: no answer within 1.0 s; puls8-etcd-1: no answer within 1.0 s; puls8-etcd-2: no answer within 1.0 s)). What is not known to be safe is refused. It is tried again by itself; if it stays so, see why the webhook does not hear members whose pods are Ready (kubectl logs -n puls8 -l app.kubernetes.io/component=webhook).");
    let none = Seen::of(&[Is::Down, Is::Down, Is::Well]);
    insta::assert_snapshot!(none.leave(2, Going::Eviction, 3).unwrap_err(), @"evicting puls8-etcd-2 is refused for now: etcd has no quorum, because of puls8-etcd-0, puls8-etcd-1. Each member that runs is needed to have one again. Repair what is named first; kubectl drain tries again by itself until then.");
    let rolled = Seen::of(&[Is::Well, Is::Terminating, Is::Well]);
    insta::assert_snapshot!(rolled.leave(2, Going::RollOut, 3).unwrap_err(), @"deleting puls8-etcd-2 for the roll-out of StatefulSet puls8/puls8-etcd is refused: puls8-etcd-1 is being deleted; without puls8-etcd-2 1 of 3 voting members would serve, and 2 are needed. Nothing could be read or written until one of them is back. Repair what is named, and the roll-out goes on by itself. If the new template is its cure, delete the pod, which is made again from it: kubectl delete pod -n puls8 puls8-etcd-1. Or take the change back.");
}
