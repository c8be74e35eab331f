//! What begins, what starts again and what is asked, from what was found; and what a person's word does.

use super::*;
use crate::know::names::tests::puls8;

const OLD: Id = Id(0xa);

fn place(claim: Claim, data: Data) -> Place {
    let pod = Pod { uid: "uid".into(), node: Some("node-1".into()), may_settle: true, ..Pod::default() };
    Place { claim, kept: None, data, tied_to: None, pod: Some(pod) }
}

fn member(id: u64) -> Data {
    Data::Member { member: Id(id), cluster: OLD }
}

fn not_looked() -> Data {
    Data::NotLooked { why: "its pod is on its way".into(), comes: true }
}

fn record(members: u64) -> Record {
    (0..members).fold(Record::new(OLD), |record, at| record.with(u32::try_from(at).unwrap(), Id(at + 1), State::Member))
}

/// Wanted are those places, and nothing is beyond them.
struct Case {
    target: Target,
    places: Vec<Place>,
    copy: Option<Record>,
    word: Option<String>,
    decided: Option<Decided>,
    patient: bool,
}

fn case(places: Vec<Place>) -> Case {
    Case { target: puls8(), places, copy: None, word: None, decided: None, patient: true }
}

impl Case {
    fn step(&self) -> Step {
        next_step(&self.seen())
    }

    fn seen(&self) -> Seen<'_> {
        Seen {
            target: &self.target,
            desired: u32::try_from(self.places.len()).unwrap(),
            places: (0..).zip(self.places.clone()).collect(),
            copy: self.copy.clone(),
            lease: "puls8-etcd-scaler",
            word: self.word.as_deref(),
            decided: self.decided,
            ordered: false,
            patient: self.patient,
        }
    }

    fn asks(&self) -> String {
        match self.step() {
            Step::Ask(question) => question,
            other => panic!("{other:?}"),
        }
    }

    /// The word of the question, of this kind.
    fn answer(&mut self, kind: &str) {
        let question = self.asks();
        let at = question.find(&format!("{kind}-")).unwrap();
        self.word = Some(question[at..].split(' ').next().unwrap().to_owned());
    }

    /// Every pod says that it does not start as new, and what is decided is written down.
    fn starts(&mut self) -> String {
        for _ in 0..20 {
            match self.step() {
                Step::Start(what) => return what,
                Step::Decide(decided) => self.decided = Some(decided),
                Step::Settle(ordinal, _) => self.pod(ordinal).settled = true,
                Step::Free(ordinal) => self.places[ordinal as usize].kept = None,
                Step::Renew(ordinal, ..) => {
                    let pod = self.pod(ordinal);
                    (pod.clears, pod.cleared) = (true, true);
                }
                other => panic!("{other:?}"),
            }
        }
        panic!("it does not end: {:?}", self.step())
    }

    fn pod(&mut self, ordinal: Ordinal) -> &mut Pod {
        self.places[ordinal as usize].pod.as_mut().unwrap()
    }
}

#[test]
fn on_empty_places_a_new_cluster_begins_at_once() {
    let mut fresh = case(vec![place(Claim::Fresh, Data::Empty); 3]);
    fresh.patient = false;
    assert!(matches!(fresh.step(), Step::Start(_)), "{:?}", fresh.step());
    // An install that failed before etcd ran leaves claims with nothing on them.
    let failed = case(vec![place(Claim::Kept, Data::Empty); 3]);
    assert!(matches!(failed.step(), Step::Start(_)), "{:?}", failed.step());
}

#[test]
fn nothing_begins_before_every_place_was_looked_at() {
    let mut two = case(vec![place(Claim::Fresh, Data::Empty), place(Claim::Fresh, not_looked())]);
    for patient in [false, true] {
        two.patient = patient;
        assert!(matches!(two.step(), Step::Wait(_)), "{:?}", two.step());
    }
    two.places[1].data = Data::NotLooked { why: "nobody looks".into(), comes: false };
    insta::assert_snapshot!(two.asks(), @"StatefulSet puls8/puls8-etcd is not started: an earlier cluster may be kept, and a second one must not begin beside it. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n puls8 annotate --overwrite statefulset puls8-etcd etcd-scaler.io/bootstrap=WORD): take-back-16cf9465 starts it on the data that is there; anew-16cf9465 begins a new cluster, and what is in the directories is set aside. For a snapshot: anew-16cf9465, then docs/restore.md. Found: puls8-etcd-0: empty on node-1; puls8-etcd-1: not looked at on node-1 (nobody looks); other nodes: not looked at");
}

#[test]
fn claims_that_are_all_there_are_a_restart_where_the_count_is_theirs() {
    let kept = |count| (1..=count).map(|id| place(Claim::Kept, member(id))).collect::<Vec<_>>();
    for copy in [None, Some(record(3))] {
        let mut three = case(kept(3));
        three.copy = copy;
        assert!(matches!(three.step(), Step::Settle(0, _)), "{:?}", three.step());
        insta::allow_duplicates! { insta::assert_snapshot!(three.starts(), @"etcd starts again on the claims of cluster 000000000000000a that are kept, 3 members as before"); }
    }
    let mut fewer = case(kept(2));
    fewer.copy = Some(record(3));
    assert!(fewer.asks().contains("uninstall and install it with --set etcd.replicaCount=3"));
    let mut more = case(kept(2));
    more.copy = Some(record(1));
    more.asks();
    // Of an earlier, larger cluster nobody knows the count.
    let mut beyond = case(kept(3));
    beyond.places.push(place(Claim::Kept, Data::Empty));
    let seen = Seen { desired: 3, ..beyond.seen() };
    assert!(matches!(next_step(&seen), Step::Ask(_)));
    // One directory is not theirs.
    let mut strange = case(kept(3));
    strange.places[1].data = Data::Member { member: Id(2), cluster: Id(0xb) };
    strange.asks();
    // Only a record tells it where nobody looks.
    let unseen = || Data::NotLooked { why: "nobody looks".into(), comes: false };
    let mut unseen = case(vec![place(Claim::Kept, unseen()); 3]);
    unseen.asks();
    unseen.copy = Some(record(3));
    unseen.starts();
}

#[test]
fn a_kept_volume_a_directory_or_a_lease_alone_asks() {
    let mut volume = case(vec![place(Claim::Fresh, not_looked())]);
    volume.places[0].kept = Some(("etcd-volume-0".into(), Some("node-1".into())));
    insta::assert_snapshot!(volume.asks(), @"StatefulSet puls8/puls8-etcd is not started: an earlier cluster may be kept, and a second one must not begin beside it. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n puls8 annotate --overwrite statefulset puls8-etcd etcd-scaler.io/bootstrap=WORD): take-back-c5b60426 starts it on the data that is there; anew-c5b60426 begins a new cluster, and what is in the directories is set aside. For a snapshot: anew-c5b60426, then docs/restore.md. Found: puls8-etcd-0: volume etcd-volume-0 on node-1 kept of an earlier claim, not looked at; other nodes: not looked at");
    let directory = case(vec![place(Claim::Fresh, member(1)), place(Claim::Fresh, Data::Empty)]);
    insta::assert_snapshot!(directory.asks(), @"StatefulSet puls8/puls8-etcd is not started: an earlier cluster may be kept, and a second one must not begin beside it. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n puls8 annotate --overwrite statefulset puls8-etcd etcd-scaler.io/bootstrap=WORD): take-back-24d956d9 starts it on the data that is there; anew-24d956d9 begins a new cluster, and what is in the directories is set aside. For a snapshot: anew-24d956d9, then docs/restore.md. Found: puls8-etcd-0: member 0000000000000001 of cluster 000000000000000a on node-1; puls8-etcd-1: empty on node-1; other nodes: not looked at");
    let mut lease = case(vec![place(Claim::Fresh, Data::Empty)]);
    lease.copy = Some(record(3));
    insta::assert_snapshot!(lease.asks(), @"StatefulSet puls8/puls8-etcd is not started: an earlier cluster may be kept, and a second one must not begin beside it. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n puls8 annotate --overwrite statefulset puls8-etcd etcd-scaler.io/bootstrap=WORD): take-back-adf1bb98 starts it on the data that is there; anew-adf1bb98 begins a new cluster, and what is in the directories is set aside. For a snapshot: anew-adf1bb98, then docs/restore.md. Its cluster had 3 members: to have that back, uninstall and install it with --set etcd.replicaCount=3. Found: Lease puls8-etcd-scaler: cluster 000000000000000a with 3 members; puls8-etcd-0: empty on node-1; other nodes: not looked at");
}

#[test]
fn taken_back_it_starts_on_the_data_that_is_there_and_nowhere_else() {
    let mut one_of_three = case(vec![place(Claim::Fresh, member(1)), place(Claim::Fresh, Data::Empty)]);
    one_of_three.answer("take-back");
    insta::assert_snapshot!(one_of_three.starts(), @"StatefulSet puls8/puls8-etcd takes cluster 000000000000000a back, as was decided: data of 1 of its members is here");
    assert!(one_of_three.places.iter().all(|place| place.pod.as_ref().unwrap().settled));
}

#[test]
fn it_is_not_taken_back_where_it_could_become_two_or_is_no_quorum() {
    let refused = |places: Vec<Place>, copy: Option<Record>, decided| {
        let mut case = case(places);
        (case.copy, case.decided) = (copy, Some(decided));
        case.asks()
    };
    let old = || place(Claim::Fresh, member(1));
    let empty = || place(Claim::Fresh, Data::Empty);
    insta::assert_snapshot!(refused(vec![old(), empty(), empty()], Some(record(3)), Decided::TakeBack), @"StatefulSet puls8/puls8-etcd is not started: it cannot be taken back as it is: 1 of the 3 members of cluster 000000000000000a have their data in what StatefulSet puls8/puls8-etcd mounts, no quorum. Say what is meant by helm upgrade --set etcd.bootstrap=WORD (or kubectl -n puls8 annotate --overwrite statefulset puls8-etcd etcd-scaler.io/bootstrap=WORD): take-back-15b091b9 starts it on the data that is there; anew-15b091b9 begins a new cluster, and what is in the directories is set aside. For a snapshot: anew-15b091b9, then docs/restore.md. Found: Lease puls8-etcd-scaler: cluster 000000000000000a with 3 members; puls8-etcd-0: member 0000000000000001 of cluster 000000000000000a on node-1; puls8-etcd-1: empty on node-1; puls8-etcd-2: empty on node-1; other nodes: not looked at");
    let other = place(Claim::Fresh, Data::Member { member: Id(9), cluster: Id(0xb) });
    let text = refused(vec![old(), other], None, Decided::TakeBack);
    assert!(text.contains("data of two clusters"), "{text}");
    let text = refused(vec![old(), old()], None, Decided::TakeBack);
    assert!(text.contains("two directories"), "{text}");
    let text = refused(vec![empty()], None, Decided::TakeBack);
    assert!(text.contains("no directory"), "{text}");
    let text = refused(vec![place(Claim::Fresh, Data::Unreadable)], None, Decided::TakeBack);
    assert!(text.contains("cannot be read"), "{text}");
    let mut literal = empty();
    literal.pod.as_mut().unwrap().may_settle = false;
    let text = refused(vec![old(), literal], None, Decided::TakeBack);
    assert!(text.contains("begin as new"), "{text}");
}

#[test]
fn begun_anew_everything_is_set_aside_first() {
    let mut one = case(vec![place(Claim::Fresh, member(1)), place(Claim::Fresh, Data::Empty)]);
    one.answer("anew");
    insta::assert_snapshot!(one.starts(), @"a new cluster begins with 2 members, as was decided; what was there is set aside");
    // Made again by a controller that no webhook answers: not at once a second time.
    *one.pod(0) = Pod { young: true, ..Pod::default() };
    assert!(matches!(one.step(), Step::Wait(_)), "{:?}", one.step());
    one.pod(0).young = false;
    assert!(matches!(one.step(), Step::Renew(0, ..)), "{:?}", one.step());
}

#[test]
fn a_pod_on_the_node_of_anothers_volume_is_made_again() {
    let mut two = case(vec![place(Claim::Fresh, not_looked()), place(Claim::Fresh, Data::Empty)]);
    two.places[0].tied_to = Some("node-1".into());
    two.pod(0).node = None;
    for decided in [Decided::TakeBack, Decided::Anew] {
        two.decided = Some(decided);
        assert!(matches!(two.step(), Step::Renew(1, ..)), "{:?}", two.step());
    }
    two.places[1].tied_to = Some("node-1".into());
    assert!(matches!(two.step(), Step::Wait(_)), "{:?}", two.step());
}

#[test]
fn a_word_counts_for_what_was_found_when_it_was_asked_for() {
    let mut one = case(vec![place(Claim::Fresh, member(1))]);
    one.answer("anew");
    assert_eq!(one.step(), Step::Decide(Decided::Anew));
    one.places[0].data = member(2);
    one.asks();
    for word in ["anew", "take-back", "anew-12345678", ""] {
        one.word = Some(word.into());
        one.asks();
    }
    // Never without a question.
    let mut empty = case(vec![place(Claim::Fresh, Data::Empty)]);
    empty.word = Some(format!("anew-{}", code(&BTreeSet::new())));
    assert!(matches!(empty.step(), Step::Start(_)), "{:?}", empty.step());
}

#[test]
fn each_bootstrap_has_a_token_of_its_own() {
    assert_eq!(token(&puls8(), "u-1"), "puls8-etcd.puls8.u-1");
}
