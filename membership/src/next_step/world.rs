//! A small cluster in memory: what Kubernetes, the webhook and etcd do, as far as the planner
//! depends on it. It stands in for speed; the real ones are in `tests/`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Limits, Step, next_step};
use crate::names::tests::puls8;
use crate::names::{Ordinal, Target};
use crate::observed::{Answer, ListedMember, Observed, Pod, Trouble, Volume};
use crate::record::{Id, Record, State};
use crate::version::JoinAs;

pub(crate) const CLUSTER: Id = Id(0xc1);
pub(crate) const LIMITS: Limits = Limits { join: Duration::from_secs(60), left: Duration::from_secs(200) };

/// One member of the world.
#[derive(Clone, Debug)]
pub(crate) struct Sim {
    pub id: Id,
    pub learner: bool,
    /// It ran at least once (client URLs in the list).
    pub started: bool,
}

#[derive(Clone, Debug)]
pub(crate) struct World {
    pub target: Target,
    pub desired: u32,
    pub record: Option<Record>,
    pub copy: Option<Record>,
    pub members: BTreeMap<Ordinal, Sim>,
    pub pods: BTreeMap<Ordinal, Pod>,
    pub volumes: BTreeMap<Ordinal, Volume>,
    /// Members that run and answer.
    pub serving: BTreeMap<Ordinal, Id>,
    /// Members that never come up, whatever is done.
    pub broken: Vec<Ordinal>,
    pub joining_for: Option<Duration>,
    pub rollout: Option<String>,
    /// Who leads, while it serves.
    pub leader: Option<Id>,
    /// The claims of ordinals that are not wanted, where they are to go.
    pub claims: BTreeMap<Ordinal, String>,
    next: u64,
}

impl World {
    /// A verified cluster of `count` voters.
    pub(crate) fn settled(count: u32) -> Self {
        let mut world = Self {
            target: puls8(),
            desired: count,
            record: None,
            copy: None,
            members: BTreeMap::new(),
            pods: BTreeMap::new(),
            volumes: BTreeMap::new(),
            serving: BTreeMap::new(),
            broken: Vec::new(),
            joining_for: None,
            rollout: None,
            leader: None,
            claims: BTreeMap::new(),
            next: 100,
        };
        let mut record = Record::new(CLUSTER);
        for ordinal in 0..count {
            let id = world.fresh();
            world.members.insert(ordinal, Sim { id, learner: false, started: true });
            world.serving.insert(ordinal, id);
            record = record.with(ordinal, id, State::Member);
            world.make_pod(ordinal, false);
            world.volumes.insert(ordinal, settled_volume());
        }
        world.record = Some(record);
        world
    }

    pub(crate) fn fresh(&mut self) -> Id {
        self.next += 1;
        Id(self.next)
    }

    pub(crate) fn make_pod(&mut self, ordinal: Ordinal, joiner: bool) {
        let uid = self.fresh().to_string();
        let recorded = self.record.iter().flat_map(|record| record.members.keys().copied());
        let peers: BTreeSet<Ordinal> = recorded.chain(0..=ordinal).collect();
        let initial_cluster = Some(self.target.initial_cluster(peers));
        let pod = Pod {
            uid,
            node: Some(format!("node-{ordinal}")),
            joiner,
            initial_cluster,
            waits_in_admit: joiner,
            ready: !joiner,
            ..Pod::default()
        };
        self.pods.insert(ordinal, pod);
    }

    /// What the controllers and the members do by themselves.
    pub(crate) fn settle(&mut self) {
        // The controller deletes nobody here, as if the webhook were away: the run has to.
        self.pods.retain(|_, pod| !pod.terminating);
        for ordinal in 0..self.desired {
            self.volumes.entry(ordinal).or_insert_with(|| Volume { claimed: true, ours: true, ..Volume::default() });
            if !self.pods.contains_key(&ordinal) {
                let state = self.record.as_ref().and_then(|record| record.state(ordinal));
                let ordinary = matches!(state, Some(State::Member | State::Leaving));
                self.make_pod(ordinal, !ordinary);
            }
        }
        self.serving.retain(|ordinal, id| {
            self.pods.contains_key(ordinal) && self.members.get(ordinal).is_some_and(|member| member.id == *id)
        });
        for (&ordinal, member) in &mut self.members {
            let Some(pod) = self.pods.get_mut(&ordinal) else {
                continue;
            };
            let let_go = !pod.joiner || pod.permitted == Some(member.id);
            if pod.permitted.is_some() {
                pod.waits_in_admit = false;
            }
            if let_go && !self.broken.contains(&ordinal) {
                member.started = true;
                self.serving.insert(ordinal, member.id);
            }
            pod.ready = self.serving.contains_key(&ordinal) && !member.learner;
        }
    }

    /// `etcdctl member remove`: its etcd ends and its pod stays.
    pub(crate) fn remove_by_hand(&mut self, ordinal: Ordinal) {
        self.members.remove(&ordinal);
        self.serving.remove(&ordinal);
        if let Some(pod) = self.pods.get_mut(&ordinal) {
            (pod.down, pod.ready) = (true, false);
        }
    }

    pub(crate) fn observe(&self) -> Observed {
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
        let voters = self.members.values().filter(|member| !member.learner).count();
        let up = self.members.iter().filter(|(o, m)| !m.learner && self.serving.contains_key(o)).map(|(_, m)| m.id);
        let up: Vec<Id> = up.collect();
        let quorum = up.len() >= crate::quorum::quorum(voters);
        let leader = self.leader.filter(|id| up.contains(id)).or_else(|| up.first().copied());
        let last = self.members.keys().next_back().map_or(0, |last| last + 1);
        let answers = (0..self.desired.max(last)).map(|ordinal| {
            let serves = self.serving.get(&ordinal).filter(|_| quorum);
            let answer = serves.map(|&id| Answer {
                member: id,
                cluster: CLUSTER,
                leader,
                learner: self.members[&ordinal].learner,
                version: "3.6.16".into(),
                revision: 10,
                raft_index: 50,
                applied_index: 50,
                errors: vec![],
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
            joining_for: self.joining_for,
        }
    }

    pub(crate) fn next(&self) -> Step {
        next_step(&self.observe(), &LIMITS)
    }

    /// Applies a step and holds the invariants against it.
    pub(crate) fn apply(&mut self, step: &Step) {
        let uid_is = |pods: &BTreeMap<Ordinal, Pod>, ordinal: &Ordinal, uid: &String| pods[ordinal].uid == *uid;
        match step {
            Step::Done | Step::Wait(_) | Step::Fail(_) => {}
            Step::CreateVolume(ordinal) => {
                let volume = self.volumes.get_mut(ordinal).unwrap();
                assert!(!volume.exists);
                (volume.exists, volume.bound) = (true, true);
            }
            Step::PinVolume(ordinal, _) => self.volumes.get_mut(ordinal).unwrap().pinned = true,
            Step::Record(record, _) => self.record = Some(record.clone()),
            Step::Add(ordinal, join) => {
                assert!(self.members.values().all(|member| member.started), "invariant 1: never two unstarted members");
                assert!(self.members.values().all(|member| !member.learner), "one learner at a time");
                assert!((0..*ordinal).all(|lower| self.members.contains_key(&lower)), "lowest missing ordinal first");
                assert!(self.serving.len() == self.members.len(), "invariant 5: everybody is seen healthy");
                assert!(self.volumes[ordinal].pinned, "pinned before the join");
                let id = self.fresh();
                self.members.insert(*ordinal, Sim { id, learner: *join == JoinAs::Learner, started: false });
                self.joining_for = Some(Duration::ZERO);
            }
            Step::Permit(ordinal, uid, permission) => {
                assert!(uid_is(&self.pods, ordinal, uid));
                assert_eq!(permission.member, self.members[ordinal].id);
                let names = self.target.initial_cluster(self.members.keys().copied());
                let pod = self.pods.get_mut(ordinal).unwrap();
                assert_eq!(pod.initial_cluster.as_deref(), Some(&*names), "invariant 4");
                assert!(!permission.live.is_empty());
                pod.permitted = Some(permission.member);
            }
            Step::Swap(ordinal, uid) => {
                assert!(
                    uid_is(&self.pods, ordinal, uid) && self.pods[ordinal].joiner,
                    "invariant 6: only joining pods"
                );
                self.pods.remove(ordinal);
                self.serving.remove(ordinal);
            }
            Step::Settle(ordinal, uid) => {
                assert!(uid_is(&self.pods, ordinal, uid));
                self.pods.get_mut(ordinal).unwrap().unsettled = false;
            }
            Step::Promote(ordinal, id) => {
                let member = self.members.get_mut(ordinal).unwrap();
                assert!(member.id == *id && member.learner && self.serving.contains_key(ordinal));
                assert!(!self.pods[ordinal].joiner, "the ordinary pod has taken over before promotion");
                member.learner = false;
                self.joining_for = None;
            }
            Step::TakeBack(ordinal, id, _) => {
                let member = self.members.remove(ordinal).unwrap();
                assert!(member.id == *id && (member.learner || !member.started), "only what did not join is removed");
                self.serving.remove(ordinal);
                self.joining_for = None;
            }
            Step::Renew(ordinal, uid, _) => {
                assert!(uid_is(&self.pods, ordinal, uid) && !self.serving.contains_key(ordinal));
                self.pods.remove(ordinal);
            }
            Step::MoveLeader(heir, from) => {
                assert!(*heir < self.desired, "it stays");
                assert_eq!(self.observe().agreed().unwrap().leader, Some(*from));
                self.leader = Some(self.members[heir].id);
            }
            Step::Remove(ordinal, id) => {
                assert!(*ordinal >= self.desired, "only who is not wanted");
                assert_eq!(self.members.keys().next_back(), Some(ordinal), "the highest first");
                assert_ne!(self.observe().agreed().unwrap().leader, Some(*id), "it leads");
                assert_eq!(self.record.as_ref().unwrap().state(*ordinal), Some(State::Leaving), "said first");
                assert_eq!(self.members.remove(ordinal).unwrap().id, *id);
                self.serving.remove(ordinal);
                let voters = self.members.values().filter(|member| !member.learner).count();
                let serving = self.members.iter().filter(|(o, m)| !m.learner && self.serving.contains_key(o));
                assert!(serving.count() >= crate::quorum::quorum(voters), "invariant 2");
            }
            Step::RemovePod(ordinal, uid) => {
                assert!(uid_is(&self.pods, ordinal, uid) && *ordinal >= self.desired);
                assert!(!self.members.contains_key(ordinal), "invariant 3: its member goes first");
                self.pods.get_mut(ordinal).unwrap().terminating = true;
            }
            Step::FreeVolume(ordinal) => {
                let volume = self.volumes.get_mut(ordinal).unwrap();
                (volume.stale, volume.bound) = (false, true);
            }
            Step::RemoveClaim(ordinal, uid) => {
                assert!(!self.members.contains_key(ordinal) && !self.pods.contains_key(ordinal));
                assert_eq!(self.claims.remove(ordinal).as_ref(), Some(uid));
            }
        }
    }

    /// Steps and settles until nothing but waiting is left; every step taken.
    pub(crate) fn run(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        for _ in 0..300 {
            self.settle();
            let step = self.next();
            let over = matches!(step, Step::Done | Step::Fail(_) | Step::Wait(_));
            self.apply(&step);
            steps.push(step);
            if over {
                return steps;
            }
        }
        panic!("does not end: {:?}", &steps[280..]);
    }
}

pub(crate) fn settled_volume() -> Volume {
    Volume { claimed: true, bound: true, ours: true, exists: true, pinned: true, ..Volume::default() }
}

pub(crate) fn stuck(what: &str, fatal: bool) -> Option<Trouble> {
    Some(Trouble { what: what.into(), fatal })
}
