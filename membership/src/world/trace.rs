//! One way through a small world, written down so that it can be gone again, also with real etcd:
//! what happens is tied to the run's own steps.

use super::fault::Fault;
use super::{End, MOST_STEPS, Tick, World, label, settled_volume};
use crate::decide::next_step::Step;
use crate::know::names::{MOST_MEMBERS, Ordinal};

/// When something happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the first look.
    First,
    /// After this step was decided for the nth time, and before it is applied.
    Decided(String, usize),
    /// After this step was applied for the nth time.
    Applied(String, usize),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A fault strikes.
    Fault(Fault),
    /// Somebody wants another count.
    Want(u32),
}

/// A way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Of etcd: how a newcomer joins follows from it.
    pub version: String,
    /// The members that there are.
    pub present: u32,
    /// How many are wanted.
    pub wanted: u32,
    /// What happens on the way, in this order.
    pub events: Vec<(When, What)>,
}

/// Where a trace is.
#[derive(Clone, Debug)]
pub struct Course {
    /// What is still to happen, the next one last.
    events: Vec<(When, What)>,
    applied: Vec<String>,
}

impl Course {
    /// At the beginning of a trace.
    #[must_use]
    pub fn of(trace: &Trace) -> Self {
        Self { events: trace.events.iter().rev().cloned().collect(), applied: Vec::new() }
    }

    /// This step is decided.
    #[must_use]
    pub fn decided(&self, step: &Step) -> When {
        let step = tie(step);
        let before = self.applied.iter().filter(|one| **one == step).count();
        When::Decided(step, before + 1)
    }

    /// This step is applied.
    pub fn applied(&mut self, step: &Step) -> When {
        let step = tie(step);
        self.applied.push(step.clone());
        let times = self.applied.iter().filter(|one| **one == step).count();
        When::Applied(step, times)
    }

    /// What happens now.
    pub fn came_to(&mut self, when: When) -> Vec<What> {
        let mut now = Vec::new();
        while let Some((_, what)) = self.events.pop_if(|(then, _)| *then == when) {
            now.push(what);
        }
        now
    }

    /// Whether everything has happened.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.events.is_empty()
    }
}

/// What something is tied to: the step's name and ordinal, and of a record what it says.
#[must_use]
pub fn tie(step: &Step) -> String {
    match step {
        Step::Record(record, _) => {
            let states: Vec<String> =
                record.members.iter().map(|(ordinal, recorded)| format!("{ordinal} {:?}", recorded.state)).collect();
            format!("Record {}", states.join(" "))
        }
        // To whom is chosen by who has applied most.
        Step::MoveLeader(..) => "MoveLeader".to_owned(),
        step => label(step),
    }
}

impl Trace {
    /// The world in which it begins.
    #[must_use]
    pub fn begins(&self) -> World {
        let mut world = World::settled(self.present);
        world.version.clone_from(&self.version);
        world.volumes.extend((self.present..MOST_MEMBERS).map(|o| (o, settled_volume())));
        world.want(self.wanted);
        world
    }

    /// Goes it in memory: how the run ends after which nothing more happens, and the places on the way
    /// that something more can be tied to.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn play(&self) -> Result<(End, Vec<(When, World)>), String> {
        let mut world = self.begins();
        let mut course = Course::of(self);
        course.came_to(When::First).into_iter().for_each(|what| world.happens(what));
        let mut places = vec![(When::First, world.clone())];
        for _ in 0..MOST_STEPS {
            world.settle();
            let step = world.next();
            match world.take(&step) {
                Some(Tick::Ended(end)) => return Ok((end, places)),
                Some(_) => continue,
                None => world.promised(&step)?,
            }
            let looked = world.written;
            let when = course.decided(&step);
            let happens = course.came_to(when.clone());
            let killed = happens.contains(&What::Fault(Fault::RunKilled));
            for what in happens {
                world.happens(what);
                // The next of them was chosen from what came of this one.
                world.settle();
            }
            places.push((when, world.clone()));
            if killed {
                continue;
            }
            if !world.attempt(&step, looked) {
                world.settle();
                if looked == world.written && world.next() == step {
                    world.wait("etcd");
                }
                continue;
            }
            world.sound()?;
            let when = course.applied(&step);
            course.came_to(when.clone()).into_iter().for_each(|what| world.happens(what));
            places.push((when, world.clone()));
        }
        Err(format!("it does not end: {self:?}"))
    }

    /// One that follows from chance: `pick` gives a number below its argument. Only what a real
    /// etcd can be made to have happens.
    ///
    /// # Errors
    /// The promise that was broken on the way.
    pub fn sample(mut pick: impl FnMut(usize) -> usize, most: u32, version: &str) -> Result<Self, String> {
        let count = |number: usize| Ordinal::try_from(number).map_or(1, |number| 1 + number);
        let (present, wanted) = (count(pick(most as usize)), count(pick(most as usize)));
        let mut trace = Self { version: version.to_owned(), present, wanted, events: Vec::new() };
        let mut after = 0;
        let changes = pick(3);
        for event in 0..3 {
            let (_, places) = trace.play()?;
            // Who leads is etcd's own choice, so nothing is tied to that.
            let tied: Vec<usize> = (after..places.len())
                .filter(|&at| !matches!(&places[at].0, When::Decided(step, _) | When::Applied(step, _) if step.starts_with("MoveLeader")))
                .collect();
            if tied.is_empty() {
                break;
            }
            let at = tied[pick(tied.len())];
            let (when, world) = &places[at];
            // Without a record the guard refuses another count.
            let what = if event == changes && world.record.is_some() {
                What::Want(count(pick(most as usize)))
            } else {
                let faults: Vec<Fault> = world.faults().into_iter().filter(|fault| fault.is_real()).collect();
                What::Fault(faults[pick(faults.len())])
            };
            trace.events.push((when.clone(), what));
            after = at;
        }
        Ok(trace)
    }
}

impl World {
    /// It happens.
    pub fn happens(&mut self, what: What) {
        match what {
            What::Fault(fault) => self.strike(fault),
            What::Want(count) => self.want(count),
        }
    }
}

impl Fault {
    /// Whether a real etcd on loopback can be made to have it. None is made to lag
    /// behind without a load that no machine is sure to give.
    #[must_use]
    pub fn is_real(self) -> bool {
        !matches!(self, Self::NeverCatchesUp(_))
    }
}
