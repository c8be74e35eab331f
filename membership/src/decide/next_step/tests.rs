//! The planner against a small cluster in memory: what it does, in which order, and that being
//! killed anywhere changes nothing in how it ends.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::drift::{self, Plan};
use crate::know::observed::Volume;
use crate::world::{self, LIMITS, Tick, World, label, stuck};
use proptest::prelude::*;

use super::*;

/// The steps by name, for reading.
fn names(steps: &[Step]) -> String {
    steps.iter().map(label).collect::<Vec<_>>().join(", ")
}

fn voters(world: &World) -> Vec<Ordinal> {
    world.members.iter().filter(|(_, member)| !member.learner).map(|(&ordinal, _)| ordinal).collect()
}

#[test]
fn three_become_four() {
    let mut world = World::settled(3);
    world.desired = 4;
    insta::assert_snapshot!(names(&world.run()), @"CreateVolume 3, PinVolume 3, Add 3, Record, Permit 3, Record, Swap 3, Promote 3, Done");
    assert_eq!(voters(&world), [0, 1, 2, 3]);
}

#[test]
fn three_become_five_one_after_the_other() {
    let mut world = World::settled(3);
    world.desired = 5;
    insta::assert_snapshot!(names(&world.run()), @"CreateVolume 3, PinVolume 3, CreateVolume 4, Add 3, Record, Permit 3, Record, Swap 3, Promote 3, Schedule 4, PinVolume 4, Add 4, Record, Permit 4, Record, Swap 4, Promote 4, Done");
}

#[test]
fn a_volume_is_tied_to_a_node_only_where_it_is_mounted() {
    let mut world = World::settled(3);
    world.volumes.get_mut(&1).unwrap().pinned = false;
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.started, pod.trouble) = (false, stuck("container etcd: ErrImagePull", true));
    assert!(!matches!(world.next(), Step::PinVolume(..)), "{:?}", world.next());
    world.pods.get_mut(&1).unwrap().waits_in_admit = true;
    assert!(matches!(world.next(), Step::PinVolume(1, _)), "{:?}", world.next());
    let pod = world.pods.get_mut(&1).unwrap();
    (pod.waits_in_admit, pod.started) = (false, true);
    assert!(matches!(world.next(), Step::PinVolume(1, _)), "{:?}", world.next());
}

#[test]
fn a_later_newcomer_makes_room_for_an_earlier_one_whose_volume_is_on_its_node() {
    let mut world = World::settled(3);
    world.desired = 5;
    world.settle();
    // Kept from when there were four; the fifth, whose turn nobody waited for, was scheduled first.
    let fifth = world.pods.get_mut(&4).unwrap();
    (fifth.node, fifth.gated) = (Some("node-4".into()), false);
    world.volumes.insert(3, Volume { pinned_to: Some("node-4".into()), ..world::settled_volume() });
    world.volumes.insert(4, Volume { pinned: false, ..world::settled_volume() });
    let fourth = world.pods.get_mut(&3).unwrap();
    (fourth.node, fourth.waits_in_admit, fourth.trouble) = (None, false, stuck("not scheduled", false));
    assert!(matches!(world.next(), Step::Renew(4, _, why) if why.contains("node-4")), "{:?}", world.next());
    // Not where it cannot go elsewhere, nor where another node is meant.
    world.volumes.get_mut(&4).unwrap().pinned = true;
    assert!(matches!(world.next(), Step::Wait(_)), "{:?}", world.next());
    world.volumes.get_mut(&4).unwrap().pinned = false;
    world.pods.get_mut(&4).unwrap().node = Some("node-5".into());
    assert!(matches!(world.next(), Step::Wait(_)), "{:?}", world.next());
}

#[test]
fn a_roll_out_is_waited_for() {
    let mut world = World::settled(3);
    world.rollout = Some("1 of 3 pods are updated".into());
    assert!(matches!(world.next(), Step::Wait(what) if what.contains("1 of 3 pods")));
}

#[test]
fn nothing_to_do_is_done_at_once() {
    assert_eq!(World::settled(3).run(), [Step::Done]);
}

#[test]
fn the_first_record_is_written_when_a_quorum_answers() {
    let mut world = World::settled(3);
    world.record = None;
    world.broken = vec![2];
    world.serving.remove(&2);
    world.members.get_mut(&2).unwrap().started = false;
    world.apply(&world.next());
    let record = world.record.clone().unwrap();
    assert_eq!(record.state(2), Some(State::Bootstrapping));
    assert_eq!(record.state(0), Some(State::Member));
    world.broken.clear();
    assert_eq!(names(&world.run()), "Record, Done");
}

#[test]
fn a_lost_record_comes_back_from_the_lease_unless_it_is_another_clusters() {
    let mut again = World::settled(3);
    again.copy = again.record.take();
    assert_eq!(
        again.next(),
        Step::Record(again.copy.clone().unwrap(), format!("cluster {} is known from before", world::CLUSTER))
    );
    let mut installed = World::settled(3);
    let verified = installed.record.take();
    installed.copy = Some(Record::new(Id(0xdead)));
    assert_eq!(names(&installed.run()), "Record, Done");
    assert_eq!(installed.record, verified);
    // Installed again over wiped volumes: the same names give the same IDs, but not that of the
    // member that was added.
    let mut wiped = World::settled(3);
    let verified = wiped.record.take();
    wiped.copy = verified.clone().map(|record| record.with(3, Id(0xadd), State::Member));
    assert_eq!(names(&wiped.run()), "Record, Done");
    assert_eq!(wiped.record, verified);
}

#[test]
fn who_has_served_never_starts_as_new_again() {
    let mut world = World::settled(3);
    world.record = None;
    world.pods.values_mut().for_each(|pod| pod.unsettled = true);
    insta::assert_snapshot!(names(&world.run()), @"Record, Settle 0, Settle 1, Settle 2, Done");
    let mut world = World::settled(3);
    let id = world.members[&2].id;
    world.record = world.record.map(|record| record.with(2, id, State::Bootstrapping));
    world.serving.remove(&2);
    world.broken = vec![2];
    world.pods.get_mut(&2).unwrap().unsettled = true;
    assert!(matches!(world.next(), Step::Wait(_)), "it has not served yet");
}

#[test]
fn a_pod_that_never_started_is_made_again_from_a_corrected_template() {
    let mut world = World::settled(3);
    world.record = None;
    world.serving.clear();
    world.members.values_mut().for_each(|member| member.started = false);
    world.broken = vec![0, 1, 2];
    for pod in world.pods.values_mut() {
        (pod.never_started, pod.trouble) = (true, stuck("container etcd: ErrImagePull", true));
    }
    assert!(matches!(world.next(), Step::Wait(_)), "nothing was corrected yet");
    world.pods.get_mut(&1).unwrap().outdated = true;
    let step = world.next();
    assert!(matches!(&step, Step::Renew(1, _, why) if why.contains("template was changed")), "{step:?}");
    world.pods.get_mut(&1).unwrap().never_started = false;
    assert!(matches!(world.next(), Step::Wait(_)), "whoever ran is the controller's to roll");
}

#[test]
fn without_a_quorum_it_waits_and_says_for_whom() {
    let mut world = World::settled(3);
    world.broken = vec![0, 1];
    world.serving.clear();
    let Step::Wait(what) = world.next() else { panic!() };
    assert!(what.contains("puls8-etcd-0: connection refused"), "{what}");
}

#[test]
fn a_sick_member_stops_the_addition() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.broken = vec![1];
    world.serving.remove(&1);
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Wait(what) if what.contains("puls8-etcd-1 does not answer")), "{last:?}");
    assert_eq!(world.members.len(), 3);
}

#[test]
fn an_image_that_cannot_be_pulled_never_reaches_etcd() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.unstartable = vec![3];
    let last = world.run().pop().unwrap();
    assert!(
        matches!(&last, Step::Fail(why) if why.contains("ImagePullBackOff") && why.contains("replicaCount=3")),
        "{last:?}"
    );
    assert_eq!(world.members.len(), 3);
}

#[test]
fn too_little_time_adds_nobody() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.settle();
    world.volumes.insert(3, world::settled_volume());
    let limits = Limits { left: Duration::from_secs(59), ..LIMITS };
    let step = next_step(&world.observe(), &limits);
    assert!(matches!(&step, Step::Fail(why) if why.contains("59 s are left")), "{step:?}");
}

#[test]
fn a_join_that_is_late_is_taken_back_with_the_pods_own_words() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.broken = vec![3];
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Wait(what) if what.contains("etcd in puls8-etcd-3 to start")), "{last:?}");
    world.joining_for = Some(Duration::from_secs(61));
    world.pods.get_mut(&3).unwrap().trouble = stuck("container etcd: exit code 1", false);
    let step = world.next();
    assert!(matches!(&step, Step::TakeBack(3, _, why) if why.contains("exit code 1")), "{step:?}");
    world.apply(&step);
    assert_eq!(voters(&world), [0, 1, 2]);
    // The pod may not keep its permission: a fresh one waits again.
    let limits = Limits { left: Duration::ZERO, ..LIMITS };
    for expected in ["Record", "Renew 3"] {
        world.settle();
        let step = next_step(&world.observe(), &limits);
        assert_eq!(names(std::slice::from_ref(&step)), expected);
        world.apply(&step);
    }
}

#[test]
fn a_learner_has_the_time_that_the_database_needs_and_a_voter_has_not() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.broken = vec![3];
    world.run();
    world.joining_for = Some(Duration::from_secs(122));
    world.pods.get_mut(&3).unwrap().trouble = stuck("container etcd: not Ready", false);
    let of = |world: &World, megabytes: u64| {
        let mut seen = world.observe();
        seen.answers.values_mut().flatten().for_each(|answer| answer.db.size = megabytes * 1_000_000);
        seen
    };
    assert!(matches!(next_step(&of(&world, 250), &LIMITS), Step::Wait(_)), "60 s and 250 MB at 4 MB/s");
    let step = next_step(&of(&world, 240), &LIMITS);
    assert!(matches!(&step, Step::TakeBack(3, _, why) if why.contains("within 120 s")), "{step:?}");
    // The run's own deadline is not moved by it.
    let over = Limits { left: Duration::ZERO, ..LIMITS };
    assert!(matches!(next_step(&of(&world, 250), &over), Step::TakeBack(3, ..)));
    world.members.get_mut(&3).unwrap().learner = false;
    world.joining_for = Some(Duration::from_secs(61));
    let step = next_step(&of(&world, 250), &LIMITS);
    assert!(matches!(&step, Step::TakeBack(3, _, why) if why.contains("within 60 s")), "{step:?}");
}

#[test]
fn who_is_permitted_starts_before_it_is_taken_back() {
    let mut world = World::settled(3);
    world.desired = 4;
    while world.pods.get(&3).is_none_or(|pod| pod.permitted.is_none()) {
        world.settle();
        world.apply(&world.next());
    }
    // Its node is slow: permitted, and nothing is heard of etcd's start yet.
    world.desired = 3;
    let step = world.next();
    assert!(
        matches!(&step, Step::Wait(what) if what.contains("etcd in puls8-etcd-3, which is permitted, to start")),
        "{step:?}"
    );
    // Its node stays silent: late, an unwanted one is not waited for, a wanted one's pod goes first.
    let mut late = world.clone();
    late.joining_for = Some(Duration::from_secs(61));
    assert!(matches!(late.next(), Step::TakeBack(3, ..)));
    late.desired = 4;
    assert!(matches!(late.next(), Step::Renew(3, ..)));
    late.pods.get_mut(&3).unwrap().terminating = true;
    assert!(matches!(late.next(), Step::Wait(what) if what.contains("pod puls8-etcd-3 to end")));
    late.pods.get_mut(&3).unwrap().overdue = true;
    assert!(matches!(late.next(), Step::TakeBack(3, ..)));
    // What fails to start is in no hurry.
    let mut failing = world.clone();
    failing.pods.get_mut(&3).unwrap().trouble = stuck("container admit: exit code 1", false);
    assert!(matches!(failing.next(), Step::TakeBack(3, ..)));
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2]);
}

#[test]
fn at_the_deadline_only_a_newcomer_that_never_served_is_taken_back() {
    let over = Limits { left: Duration::ZERO, ..LIMITS };
    let mut world = World::settled(3);
    world.desired = 4;
    world.broken = vec![3];
    world.run();
    assert!(matches!(next_step(&world.observe(), &over), Step::TakeBack(3, ..)));
    world.broken.clear();
    while world.record.as_ref().unwrap().state(3) != Some(State::Member) {
        world.settle();
        world.apply(&world.next());
    }
    assert!(matches!(next_step(&world.observe(), &over), Step::Swap(3, _)), "left for the next run");
}

#[test]
fn a_joiner_made_again_before_it_was_recorded_that_it_serves_is_not_held() {
    let mut world = World::settled(3);
    world.desired = 4;
    while !matches!(world.next(), Step::Record(record, _) if record.state(3) == Some(State::Member)) {
        world.apply(&world.next());
        world.settle();
    }
    let decided = world.next();
    world.delete_pod(3);
    world.settle();
    world.apply(&decided);
    assert!(world.pods[&3].joiner && world.pods[&3].waits_in_admit, "it is held");
    // The quorum need not answer: this pod may be what it lacks.
    let mut silent = world.clone();
    silent.serving.clear();
    assert!(matches!(silent.next(), Step::Renew(3, ..)), "{:?}", silent.next());
    // Nor does it wait for the next run.
    assert!(next_step(&world.observe(), &Limits { left: Duration::ZERO, ..LIMITS }).is_undo());
    assert_eq!(names(&world.run()), "Renew 3, Promote 3, Done");
}

#[test]
fn a_members_pod_that_is_held_by_another_hand_is_made_again_once() {
    let mut world = World::settled(3);
    world.settle();
    // A container that waits, and no annotation: what its template or somebody's webhook has.
    let held = |world: &mut World, freed: bool| {
        world.make_pod(1, true);
        world.serving.remove(&1);
        world.pods.get_mut(&1).unwrap().freed = freed;
    };
    held(&mut world, false);
    assert!(matches!(world.next(), Step::Renew(1, ..)), "{:?}", world.next());
    held(&mut world, true);
    let Step::Fail(why) = world.next() else { panic!("{:?}", world.next()) };
    insta::assert_snapshot!(why, @"puls8-etcd-1 waits in an init container admit though its member has served. It was deleted once for that, and was made again with the same container, so it is left alone now: etcd-scaler puts that container only into the pods of ordinals that are no members yet, so the template of StatefulSet puls8-etcd has it, or another webhook. Look for it (kubectl -n puls8 get statefulset puls8-etcd -o yaml) and take it out; then upgrade again");
    // Where there is no quorum without it, that is the reason, and not what is waited for.
    world.serving.clear();
    assert!(matches!(world.next(), Step::Fail(why) if why.contains("is left alone now")));
    // One whose etcd has run is not held, whatever it is made of.
    world.pods.get_mut(&1).unwrap().started = true;
    assert!(matches!(world.next(), Step::Wait(_)));
}

#[test]
fn a_newcomer_is_taken_back_also_while_a_members_pod_is_held() {
    let mut world = World::settled(3);
    world.desired = 4;
    while !matches!(world.next(), Step::Permit(..)) {
        world.apply(&world.next());
        world.settle();
    }
    world.desired = 3;
    world.make_pod(1, true);
    world.serving.remove(&1);
    world.pods.get_mut(&1).unwrap().freed = true;
    assert!(matches!(world.next(), Step::TakeBack(3, ..)), "{:?}", world.next());
}

#[test]
fn out_of_time_it_says_what_to_do() {
    let mut world = World::settled(3);
    world.desired = 4;
    let seen = world.observe();
    insta::assert_snapshot!(out_of_time(&seen, None), @"the deadline passed; raise hook.deadlineSeconds (and helm --timeout above it), then upgrade again");
    insta::assert_snapshot!(out_of_time(&seen, Some("pod puls8-etcd-3 to be Ready")), @"the deadline passed while waiting for pod puls8-etcd-3 to be Ready. See what keeps it (kubectl describe pods -n puls8) and repair that, or raise hook.deadlineSeconds (and helm --timeout above it) if it only takes longer; then upgrade again, or go back with --set etcd.replicaCount=3");
    let sick = "every member to be healthy: puls8-etcd-1 knows no leader; repair it, then upgrade again";
    insta::assert_snapshot!(out_of_time(&seen, Some(sick)), @"the deadline passed while waiting for every member to be healthy: puls8-etcd-1 knows no leader; repair it, then upgrade again");
    world.desired = 3;
    assert!(!out_of_time(&world.observe(), Some("a leader")).contains("go back"), "there is nothing to go back from");
    // Below a gap the pod of a member that is listed comes back at the gap's count.
    let mut world = World::settled(4);
    world.record.as_mut().unwrap().members.remove(&2);
    world.desired = 1;
    let back = out_of_time(&world.observe(), Some("a quorum"));
    assert!(back.ends_with("then upgrade again, or go back with --set etcd.replicaCount=2"), "{back}");
    world.desired = 4;
    assert!(!out_of_time(&world.observe(), Some("a quorum")).contains("go back"), "the gap is to be filled");
}

#[test]
fn going_back_takes_the_newcomer_out_again() {
    for broken in [vec![3], vec![]] {
        let mut world = World::settled(3);
        world.desired = 4;
        world.broken = broken;
        while !world.members.get(&3).is_some_and(|member| member.learner) {
            world.settle();
            world.apply(&world.next());
        }
        world.desired = 3;
        assert_eq!(world.run().pop(), Some(Step::Done));
        assert_eq!(voters(&world), [0, 1, 2]);
        assert_eq!(world.record.unwrap().members.len(), 3);
    }
}

#[test]
fn what_was_changed_by_hand_is_left_alone() {
    let mut removed = World::settled(4);
    removed.members.remove(&3);
    let mut added = World::settled(3);
    let id = added.fresh();
    added.members.insert(3, world::Sim { id, learner: false, started: true });
    added.desired = 4;
    let mut replaced = World::settled(3);
    replaced.members.get_mut(&1).unwrap().id = Id(7);
    for mut world in [removed, added, replaced] {
        let before = world.members.len();
        let last = world.run().pop().unwrap();
        assert!(matches!(&last, Step::Fail(why) if why.contains("by hand")), "{last:?}");
        assert_eq!(world.members.len(), before);
    }
}

#[test]
fn the_count_may_follow_a_member_that_was_removed_by_hand_and_it_may_join_again() {
    let mut world = World::settled(4);
    world.members.remove(&3);
    world.serving.remove(&3);
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Fail(why) if why.contains("--set etcd.replicaCount=3")), "{last:?}");
    world.desired = 3;
    assert_eq!(names(&world.run()), "RemovePod 3, Record, Done");
    world.desired = 4;
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2, 3]);
}

/// Has the record follow, as `hook reconcile --yes` does.
fn reconciled(world: &mut World) -> bool {
    let Plan::Reconcile(record, _) = drift::plan(&world.observe()) else { return false };
    world.record = Some(record);
    true
}

#[test]
fn a_gap_that_was_reconciled_is_filled_the_lowest_first_in_a_pod_made_again() {
    let mut world = World::settled(3);
    world.remove_by_hand(1);
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Fail(why) if why.contains(&drift::command(&world.target, "reconcile"))), "{last:?}");
    assert!(reconciled(&mut world));
    world.desired = 4;
    insta::assert_snapshot!(names(&world.run()), @"CreateVolume 3, Renew 1, Add 1, Record, Permit 1, Record, Swap 1, Promote 1, Schedule 3, PinVolume 3, Add 3, Record, Permit 3, Record, Swap 3, Promote 3, Done");
    assert_eq!(voters(&world), [0, 1, 2, 3]);
}

#[test]
fn a_gap_below_a_count_that_is_lowered_is_filled_before_the_higher_ones_leave() {
    let mut world = World::settled(4);
    world.remove_by_hand(1);
    assert!(reconciled(&mut world));
    world.desired = 3;
    insta::assert_snapshot!(names(&world.run()), @"Renew 1, Add 1, Record, Permit 1, Record, Swap 1, Promote 1, Record, Remove 3, RemovePod 3, Record, Done");
    assert_eq!(voters(&world), [0, 1, 2]);
    // All that is left is not to stay.
    let mut world = World::settled(2);
    world.remove_by_hand(0);
    assert!(reconciled(&mut world));
    world.desired = 1;
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0]);
    // A sick one that is to leave does not keep the others waiting.
    let mut world = World::settled(4);
    world.remove_by_hand(1);
    assert!(reconciled(&mut world));
    world.desired = 3;
    world.broken = vec![3];
    world.serving.remove(&3);
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2]);
}

#[test]
fn a_newcomer_above_a_gap_is_taken_back_before_the_gap_is_filled() {
    let mut world = World::settled(3);
    world.desired = 4;
    while !world.members.contains_key(&3) {
        world.settle();
        world.apply(&world.next());
    }
    world.remove_by_hand(1);
    world.apply(&world.next());
    assert!(reconciled(&mut world));
    let step = world.next();
    assert!(matches!(&step, Step::TakeBack(3, _, why) if why.contains("puls8-etcd-1 was removed")), "{step:?}");
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2, 3]);
}

#[test]
fn in_a_gap_no_lower_count_is_the_way_out() {
    let mut world = World::settled(3);
    world.remove_by_hand(1);
    assert!(reconciled(&mut world));
    world.pods.remove(&1);
    world.unstartable.push(1);
    let last = world.run().pop().unwrap();
    let Step::Fail(why) = last else { panic!("{last:?}") };
    assert!(why.contains("ImagePullBackOff") && !why.contains("replicaCount"), "{why}");
}

#[test]
fn without_a_record_a_gap_is_a_persons_to_allow() {
    let mut world = World::settled(3);
    world.remove_by_hand(1);
    world.record = None;
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Fail(why) if why.contains("\"reconcile\"")), "{last:?}");
    assert!(reconciled(&mut world));
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2]);
}

#[test]
fn a_pod_that_was_let_go_by_nobody_is_made_again() {
    let mut world = World::settled(3);
    world.desired = 4;
    world.volumes.insert(3, world::settled_volume());
    world.make_pod(3, false);
    let step = world.next();
    assert!(matches!(&step, Step::Renew(3, _, why) if why.contains("not held")), "{step:?}");
    assert_eq!(world.run().pop(), Some(Step::Done));
}

#[test]
fn a_newcomer_that_nobody_held_is_made_again_unless_its_pod_is_ready() {
    let mut world = World::settled(3);
    world.want(4);
    world.settle();
    while !matches!(world.next(), Step::Permit(3, ..)) {
        assert!(matches!(world.tick(), Ok(Tick::Took(_))));
    }
    world.make_pod(3, false);
    world.pods.get_mut(&3).unwrap().ready = true;
    let step = world.next();
    assert!(matches!(&step, Step::Wait(what) if what.contains("puls8-etcd-3 to answer")), "{step:?}");
    world.pods.get_mut(&3).unwrap().ready = false;
    let step = world.next();
    assert!(matches!(&step, Step::Renew(3, _, why) if why.contains("while the webhook was away")), "{step:?}");
}

#[test]
fn five_become_three_the_highest_first() {
    let mut world = World::settled(5);
    world.desired = 3;
    world.leader = Some(world.members[&3].id);
    world.claims = BTreeMap::from([(3, "u3".into()), (4, "u4".into())]);
    insta::assert_snapshot!(names(&world.run()), @"Record, Remove 4, RemovePod 4, Record, Record, MoveLeader 0, Remove 3, RemovePod 3, Record, RemoveClaim 4, RemoveClaim 3, Done");
    assert_eq!(voters(&world), [0, 1, 2]);
    assert!(world.pods.keys().copied().eq(0..3) && world.claims.is_empty());
}

#[test]
fn two_become_one_that_leads() {
    let mut world = World::settled(2);
    world.desired = 1;
    world.leader = Some(world.members[&1].id);
    insta::assert_snapshot!(names(&world.run()), @"Record, MoveLeader 0, Remove 1, RemovePod 1, Record, Done");
}

#[test]
fn sick_ones_may_go_and_are_not_waited_for_but_those_that_stay_are() {
    let mut world = World::settled(5);
    world.desired = 3;
    world.broken = vec![3, 4];
    world.serving.retain(|ordinal, _| *ordinal < 3);
    assert_eq!(world.run().pop(), Some(Step::Done));
    let mut world = World::settled(4);
    world.desired = 3;
    world.broken = vec![1];
    world.serving.remove(&1);
    let last = world.run().pop().unwrap();
    assert!(matches!(&last, Step::Wait(what) if what.contains("puls8-etcd-1 does not answer")), "{last:?}");
    assert_eq!(world.members.len(), 4);
}

#[test]
fn who_is_wanted_again_stays_or_joins_anew() {
    for already_removed in [false, true] {
        let mut world = World::settled(4);
        world.desired = 3;
        world.settle();
        world.apply(&world.next());
        assert_eq!(world.record.as_ref().unwrap().state(3), Some(State::Leaving));
        let before = world.members[&3].id;
        if already_removed {
            world.apply(&world.next());
        }
        world.desired = 4;
        assert_eq!(world.run().pop(), Some(Step::Done));
        assert_eq!(voters(&world), [0, 1, 2, 3]);
        assert_eq!(world.members[&3].id == before, !already_removed);
    }
}

#[test]
fn a_member_that_its_image_added_again_is_removed_again() {
    let mut world = World::settled(4);
    world.desired = 3;
    for expected in ["Record", "Remove 3", "RemovePod 3"] {
        let step = world.next();
        assert_eq!(names(std::slice::from_ref(&step)), expected);
        world.apply(&step);
    }
    let id = world.fresh();
    world.members.insert(3, world::Sim { id, learner: false, started: true });
    assert_eq!(world.run().pop(), Some(Step::Done));
    assert_eq!(voters(&world), [0, 1, 2]);
}

#[test]
fn a_pod_on_a_dead_node_is_not_waited_for() {
    let mut world = World::settled(4);
    world.desired = 3;
    for _ in 0..2 {
        world.apply(&world.next());
    }
    let pod = world.pods.get_mut(&3).unwrap();
    pod.terminating = true;
    assert!(matches!(world.next(), Step::Wait(what) if what.contains("puls8-etcd-3 to end")));
    world.pods.get_mut(&3).unwrap().overdue = true;
    assert!(matches!(world.next(), Step::Record(..)));
}

#[test]
fn stopped_nothing_is_done() {
    let mut world = World::settled(3);
    world.desired = 0;
    assert_eq!(world.next(), Step::Done);
}

#[test]
fn a_volume_that_is_kept_for_an_earlier_claim_is_freed() {
    let mut world = World::settled(3);
    world.desired = 4;
    let volume = Volume { stale: true, bound: false, ..world::settled_volume() };
    world.volumes.insert(3, volume);
    assert_eq!(world.next(), Step::FreeVolume(3));
    assert_eq!(world.run().pop(), Some(Step::Done));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Invariant 7: killed between any two steps, with the newest desired count changing on the
    /// way, every world ends as its last desired count says; the invariants hold on the way
    /// (`World::apply` asserts them).
    #[test]
    fn killed_anywhere_it_ends_the_same(
        from in 1u32..=5,
        wishes in prop::collection::vec((1u32..=7, 0usize..14, 0u8..12), 1..6),
    ) {
        let mut world = World::settled(from);
        for (wish, steps, fault) in wishes {
            world.desired = wish;
            for _ in 0..steps {
                world.settle();
                let step = world.next();
                world.apply(&step);
            }
            let last = world.members.keys().copied().max().unwrap_or(0);
            match fault {
                // The pod that is not a member's is made again.
                1 => {
                    let voters = voters(&world);
                    let pods: Vec<Ordinal> = world.pods.keys().copied().collect();
                    pods.into_iter().filter(|o| !voters.contains(o)).for_each(|o| world.delete_pod(o));
                }
                // The record's last write was lost, as far as it was about a newcomer.
                2 if world.members[&last].learner && !world.members[&last].started => {
                    world.record = world.record.map(|record| record.without(last));
                }
                3 => world.joining_for = Some(Duration::from_secs(61)),
                4 => world.leader = Some(world.members[&last].id),
                // Removed by hand, whoever it is, and the record follows where that is not refused.
                5.. if world.members.len() > 2 => {
                    let mut removed = world.clone();
                    let victims: Vec<Ordinal> = removed.members.keys().copied().collect();
                    removed.remove_by_hand(victims[usize::from(fault) % victims.len()]);
                    if reconciled(&mut removed) {
                        world = removed;
                    }
                }
                _ => {}
            }
        }
        world.joining_for = None;
        let mut last = world.run().pop();
        // A newcomer that was permitted before a removal was heard of never starts, and is taken back in time.
        if matches!(last, Some(Step::Wait(_))) {
            world.joining_for = Some(Duration::from_secs(61));
            last = world.run().pop();
        }
        prop_assert_eq!(last, Some(Step::Done));
        prop_assert_eq!(voters(&world), (0..world.desired).collect::<Vec<_>>());
        let record = world.record.unwrap();
        prop_assert!(record.members.keys().copied().eq(0..world.desired));
        prop_assert!(record.members.values().all(|recorded| recorded.state == State::Member));
        prop_assert!(world.pods.keys().copied().eq(0..world.desired));
    }
}
