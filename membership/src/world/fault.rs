//! What can happen to a small world, and how it is mended.

use super::{LATE, World, trouble};
use crate::know::names::Ordinal;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The pod is deleted, and made again by the controller.
    PodDeleted(Ordinal),
    /// The pod's node is away; it stays away until it is mended.
    NodeLost(Ordinal),
    /// The pod cannot be started: its image is nowhere.
    CannotStart(Ordinal),
    /// The newcomer's etcd ends whenever it is started.
    NeverServes(Ordinal),
    /// The learner serves and does not catch up.
    NeverCatchesUp(Ordinal),
    /// A member that served stops answering, and does not come back when its pod is made again.
    StopsAnswering(Ordinal),
    /// The data directory is emptied and etcd started again.
    DiskLost(Ordinal),
    /// `etcdctl member remove`.
    RemovedByHand(Ordinal),
    /// Another member leads.
    Leads(Ordinal),
    /// The StatefulSet is deleted, its pods left alone, and made again without its record.
    MadeAgain,
    /// The run is killed; another one begins.
    RunKilled,
    /// The join's deadline passes.
    JoinIsLate,
    /// The run's deadline passes.
    RunIsLate,
}

impl World {
    /// What can happen to this world. Of the members that are alike, those in the middle, only one
    /// is taken: nothing that the planner decides tells them apart.
    #[must_use]
    pub fn faults(&self) -> Vec<Fault> {
        let last = self.members.keys().next_back().copied().unwrap_or(0);
        let mut ordinals = vec![0, last, last + 1];
        ordinals.dedup();
        let each = |fault: fn(Ordinal) -> Fault| ordinals.iter().copied().map(fault).collect::<Vec<_>>();
        let kinds: [fn(Ordinal) -> Fault; 9] = [
            Fault::PodDeleted,
            Fault::NodeLost,
            Fault::CannotStart,
            Fault::NeverServes,
            Fault::NeverCatchesUp,
            Fault::StopsAnswering,
            Fault::DiskLost,
            Fault::RemovedByHand,
            Fault::Leads,
        ];
        let rest = [Fault::MadeAgain, Fault::RunKilled, Fault::JoinIsLate, Fault::RunIsLate];
        let mut all: Vec<Fault> = kinds.into_iter().flat_map(each).chain(rest).collect();
        all.retain(|fault| self.can_happen(*fault));
        all
    }

    fn can_happen(&self, fault: Fault) -> bool {
        let pod = |ordinal| self.pods.get(&ordinal).filter(|pod| !pod.terminating);
        let member = |ordinal| self.members.get(&ordinal);
        let serves = |ordinal| self.serving.contains_key(&ordinal);
        match fault {
            Fault::PodDeleted(ordinal) => pod(ordinal).is_some(),
            Fault::NodeLost(ordinal) => pod(ordinal).is_some() && !self.lost.contains(&ordinal),
            Fault::CannotStart(ordinal) => {
                ordinal < self.desired && member(ordinal).is_none() && !self.unstartable.contains(&ordinal)
            }
            Fault::NeverServes(ordinal) => {
                let newcomer = member(ordinal).map_or(ordinal < self.desired, |member| !member.started);
                newcomer && !self.broken.contains(&ordinal)
            }
            Fault::NeverCatchesUp(ordinal) => {
                let newcomer = member(ordinal).map_or(ordinal < self.desired, |member| member.learner);
                newcomer && !self.behind.contains(&ordinal)
            }
            Fault::StopsAnswering(ordinal) => serves(ordinal),
            Fault::DiskLost(ordinal) => self.disks.contains_key(&ordinal) && pod(ordinal).is_some(),
            Fault::RemovedByHand(ordinal) => self.clone().remove_member(ordinal),
            Fault::Leads(ordinal) => {
                let leads = self.leader.is_some_and(|id| member(ordinal).is_some_and(|member| member.id == id));
                self.has_quorum() && serves(ordinal) && !leads && member(ordinal).is_some_and(|member| !member.learner)
            }
            Fault::MadeAgain => self.record.is_some(),
            Fault::RunKilled | Fault::RunIsLate => self.over.is_none(),
            Fault::JoinIsLate => self.joining_for.is_some_and(|since| since < LATE),
        }
    }

    /// It happens.
    pub fn strike(&mut self, fault: Fault) {
        let before = (self.leader, self.voters_up());
        match fault {
            Fault::PodDeleted(ordinal) => self.delete_pod(ordinal),
            Fault::NodeLost(ordinal) => {
                self.lost.push(ordinal);
                self.serving.remove(&ordinal);
            }
            Fault::CannotStart(ordinal) => {
                self.unstartable.push(ordinal);
                if let Some(pod) = self.pods.get_mut(&ordinal).filter(|pod| !pod.gated) {
                    pod.waits_in_admit = false;
                    pod.trouble = Some(trouble("container etcd-version: ImagePullBackOff", true));
                }
            }
            Fault::NeverServes(ordinal) => self.broken.push(ordinal),
            Fault::NeverCatchesUp(ordinal) => self.behind.push(ordinal),
            Fault::StopsAnswering(ordinal) => {
                self.broken.push(ordinal);
                self.serving.remove(&ordinal);
            }
            Fault::DiskLost(ordinal) => {
                self.disks.remove(&ordinal);
                self.serving.remove(&ordinal);
            }
            Fault::RemovedByHand(ordinal) => self.remove_by_hand(ordinal),
            Fault::Leads(ordinal) => self.leader = self.members.get(&ordinal).map(|member| member.id),
            Fault::MadeAgain => {
                self.copy = self.record.take();
                self.written += 1;
            }
            Fault::RunKilled => self.begin_run(),
            Fault::JoinIsLate => self.joining_for = Some(LATE),
            Fault::RunIsLate => self.wait_is_over(),
        }
        // An election may follow.
        self.heard &= before == (self.leader, self.voters_up());
    }

    fn wait_is_over(&mut self) {
        self.over = Some(crate::decide::next_step::out_of_time(&self.observe(), None));
    }

    /// Somebody changes `spec.replicas`.
    pub fn want(&mut self, count: u32) {
        self.desired = count;
        self.written += 1;
    }

    /// A person repairs what is broken: nodes are back, images and programs are right, what was on a
    /// member's disk is put back. Who was removed by hand stays removed.
    pub fn mend(&mut self) {
        self.lost.clear();
        self.broken.clear();
        self.behind.clear();
        self.unstartable.clear();
        for (&ordinal, member) in &self.members {
            if member.started {
                self.disks.insert(ordinal, member.id);
            }
        }
    }
}
