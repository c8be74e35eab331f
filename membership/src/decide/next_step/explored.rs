//! The planner in every small world: each way from one count of members to another, with two faults
//! and one change of the count at every place, also between a look and the step that it led to.
//!
//! A place is a world, with the step that was decided in it where one was. From each place: everybody
//! else does what is to be done, or the run looks, or its step is applied, or a fault strikes, or the
//! count is changed. In each world, too, nothing more happens than that runs go on: that must end; where
//! it ends in an error it names the way out, and once what is broken is mended the next runs end well.

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::hash::{Hash, Hasher};
use std::time::Duration;

use super::Step;
use crate::decide::drift::{self, Plan};
use crate::know::record::{Id, Record};
use crate::world::fault::Fault;
use crate::world::trace::Trace;
use crate::world::{End, Tick, World, label, settled_volume, way_out};

/// The most members there are, and the most that are wanted.
const MEMBERS: u32 = 5;

/// One place.
struct Place {
    world: World,
    /// What was decided, and how often the StatefulSet had been written then.
    decided: Option<(Step, u64)>,
    faults: u8,
    may_change: bool,
    /// Where in the list of ways.
    at: usize,
}

/// A world, with its IDs by the order in which they turn up: two that differ in nothing else are one.
struct Seen {
    hasher: DefaultHasher,
    ids: Vec<u64>,
}

impl Seen {
    fn number(world: &World, decided: Option<&(Step, u64)>) -> u64 {
        let mut seen = Self { hasher: DefaultHasher::new(), ids: Vec::new() };
        seen.world(world);
        if let Some((step, written)) = decided {
            (label(step), *written == world.written).hash(&mut seen.hasher);
            seen.step(step);
        }
        seen.hasher.finish()
    }

    fn id(&mut self, id: u64) {
        let place = self.ids.iter().position(|known| *known == id).unwrap_or_else(|| {
            self.ids.push(id);
            self.ids.len() - 1
        });
        place.hash(&mut self.hasher);
    }

    fn ids<'a>(&mut self, ids: impl IntoIterator<Item = &'a Id>) {
        ids.into_iter().for_each(|id| self.id(id.0));
        u64::MAX.hash(&mut self.hasher);
    }

    fn uid(&mut self, uid: &str) {
        self.id(uid.parse().unwrap_or(0));
    }

    fn record(&mut self, record: Option<&Record>) {
        record.is_some().hash(&mut self.hasher);
        for (ordinal, recorded) in record.iter().flat_map(|record| &record.members) {
            (ordinal, recorded.state as u8).hash(&mut self.hasher);
            self.id(recorded.id.0);
        }
    }

    fn world(&mut self, world: &World) {
        world.desired.hash(&mut self.hasher);
        for (ordinal, member) in &world.members {
            (ordinal, member.learner, member.started).hash(&mut self.hasher);
            self.id(member.id.0);
        }
        self.record(world.record.as_ref());
        self.record(world.copy.as_ref());
        for (ordinal, pod) in &world.pods {
            let (waits, ready) = ((pod.waits_in_admit, pod.gated), pod.ready);
            let state = (pod.joiner, waits, ready, pod.unsettled, pod.terminating, pod.overdue, pod.older);
            (ordinal, state, pod.started, pod.trouble.is_some(), &pod.initial_cluster).hash(&mut self.hasher);
            self.uid(&pod.uid);
            self.ids(&pod.permitted);
        }
        for (ordinal, volume) in &world.volumes {
            (ordinal, volume.exists, volume.bound, volume.pinned).hash(&mut self.hasher);
        }
        for whose in [&world.serving, &world.disks] {
            whose.keys().collect::<Vec<_>>().hash(&mut self.hasher);
            self.ids(whose.values());
        }
        for broken in [&world.broken, &world.behind, &world.unstartable, &world.lost] {
            let mut broken = broken.clone();
            broken.sort_unstable();
            broken.hash(&mut self.hasher);
        }
        self.ids(&world.leader);
        world.heard.hash(&mut self.hasher);
        (world.over.is_some(), world.joining_for.map(|since| since > Duration::ZERO)).hash(&mut self.hasher);
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Record(record, _) => self.record(Some(record)),
            Step::Permit(_, uid, permission) => {
                self.uid(uid);
                self.ids(&permission.live);
                self.ids([&permission.member]);
            }
            Step::Swap(_, uid)
            | Step::Settle(_, uid)
            | Step::Renew(_, uid, _)
            | Step::RemovePod(_, uid)
            | Step::Schedule(_, uid) => {
                self.uid(uid);
            }
            Step::Promote(_, id) | Step::TakeBack(_, id, _) | Step::MoveLeader(_, id) | Step::Remove(_, id) => {
                self.ids([id]);
            }
            _ => {}
        }
    }
}

/// The search.
struct Explored {
    /// Those that are to be gone on from, in the order in which they were come to.
    places: VecDeque<Place>,
    /// How each place came to be: from which, and by what.
    ways: Vec<(usize, String)>,
    seen: HashSet<(u64, u8, bool)>,
    /// Worlds from which runs were let go on to their end.
    ended: HashSet<(u64, bool)>,
    /// How runs ended that did not end well by themselves, and how often.
    errors: BTreeMap<&'static str, usize>,
}

impl Explored {
    fn of(worlds: impl IntoIterator<Item = World>, faults: u8) -> Self {
        let mut explored = Self {
            places: VecDeque::new(),
            ways: Vec::new(),
            seen: HashSet::new(),
            ended: HashSet::new(),
            errors: BTreeMap::new(),
        };
        for world in worlds {
            let by = format!("{} members, {} wanted", world.members.len(), world.desired);
            explored.come_to(Place { world, decided: None, faults, may_change: true, at: usize::MAX }, by);
            while let Some(place) = explored.places.pop_front() {
                explored.go_on_from(place);
            }
        }
        explored
    }

    /// A place that was come to from the one it names, unless it is known.
    fn come_to(&mut self, mut place: Place, by: String) {
        let number = Seen::number(&place.world, place.decided.as_ref());
        if self.seen.insert((number, place.faults, place.may_change)) {
            self.ways.push((place.at, by));
            place.at = self.ways.len() - 1;
            self.places.push_back(place);
        }
    }

    /// Panics with the way to this place.
    fn broken(&self, mut at: usize, what: &str) -> ! {
        let mut way = Vec::new();
        while let Some((from, by)) = self.ways.get(at) {
            way.push(by.as_str());
            at = *from;
        }
        way.reverse();
        panic!("{what}\n{}", way.join("\n"));
    }

    fn go_on_from(&mut self, place: Place) {
        let Place { world, decided, faults, may_change, at } = place;
        if let Err(broken) = world.sound() {
            self.broken(at, &broken);
        }
        let come_to = |all: &mut Self, world: World, decided: Option<(Step, u64)>, by: String| {
            all.come_to(Place { world, decided, faults, may_change, at }, by);
        };
        if faults > 0 {
            for fault in world.faults() {
                let mut struck = world.clone();
                struck.strike(fault);
                // A run that is killed has decided nothing.
                let decided = decided.clone().filter(|_| fault != Fault::RunKilled);
                let struck = Place { world: struck, decided, faults: faults - 1, may_change, at };
                self.come_to(struck, format!("{fault:?}"));
            }
        }
        // Without a record the guard refuses another count.
        if may_change && world.record.is_some() {
            for count in (1..=MEMBERS).filter(|count| *count != world.desired) {
                let mut changed = world.clone();
                changed.want(count);
                let changed = Place { world: changed, decided: decided.clone(), faults, may_change: false, at };
                self.come_to(changed, format!("{count} wanted"));
            }
        }
        let mut settled = world.clone();
        settled.settle();
        come_to(self, settled, decided.clone(), "the others go on".into());
        if let Some((step, written)) = decided {
            let mut after = world;
            let applied = if after.attempt(&step, written) { "applied" } else { "not applied" };
            return come_to(self, after, None, format!("{} {applied}", label(&step)));
        }
        let step = world.next();
        let mut looked = world.clone();
        match looked.take(&step) {
            Some(Tick::Waited) => {}
            Some(_) => come_to(self, looked, None, "the run ends".into()),
            None => {
                if let Err(broken) = world.promised(&step) {
                    self.broken(at, &format!("{broken}: {step:?}"));
                }
                let decided = Some((step.clone(), looked.written));
                come_to(self, looked, decided, format!("{} decided", label(&step)));
            }
        }
        if let Err(broken) = self.ends(world) {
            self.broken(at, &broken);
        }
    }

    /// Nothing more happens: runs come to an end, and once everything is mended to the desired one.
    fn ends(&mut self, mut world: World) -> Result<(), String> {
        for mended in [false, true] {
            let mut way: Vec<(u64, String)> = Vec::new();
            loop {
                let number = Seen::number(&world, None);
                if way.iter().any(|(before, _)| *before == number) {
                    let way: Vec<String> = way.into_iter().map(|(_, tick)| tick).collect();
                    return Err(format!("it goes round in a circle: {}", way.join("\n")));
                }
                if !self.ended.insert((number, mended)) {
                    return Ok(()); // How it goes on from here is known.
                }
                let tick = world.tick()?;
                way.push((number, format!("{tick:?}")));
                if !matches!(tick, Tick::Took(_)) {
                    world.nobody_is_held()?;
                }
                let Tick::Ended(end) = tick else {
                    continue;
                };
                let End::Failed(why) = end else {
                    return world.ended_well();
                };
                *self.errors.entry(kind(&why)).or_default() += 1;
                // Who was removed by hand is missing for good: the count can follow, or the record.
                if kind(&why).contains("by hand") {
                    world.mend();
                    way_out(&why).map_or(Ok(()), |count| followed(world.clone(), count))?;
                    return reconciled(world);
                }
                if let Some(count) = way_out(&why).filter(|_| mended) {
                    return followed(world, count);
                }
                if mended {
                    return Err(format!("mended, it ends in {why}: {way:?}"));
                }
                break;
            }
            world.mend();
        }
        Ok(())
    }
}

/// The count is changed as the error says, and after that as it was wanted.
fn followed(mut world: World, count: u32) -> Result<(), String> {
    world.mend();
    for count in [count, world.desired] {
        world.want(count);
        match world.end()? {
            End::Done => world.ended_well()?,
            End::Failed(why) if kind(&why).contains("by hand") => return reconciled(world),
            End::Failed(why) => return Err(format!("the way out was followed, and it ends in {why}")),
        }
    }
    Ok(())
}

/// `hook reconcile --yes`: the record follows the member list, and the next run has as many as wanted.
fn reconciled(mut world: World) -> Result<(), String> {
    world.settle();
    let record = match drift::plan(&world.observe()) {
        Plan::Reconcile(record, _) => record,
        plan => return Err(format!("nothing can be reconciled: {plan:?}")),
    };
    world.record = Some(record);
    // Who was joining is taken back where an ordinal below it is missing now, which ends that run.
    let mut end = world.end()?;
    if matches!(&end, End::Failed(why) if kind(why) == TAKEN_BACK) {
        end = world.end()?;
    }
    match end {
        End::Done => world.ended_well(),
        End::Failed(why) => Err(format!("reconciled, and it ends in {why}")),
    }
}

const NO_RECORD: &str = "members removed by hand, and no record";
const TAKEN_BACK: &str = "a join that was taken back";

/// What every error has to say, and the kinds that there are. A text that is none of them is no way out.
const KINDS: [(&str, &str); 9] = [
    ("let the count follow (helm upgrade --set", "members removed by hand, the highest"),
    ("let the record follow: ", "members removed by hand"),
    ("have it recorded, and the missing ordinal joins: ", NO_RECORD),
    ("did not join: ", TAKEN_BACK),
    ("cannot start: ", "a pod that cannot start"),
    ("repair it (kubectl describe pod", "a sick member"),
    ("while waiting for a quorum", "no quorum"),
    ("the deadline passed while waiting for", "another wait"),
    ("the deadline passed", "no time"),
];

fn kind(why: &str) -> &'static str {
    let kind = KINDS.iter().find(|(text, _)| why.contains(text)).map(|(_, kind)| *kind);
    let kind = kind.unwrap_or_else(|| panic!("an error of no known kind: {why}"));
    let says = ["upgrade again", "--set etcd.replicaCount=", "let the record follow: ", "have it recorded"];
    assert!(says.iter().any(|what| why.contains(what)), "no way out is named: {why}");
    kind
}

/// Every way from one count to another, up to so many members. Their volumes are there: what is to be
/// done for those is tried on its own.
fn small_worlds(most: u32) -> impl Iterator<Item = World> {
    (1..=most).flat_map(move |present| {
        (1..=most).map(move |wanted| {
            let mut world = World::settled(present);
            world.volumes.extend((present..=MEMBERS).map(|ordinal| (ordinal, settled_volume())));
            world.want(wanted);
            world
        })
    })
}

fn explore(most: u32, faults: u8) {
    explore_from(small_worlds(most), most, faults);
}

fn explore_from(worlds: impl Iterator<Item = World>, most: u32, faults: u8) {
    let explored = Explored::of(worlds, faults);
    let (places, worlds) = (explored.ways.len(), explored.ended.len());
    println!("up to {most} members, {faults} faults: {places} places, {worlds} worlds gone on from to an end");
    explored.errors.iter().for_each(|(kind, times)| println!("{times:>8} ended for {kind}"));
    // A search that comes to none of these has searched little. Of one it takes two faults.
    let possible = KINDS.iter().filter(|(_, kind)| faults > 1 || *kind != NO_RECORD);
    let missing: Vec<_> = possible.filter(|(_, kind)| !explored.errors.contains_key(kind)).collect();
    assert!(missing.is_empty(), "nothing ended for {missing:?}");
}

/// With one fault. Two in as many members are more than a minute's work.
#[test]
fn every_small_world_ends_well_or_with_a_way_out() {
    explore(MEMBERS, 1);
}

/// With two faults in fewer members.
#[test]
fn every_world_of_two_ends_well_or_with_a_way_out_after_two_faults() {
    explore(2, 2);
}

/// Where a promotion is not persisted, and three are there, a newcomer votes at once.
#[test]
fn every_small_world_of_etcd_3_5_16_ends_well_or_with_a_way_out() {
    let with_voters = |world: &World| world.members.len() >= 3 && world.desired > 3;
    let old = |mut world: World| {
        world.version = "3.5.16".into();
        world
    };
    explore_from(small_worlds(MEMBERS).filter(with_voters).map(old), MEMBERS, 1);
}

#[test]
#[ignore = "minutes, and a gigabyte of memory: make test-all"]
fn every_small_world_ends_well_or_with_a_way_out_after_two_faults() {
    explore(MEMBERS, 2);
}

/// Those that are replayed on real etcd are sampled in the same way, from a seed.
#[test]
fn a_trace_gone_twice_is_the_same_and_everything_in_it_happens() {
    let mut state = 1u64;
    let mut pick = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % below
    };
    // One as a learner, one as a voter where there are three.
    for version in ["3.6.16", "3.5.16"].into_iter().cycle().take(300) {
        let trace = Trace::sample(&mut pick, MEMBERS, version).unwrap();
        let (end, places) = trace.play().unwrap();
        assert_eq!(trace.play().unwrap().0, end, "{trace:?}");
        for (when, _) in &trace.events {
            assert!(places.iter().any(|(place, _)| place == when), "{when:?} is not come to: {trace:?}");
        }
        if let End::Failed(why) = end {
            kind(&why);
        }
    }
}
