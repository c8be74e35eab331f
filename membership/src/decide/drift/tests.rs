//! What is recognised, what is planned, and what is refused, with the whole of each sentence.

use super::*;
use crate::know::observed::Answer;
use crate::know::record::Id;
use crate::world::{Sim, World};

/// These ordinals answer as another cluster with this list, and the others as they did.
fn as_another(mut seen: Observed, cluster: Id, members: &[Ordinal]) -> Observed {
    let id = |ordinal: Ordinal| Id(0xe0 + u64::from(ordinal));
    let list: Vec<ListedMember> = members
        .iter()
        .map(|&ordinal| ListedMember {
            id: id(ordinal),
            name: seen.target.pod(ordinal),
            peer_urls: vec![seen.target.peer_url(ordinal)],
            client_urls: vec![seen.target.client_url(ordinal)],
            learner: false,
        })
        .collect();
    let template = seen.answer(0).cloned().expect("the first answers");
    for &ordinal in members {
        let leader = members.first().map(|&first| id(first));
        let answer = Answer { member: id(ordinal), cluster, leader, list: Some(list.clone()), ..template.clone() };
        seen.answers.insert(ordinal, Ok(answer));
    }
    seen
}

fn recognised(seen: &Observed) -> String {
    let record = seen.record.as_ref().expect("a record");
    recognise(&seen.target, record, &seen.answers).expect("a drift").sentence()
}

#[track_caller]
fn refused(seen: &Observed) -> String {
    match plan(seen) {
        Plan::Refused(why) => why,
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn reconcile(seen: &Observed) -> (Record, String) {
    match plan(seen) {
        Plan::Reconcile(record, what) => (record, what.join("\n")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn without_a_difference_there_is_nothing_to_do() {
    let mut world = World::settled(3);
    let seen = world.observe();
    assert_eq!(recognise(&seen.target, seen.record.as_ref().unwrap(), &seen.answers), None);
    assert!(matches!(plan(&seen), Plan::Nothing(why) if why.contains("are the same")));
    world.record = None;
    assert!(matches!(plan(&world.observe()), Plan::Nothing(why) if why.contains("the next run writes it")));
}

#[test]
fn who_joins_or_leaves_is_the_next_runs_business() {
    let mut world = World::settled(4);
    let id = world.members[&3].id;
    for state in [State::Joining, State::Leaving] {
        world.record = world.record.map(|record| record.with(3, id, state));
        assert!(matches!(plan(&world.observe()), Plan::Nothing(_)));
        world.members.remove(&3);
        world.serving.remove(&3);
        assert!(matches!(plan(&world.observe()), Plan::Nothing(_)));
    }
}

#[test]
fn removed_by_hand() {
    let mut world = World::settled(3);
    world.remove_by_hand(1);
    let seen = world.observe();
    insta::assert_snapshot!(recognised(&seen), @r#"etcd's member list is not as the record of StatefulSet puls8/puls8-etcd has it: puls8-etcd-1 (member 0000000000000067) is not listed any more: it was removed by hand. Nothing was changed. If it is meant, let the record follow: kubectl -n puls8 create job reconcile --from=cronjob/puls8-etcd-scaler --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/hook","reconcile"]}]' -o json | kubectl -n puls8 create -f - prints the plan (kubectl -n puls8 logs job/reconcile); with "--yes" behind "reconcile", and another name for the Job, it is done"#);
    let (record, what) = reconcile(&seen);
    insta::assert_snapshot!(what, @"puls8-etcd-1 (member 0000000000000067) is not listed any more: it was removed by hand; the record drops it; its ordinal joins anew, in a pod made again, its old data set aside");
    assert_eq!(record, world.record.clone().unwrap().without(1));
    // The highest: the count may follow instead.
    let mut world = World::settled(3);
    world.remove_by_hand(2);
    assert!(
        recognised(&world.observe()).contains(
            "If who was removed is to stay out, let the count follow (helm upgrade --set etcd.replicaCount=2)."
        )
    );
    // Its pod still runs: the two that stay are a quorum of the recorded.
    world.pods.get_mut(&2).unwrap().down = false;
    reconcile(&world.observe());
}

#[test]
fn added_by_hand() {
    let mut world = World::settled(3);
    let id = world.fresh();
    world.members.insert(3, Sim { id, learner: false, started: false });
    let seen = world.observe();
    assert!(
        recognised(&seen)
            .contains("puls8-etcd-3 (member 000000000000006b) is not recorded: it was added by hand and never started"),
        "{}",
        recognised(&seen)
    );
    let (record, what) = reconcile(&seen);
    insta::assert_snapshot!(what, @"puls8-etcd-3 (member 000000000000006b) is not recorded: it was added by hand and never started; recorded as joining: the next run takes member 000000000000006b back, 3 replicas are wanted");
    assert_eq!(record.state(3), Some(State::Joining));
    world.desired = 4;
    insta::assert_snapshot!(reconcile(&world.observe()).1, @"puls8-etcd-3 (member 000000000000006b) is not recorded: it was added by hand and never started; recorded as joining: the next run has it join as member 000000000000006b, or takes it back");
    // Started and silent: nobody knows what it is.
    world.members.get_mut(&3).unwrap().started = true;
    insta::assert_snapshot!(refused(&world.observe()), @"etcd lists puls8-etcd-3 as voting member 000000000000006b, which is not recorded and does not answer: what it is, is not known. Nothing was changed. Have it answer; if it is lost for good, remove it (kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member remove 000000000000006b); and run this again");
    // It answers under its ID: it is a member.
    world.serving.insert(3, id);
    let (record, what) = reconcile(&world.observe());
    insta::assert_snapshot!(what, @"puls8-etcd-3 (member 000000000000006b) is not recorded: it was added by hand; it answers, and is recorded as member 000000000000006b");
    assert_eq!(record.state(3), Some(State::Member));
    world.desired = 3;
    insta::assert_snapshot!(reconcile(&world.observe()).1, @"puls8-etcd-3 (member 000000000000006b) is not recorded: it was added by hand; it answers, is recorded as member 000000000000006b, and the next run removes it: 3 replicas are wanted");
}

#[test]
fn replaced_by_hand() {
    let mut world = World::settled(3);
    let before = world.members[&1].id;
    world.members.insert(1, Sim { id: Id(7), learner: false, started: true });
    world.serving.insert(1, Id(7));
    let (record, what) = reconcile(&world.observe());
    insta::assert_snapshot!(what, @"puls8-etcd-1 is member 0000000000000007, recorded is 0000000000000067: it was replaced by hand; it answers, and is recorded as member 0000000000000007");
    assert_eq!(record.members[&1].id, Id(7));
    world.serving.insert(1, before);
    refused(&world.observe());
}

#[test]
fn a_member_at_no_pod_is_its_owners() {
    let world = World::settled(3);
    let mut seen = world.observe();
    for answer in seen.answers.values_mut().flatten() {
        let list = answer.list.as_mut().unwrap();
        list.push(ListedMember {
            id: Id(0xbad),
            name: "other".into(),
            peer_urls: vec!["http://other:2380".into()],
            client_urls: vec!["http://other:2379".into()],
            learner: false,
        });
    }
    // It may be a healthy one, and hold what nobody else does.
    insta::assert_snapshot!(recognised(&seen), @r#"etcd lists member 0000000000000bad ("other") with peer URL http://other:2380, which is no pod of StatefulSet puls8/puls8-etcd. Nothing was changed. No record can name it. It has run elsewhere, and whether it is needed only who ran it can tell: have it leave etcd from there, or check --cluster-domain and the headless Service's name"#);
    assert_eq!(refused(&seen), recognised(&seen));
    for answer in seen.answers.values_mut().flatten() {
        answer.list.as_mut().unwrap()[3].client_urls.clear();
    }
    insta::assert_snapshot!(recognised(&seen), @r#"etcd lists member 0000000000000bad ("other") with peer URL http://other:2380, which is no pod of StatefulSet puls8/puls8-etcd. Nothing was changed. No record can name it, and it never started: remove it (kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member remove 0000000000000bad), or check --cluster-domain and the headless Service's name"#);
}

/// As an etcd whose chart names its members by short names, or by addresses.
#[test]
fn a_member_under_another_url_is_never_to_be_removed() {
    let spelled = |url: &dyn Fn(Ordinal) -> String| {
        let mut seen = World::settled(3).observe();
        for answer in seen.answers.values_mut().flatten() {
            for (ordinal, member) in (0..).zip(answer.list.as_mut().unwrap()) {
                member.peer_urls = vec![url(ordinal)];
            }
        }
        seen
    };
    let short = spelled(&|ordinal| format!("http://puls8-etcd-{ordinal}.puls8-etcd-headless:2380"));
    insta::assert_snapshot!(recognised(&short), @"etcd lists the member in puls8-etcd-0 (0000000000000065) with peer URL http://puls8-etcd-0.puls8-etcd-headless:2380, and needed is http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380. Nothing was changed. It stays a member: only the URL has to change. Have its chart give that one (ETCD_INITIAL_ADVERTISE_PEER_URLS, and for each member in ETCD_INITIAL_CLUSTER); then, one after the other: kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member update 0000000000000065 --peer-urls=http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380; kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member update 0000000000000067 --peer-urls=http://puls8-etcd-1.puls8-etcd-headless.puls8.svc.cluster.local:2380; kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member update 0000000000000069 --peer-urls=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380");
    let record = short.record.clone().unwrap();
    assert_eq!(
        unnamed(&short.target, &short.answers).unwrap(),
        recognise(&short.target, &record, &short.answers).unwrap()
    );
    // By its ID, its name, or what it is reached by: one that is away now too.
    let mut away = spelled(&|ordinal| format!("http://10.0.0.{ordinal}:2380"));
    away.answers.insert(2, Err("no answer".into()));
    assert!(
        recognised(&away).contains("member update") && !recognised(&away).contains("remove"),
        "{}",
        recognised(&away)
    );
}

#[test]
fn the_whole_cluster_is_another_one() {
    let seen = as_another(World::settled(3).observe(), Id(0xdead), &[0, 1, 2]);
    insta::assert_snapshot!(recognised(&seen), @r#"the members answer from cluster 000000000000dead, the record of StatefulSet puls8/puls8-etcd names cluster 00000000000000c1: it was restored from a snapshot, or made anew. Nothing was changed. Find out which is the right one. If it is the one that answers, drop the other's record: kubectl -n puls8 create job forget --from=cronjob/puls8-etcd-scaler --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/hook","forget"]}]' -o json | kubectl -n puls8 create -f - prints the plan (kubectl -n puls8 logs job/forget); with "--yes" behind "forget", and another name for the Job, it is done; the next record is written from what answers"#);
    let Plan::Forget(why) = plan(&seen) else { panic!("{:?}", plan(&seen)) };
    insta::assert_snapshot!(why, @"the record names cluster 00000000000000c1 (puls8-etcd-0 0000000000000065, puls8-etcd-1 0000000000000067, puls8-etcd-2 0000000000000069), the members answer from cluster 000000000000dead (3 listed): the record and the Lease's copy are dropped, the next run writes the record from what answers");
}

#[test]
fn the_recorded_cluster_is_not_forgotten_while_it_may_live() {
    let three = || World::settled(3).observe();
    // One was restored alone, the others are away: they may be the living cluster.
    let mut seen = as_another(three(), Id(0xdead), &[0]);
    for ordinal in [1, 2] {
        seen.answers.insert(ordinal, Err("no answer".into()));
    }
    insta::assert_snapshot!(refused(&seen), @"puls8-etcd-1, puls8-etcd-2 run and do not answer, and would be a quorum of the 3 recorded members: whether they live as the recorded cluster is not known. Nothing was changed. Have them answer, and run this again; a pod whose etcd does not run does not count");
    // They do not run.
    for ordinal in [1, 2] {
        seen.pods.get_mut(&ordinal).unwrap().down = true;
    }
    assert!(matches!(plan(&seen), Plan::Forget(_)));
    // Two were restored, and one is left of the recorded cluster: it lists itself and is a learner.
    let mut seen = as_another(three(), Id(0xdead), &[0, 1]);
    if let Some(Ok(answer)) = seen.answers.get_mut(&2) {
        (answer.learner, answer.list) = (true, None);
    }
    insta::assert_snapshot!(refused(&seen), @"puls8-etcd-2 still answer from the recorded cluster 00000000000000c1, others from cluster 000000000000dead: which is the right one is not known. Nothing was changed. Save both first (etcdctl snapshot save); then move the data of the wrong one's members aside on their nodes, delete nothing, restart them, and run this again");
    seen.answers.insert(2, Err("no answer".into()));
    assert!(matches!(plan(&seen), Plan::Forget(_)));
}

#[test]
fn one_member_is_a_cluster_of_its_own() {
    let three = World::settled(3).observe();
    // Restored alone.
    let seen = as_another(three.clone(), Id(0xdead), &[2]);
    insta::assert_snapshot!(recognised(&seen), @r#"puls8-etcd-2 answers as a cluster of its own (cluster 000000000000dead, 1 in its member list) beside puls8-etcd-0, puls8-etcd-1 (cluster 00000000000000c1): it was restored alone, or started with --force-new-cluster, and what clients write to it the others do not have. Nothing was changed. Take it out of the others' member list (kubectl -n puls8 exec puls8-etcd-0 -c etcd -- etcdctl member remove 0000000000000069), then let the record follow: kubectl -n puls8 create job reconcile --from=cronjob/puls8-etcd-scaler --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/hook","reconcile"]}]' -o json | kubectl -n puls8 create -f - prints the plan (kubectl -n puls8 logs job/reconcile); with "--yes" behind "reconcile", and another name for the Job, it is done. puls8-etcd-2 joins anew then; another cluster's data is never started on, so it waits until that is moved away on its node"#);
    assert_eq!(refused(&seen), recognised(&seen));
    // --force-new-cluster: the same cluster's ID and its own member's, alone in its list.
    let mut seen = three;
    if let Some(Ok(answer)) = seen.answers.get_mut(&0) {
        answer.list.as_mut().unwrap().truncate(1);
    }
    insta::assert_snapshot!(recognised(&seen), @r#"puls8-etcd-0 answers as a cluster of its own (cluster 00000000000000c1, 1 in its member list) beside puls8-etcd-1, puls8-etcd-2 (cluster 00000000000000c1): it was restored alone, or started with --force-new-cluster, and what clients write to it the others do not have. Nothing was changed. Take it out of the others' member list (kubectl -n puls8 exec puls8-etcd-1 -c etcd -- etcdctl member remove 0000000000000065), then let the record follow: kubectl -n puls8 create job reconcile --from=cronjob/puls8-etcd-scaler --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{"op":"replace","path":"/spec/template/spec/containers/0/command","value":["/hook","reconcile"]}]' -o json | kubectl -n puls8 create -f - prints the plan (kubectl -n puls8 logs job/reconcile); with "--yes" behind "reconcile", and another name for the Job, it is done. puls8-etcd-0 joins anew then; its data is set aside"#);
    assert_eq!(refused(&seen), recognised(&seen));
}

#[test]
fn taken_out_of_the_others_list_it_joins_anew() {
    let mut world = World::settled(3);
    world.remove_by_hand(2);
    let seen = world.observe();
    let recorded = world.record.as_ref().unwrap().members[&2].id;
    // What it answers does not count any more.
    let mut seen = as_another(seen, Id(0xdead), &[2]);
    if let Some(Ok(answer)) = seen.answers.get_mut(&2) {
        answer.member = recorded;
    }
    let (record, _) = reconcile(&seen);
    assert!(record.members.keys().copied().eq(0..2));
    seen.record = Some(record);
    assert!(matches!(plan(&seen), Plan::Nothing(_)), "{:?}", plan(&seen));
    assert!(seen.agreed().is_ok());
}

#[test]
fn unknown_refuses() {
    let mut seen = World::settled(3).observe();
    for ordinal in [1, 2] {
        seen.answers.insert(ordinal, Err("no answer".into()));
    }
    insta::assert_snapshot!(refused(&seen), @"what etcd's member list is now is not known, and what is not known is refused: 1 of 3 voting members answered (puls8-etcd-1: no answer; puls8-etcd-2: no answer). Repair what is named, so that a quorum of one cluster answers, and run this again");
    assert_eq!(recognise(&seen.target, seen.record.as_ref().unwrap(), &seen.answers), None);
    // One says that it is alone, and the others may be the cluster.
    if let Some(Ok(answer)) = seen.answers.get_mut(&0) {
        answer.list.as_mut().unwrap().truncate(1);
    }
    insta::assert_snapshot!(refused(&seen), @"puls8-etcd-1, puls8-etcd-2 run and do not answer, and would be a quorum of the 3 recorded members: whether they live as the recorded cluster is not known. Nothing was changed. Have them answer, and run this again; a pod whose etcd does not run does not count");
    // They positively do not run: it is what is left.
    for ordinal in [1, 2] {
        seen.pods.get_mut(&ordinal).unwrap().down = true;
    }
    assert!(reconcile(&seen).0.members.keys().copied().eq(0..1));
    // A member list on its way is no drift.
    let mut seen = World::settled(3).observe();
    if let Some(Ok(answer)) = seen.answers.get_mut(&2) {
        answer.list.as_mut().unwrap().truncate(2);
    }
    assert_eq!(recognise(&seen.target, seen.record.as_ref().unwrap(), &seen.answers), None);
    assert!(refused(&seen).contains("hold different member lists"));
}

#[test]
fn two_clusters_without_a_record_are_not_chosen_between() {
    let mut seen = as_another(World::settled(2).observe(), Id(0xdead), &[1]);
    seen.record = None;
    if let Some(Ok(answer)) = seen.answers.get_mut(&0) {
        answer.list.as_mut().unwrap().truncate(1);
    }
    assert!(refused(&seen).contains("is in cluster"));
}
