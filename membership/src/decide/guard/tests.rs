//! Every refusal by name, with its whole message: it is what a person has to go on.

use super::*;
use crate::know::names::tests::puls8;
use crate::know::observed::{Alarm, Database, ListedMember};
use crate::know::record::{Id, State};

const CLUSTER: Id = Id(0xc1);

fn id(ordinal: Ordinal) -> Id {
    Id(0x10 + u64::from(ordinal))
}

fn verified(count: Ordinal) -> Record {
    (0..count).fold(Record::new(CLUSTER), |record, ordinal| record.with(ordinal, id(ordinal), State::Member))
}

fn listed(ordinal: Ordinal) -> ListedMember {
    ListedMember {
        id: id(ordinal),
        name: puls8().pod(ordinal),
        peer_urls: vec![puls8().peer_url(ordinal)],
        client_urls: vec![puls8().client_url(ordinal)],
        learner: false,
    }
}

fn healthy(ordinal: Ordinal, of: Ordinal) -> Answer {
    Answer {
        member: id(ordinal),
        cluster: CLUSTER,
        leader: Some(id(0)),
        learner: false,
        version: "3.6.14".into(),
        revision: 7,
        raft_index: 9,
        applied_index: 20_000,
        errors: Vec::new(),
        alarms: Vec::new(),
        db: Database::default(),
        list: Some((0..of).map(listed).collect()),
    }
}

/// A change from three healthy members, and what a test bends of it.
struct Case {
    new: u32,
    old: u32,
    request: Request,
    first_ordinal: (u32, u32),
    record: Option<Result<Record, ParseRecordError>>,
    not_understood: Option<NotUnderstood>,
    changes_template: bool,
    may_stop: bool,
    deletes_claims: bool,
    controller: Option<&'static str>,
    rollout: Option<String>,
    canary: Option<String>,
    strategy: Option<String>,
    room: Room,
    diverged: Option<String>,
    override_: Option<Result<Override, String>>,
    answers: BTreeMap<Ordinal, Answered>,
    age: Option<Duration>,
}

fn from_three_to(new: u32) -> Case {
    Case {
        new,
        old: 3,
        request: Request::StatefulSet,
        first_ordinal: (0, 0),
        record: Some(Ok(verified(3))),
        not_understood: None,
        changes_template: false,
        may_stop: false,
        deletes_claims: false,
        controller: Some(CONTROLLERS[0]),
        rollout: None,
        canary: None,
        strategy: None,
        room: Room { quota: 8 << 30, volume: Some(2 << 30) },
        diverged: None,
        override_: None,
        answers: (0..3).map(|ordinal| (ordinal, Ok(healthy(ordinal, 3)))).collect(),
        age: Some(Duration::from_secs(1)),
    }
}

impl Case {
    fn with(mut self, bend: impl FnOnce(&mut Self)) -> Self {
        bend(&mut self);
        self
    }

    /// One member's answer bent.
    fn member_1(self, bend: impl FnOnce(&mut Answer)) -> Self {
        self.with(|case| {
            if let Some(Ok(answer)) = case.answers.get_mut(&1) {
                bend(answer);
            }
        })
    }

    fn decide(self) -> Decision {
        let Self { new, old, request, first_ordinal, record, not_understood, controller, answers, age, .. } = self;
        let Self {
            changes_template,
            may_stop,
            deletes_claims,
            rollout,
            canary,
            strategy,
            room,
            diverged,
            override_,
            ..
        } = self;
        let seen = age.map(|age| Seen { age, answers: &answers });
        decide(&Change {
            target: &puls8(),
            request,
            old,
            new,
            first_ordinal,
            record,
            not_understood,
            changes_template,
            may_stop,
            deletes_claims,
            controller,
            rollout,
            canary,
            strategy,
            room,
            diverged,
            override_,
            seen,
        })
    }

    #[track_caller]
    fn lifted(self) -> Vec<String> {
        match self.decide() {
            Decision::Admit { lifted, .. } => lifted,
            Decision::Refuse(why) => panic!("refused: {why}"),
        }
    }

    #[track_caller]
    fn refused(self) -> String {
        match self.decide() {
            Decision::Refuse(why) => why,
            Decision::Admit { .. } => panic!("admitted"),
        }
    }

    #[track_caller]
    fn admitted(self) -> Vec<String> {
        match self.decide() {
            Decision::Admit { warnings, lifted } => {
                assert!(lifted.is_empty(), "{lifted:?}");
                warnings
            }
            Decision::Refuse(why) => panic!("refused: {why}"),
        }
    }
}

#[test]
fn a_healthy_cluster_may_grow_and_an_even_size_is_warned_of() {
    assert!(from_three_to(5).admitted().is_empty());
    insta::assert_snapshot!(from_three_to(4).admitted().join("\n"), @"4 etcd members tolerate 1 failure, the same as 3; 5 would tolerate 2");
    insta::assert_snapshot!(from_three_to(6).admitted().join("\n"), @"6 etcd members tolerate 2 failures, the same as 5; 7 would tolerate 3");
}

#[test]
fn who_was_removed_with_etcdctl_may_go() {
    let removed = |new: u32| {
        from_three_to(new).with(|case| {
            case.old = 4;
            case.record = Some(Ok(verified(4)));
            case.answers.insert(3, Err("connection refused".into()));
        })
    };
    assert!(removed(3).admitted().is_empty());
    assert!(removed(2).refused().contains("puls8-etcd-3 (member 0000000000000013) is not listed any more"));
    assert!(removed(3).member_1(|answer| answer.leader = None).refused().contains("knows no leader"));
    assert!(removed(3).with(|case| case.age = None).refused().contains("not known yet"), "not seen");
}

#[test]
fn drift_is_named_with_the_way_out_whichever_way_it_is_asked() {
    let removed = |new, request| {
        from_three_to(new).with(|case| {
            case.request = request;
            let rest = vec![listed(0), listed(2)];
            case.answers.insert(1, Err("connection refused".into()));
            case.answers.values_mut().flatten().for_each(|answer| answer.list = Some(rest.clone()));
        })
    };
    insta::assert_snapshot!(removed(4, Request::Scale).refused(), @r#"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: etcd's member list is not as the record of StatefulSet puls8/puls8-etcd has it: puls8-etcd-1 (member 0000000000000011) is not listed any more: it was removed by hand. No count is safe while etcd is not what was verified. If it is meant, let the record follow: kubectl -n puls8 create job reconcile --from=cronjob/puls8-etcd-scaler --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/hook","reconcile"]}]' -o json | kubectl -n puls8 create -f - prints the plan (kubectl -n puls8 logs job/reconcile); with "--yes" behind "reconcile", and another name for the Job, it is done"#);
    assert!(removed(5, Request::StatefulSet).refused().contains("\"reconcile\""));
    assert!(removed(2, Request::Scale).refused().contains("\"reconcile\""));
    let another = |new| {
        from_three_to(new).with(|case| {
            case.answers.values_mut().flatten().for_each(|answer| answer.cluster = Id(0xdead));
        })
    };
    assert!(another(4).refused().contains("\"forget\""));
    assert!(another(1).refused().contains("\"forget\""));
    another(3).admitted();
}

#[test]
fn while_a_gap_is_filled_no_other_count_may_start() {
    let gap = |new, old| {
        let record = verified(old);
        from_three_to(new).with(|case| (case.old, case.record) = (old, Some(Ok(record.without(1)))))
    };
    insta::assert_snapshot!(gap(4, 3).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: puls8-etcd-1 has no member yet, and members above it have. Members join one at a time, the lowest missing ordinal first. Ask again when it has joined; what it waits for: kubectl -n puls8 get events --field-selector involvedObject.name=puls8-etcd.");
    assert!(gap(2, 3).refused().contains("puls8-etcd-1 has no member yet"));
    gap(3, 4).with(|case| case.record = Some(Ok(verified(3).without(1)))).admitted();
    gap(3, 0).with(|case| case.record = Some(Ok(verified(3).without(1)))).admitted();
}

#[test]
fn zero() {
    insta::assert_snapshot!(from_three_to(0).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 0 is refused: 0 members are no cluster. Everything that needs this etcd stops with it. To stop it on purpose and lose nothing: kubectl annotate -n puls8 statefulset/puls8-etcd etcd-scaler.io/stop=true, then scale to 0; back to 3 starts the same members again.");
    let stop = |old, verified_: u32| {
        from_three_to(0)
            .with(|case| (case.may_stop, case.old, case.record) = (true, old, Some(Ok(verified(verified_)))))
    };
    assert!(stop(3, 3).with(|case| case.age = None).admitted().is_empty(), "whatever the members say");
    insta::assert_snapshot!(stop(4, 3).refused(), @"scaling StatefulSet puls8/puls8-etcd from 4 to 0 is refused: 0 members are no cluster, and another scale is under way (3 members verified). Everything that needs this etcd stops with it. To stop it on purpose and lose nothing: kubectl annotate -n puls8 statefulset/puls8-etcd etcd-scaler.io/stop=true, then scale to 0; back to 3 starts the same members again.");
}

#[test]
fn stopped_it_starts_with_all_its_members() {
    let start = |new| from_three_to(new).with(|case| (case.old, case.answers) = (0, BTreeMap::new()));
    assert!(start(3).admitted().is_empty());
    insta::assert_snapshot!(start(2).refused(), @"scaling StatefulSet puls8/puls8-etcd from 0 to 2 is refused: it is stopped with 3 members. They come back together or not at all: fewer may be no quorum, and a newcomer needs one to join. Start it first: helm upgrade --set etcd.replicaCount=3. Scale then.");
    start(4).refused();
}

#[test]
fn more_than_seven() {
    insta::assert_snapshot!(from_three_to(8).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 8 is refused: the most is 7. Every write waits for a majority: more members make etcd slower, not safer. Ask for 7 or fewer.");
}

#[test]
fn through_scale_the_same_holds_and_the_way_out_is_kubectls() {
    let scale = |new| from_three_to(new).with(|case| case.request = Request::Scale);
    scale(4).admitted();
    scale(2).admitted();
    insta::assert_snapshot!(scale(5).with(|case| case.old = 4).refused(), @"scaling StatefulSet puls8/puls8-etcd from 4 to 5 is refused: another scale is under way: 4 asked for, 3 members verified. Members join and leave one scale at a time. Wait until etcd has 4 members, or go back: kubectl scale -n puls8 statefulset/puls8-etcd --replicas=3.");
    scale(3).with(|case| case.old = 4).admitted();
}

#[test]
fn no_record_yet() {
    insta::assert_snapshot!(from_three_to(4).with(|case| case.record = None).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the cluster has not been verified yet (no record). A change during the bootstrap can make a second cluster. Wait until StatefulSet puls8/puls8-etcd has the annotation etcd-scaler.io/record, which comes as soon as a quorum of its members answers, and ask again.");
}

#[test]
fn a_record_of_a_later_version() {
    let later = Record::parse(r#"{"v":2,"cluster":"1","members":{}}"#);
    insta::assert_snapshot!(from_three_to(4).with(|case| case.record = Some(later)).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the annotation etcd-scaler.io/record has version 2, this program knows version 1: use the newer program. What was verified about the cluster is unknown. Ask again with the etcd-scaler version that wrote it.");
}

/// From five members, of which these are silent.
fn from_five_to(new: u32, silent: &[Ordinal]) -> Case {
    from_three_to(new).with(|case| {
        case.old = 5;
        case.record = Some(Ok(verified(5)));
        case.answers = (0..5).map(|ordinal| (ordinal, Ok(healthy(ordinal, 5)))).collect();
        for ordinal in silent {
            case.answers.insert(*ordinal, Err("no answer".into()));
        }
    })
}

#[test]
fn healthy_members_may_leave() {
    assert!(from_five_to(3, &[]).admitted().is_empty());
    insta::assert_snapshot!(from_five_to(1, &[]).admitted().join("\n"), @"1 etcd member tolerates no failure: without it nothing can be read or written, and its disk is the only copy");
    from_five_to(4, &[]).with(|case| case.age = None).refused();
}

#[test]
fn sick_members_may_leave_if_those_that_stay_are_well_and_enough() {
    from_five_to(3, &[3, 4]).admitted();
    from_five_to(3, &[4]).admitted();
    insta::assert_snapshot!(from_five_to(4, &[3]).refused(), @"scaling StatefulSet puls8/puls8-etcd from 5 to 4 is refused: 1 of the 4 members that stay not healthy (puls8-etcd-3: no answer). A healthy member would go and a sick one stay: one failure more and nothing can be written. Repair what is named and ask again. Members leave from the highest ordinal down, so a sick one can go only with all those above it.");
    insta::assert_snapshot!(from_five_to(3, &[0]).refused(), @"scaling StatefulSet puls8/puls8-etcd from 5 to 3 is refused: 1 of the 3 members that stay not healthy (puls8-etcd-0: no answer). 2 healthy members would go and sick ones stay: one failure more and nothing can be written. Repair what is named and ask again. Members leave from the highest ordinal down, so a sick one can go only with all those above it.");
    insta::assert_snapshot!(from_five_to(2, &[4]).refused(), @"scaling StatefulSet puls8/puls8-etcd from 5 to 2 is refused: 1 of 5 members not healthy (puls8-etcd-4: no answer). To remove a member 3 of 5 must agree, and 2 healthy ones would stay. Repair one of them first, or ask for 3 or more.");
    from_five_to(2, &[]).admitted();
    // One that never started is in the lists of all, and leaves.
    let unstarted = |new| {
        from_five_to(new, &[4]).with(|case| {
            for answer in case.answers.values_mut().flatten() {
                answer.list.as_mut().unwrap()[4].client_urls.clear();
            }
        })
    };
    unstarted(4).admitted();
    unstarted(6).refused();
}

#[test]
fn a_claim_that_would_go_with_its_pod() {
    let follows = |new| from_five_to(new, &[]).with(|case| case.deletes_claims = true);
    insta::assert_snapshot!(follows(3).refused(), @"scaling StatefulSet puls8/puls8-etcd from 5 to 3 is refused: persistentVolumeClaimRetentionPolicy.whenScaled is Delete. From this moment on the claim of a member that is still in etcd would go with its pod, whoever deletes that. Set it to Retain (the default) first. With pv.onScaleDown=delete etcd-scaler deletes a claim itself, after its member is gone.");
    follows(6).admitted();
}

#[test]
fn while_another_scale_is_under_way() {
    insta::assert_snapshot!(from_three_to(5).with(|case| case.old = 4).refused(), @"scaling StatefulSet puls8/puls8-etcd from 4 to 5 is refused: another scale is under way: 4 asked for, 3 members verified. Members join and leave one scale at a time. Wait until etcd has 4 members, or go back: helm upgrade --set etcd.replicaCount=3.");
}

#[test]
fn together_with_another_change_of_the_template() {
    insta::assert_snapshot!(from_three_to(4).with(|case| case.changes_template = true).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the same update changes the pod template as well. The newcomer would run what no member runs yet, and members would restart while it joins. Do one first, then the other: two upgrades.");
}

#[test]
fn while_a_roll_out_is_under_way() {
    let canary = from_three_to(4).with(|case| case.canary = Some("partition 2: 1 of 3 pods are updated".into()));
    insta::assert_snapshot!(canary.refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: a roll-out stops half-way (partition 2: 1 of 3 pods are updated). While the count changes no pod may roll, so one that is made again meanwhile would go back to the older template and its image. Finish it (spec.updateStrategy.rollingUpdate.partition 0) or take it back, and ask again.");
    let rolling = from_three_to(4).with(|case| case.rollout = Some("1 of 3 pods are updated".into()));
    insta::assert_snapshot!(rolling.refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: a roll-out is under way (1 of 3 pods are updated). It restarts members while another joins. Wait for it (kubectl rollout status -n puls8 statefulset/puls8-etcd) and ask again.");
}

#[test]
fn no_member_leaves_while_nothing_holds_the_controller_back() {
    let down = |controller| from_three_to(2).with(|case| case.controller = controller);
    insta::assert_snapshot!(down(Some("system:controllers")).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: the StatefulSet controller works as system:controllers, and etcd-scaler holds back system:serviceaccount:kube-system:statefulset-controller and system:kube-controller-manager. The pod of a member that still votes would be deleted unasked. Run kube-controller-manager with --use-service-account-credentials=true, and ask again.");
    insta::assert_snapshot!(down(None).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: as which user the StatefulSet controller works is not known yet. The pod of a member that still votes would be deleted unasked. It is seen when the controller next writes the StatefulSet's status, which the webhook has it do. Ask again in a few seconds; if it stays so, see the webhook's log.");
    for user in CONTROLLERS {
        down(Some(user)).admitted();
    }
    // It deletes nobody then.
    from_three_to(4).with(|case| case.controller = None).admitted();
}

#[test]
fn an_update_strategy_that_is_not_known() {
    let unknown = |to| {
        from_three_to(to)
            .with(|case| case.strategy = Some("spec.updateStrategy.rollingUpdate.maxUnavailable is 2".into()))
    };
    insta::assert_snapshot!(unknown(4).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: spec.updateStrategy.rollingUpdate.maxUnavailable is 2. A roll-out may then take more than one member at once, and what etcd-scaler holds back while the count changes may not be held back. Set spec.updateStrategy to RollingUpdate (without maxUnavailable, or with 1) or to OnDelete, and ask again.");
    unknown(2).refused();
    assert!(unknown(3).admitted().is_empty(), "a repair");
}

#[test]
fn ordinals_that_do_not_start_at_zero() {
    insta::assert_snapshot!(from_three_to(3).with(|case| case.first_ordinal = (0, 1)).refused(), @"this change of StatefulSet puls8/puls8-etcd is refused: spec.ordinals.start is 1. The members are numbered from 0. Set spec.ordinals.start to 0 or leave it out.");
    // One that was so before we came keeps its repairs.
    assert!(from_three_to(3).with(|case| case.first_ordinal = (1, 1)).admitted().is_empty());
    from_three_to(4).with(|case| case.first_ordinal = (1, 1)).refused();
}

#[test]
fn health_that_is_not_known() {
    insta::assert_snapshot!(from_three_to(4).with(|case| case.age = None).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the members' health is not known yet (etcd-scaler has just started). What is not known to be safe is refused. Ask again in a few seconds; if it stays so, see the webhook's log.");
    insta::assert_snapshot!(from_three_to(4).with(|case| case.age = Some(Duration::from_secs(11))).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the members' health was last seen 11 s ago, the limit is 10 s. What is not known to be safe is refused. Ask again in a few seconds; if it stays so, see the webhook's log.");
    assert!(!from_three_to(4).with(|case| case.age = Some(MAX_AGE)).admitted().is_empty());
}

#[test]
fn a_member_that_does_not_answer() {
    let silent = from_three_to(4).with(|case| {
        case.answers.insert(1, Err("http://puls8-etcd-1:2379: connection refused".into()));
        case.answers.remove(&2);
    });
    insta::assert_snapshot!(silent.refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: 2 of 3 members not healthy (puls8-etcd-1: http://puls8-etcd-1:2379: connection refused; puls8-etcd-2: was not asked yet). 4 members need 3 for a quorum, and a newcomer does not count until it has caught up. Repair what is named and ask again; updates that keep the count of 3 are always admitted.");
}

#[test]
fn a_member_that_is_not_healthy() {
    let found = |bend: fn(&mut Answer)| from_three_to(4).member_1(bend).refused();
    let all = [
        found(|answer| answer.leader = None),
        found(|answer| answer.errors = vec!["etcdserver: no leader".into()]),
        found(|answer| answer.cluster = Id(0xc2)),
        found(|answer| answer.member = Id(0x99)),
        found(|answer| answer.learner = true),
        found(|answer| answer.list = None),
        found(|answer| answer.list.as_mut().unwrap()[2].learner = true),
        found(|answer| answer.list.as_mut().unwrap()[2].client_urls.clear()),
        found(|answer| answer.list.as_mut().unwrap().push(listed(3))),
        found(|answer| drop(answer.list.as_mut().unwrap().pop())),
        found(|answer| answer.list.as_mut().unwrap()[2].id = Id(0x99)),
    ];
    let found: Vec<&str> = all.iter().map(|why| why.split(['(', ')']).nth(1).unwrap()).collect();
    insta::assert_snapshot!(found.join("\n"), @"
    puls8-etcd-1: knows no leader
    puls8-etcd-1: reports etcdserver: no leader
    puls8-etcd-1: is in cluster 00000000000000c2, the record has 00000000000000c1
    puls8-etcd-1: answers as member 0000000000000099, the record has 0000000000000011
    puls8-etcd-1: is a learner, not yet a voting member
    puls8-etcd-1: did not tell its member list
    puls8-etcd-1: lists puls8-etcd-2 as a learner
    puls8-etcd-1: lists puls8-etcd-2, which has not started
    puls8-etcd-1: lists members that are not in the record: 0000000000000013
    puls8-etcd-1: does not list members of the record: 0000000000000012
    puls8-etcd-1: lists 0000000000000099 where the record has 0000000000000012
    ");
}

#[test]
fn an_equal_count_is_admitted_whatever_else() {
    let broken = from_three_to(3).with(|case| {
        case.record = None;
        case.changes_template = true;
        case.rollout = Some("1 of 3".into());
        case.age = None;
    });
    assert!(broken.admitted().is_empty());
}

#[test]
fn another_template_while_a_member_joins_or_leaves() {
    let with = |state: Option<State>, changes_template| {
        from_three_to(4).with(|case| {
            (case.old, case.changes_template) = (4, changes_template);
            case.record = Some(Ok(state.map_or(verified(3), |state| verified(3).with(3, id(3), state))));
        })
    };
    insta::assert_snapshot!(with(Some(State::Joining), true).refused(), @"this change of StatefulSet puls8/puls8-etcd is refused: puls8-etcd-3 is joining etcd (member 0000000000000013). A change of the pod template restarts the other members meanwhile. Ask again when the scale has ended: it is a member, or taken back, within hook.joinDeadlineSeconds. See kubectl -n puls8 get events --field-selector involvedObject.name=puls8-etcd.");
    insta::assert_snapshot!(with(Some(State::Leaving), true).refused(), @"this change of StatefulSet puls8/puls8-etcd is refused: puls8-etcd-3 is leaving etcd (member 0000000000000013). A change of the pod template restarts the other members meanwhile. Ask again when the scale has ended: it is out within seconds. See kubectl -n puls8 get events --field-selector involvedObject.name=puls8-etcd.");
    with(Some(State::Joining), false).admitted();
    // Not in etcd's list yet: its image may be mended.
    with(None, true).admitted();
    with(Some(State::Bootstrapping), true).admitted();
}

#[test]
fn going_back_towards_the_record_is_admitted_while_members_are_sick() {
    let back = |old, new| {
        from_three_to(new).with(|case| {
            case.old = old;
            case.age = None;
            case.changes_template = true;
            case.record = Some(Ok(verified(3).with(3, id(3), State::Joining)));
        })
    };
    assert!(back(4, 3).admitted().is_empty());
    back(5, 4).admitted();
    back(2, 3).admitted();
    // Past the record is a scale-down, and the other way is a scale-up.
    back(4, 2).refused();
    back(4, 5).refused();
    // Nothing goes back to 0.
    back(4, 0).refused();
    // But undoing what a scale-up has already verified is one too, and needs who stays to be well.
    let undone = |new| {
        from_three_to(new).with(|case| {
            case.old = 6;
            case.record = Some(Ok(verified(4).with(4, id(4), State::Joining)));
            case.answers = (0..4).map(|ordinal| (ordinal, Ok(healthy(ordinal, 4)))).collect();
        })
    };
    undone(3).admitted();
    // The next one is in the list and not yet in the record.
    let added = |ordinal| healthy(ordinal, 5);
    undone(3)
        .with(|case| {
            case.record = Some(Ok(verified(4)));
            case.answers = (0..4).map(|ordinal| (ordinal, Ok(added(ordinal)))).collect();
        })
        .admitted();
    undone(3).with(|case| case.age = None).refused();
    let sick = undone(3).member_1(|answer| answer.leader = None).refused();
    assert!(sick.contains("1 of the 3 members that stay not healthy"), "{sick}");
    undone(5).with(|case| case.old = 4).refused();
    // While members leave, those that are still verified may stay.
    let leaving = |new| from_five_to(new, &[2]).with(|case| (case.old, case.age) = (3, None));
    leaving(4).admitted();
    leaving(5).admitted();
    insta::assert_snapshot!(leaving(2).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: another scale is under way: 3 asked for, 5 members verified. Members join and leave one scale at a time. Wait until etcd has 3 members, or go back: helm upgrade --set etcd.replicaCount=5.");
}

/// Each thing that keeps members from joining or leaving, on member 1.
type Bend = fn(&mut Answer);

fn alarm(answer: &mut Answer, kind: &str) {
    answer.alarms.push(Alarm { member: id(1), kind: kind.into() });
}

const NO_SPACE: Bend = |answer| alarm(answer, "NOSPACE");
const CORRUPT: Bend = |answer| alarm(answer, "CORRUPT");
const OLDER: Bend = |answer| answer.version = "3.5.35".into();
const BEHIND: Bend = |answer| (answer.revision, answer.applied_index) = (-10_000, 9_000);
const DIVERGED: Bend = |answer| (answer.revision, answer.applied_index) = (10_020, 20_012);
const NEAR_QUOTA: Bend = |answer| answer.db.size = 7 << 30;
const LARGE: Bend = |answer| answer.db.size = 2 << 30;

#[test]
fn what_speaks_against_a_newcomer_though_everybody_is_healthy() {
    let refused = |bend: Bend| from_three_to(4).member_1(bend).refused();
    let all = [NO_SPACE, CORRUPT, DIVERGED, OLDER, BEHIND, NEAR_QUOTA, LARGE].map(refused);
    insta::assert_snapshot!(all.join("\n"), @"
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: etcd has the alarm NOSPACE (puls8-etcd-1). It takes no writes until there is room again, and another count of members makes none. Make room (etcdctl compact, then etcdctl defrag, one member at a time) or raise the quota (etcd.quotaBackendBytes); then etcdctl alarm disarm, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='4: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: etcd has the alarm CORRUPT (puls8-etcd-1). A member's data is not what the others have, and a change of members can leave the wrong ones in the majority. Find out which (hook validate --keys, docs/commands.md) and replace that member; then etcdctl alarm disarm, and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: puls8-etcd-1 has 10013 revisions more than puls8-etcd-0 (10020 and 7) and has applied 12 entries more of etcd's log. An entry makes one revision, so one of the two holds what etcd did not write, and a change of members can leave the wrong ones in the majority. Find out which (hook validate --keys, docs/commands.md), replace that member (hook replace), and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the members run different versions of etcd (puls8-etcd-0 3.6.14, puls8-etcd-1 3.5.35, puls8-etcd-2 3.6.14). A newcomer is one of them, and what the newer writes the older may not understand. Finish the roll-out or take it back, so that all run one image, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='4: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: puls8-etcd-1 is 10007 revisions behind puls8-etcd-2 (-10000 and 7). Until it has caught up it does not hold what was acknowledged, and a majority counts on it. Wait until it has (etcdctl endpoint status), or see what slows it down, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='4: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the database of puls8-etcd-1 is 7.5 GB, 87 % of its quota of 8.6 GB, the limit is 80 %. At its quota etcd takes no more writes, and a newcomer starts as full as the others are. Make room (etcdctl compact, then etcdctl defrag, one member at a time) or raise the quota (etcd.quotaBackendBytes), and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='4: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: the database of puls8-etcd-1 is 2.1 GB, and a newcomer's volume of 2.1 GB has to hold it and 134 MB of log. It would run full while the newcomer catches up. Make the database smaller (etcdctl compact, then etcdctl defrag, one member at a time), or give newcomers larger volumes (etcd.persistence.size), and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='4: why', and ask again.
    ");
}

#[test]
fn what_speaks_against_a_scale_down_though_everybody_is_healthy() {
    let to_two = |bend: Bend| from_three_to(2).member_1(bend);
    let all = [NO_SPACE, CORRUPT, DIVERGED, OLDER, BEHIND].map(|bend| to_two(bend).refused());
    insta::assert_snapshot!(all.join("\n"), @"
    scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: etcd has the alarm NOSPACE (puls8-etcd-1). It takes no writes until there is room again, and another count of members makes none. Make room (etcdctl compact, then etcdctl defrag, one member at a time) or raise the quota (etcd.quotaBackendBytes); then etcdctl alarm disarm, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='2: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: etcd has the alarm CORRUPT (puls8-etcd-1). A member's data is not what the others have, and a change of members can leave the wrong ones in the majority. Find out which (hook validate --keys, docs/commands.md) and replace that member; then etcdctl alarm disarm, and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: puls8-etcd-1 has 10013 revisions more than puls8-etcd-0 (10020 and 7) and has applied 12 entries more of etcd's log. An entry makes one revision, so one of the two holds what etcd did not write, and a change of members can leave the wrong ones in the majority. Find out which (hook validate --keys, docs/commands.md), replace that member (hook replace), and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: the members run different versions of etcd (puls8-etcd-0 3.6.14, puls8-etcd-1 3.5.35). Members restart on the way to one version, and fewer bear that worse. Finish the roll-out or take it back, so that all run one image, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='2: why', and ask again.
    scaling StatefulSet puls8/puls8-etcd from 3 to 2 is refused: puls8-etcd-1 is 10007 revisions behind puls8-etcd-0 (-10000 and 7). Until it has caught up it does not hold what was acknowledged, and a majority counts on it. Wait until it has (etcdctl endpoint status), or see what slows it down, and ask again. To go on all the same: kubectl annotate --overwrite -n puls8 statefulset/puls8-etcd etcd-scaler.io/override='2: why', and ask again.
    ");
    for room in [NEAR_QUOTA, LARGE] {
        to_two(room).admitted();
    }
    // Of who leaves nothing is asked.
    for bend in [OLDER, BEHIND] {
        from_three_to(1).member_1(bend).admitted();
    }
}

#[test]
fn the_nearest_that_is_still_admitted() {
    let near: [Bend; 4] = [
        |answer| answer.errors.clear(),
        |answer| answer.revision = 7 - condition::MOST_APART,
        |answer| (answer.db.size, answer.db.in_use) = ((2 << 30) - condition::LOG, 2 << 30),
        |answer| (answer.db.size, answer.db.in_use, answer.db.quota) = (80 << 20, 79 << 20, Some(100 << 20)),
    ];
    for bend in near {
        assert_eq!(from_three_to(4).member_1(bend).admitted().len(), 1);
    }
    // As many entries more as could make the revisions beyond: it lags, and no more is known.
    let lags = from_three_to(4).member_1(|it| (it.revision, it.applied_index) = (10_020, 20_013)).refused();
    assert!(lags.contains("puls8-etcd-0 is 10013 revisions behind puls8-etcd-1"), "{lags}");
    // 1 % more, by the server's own word and by the StatefulSet's.
    from_three_to(4)
        .member_1(|answer| answer.db = Database { size: 81 << 20, in_use: 0, quota: Some(100 << 20) })
        .refused();
    from_three_to(4).member_1(|answer| answer.db.size = 81 << 20).with(|case| case.room.quota = 100 << 20).refused();
    from_three_to(4).member_1(LARGE).with(|case| case.room.volume = None).admitted();
}

#[test]
fn a_person_lifts_what_may_be_lifted_for_one_count() {
    let with = |new, bend: Bend, text: &str| {
        from_three_to(new).member_1(bend).with(|case| case.override_ = Some(Override::parse(text)))
    };
    for bend in [NO_SPACE, OLDER, BEHIND, LARGE] {
        assert_eq!(with(4, bend, "4: it is known").lifted().len(), 1);
    }
    // One word is for everything that may be lifted.
    assert_eq!(with(4, NEAR_QUOTA, "4: it is known").lifted().len(), 2);
    insta::assert_snapshot!(with(4, NO_SPACE, "4: room comes tonight").lifted().join(""), @"etcd has the alarm NOSPACE (puls8-etcd-1); 4 members are wanted all the same: room comes tonight");
    let refused = |text| with(4, NO_SPACE, text).refused().rsplit_once("ask again.").unwrap().1.to_owned();
    insta::assert_snapshot!(["5: for another count", "4", "four: in words"].map(refused).join("\n"), @r#"
    The annotation etcd-scaler.io/override is for 5.
    And the annotation etcd-scaler.io/override is "4"; it has to be '<count>: <reason>'.
    And the annotation etcd-scaler.io/override is "four: in words"; it has to be '<count>: <reason>'.
    "#);
    // Never, whatever a person says: corruption, a sick member, no cluster at all.
    let corrupt = with(4, CORRUPT, "4: we know better").refused();
    assert!(!corrupt.contains("To go on all the same"), "{corrupt}");
    let diverged = with(4, DIVERGED, "4: we know better").refused();
    assert!(!diverged.contains("To go on all the same"), "{diverged}");
    with(4, |answer| answer.leader = None, "4: it comes back").refused();
    with(0, |_| {}, "0: stop").refused();
}

#[test]
fn what_a_scale_up_has_verified_is_undone_whatever_speaks_against_it() {
    let undone = |bend: Bend| {
        from_three_to(3).member_1(bend).with(|case| {
            case.old = 6;
            case.record = Some(Ok(verified(4)));
            case.answers.insert(3, Ok(healthy(3, 4)));
            case.answers.values_mut().for_each(|answer| answer.as_mut().unwrap().list = healthy(3, 4).list);
        })
    };
    for bend in [NO_SPACE, OLDER, BEHIND] {
        undone(bend).admitted();
    }
    undone(CORRUPT).refused();
}

#[test]
fn who_adds_members_is_told_of_what_may_harm_later() {
    let told = |new, bend: Bend| from_three_to(new).member_1(bend).admitted();
    let sparse: Bend = |answer| (answer.db.size, answer.db.in_use) = (200 << 20, 90 << 20);
    insta::assert_snapshot!(told(5, sparse).join("\n"), @"the database of puls8-etcd-1 is 210 MB and 94 MB of it are in use: a newcomer copies all of it; etcdctl defrag, one member at a time, makes it small");
    assert!(told(2, sparse).iter().all(|warning| !warning.contains("defrag")));
    assert!(told(5, |answer| (answer.db.size, answer.db.in_use) = (60 << 20, 1)).is_empty());
    let old = from_three_to(5).with(|case| {
        case.answers.values_mut().for_each(|answer| answer.as_mut().unwrap().version = "3.5.16".into());
    });
    insta::assert_snapshot!(old.admitted().join("\n"), @"etcd 3.5.16 does not keep a promotion where 3.6 looks for it: go to 3.5.20 or later and let every member run it before 3.6 (etcd-io/etcd#19563)");
}

/// Back to what was verified is an undo, and a stop is a person's word.
#[test]
fn a_start_that_is_not_understood_admits_no_other_count() {
    let flags = |case: Case| case.with(|case| case.not_understood = Some(NotUnderstood::Elsewhere));
    insta::assert_snapshot!(flags(from_three_to(4)).refused(), @"scaling StatefulSet puls8/puls8-etcd from 3 to 4 is refused: its etcd takes variables from another object (envFrom). What is in that object is not seen here, and changes without the StatefulSet. Have its chart set etcd's variables one by one (env).");
    assert_eq!(flags(from_three_to(4).with(|case| case.record = None)).refused(), flags(from_three_to(4)).refused());
    flags(from_three_to(2)).refused();
    flags(from_three_to(3)).admitted();
    flags(from_three_to(3).with(|case| case.old = 4)).admitted();
    flags(from_three_to(0).with(|case| case.may_stop = true)).admitted();
}
