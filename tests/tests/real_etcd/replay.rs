//! Traces of the small world, gone again with real etcd, side by side: after each step and each fault
//! real etcd must come to have the members, and serve where, as the world in memory says, and the
//! planner must decide the same from what real etcd answers. Pods, the record and the rest of
//! Kubernetes are the world's; their processes are real ([`crate::pods`]).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use etcd::{CallError, Member, Refusal, Verdict};
use etcd_client::{Client, GetOptions};
use membership::decide::drift::{self, Plan};
use membership::decide::next_step::{Step, next_step};
use membership::know::names::{MOST_MEMBERS, Ordinal};
use membership::know::observed::{Answered, agreed};
use membership::know::record::Id;
use membership::world::fault::Fault;
use membership::world::trace::{Course, Trace, What, When, tie};
use membership::world::{End, Tick, World, puls8, way_out};
use tests::process::until;
use tests::seed::Seed;

use crate::loopback;
use crate::pods::{self, Pods};

/// How long real etcd has to come to what the world says: a start, an election, its own health window
/// of 5 s, all on a machine that is busy.
const SOON: Duration = Duration::from_secs(90);
/// How long one member has to answer.
const ANSWER: Duration = Duration::from_secs(3);
/// How many traces, unless TRACES says it.
const TRACES: usize = 2;

#[test]
#[ignore = "needs etcd: make test"]
fn sampled_traces_end_on_real_etcd_as_they_do_in_memory() {
    if !loopback::is_inside(&puls8(), "replay::sampled_traces_end_on_real_etcd_as_they_do_in_memory") {
        return;
    }
    let traces = std::env::var("TRACES").ok().map_or(TRACES, |traces| traces.parse().expect("TRACES is a number"));
    let mut seed = Seed::from_environment();
    let version = pods::version();
    for number in 1..=traces {
        // Each with its own, so that one can be had again alone.
        let again = seed.again();
        let trace = Trace::sample(|below| seed.below(below), 5, &version).unwrap();
        println!("trace {number} of {traces}, again with TRACES=1 {again}: {trace:?}");
        println!("trace {number} is done: {}", replayed(&trace));
    }
}

/// The leader is killed while the learner is away: the next one, which has not heard that learner, never promotes it.
#[test]
#[ignore = "needs etcd: make test"]
fn a_learner_that_the_new_leader_has_not_heard_is_not_promoted() {
    if !loopback::is_inside(&puls8(), "replay::a_learner_that_the_new_leader_has_not_heard_is_not_promoted") {
        return;
    }
    let promoted = When::Decided("Promote 2".into(), 1);
    let events = vec![
        (When::First, What::Want(3)),
        (promoted.clone(), What::Fault(Fault::Leads(0))),
        (promoted.clone(), What::Fault(Fault::NodeLost(2))),
        (promoted, What::Fault(Fault::PodDeleted(0))),
    ];
    let trace = Trace { version: pods::version(), present: 2, wanted: 2, events };
    let end = replayed(&trace);
    assert!(end.contains("did not join"), "{end}");
}

/// How a trace ends.
fn replayed(trace: &Trace) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Replay::of(trace)).unwrap_or_else(|error| panic!("{error:#}\n{trace:?}"))
}

/// A trace under way.
struct Replay {
    world: World,
    pods: Pods,
    course: Course,
    /// What was written, and acknowledged.
    written: BTreeMap<String, String>,
}

impl Replay {
    /// Goes a trace to its end, mends what is broken, and goes on to that end. How it ended, for a line.
    async fn of(trace: &Trace) -> anyhow::Result<String> {
        let mut world = trace.begins();
        let mut pods = Pods::of(&world.target);
        pods.bootstrap(trace.present);
        let answers = until("a new cluster serves", SOON, async || {
            let answers = etcd::observe(&puls8(), 0..trace.present, ANSWER).await;
            let agreed = agreed(&puls8(), &answers, None).map_err(anyhow::Error::msg)?;
            let started = agreed.members.iter().filter(|member| member.started()).count();
            ensure!(started == trace.present as usize && answers.values().all(Result::is_ok), "{answers:?}");
            Ok(answers)
        });
        let answers: BTreeMap<Ordinal, _> =
            answers.await?.into_iter().filter_map(|(ordinal, answered)| Some((ordinal, answered.ok()?))).collect();
        for (&ordinal, answer) in &answers {
            world.is_member(ordinal, answer.member, answer.cluster);
            ensure!(answer.version == world.version, "it says that it is {}", answer.version);
        }
        let mut replay = Self { world, pods, course: Course::of(trace), written: BTreeMap::new() };
        let (in_memory, _) = trace.play().map_err(anyhow::Error::msg)?;
        let end = replay.run().await?;
        ensure!(replay.course.is_over(), "it ended before everything had happened: {:?}", replay.course);
        ensure!(
            std::mem::discriminant(&in_memory) == std::mem::discriminant(&end),
            "in memory it ends in {in_memory:?}, on real etcd in {end:?}"
        );
        let told = match &end {
            End::Done => "done".to_owned(),
            End::Failed(why) => format!("failed as in memory: {why}"),
        };
        if matches!(end, End::Failed(_)) {
            replay.world.mend();
            replay.pods.put_disks_back(&replay.world);
            match replay.run().await? {
                End::Done => {}
                End::Failed(why) => match way_out(&why) {
                    Some(count) => replay.follow_the_way_out(count).await.with_context(|| why)?,
                    None if why.contains("\"/hook\",\"reconcile\"") => {
                        replay.reconciled().await.with_context(|| why)?;
                    }
                    None => bail!("mended, it ends in {why}"),
                },
            }
        }
        replay.world.ended_well().map_err(anyhow::Error::msg)?;
        replay.everything_is_on_each().await?;
        Ok(told)
    }

    /// Who is missing for good is not mended: the count follows, or goes back, and then it is again as
    /// it was wanted.
    async fn follow_the_way_out(&mut self, count: u32) -> anyhow::Result<()> {
        for count in [count, self.world.desired] {
            self.world.want(count);
            let end = self.run().await?;
            ensure!(end == End::Done, "the way out was followed, and it ends in {end:?}");
            self.world.ended_well().map_err(anyhow::Error::msg)?;
        }
        Ok(())
    }

    /// `hook reconcile --yes`: the record follows the member list, and the next run has as many as wanted.
    async fn reconciled(&mut self) -> anyhow::Result<()> {
        self.world.settle();
        let answers = self.settled().await?;
        let mut seen = self.world.observe();
        seen.answers = answers;
        match drift::plan(&seen) {
            Plan::Reconcile(record, _) => self.world.record = Some(record),
            plan => bail!("nothing can be reconciled: {plan:?}"),
        }
        let mut end = self.run().await?;
        // Who was joining is taken back where an ordinal below it is missing now, which ends that run.
        if matches!(&end, End::Failed(why) if why.contains("did not join: ")) {
            end = self.run().await?;
        }
        ensure!(end == End::Done, "reconciled, it ends in {end:?}");
        Ok(())
    }

    /// One run, to its end.
    async fn run(&mut self) -> anyhow::Result<End> {
        let begins = self.course.came_to(When::First);
        self.happen(begins).await?;
        // More than any trace in memory has.
        for _ in 0..300 {
            self.world.settle();
            let answers = self.settled().await?;
            self.write().await?;
            let mut seen = self.world.observe();
            seen.answers = answers;
            let step = next_step(&seen, &self.world.limits());
            let in_memory = self.world.next();
            ensure!(tie(&step) == tie(&in_memory), "from real etcd follows {step:?}, in memory {in_memory:?}");
            match self.world.take(&step) {
                Some(Tick::Ended(end)) => return Ok(end),
                Some(_) => continue,
                None => self.world.promised(&step).map_err(anyhow::Error::msg)?,
            }
            let looked = self.world.written;
            let when = self.course.decided(&step);
            let happens = self.course.came_to(when);
            let killed = happens.contains(&What::Fault(Fault::RunKilled));
            let mut elected_anew = false;
            for what in happens {
                elected_anew |= matches!(what, What::Fault(Fault::PodDeleted(o)) if self.leads(o));
                self.happen(vec![what]).await?;
                self.world.settle();
                self.settled().await?;
                elected_anew &= !self.world.heard;
            }
            if killed {
                continue;
            }
            let leader = self.world.observe().agreed().ok().and_then(|agreed| agreed.leader);
            if !self.world.attempt(&step, looked) {
                // Otherwise the leader may have stayed, and etcd may do it.
                if elected_anew && self.world.has_quorum() {
                    self.is_refused(&step).await?;
                }
                self.world.settle();
                if looked == self.world.written && self.world.next() == step {
                    self.world.wait("etcd");
                }
                continue;
            }
            self.apply(&step, leader).await.with_context(|| format!("{step:?}"))?;
            let when = self.course.applied(&step);
            let happens = self.course.came_to(when);
            self.happen(happens).await?;
        }
        bail!("it does not end")
    }

    /// What real etcd answers once it is as the world says.
    async fn settled(&mut self) -> anyhow::Result<BTreeMap<Ordinal, Answered>> {
        let until = tokio::time::Instant::now() + SOON;
        loop {
            self.pods.follow(&self.world);
            let asked = 0..self.world.desired.max(MOST_MEMBERS);
            let mut answers = etcd::observe(&self.world.target, asked, ANSWER).await;
            let differs = self.differs(&answers);
            let Err(differs) = differs else {
                let known: BTreeSet<Ordinal> = self.world.observe().answers.into_keys().collect();
                answers.retain(|ordinal, _| known.contains(ordinal));
                return Ok(answers);
            };
            if tokio::time::Instant::now() > until {
                let logs: String = (0..MOST_MEMBERS).map(|o| format!("\n{o}: {}", self.pods.log(o))).collect();
                bail!("real etcd does not come to it: {differs}; {:?}{logs}", self.world);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// What is not as the world says; who leads is real etcd's to say.
    fn differs(&mut self, answers: &BTreeMap<Ordinal, Answered>) -> Result<(), String> {
        let world = &mut self.world;
        let real = agreed(&world.target, answers, world.record.as_ref());
        if !world.has_quorum() {
            return real.map_or(Ok(()), |real| Err(format!("a quorum answers: {real:?}")));
        }
        let real = real?;
        // By ID: the world's order is by ordinal.
        let mut expected = world.observe().agreed()?.members;
        expected.sort();
        if real.members != expected {
            return Err(format!("the members are {:?}, not {expected:?}", real.members));
        }
        for ordinal in 0..MOST_MEMBERS {
            let serves = answers.get(&ordinal).and_then(|answered| answered.as_ref().ok()).map(|answer| answer.member);
            // Whoever was removed may still answer for a moment, as nobody.
            let expected = world.serving.get(&ordinal).copied();
            if serves != expected {
                return Err(format!("{} serves as {serves:?}, not as {expected:?}", world.target.pod(ordinal)));
            }
        }
        world.leader = Some(real.leader.ok_or("they do not agree on a leader")?);
        Ok(())
    }

    /// A step that is etcd's; the others are the world's alone.
    async fn apply(&mut self, step: &Step, leader: Option<Id>) -> anyhow::Result<()> {
        match step {
            Step::Add(ordinal, join) => {
                let url = self.world.target.peer_url(*ordinal);
                let id = self.change(async |member| member.add(&url, *join).await).await?;
                let Some(added) = self.world.members.get_mut(ordinal) else { bail!("it is not there") };
                added.id = id;
                Ok(())
            }
            Step::Promote(_, id) => self.change(async |member| member.promote(*id).await).await,
            Step::TakeBack(_, id, _) | Step::Remove(_, id) => {
                self.change(async |member| member.remove(*id).await).await?;
                // As the run does, at once.
                if self.voters().len() == 1 {
                    self.change(async |member| member.write_down().await).await
                } else {
                    Ok(())
                }
            }
            Step::MoveLeader(heir, _) => {
                let to = self.world.members[heir].id;
                ensure!(leader.is_some(), "nobody leads");
                self.lead(to).await
            }
            Step::Permit(_, uid, permission) => {
                self.pods.permit(uid, permission);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Whether real etcd's leader is this ordinal's member.
    fn leads(&self, ordinal: Ordinal) -> bool {
        self.world.leader.is_some() && self.world.serving.get(&ordinal).copied() == self.world.leader
    }

    /// etcd promotes no learner that the leader has not heard.
    async fn is_refused(&self, step: &Step) -> anyhow::Result<()> {
        let Step::Promote(_, id) = step else { return Ok(()) };
        until("etcd refuses the promotion", SOON, async || {
            let Some(url) = self.voters().pop() else { bail!("no voter serves") };
            match Member::at(&url, ANSWER).await?.promote(*id).await {
                Err(why) if why.to_string().contains("in sync with leader") => {
                    println!("as in memory: {why}");
                    Ok(())
                }
                other => bail!("it says {other:?}"),
            }
        })
        .await
    }

    /// The voters that serve, by URL.
    fn voters(&self) -> Vec<String> {
        let World { members, serving, target, .. } = &self.world;
        let voters = members.iter().filter(|(ordinal, member)| !member.learner && serving.contains_key(ordinal));
        voters.map(|(&ordinal, _)| target.client_url(ordinal)).collect()
    }

    /// Asks each voter in turn, until one does it.
    async fn change<T>(&self, change: impl AsyncFn(&Member) -> Result<T, CallError>) -> anyhow::Result<T> {
        until("etcd changes its members", SOON, async || {
            let mut why = None;
            for url in self.voters() {
                let member = Member::at(&url, ANSWER).await?;
                match change(&member).await {
                    Ok(done) => return Ok(done),
                    Err(error) => why = Some(error),
                }
            }
            Err(why.map_or_else(|| anyhow::anyhow!("no voter serves"), Into::into))
        })
        .await
    }

    /// Makes a member lead.
    async fn lead(&self, to: Id) -> anyhow::Result<()> {
        until("another member leads", SOON, async || {
            for url in self.voters() {
                let member = Member::at(&url, ANSWER).await?;
                let leader = member.answer().await?.leader;
                if leader == Some(to) {
                    return Ok(());
                }
                // Only the leader does it; the others refuse.
                let _ = member.move_leader(to).await;
            }
            bail!("{to} does not lead")
        })
        .await
    }

    async fn happen(&mut self, happens: Vec<What>) -> anyhow::Result<()> {
        for what in happens {
            let before = self.world.clone();
            self.world.happens(what);
            match what {
                What::Fault(Fault::DiskLost(ordinal)) => self.pods.lose_disk(ordinal),
                What::Fault(Fault::RemovedByHand(ordinal)) => {
                    let id = before.members[&ordinal].id;
                    let remove = async |member: &Member| match member.remove(id).await {
                        // An answer may be lost with the member that was asked.
                        Err(error) if error.refusal() == Refusal::NotFound => Ok(()),
                        other => other,
                    };
                    self.change(remove).await?;
                    // A cluster in use: killed before the next write, the last of two waits for the removed one for ever.
                    self.write().await?;
                }
                What::Fault(Fault::Leads(ordinal)) => self.lead(before.members[&ordinal].id).await?,
                _ => {}
            }
            self.pods.follow(&self.world);
        }
        Ok(())
    }

    /// Writes one more key, where anybody can.
    async fn write(&mut self) -> anyhow::Result<()> {
        if !self.world.has_quorum() {
            return Ok(());
        }
        let (key, value) = (format!("key/{:04}", self.written.len()), format!("{:?}", self.world.desired));
        until("a key is written", SOON, async || {
            let Some(url) = self.voters().pop() else { bail!("no voter serves") };
            let mut client = Client::connect([url], None).await?;
            tokio::time::timeout(ANSWER, client.put(key.clone(), value.clone(), None)).await??;
            Ok(())
        })
        .await?;
        self.written.insert(key, value);
        Ok(())
    }

    /// The same keys on each member, and all that were acknowledged.
    async fn everything_is_on_each(&self) -> anyhow::Result<()> {
        let ordinals: Vec<Ordinal> = (0..self.world.desired).collect();
        match etcd::validate(&self.world.target, &ordinals, ANSWER, 20).await {
            Verdict::Equal(_) => {}
            other => bail!("the members' keys: {other:?}"),
        }
        for ordinal in ordinals {
            let mut client = Client::connect([self.world.target.client_url(ordinal)], None).await?;
            let options = GetOptions::new().with_prefix().with_serializable();
            let read = tokio::time::timeout(ANSWER, client.get("key/", Some(options))).await??;
            let read: BTreeMap<String, String> = read
                .kvs()
                .iter()
                .map(|pair| Ok((pair.key_str()?.to_owned(), pair.value_str()?.to_owned())))
                .collect::<Result<_, etcd_client::Error>>()?;
            ensure!(read == self.written, "{} lacks writes: {read:?}", self.world.target.pod(ordinal));
        }
        Ok(())
    }
}
