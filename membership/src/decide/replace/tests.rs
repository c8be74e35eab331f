//! Members lost in each way, in small worlds.

use super::*;
use crate::world::World;

const LOST: Asked = Asked { ordinal: 1, even_if_it_serves: false };

fn lost(count: u32) -> World {
    let mut world = World::settled(count);
    world.serving.remove(&1);
    world.broken = vec![1];
    world.settle();
    world
}

fn refused(world: &World, asked: Asked) -> String {
    next(&world.observe(), asked, &Left::default()).unwrap_err()
}

#[test]
fn a_member_that_is_lost_leaves_with_all_it_had() {
    let mut world = lost(3);
    let mut left = Left { claim: true, storage: true, node_is_away: false };
    let mut steps = Vec::new();
    loop {
        let step = next(&world.observe(), LOST, &left).unwrap();
        steps.push(format!("{step:?}").split([' ', '(', '{']).next().unwrap().to_owned());
        match step {
            Step::Remove(id) => {
                assert_eq!(world.members[&1].id, id);
                assert!(world.remove_member(1));
            }
            Step::Record(record) => world.record = Some(record),
            Step::RemoveClaim => left.claim = false,
            Step::RemovePod { .. } => {
                world.delete_pod(1);
                left.storage = false;
            }
            Step::Out => break,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(steps, ["Remove", "Record", "RemoveClaim", "RemovePod", "Out"]);
    // And joins anew, as any newcomer below another member.
    world.broken.clear();
    world.disks.remove(&1);
    assert_eq!(world.run().pop(), Some(crate::decide::next_step::Step::Done));
    world.ended_well().unwrap();
    assert!(matches!(next(&world.observe(), LOST, &Left::default()), Err(why) if why.contains("serves")));
}

#[test]
fn a_pod_on_a_node_that_is_away_is_waited_for_and_then_forced() {
    let mut world = lost(3);
    world.lost = vec![1];
    assert!(world.remove_member(1));
    world.record = world.record.clone().map(|record| record.without(1));
    let step = |world: &World, left: &Left| next(&world.observe(), LOST, left).unwrap();
    let mut left = Left { claim: false, storage: true, node_is_away: true };
    assert!(matches!(step(&world, &left), Step::RemovePod { forced: false, .. }));
    world.delete_pod(1);
    assert_eq!(step(&world, &left), Step::Wait("pod puls8-etcd-1 to end".into()));
    world.settle();
    assert!(matches!(step(&world, &left), Step::RemovePod { forced: true, .. }));
    left.node_is_away = false;
    assert!(matches!(step(&world, &left), Step::Wait(_)));
    world.pods.remove(&1);
    assert!(matches!(step(&world, &left), Step::Wait(what) if what.contains("volume")));
    left.storage = false;
    assert_eq!(step(&world, &left), Step::Out);
    // Made again for joining in the meantime, on the claim that is to go: it goes once more.
    world.make_pod(1, true);
    assert_eq!(step(&world, &left), Step::Out);
    left.storage = true;
    assert!(matches!(step(&world, &left), Step::RemovePod { forced: false, .. }));
}

#[test]
fn one_that_leads_hands_over_first() {
    let mut world = World::settled(3);
    world.leader = world.members.get(&1).map(|member| member.id);
    let wrong = Asked { even_if_it_serves: true, ..LOST };
    assert!(matches!(next(&world.observe(), wrong, &Left::default()), Ok(Step::MoveLeader(heir, _)) if heir != 1));
}

#[test]
fn one_that_is_only_not_heard_is_not_lost() {
    let mut late = World::settled(3);
    late.serving.remove(&1);
    let mut seen = late.observe();
    seen.pods.get_mut(&1).unwrap().ready = true;
    let step = |seen: &Observed, asked: Asked| next(seen, asked, &Left::default());
    insta::assert_snapshot!(step(&seen, LOST).unwrap_err(), @"replacing puls8-etcd-1 is refused: its member 0000000000000067 does not answer: connection refused, but the pod is Ready: its node says that it serves. One that is only late or cut off from here is not lost, and taken out it would be missed. Wait until it answers or the pod is not Ready; if it is known to be lost, say so: --even-if-it-serves. Nothing was changed.");
    let known = step(&seen, Asked { even_if_it_serves: true, ..LOST }).unwrap();
    assert!(matches!(known, Step::Remove(_)) && known.takes_out());
    seen.pods.get_mut(&1).unwrap().ready = false;
    assert_eq!(step(&seen, LOST), Ok(known.clone()));
    seen.pods.remove(&1);
    assert_eq!(step(&seen, LOST), Ok(known));
}

#[test]
fn what_is_refused() {
    insta::assert_snapshot!(refused(&World::settled(3), LOST), @"replacing puls8-etcd-1 is refused: its member 0000000000000067 serves. Taken out it would be missed until it has joined again. If its data is known to be wrong (hook validate), say so: --even-if-it-serves. Nothing was changed.");
    insta::assert_snapshot!(refused(&World::settled(1), Asked { ordinal: 0, even_if_it_serves: true }), @"replacing puls8-etcd-0 is refused: it is the only member: there is nobody to join. A newcomer is added only while everybody else is well. Repair those first; what is lost for good with its quorum comes back from a snapshot (docs/restore.md). Nothing was changed.");
    insta::assert_snapshot!(refused(&lost(2), LOST), @"replacing puls8-etcd-1 is refused: etcd has no quorum, or it was not heard (no member answered (puls8-etcd-0: connection refused; puls8-etcd-1: connection refused)). Without one no member can leave or join. Bring back as many members as a majority needs; if they are lost for good, restore from a snapshot (docs/restore.md). Nothing was changed.");
    let mut two = lost(5);
    two.serving.remove(&3);
    two.broken.push(3);
    insta::assert_snapshot!(refused(&two, LOST), @"replacing puls8-etcd-1 is refused: 1 of the 4 other members not healthy (puls8-etcd-3), and 3 of them must be for a quorum. A newcomer is added only while everybody else is well. Repair those first; what is lost for good with its quorum comes back from a snapshot (docs/restore.md). Nothing was changed.");
    insta::assert_snapshot!(refused(&lost(3), Asked { ordinal: 3, ..LOST }), @"replacing puls8-etcd-3 is refused: 3 replicas are wanted, so StatefulSet puls8/puls8-etcd has no puls8-etcd-3. Replaced is who is to stay. To have another count, scale. Nothing was changed.");
    let mut joining = lost(3);
    joining.record = joining.record.map(|record| record.with(3, Id(9), State::Joining));
    insta::assert_snapshot!(refused(&joining, LOST), @"replacing puls8-etcd-1 is refused: puls8-etcd-3 is joining etcd (member 0000000000000009). One member changes at a time. Wait until that has ended (hook status). Nothing was changed.");
    let mut unknown = lost(3);
    unknown.record = None;
    insta::assert_snapshot!(refused(&unknown, LOST), @"replacing puls8-etcd-1 is refused: the cluster has not been verified yet (no record). Who its members are is not known. Wait until a quorum of its members answers; the record is written then. Nothing was changed.");
    let mut rolls = lost(3);
    rolls.rollout = Some("1 of 3 pods are updated".into());
    insta::assert_snapshot!(refused(&rolls, LOST), @"replacing puls8-etcd-1 is refused: a roll-out is under way (1 of 3 pods are updated). It restarts members while one is away. Wait for it (kubectl rollout status -n puls8 statefulset/puls8-etcd). Nothing was changed.");
}
