//! Applies a step to a world: the promises that must hold before it, and its effect, also if something else happened
//! between the look and the step.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{LATE, Sim, World};
use crate::decide::next_step::Step;
use crate::know::names::Ordinal;
use crate::know::observed::Pod;
use crate::know::quorum::quorum;
use crate::know::record::State;
use crate::know::version::JoinAs;

/// Ends the checks if this does not hold.
macro_rules! promise {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

impl World {
    /// Checks a decision against the invariants, in the world that was looked at.
    ///
    /// # Errors
    /// The promise that it breaks.
    pub fn promised(&self, step: &Step) -> Result<(), String> {
        let pod = |ordinal: &Ordinal| self.pods.get(ordinal).ok_or_else(|| format!("{step:?}: there is no such pod"));
        let member =
            |ordinal: &Ordinal| self.members.get(ordinal).ok_or_else(|| format!("{step:?}: there is no such member"));
        match step {
            Step::Done | Step::Wait(_) | Step::Fail(_) | Step::Record(..) => {}
            Step::CreateVolume(ordinal) => promise!(!self.volumes[ordinal].exists, "it exists"),
            Step::PinVolume(ordinal, _) => promise!(!self.volumes[ordinal].pinned, "it is pinned"),
            Step::FreeVolume(ordinal) => promise!(self.volumes[ordinal].stale, "it is not stale"),
            Step::Add(ordinal, _) => {
                promise!(self.members.values().all(|m| m.started), "invariant 1: never two unstarted members");
                promise!(self.members.values().all(|m| !m.learner), "one learner at a time");
                promise!((0..*ordinal).all(|lower| self.members.contains_key(&lower)), "lowest missing ordinal first");
                promise!(self.serving.len() == self.members.len(), "invariant 5: everybody is seen healthy");
                promise!(self.volumes[ordinal].pinned, "pinned before the join");
                promise!(pod(ordinal)?.waits_in_admit, "added when nothing but etcd's own start can fail");
            }
            Step::Schedule(ordinal, uid) => {
                promise!(pod(ordinal)?.uid == *uid && pod(ordinal)?.gated, "it is scheduled");
                promise!((0..*ordinal).all(|lower| self.members.contains_key(&lower)), "lowest missing ordinal first");
            }
            Step::Permit(ordinal, uid, permission) => {
                promise!(pod(ordinal)?.uid == *uid, "another pod");
                promise!(permission.member == member(ordinal)?.id, "permitted under another ID");
                let names = self.target.initial_cluster(self.members.keys().copied());
                promise!(pod(ordinal)?.initial_cluster.as_deref() == Some(&*names), "invariant 4");
                let live: BTreeSet<_> = self.members.values().map(|member| member.id).collect();
                promise!(
                    permission.live.iter().copied().collect::<BTreeSet<_>>() == live,
                    "the live members are not these"
                );
            }
            Step::Swap(ordinal, uid) => {
                promise!(pod(ordinal)?.uid == *uid && pod(ordinal)?.joiner, "invariant 6: only joining pods");
                let recorded = self.record.as_ref().and_then(|record| record.state(*ordinal));
                promise!(recorded == Some(State::Member), "swapped before it is recorded that it has served");
            }
            Step::Settle(ordinal, uid) => promise!(pod(ordinal)?.uid == *uid, "another pod"),
            Step::Renew(ordinal, uid, _) => {
                promise!(pod(ordinal)?.uid == *uid && !self.serving.contains_key(ordinal), "invariant 6: it serves");
            }
            Step::Promote(ordinal, id) => {
                let member = member(ordinal)?;
                promise!(member.id == *id && member.learner && self.serving.contains_key(ordinal), "it does not serve");
                promise!(!pod(ordinal)?.joiner, "the ordinary pod has taken over before promotion");
                promise!(!self.behind.contains(ordinal), "it has not caught up");
            }
            Step::TakeBack(ordinal, id, _) => {
                let member = member(ordinal)?;
                promise!(
                    member.id == *id && (member.learner || !self.serving.contains_key(ordinal)),
                    "only what did not join is taken back"
                );
                let in_time = self.over.is_none() && self.joining_for.is_none_or(|since| since < LATE);
                let about_to_start =
                    |pod: &Pod| pod.permitted == Some(*id) && !pod.started && pod.trouble.is_none() && !pod.overdue;
                let waits = in_time && self.pods.get(ordinal).is_some_and(about_to_start);
                promise!(!waits, "invariant 4: it starts on the list that is changed");
            }
            Step::MoveLeader(heir, from) => {
                promise!(*heir < self.desired && self.serving.contains_key(heir), "it stays");
                promise!(self.observe().agreed()?.leader == Some(*from), "it does not lead");
            }
            Step::Remove(ordinal, id) => {
                promise!(*ordinal >= self.desired, "only who is not wanted");
                promise!(self.members.keys().next_back() == Some(ordinal), "the highest first");
                promise!(self.observe().agreed()?.leader != Some(*id), "it leads");
                let recorded = self.record.as_ref().and_then(|record| record.state(*ordinal));
                promise!(recorded == Some(State::Leaving), "said first");
                let rest = self.members.iter().filter(|(other, member)| *other != ordinal && !member.learner);
                let serving = rest.clone().filter(|(other, _)| self.serving.contains_key(other)).count();
                promise!(serving >= quorum(rest.count()), "invariant 2: the rest is no quorum");
            }
            Step::RemovePod(ordinal, uid) => {
                promise!(pod(ordinal)?.uid == *uid && *ordinal >= self.desired, "it is wanted");
                promise!(!self.members.contains_key(ordinal), "invariant 3: its member goes first");
            }
            Step::RemoveClaim(ordinal, _) => {
                promise!(!self.members.contains_key(ordinal) && !self.pods.contains_key(ordinal), "it is in use");
            }
        }
        Ok(())
    }

    /// Checks what must hold in every world, whatever happens.
    ///
    /// # Errors
    /// The promise that is broken.
    pub fn sound(&self) -> Result<(), String> {
        let recorded = |ordinal| self.record.as_ref().and_then(|record| record.state(ordinal));
        // Right after an install, all members are unstarted.
        if self.record.is_none() || self.members.keys().any(|&o| recorded(o) == Some(State::Bootstrapping)) {
            return Ok(());
        }
        let unstarted = self.members.values().filter(|member| !member.started).count();
        promise!(unstarted <= 1, "invariant 1: {unstarted} unstarted members: {self:?}");
        let voters: Vec<&Sim> = self.members.values().filter(|member| !member.learner).collect();
        let started = voters.iter().filter(|member| member.started).count();
        promise!(started >= quorum(voters.len()), "invariant 2: {started} of {} have started", voters.len());
        Ok(())
    }

    /// Invariant 10, where a run has looked and does nothing.
    ///
    /// # Errors
    /// Which pod is held.
    pub fn nobody_is_held(&self) -> Result<(), String> {
        let recorded = |ordinal| self.record.as_ref().and_then(|record| record.state(ordinal));
        for (&ordinal, pod) in &self.pods {
            let wanted = ordinal < self.desired && !pod.terminating;
            let held = wanted && pod.waits_in_admit && recorded(ordinal) == Some(State::Member);
            promise!(!held, "invariant 10: {} is held: {self:?}", self.target.pod(ordinal));
        }
        Ok(())
    }

    /// Applies a step that was decided just now.
    pub fn apply(&mut self, step: &Step) {
        if let Err(broken) = self.promised(step) {
            panic!("{step:?}: {broken}");
        }
        assert!(self.attempt(step, self.written), "{step:?} was refused");
        if let Err(broken) = self.sound() {
            panic!("{step:?}: {broken}");
        }
    }

    /// Applies a step that was decided when the StatefulSet was written `looked` times. Whether it
    /// was: Kubernetes asks for the same UID and the same version, and etcd has checks of its own.
    pub fn attempt(&mut self, step: &Step, looked: u64) -> bool {
        match step {
            Step::Done | Step::Wait(_) | Step::Fail(_) => {}
            Step::CreateVolume(ordinal) => {
                let volume = self.volumes.get_mut(ordinal).unwrap();
                (volume.exists, volume.bound) = (true, true);
            }
            Step::PinVolume(ordinal, _) => self.volumes.get_mut(ordinal).unwrap().pinned = true,
            Step::FreeVolume(ordinal) => {
                let volume = self.volumes.get_mut(ordinal).unwrap();
                (volume.stale, volume.bound) = (false, true);
            }
            Step::RemoveClaim(ordinal, uid) => return self.claims.remove(ordinal).as_ref() == Some(uid),
            Step::Record(record, _) => {
                if looked != self.written {
                    return false;
                }
                (self.record, self.copy) = (Some(record.clone()), None);
                self.written += 1;
            }
            Step::Add(ordinal, join) => return self.add(*ordinal, *join),
            Step::Promote(ordinal, id) => {
                let own_data = self.disks.get(ordinal) == Some(id);
                let in_sync = own_data && self.heard && !self.behind.contains(ordinal) && self.has_quorum();
                let Some(member) = self.members.get_mut(ordinal).filter(|m| m.id == *id && m.learner && in_sync) else {
                    return false;
                };
                member.learner = false;
                self.joining_for = None;
            }
            Step::TakeBack(ordinal, id, _) | Step::Remove(ordinal, id) => {
                return self.members.get(ordinal).is_some_and(|m| m.id == *id) && self.remove_member(*ordinal);
            }
            Step::MoveLeader(heir, _) => {
                if !self.serving.contains_key(heir) || !self.has_quorum() {
                    return false;
                }
                self.leader = Some(self.members[heir].id);
            }
            Step::Permit(ordinal, uid, _)
            | Step::Schedule(ordinal, uid)
            | Step::Settle(ordinal, uid)
            | Step::Swap(ordinal, uid)
            | Step::Renew(ordinal, uid, _)
            | Step::RemovePod(ordinal, uid) => {
                let Some(pod) = self.pods.get_mut(ordinal).filter(|pod| pod.uid == *uid) else {
                    return false;
                };
                match step {
                    Step::Permit(.., permission) => pod.permitted = Some(permission.member),
                    Step::Settle(..) => pod.unsettled = false,
                    Step::Schedule(..) => pod.gated = false,
                    _ => self.delete_pod(*ordinal),
                }
            }
        }
        true
    }

    /// etcd adds only while all voters are connected, and one learner at a time.
    fn add(&mut self, ordinal: Ordinal, join: JoinAs) -> bool {
        let connected = self.members.iter().all(|(o, member)| member.learner || self.serving.contains_key(o));
        let learner = self.members.values().any(|member| member.learner);
        if !connected || learner || self.members.contains_key(&ordinal) {
            return false;
        }
        let id = self.fresh();
        self.members.insert(ordinal, Sim { id, learner: join == JoinAs::Learner, started: false });
        self.joining_for = Some(Duration::ZERO);
        true
    }

    /// `member remove`: whether etcd does it. A learner costs nothing, a voter that is away neither;
    /// else the rest must be a quorum.
    pub fn remove_member(&mut self, ordinal: Ordinal) -> bool {
        let Some(member) = self.members.get(&ordinal).filter(|_| self.has_quorum()) else {
            return false;
        };
        let (id, voter) = (member.id, !member.learner);
        if voter {
            let voters = self.members.values().filter(|member| !member.learner);
            let started = voters.clone().filter(|other| other.started && other.id != id).count();
            let rest = voters.count() - 1;
            let up = self.voters_up();
            let enough = !up.contains(&id) || up.len() > quorum(rest);
            if rest == 0 || started < quorum(rest) || !enough {
                return false;
            }
        }
        self.members.remove(&ordinal);
        self.serving.remove(&ordinal);
        self.leader = self.leader.filter(|leader| *leader != id);
        let joins = |o, id| self.record.as_ref().and_then(|r| r.members.get(o)).is_some_and(|r| r.id == id);
        if !voter || !joins(&ordinal, id) {
            self.joining_for = None;
        }
        true
    }

    /// `etcdctl member remove`, whatever etcd says to it: its etcd ends and its pod stays.
    pub fn remove_by_hand(&mut self, ordinal: Ordinal) {
        self.members.remove(&ordinal);
        self.serving.remove(&ordinal);
        if let Some(pod) = self.pods.get_mut(&ordinal) {
            (pod.down, pod.ready) = (true, false);
        }
    }

    /// Deletes a pod; on a node that is away it stays, and nobody ends it.
    pub fn delete_pod(&mut self, ordinal: Ordinal) {
        self.serving.remove(&ordinal);
        let lost = self.lost.contains(&ordinal);
        match self.pods.get_mut(&ordinal).filter(|_| lost) {
            Some(pod) => pod.terminating = true,
            None => drop(self.pods.remove(&ordinal)),
        }
    }
}
