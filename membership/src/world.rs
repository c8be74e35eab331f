//! A small cluster in memory, for tests: what Kubernetes, the webhook, etcd and the run do, as far as the planner
//! depends on it, and what can happen to them ([`fault`]). It is there for speed; what it claims about etcd is replayed
//! on real etcd (`tests/tests/real_etcd`). Never part of the product.

// It is test code, also if another crate's tests use it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::time::Duration;

use crate::decide::next_step::{Limits, Step, did_not_join, next_step, out_of_time};
use crate::know::limits::Room;
use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Answer, Database, ListedMember, Observed, Pod, Trouble, Volume};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};
use crate::know::volume::{OnScaleDown, VolumePlan};

mod apply;
pub mod fault;
pub mod template;
pub mod trace;

/// The cluster's ID.
pub const CLUSTER: Id = Id(0xc1);
/// The limits of a run that has enough time.
pub const LIMITS: Limits = Limits { join: Duration::from_secs(60), left: Duration::from_secs(200) };
/// Longer than a join may take.
const LATE: Duration = Duration::from_secs(61);
/// More steps than any scale of up to five members needs.
const MOST_STEPS: usize = 300;

/// The cluster of DataCore's page.
#[must_use]
pub fn puls8() -> Target {
    Target {
        namespace: "puls8".into(),
        statefulset: "puls8-etcd".into(),
        service: "puls8-etcd-headless".into(),
        cluster_domain: "cluster.local".into(),
        container: "etcd".into(),
        peer_scheme: "http".into(),
        peer_port: 2380,
        client_scheme: "http".into(),
        client_port: 2379,
        cronjob: "puls8-etcd-scaler".into(),
    }
}

/// The volumes of DataCore's page, with the chart's defaults.
#[must_use]
pub fn plan() -> VolumePlan {
    VolumePlan {
        name_prefix: "etcd-volume".into(),
        host_path: "/var/local/puls8/etcd/pod-".into(),
        capacity: "2Gi".into(),
        reclaim_policy: "Retain".into(),
        pin: true,
        bound_by_controller: false,
        on_scale_down: OnScaleDown::Keep,
        release: "puls8".into(),
        release_namespace: "puls8".into(),
    }
}

/// One member of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sim {
    /// Its ID.
    pub id: Id,
    /// Not yet a voter.
    pub learner: bool,
    /// It ran at least once (client URLs in the list).
    pub started: bool,
}

/// Everything there is.
#[derive(Clone, Debug)]
pub struct World {
    /// Its names.
    pub target: Target,
    /// The cluster's ID.
    pub cluster: Id,
    /// `spec.replicas`.
    pub desired: u32,
    /// The record in the annotation.
    pub record: Option<Record>,
    /// The copy in the Lease, if the annotation is missing.
    pub copy: Option<Record>,
    /// etcd's member list.
    pub members: BTreeMap<Ordinal, Sim>,
    /// The pods.
    pub pods: BTreeMap<Ordinal, Pod>,
    /// The volumes.
    pub volumes: BTreeMap<Ordinal, Volume>,
    /// By ordinal: the member whose data is on the volume; no entry: the volume is empty.
    pub disks: BTreeMap<Ordinal, Id>,
    /// Members that run and answer.
    pub serving: BTreeMap<Ordinal, Id>,
    /// Ordinals whose etcd does not come up, whatever is done.
    pub broken: Vec<Ordinal>,
    /// Ordinals whose learner does not catch up.
    pub behind: Vec<Ordinal>,
    /// Ordinals whose pod cannot be started at all.
    pub unstartable: Vec<Ordinal>,
    /// Ordinals whose pod's node is away.
    pub lost: Vec<Ordinal>,
    /// How long the newcomer has been in the list, as far as this run knows.
    pub joining_for: Option<Duration>,
    /// Why this run fails; it only undoes what is half done before it ends.
    pub over: Option<String>,
    /// The roll-out that is under way.
    pub rollout: Option<String>,
    /// The leader, while it serves.
    pub leader: Option<Id>,
    /// The present leader has heard the learner. Before that it does not promote it: etcd judges by how much of the log
    /// the leader knows the learner to have.
    pub heard: bool,
    /// The claims of ordinals that are not wanted, if claims are to be deleted.
    pub claims: BTreeMap<Ordinal, String>,
    /// The version that the members run.
    pub version: String,
    /// How often the StatefulSet was written.
    pub written: u64,
    next: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The members are as wanted.
    Done,
    /// It failed; its one line.
    Failed(String),
}

/// What came of one look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tick {
    /// A step was taken.
    Took(Step),
    /// There was nothing to do but wait, and a deadline passed.
    Waited,
    /// The run ended.
    Ended(End),
}

impl World {
    fn empty(desired: u32) -> Self {
        Self {
            target: puls8(),
            cluster: CLUSTER,
            desired,
            record: None,
            copy: None,
            members: BTreeMap::new(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            disks: BTreeMap::new(),
            serving: BTreeMap::new(),
            broken: Vec::new(),
            behind: Vec::new(),
            unstartable: Vec::new(),
            lost: Vec::new(),
            joining_for: None,
            over: None,
            rollout: None,
            leader: None,
            heard: false,
            claims: BTreeMap::new(),
            version: "3.6.16".into(),
            written: 0,
            next: 100,
        }
    }

    /// A verified cluster of `count` voters.
    #[must_use]
    pub fn settled(count: u32) -> Self {
        let mut world = Self::empty(count);
        let mut record = Record::new(CLUSTER);
        for ordinal in 0..count {
            let id = world.fresh();
            world.members.insert(ordinal, Sim { id, learner: false, started: true });
            world.serving.insert(ordinal, id);
            world.disks.insert(ordinal, id);
            record = record.with(ordinal, id, State::Member);
            world.make_pod(ordinal, false);
            world.volumes.insert(ordinal, settled_volume());
        }
        world.record = Some(record);
        world
    }

    /// A cluster of `count` that was just installed: no member has started yet.
    #[must_use]
    pub fn installed(count: u32) -> Self {
        let mut world = Self::empty(count);
        for ordinal in 0..count {
            let id = world.fresh();
            world.members.insert(ordinal, Sim { id, learner: false, started: false });
        }
        world
    }

    /// A verified member is this one, of this cluster.
    pub fn is_member(&mut self, ordinal: Ordinal, id: Id, cluster: Id) {
        self.members.insert(ordinal, Sim { id, learner: false, started: true });
        self.serving.insert(ordinal, id);
        self.disks.insert(ordinal, id);
        let record = self.record.take().unwrap_or_else(|| Record::new(cluster));
        self.record = Some(Record { cluster, ..record }.with(ordinal, id, State::Member));
        self.cluster = cluster;
    }

    /// An ID that no member had before.
    pub fn fresh(&mut self) -> Id {
        self.next += 1;
        Id(self.next)
    }

    /// The controller makes the pod of an ordinal.
    pub fn make_pod(&mut self, ordinal: Ordinal, joiner: bool) {
        let uid = self.fresh().to_string();
        let recorded = self.record.iter().flat_map(|record| record.members.keys().copied());
        let peers: std::collections::BTreeSet<_> = recorded.chain(0..=ordinal).collect();
        let unstartable = self.unstartable.contains(&ordinal);
        let member = |lower| self.record.as_ref().and_then(|record| record.state(lower)) == Some(State::Member);
        // As the webhook writes it.
        let gated = joiner && !(0..ordinal).all(member);
        let pod = Pod {
            uid,
            node: (!gated).then(|| format!("node-{ordinal}")),
            joiner,
            initial_cluster: Some(self.target.initial_cluster(peers)),
            gated,
            waits_in_admit: joiner && !gated && !unstartable,
            ready: !joiner,
            trouble: (unstartable && !gated).then(|| trouble("container etcd-version: ImagePullBackOff", true)),
            ..Pod::default()
        };
        self.pods.insert(ordinal, pod);
    }

    /// What the controllers and the members do by themselves.
    pub fn settle(&mut self) {
        self.make_pods();
        // A member that starts may be what another one waits for.
        while self.run_members() {}
        let learner = self.members.iter().find(|(_, member)| member.learner).map(|(ordinal, _)| ordinal);
        self.heard = learner.is_some_and(|o| self.heard || self.serving.contains_key(o) && self.has_quorum());
    }

    fn make_pods(&mut self) {
        // Here the controller deletes no pod that is not wanted, so the run has to.
        let lost = &self.lost;
        self.pods.retain(|ordinal, pod| !pod.terminating || lost.contains(ordinal));
        self.pods.values_mut().for_each(|pod| pod.overdue = pod.terminating);
        for ordinal in 0..self.desired {
            self.volumes.entry(ordinal).or_insert_with(|| Volume { claimed: true, ours: true, ..Volume::default() });
            if !self.pods.contains_key(&ordinal) {
                self.admit_pod(ordinal);
            }
        }
    }

    /// What the webhook makes of a new pod, by its ordinal's state.
    fn admit_pod(&mut self, ordinal: Ordinal) {
        // The admission policy denies it: the ordinal was no member, and without a record no pod is held.
        let served = |copy: &Record| copy.state(ordinal).is_some_and(|state| state != State::Joining);
        if self.record.is_none() && self.copy.as_ref().is_some_and(|copy| !served(copy)) {
            return;
        }
        match self.record.as_ref().map(|record| record.state(ordinal)) {
            Some(Some(State::Member | State::Leaving)) => self.make_pod(ordinal, false),
            Some(Some(State::Joining) | None) => self.make_pod(ordinal, true),
            // As its chart made it: nothing is known yet, or nothing about this ordinal.
            Some(Some(State::Bootstrapping)) | None => {
                self.make_pod(ordinal, false);
                self.pods.get_mut(&ordinal).unwrap().unsettled = true;
            }
        }
    }

    /// Starts every etcd that can start; returns whether that has changed who serves.
    fn run_members(&mut self) -> bool {
        let before = self.serving.clone();
        let Self { pods, members, lost, .. } = self;
        self.serving.retain(|ordinal, id| {
            pods.contains_key(ordinal) && !lost.contains(ordinal) && members.get(ordinal).is_some_and(|m| m.id == *id)
        });
        for (ordinal, pod) in &mut self.pods {
            let unstartable = self.unstartable.contains(ordinal);
            if pod.joiner && !pod.gated && pod.node.is_none() {
                pod.node = Some(format!("node-{ordinal}"));
                pod.waits_in_admit = !unstartable;
                pod.trouble = unstartable.then(|| trouble("container etcd-version: ImagePullBackOff", true));
            }
            if pod.trouble.is_some() && pod.joiner && !pod.gated && !unstartable {
                (pod.trouble, pod.waits_in_admit) = (None, true);
            }
            pod.waits_in_admit &= pod.permitted.is_none();
        }
        let (up, voters) = (self.voters_up().len(), self.members.values().filter(|member| !member.learner).count());
        let names = self.target.initial_cluster(self.members.keys().copied());
        for (&ordinal, member) in &mut self.members {
            let away = self.broken.contains(&ordinal) || self.lost.contains(&ordinal);
            let begins = |pod: &Pod| !pod.joiner || pod.permitted == Some(member.id);
            if let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| !self.lost.contains(&ordinal) && begins(pod)) {
                pod.started = true;
            }
            let Some(pod) = self.pods.get(&ordinal).filter(|_| !away) else {
                continue;
            };
            let own_data = self.disks.get(&ordinal) == Some(&member.id);
            // An etcd that starts as new under an ID that has run before has lost its log, and does not come up. One
            // that may start as new joins only a cluster whose member list is the one it was given and that can decide
            // something, if need be with its vote.
            let decides = up + usize::from(!member.learner) >= quorum(voters);
            let starts = match (pod.joiner, pod.permitted) {
                (true, permitted) if permitted == Some(member.id) => {
                    own_data || (!member.started && decides && pod.initial_cluster.as_deref() == Some(&*names))
                }
                (true, _) => false,
                (false, _) => own_data || (pod.unsettled && !member.started),
            };
            if starts {
                member.started = true;
                self.serving.insert(ordinal, member.id);
                self.disks.insert(ordinal, member.id);
            }
        }
        for (ordinal, pod) in &mut self.pods {
            let serves = self.serving.contains_key(ordinal);
            pod.ready = serves && !self.members[ordinal].learner && !pod.terminating;
            // The kubelet reports it, if the node has one.
            pod.down = !serves && !self.lost.contains(ordinal);
        }
        self.serving != before
    }

    /// The voters that serve.
    fn voters_up(&self) -> Vec<Id> {
        let serving = |ordinal| self.serving.contains_key(ordinal);
        self.members.iter().filter(|(o, m)| !m.learner && serving(o)).map(|(_, m)| m.id).collect()
    }

    /// Whether etcd has a quorum.
    #[must_use]
    pub fn has_quorum(&self) -> bool {
        let voters = self.members.values().filter(|member| !member.learner).count();
        self.voters_up().len() >= quorum(voters)
    }

    /// One round of looking.
    #[must_use]
    pub fn observe(&self) -> Observed {
        let list: Vec<ListedMember> = self
            .members
            .iter()
            .map(|(&ordinal, member)| ListedMember {
                id: member.id,
                name: if member.started { self.target.pod(ordinal) } else { String::new() },
                peer_urls: vec![self.target.peer_url(ordinal)],
                client_urls: if member.started { vec![self.target.client_url(ordinal)] } else { vec![] },
                learner: member.learner,
            })
            .collect();
        let up = self.voters_up();
        let quorum = self.has_quorum();
        let leader = self.leader.filter(|id| up.contains(id)).or_else(|| up.first().copied());
        let last = self.members.keys().next_back().map_or(0, |last| last + 1);
        let answers = (0..self.desired.max(last)).map(|ordinal| {
            let serves = self.serving.get(&ordinal).filter(|_| quorum);
            let answer = serves.map(|&id| Answer {
                member: id,
                cluster: self.cluster,
                leader,
                learner: self.members[&ordinal].learner,
                version: self.version.clone(),
                revision: 10,
                raft_index: 5000,
                applied_index: if self.behind.contains(&ordinal) { 50 } else { 5000 },
                errors: vec![],
                alarms: vec![],
                db: Database::default(),
                list: (!self.members[&ordinal].learner).then(|| list.clone()),
            });
            (ordinal, answer.ok_or_else(|| "connection refused".into()))
        });
        Observed {
            target: self.target.clone(),
            desired: self.desired,
            record: self.record.clone(),
            copy: self.copy.clone(),
            rollout: self.rollout.clone(),
            answers: answers.collect(),
            pods: self.pods.clone(),
            volumes: self.volumes.clone(),
            claims: self.claims.clone(),
            room: Room::default(),
            override_: None,
            joining_for: self.joining_for,
        }
    }

    /// The step that the planner decides now.
    #[must_use]
    pub fn next(&self) -> Step {
        next_step(&self.observe(), &self.limits())
    }

    /// How much time this run has left.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits { left: if self.over.is_some() { Duration::ZERO } else { LIMITS.left }, ..LIMITS }
    }

    /// What the run does with a decision before it applies it, as in `hook/src/run/scale.rs`. `None`: the step is to be
    /// applied.
    pub fn take(&mut self, step: &Step) -> Option<Tick> {
        if let Some(why) = self.over.clone().filter(|_| !step.is_undo()) {
            self.begin_run();
            return Some(Tick::Ended(End::Failed(why)));
        }
        match step {
            Step::Done => return Some(Tick::Ended(End::Done)),
            Step::Fail(why) => {
                self.begin_run();
                return Some(Tick::Ended(End::Failed(why.clone())));
            }
            Step::Wait(what) => {
                self.wait(what);
                return Some(Tick::Waited);
            }
            Step::TakeBack(ordinal, _, why) if self.over.is_none() && *ordinal < self.desired => {
                self.over = Some(did_not_join(&self.observe(), *ordinal, why));
            }
            _ => {}
        }
        None
    }

    /// Lets time pass to the next deadline: the join's first, if there is a join.
    pub fn wait(&mut self, what: &str) {
        if self.joining_for.is_some_and(|since| since < LATE) {
            self.joining_for = Some(LATE);
        } else {
            self.over = Some(out_of_time(&self.observe(), Some(what)));
        }
    }

    /// Begins a new run, which does not know what the one before it remembered.
    pub fn begin_run(&mut self) {
        self.over = None;
        self.joining_for = self.joining_for.map(|_| Duration::ZERO);
        self.pods.values_mut().for_each(|pod| pod.older = true);
    }

    /// Everybody else does what there is to do, and then the run looks once.
    ///
    /// # Errors
    /// The promise that was broken.
    pub fn tick(&mut self) -> Result<Tick, String> {
        self.settle();
        let step = self.next();
        if let Some(tick) = self.take(&step) {
            return Ok(tick);
        }
        self.promised(&step)?;
        if !self.attempt(&step, self.written) {
            // Everybody else has done what there was to do, so etcd would refuse it again and again.
            self.wait(&format!("etcd: {} is refused", label(&step)));
            return Ok(Tick::Waited);
        }
        self.sound()?;
        Ok(Tick::Took(step))
    }

    /// Goes on to the end of this run.
    ///
    /// # Errors
    /// The promise that was broken; one of them is that the run ends.
    pub fn end(&mut self) -> Result<End, String> {
        for _ in 0..MOST_STEPS {
            if let Tick::Ended(end) = self.tick()? {
                return Ok(end);
            }
        }
        Err(format!("it does not end: {self:?}"))
    }

    /// Whether everything is as wanted.
    ///
    /// # Errors
    /// What is not, in a sentence.
    pub fn ended_well(&self) -> Result<(), String> {
        let wanted = || 0..self.desired;
        let record = self.record.as_ref().ok_or("no record")?;
        for (holds, what) in [
            (self.members.keys().copied().eq(wanted()), "members"),
            (self.members.values().all(|member| !member.learner && member.started), "voters"),
            (record.members.keys().copied().eq(wanted()), "record's ordinals"),
            (
                wanted()
                    .all(|o| record.members[&o].id == self.members[&o].id && record.state(o) == Some(State::Member)),
                "record",
            ),
            (self.pods.iter().filter(|(_, pod)| !pod.terminating).map(|(&o, _)| o).eq(wanted()), "pods"),
            (self.pods.values().all(|pod| pod.terminating || (pod.ready && !pod.joiner)), "ordinary and Ready pods"),
        ] {
            if !holds {
                return Err(format!("{} wanted, the {what} are not so: {self:?}", self.desired));
            }
        }
        Ok(())
    }

    /// Looks and applies until there is nothing to do but wait; returns every step taken.
    pub fn run(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..MOST_STEPS {
            self.settle();
            let step = self.next();
            let over = matches!(step, Step::Done | Step::Fail(_) | Step::Wait(_));
            self.apply(&step);
            steps.push(step);
            if over {
                return steps;
            }
        }
        panic!("does not end: {:?}", &steps[MOST_STEPS - 20..]);
    }
}

/// A step's name and ordinal.
#[must_use]
pub fn label(step: &Step) -> String {
    let ordinal = match step {
        Step::CreateVolume(o) | Step::PinVolume(o, _) | Step::Add(o, _) | Step::Permit(o, ..) => Some(o),
        Step::FreeVolume(o) | Step::MoveLeader(o, _) | Step::Remove(o, _) | Step::RemovePod(o, _) => Some(o),
        Step::RemoveClaim(o, _) | Step::Settle(o, _) | Step::Swap(o, _) | Step::Promote(o, _) => Some(o),
        Step::TakeBack(o, ..) | Step::Renew(o, ..) | Step::Schedule(o, _) => Some(o),
        Step::Done | Step::Wait(_) | Step::Fail(_) | Step::Record(..) => None,
    };
    let text = format!("{step:?}");
    let word = text.split(['(', ' ']).next().unwrap_or_default().to_owned();
    ordinal.map_or(word.clone(), |ordinal| format!("{word} {ordinal}"))
}

/// The count that an error names as the way out.
#[must_use]
pub fn way_out(why: &str) -> Option<u32> {
    let (_, count) = why.split_once("--set etcd.replicaCount=")?;
    count.split(|other: char| !other.is_ascii_digit()).next()?.parse().ok()
}

/// A volume of ours that is in use.
#[must_use]
pub fn settled_volume() -> Volume {
    Volume { claimed: true, bound: true, ours: true, exists: true, pinned: true, ..Volume::default() }
}

fn trouble(what: &str, fatal: bool) -> Trouble {
    Trouble { what: what.into(), fatal }
}

/// A pod's trouble.
#[must_use]
pub fn stuck(what: &str, fatal: bool) -> Option<Trouble> {
    Some(trouble(what, fatal))
}
