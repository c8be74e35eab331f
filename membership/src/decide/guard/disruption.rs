//! Whether a member's pod may go for a while: for a roll-out, or because its node is drained.
//!
//! It may if a quorum that serves now also serves without it. Only etcd's member list tells who votes: the StatefulSet
//! controller takes its pods in their order and does not ask who else is down, and a PodDisruptionBudget with
//! `maxUnavailable` counts against `spec.replicas`.

use std::collections::BTreeMap;

use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Answered, agreed, ordinal_of};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};

/// Why the pod is to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// The StatefulSet controller deletes it, to make it again from another template.
    RollOut,
    /// It is asked to leave its node (`pods/eviction`).
    Eviction,
}

/// A pod, as the API server has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    /// The kubelet says that it is Ready.
    pub ready: bool,
    /// It is being deleted, and may answer for a moment longer.
    pub terminating: bool,
}

/// A pod that is to go, and everything that decides about it.
#[derive(Debug)]
pub struct Leave<'a> {
    /// The cluster.
    pub target: &'a Target,
    /// The ordinal of the pod.
    pub ordinal: Ordinal,
    /// Why it is to go.
    pub going: Going,
    /// `spec.replicas`.
    pub wanted: u32,
    /// What was verified.
    pub record: Option<&'a Record>,
    /// What the members say just now.
    pub answers: &'a BTreeMap<Ordinal, Answered>,
    /// The pods that are there just now.
    pub pods: &'a BTreeMap<Ordinal, Pod>,
}

impl Leave<'_> {
    /// Decides. What is not known to be safe is refused, except in two cases in which nothing that serves is lost: the
    /// member of this pod does not serve, or no quorum can serve (then a roll-out may be the cure).
    ///
    /// # Errors
    /// The sentence with which it is refused.
    pub fn decide(&self) -> Result<(), String> {
        // A pod that waits, crashes or does not exist takes no vote with it.
        if !self.may_vote(self.ordinal) {
            return Ok(());
        }
        match agreed(self.target, self.answers, self.record) {
            Ok(list) => {
                let voters = list.members.iter().filter(|member| !member.learner);
                self.keeps_quorum(&voters.map(|it| (ordinal_of(self.target, it), it.id)).collect::<Vec<_>>())
            }
            Err(unseen) => self.unknown(&unseen),
        }
    }

    /// The decision where a quorum agrees on the voters. A voter at none of our pods counts as one that does not serve.
    fn keeps_quorum(&self, voters: &[(Option<Ordinal>, Id)]) -> Result<(), String> {
        let Self { target, ordinal, going, .. } = *self;
        let is_this = |voter: &&(Option<Ordinal>, Id)| voter.0 == Some(ordinal);
        if !voters.iter().any(|voter| is_this(&voter)) {
            return Ok(());
        }
        let others = voters.iter().filter(|voter| !is_this(voter));
        let sick: Vec<(Option<Ordinal>, String)> =
            others.filter_map(|&(other, id)| Some((other, self.sick(other, id)?))).collect();
        let (all, needed) = (voters.len(), quorum(voters.len()));
        let left = all - 1 - sick.len();
        if left >= needed {
            return Ok(());
        }
        match going {
            // One or two healthy members: none can be spared, and each has to be rolled.
            Going::RollOut if sick.is_empty() => Ok(()),
            // The only member: nothing is served while its node is drained, whatever is decided here.
            Going::Eviction if all == 1 => Ok(()),
            Going::Eviction if sick.is_empty() => Err(self.refuse(
                &format!("etcd has {all} voting members and needs each of them"),
                "Nothing can be read or written while one is away.",
                &format!("Scale to 3 members first: {}.", self.scale("3")),
            )),
            _ => {
                let (pod, whom) = (target.pod(ordinal), sick.iter().find_map(|(other, _)| *other));
                let sick = sick.into_iter().map(|(_, how)| how).collect::<Vec<_>>().join(", ");
                Err(self.refuse(
                    &format!(
                        "{sick}; without {pod} {left} of {all} voting members would serve, and {needed} are needed"
                    ),
                    "Nothing could be read or written until one of them is back.",
                    &self.way_out(all, whom),
                ))
            }
        }
    }

    /// The decision where no quorum answers. If the pods show that there can be none, a roll-out is let through: it may
    /// bring the quorum back.
    fn unknown(&self, unseen: &str) -> Result<(), String> {
        let Self { target, ordinal, going, .. } = *self;
        // No record: the cluster is not verified yet, and its chart alone looks after it.
        let Some(record) = self.record else { return Ok(()) };
        let voters = record.members.iter().filter(|(_, recorded)| recorded.state != State::Joining);
        let voters: Vec<Ordinal> = voters.map(|(&ordinal, _)| ordinal).collect();
        let may_vote = voters.iter().filter(|&&ordinal| self.may_vote(ordinal)).count();
        let none_can = may_vote < quorum(voters.len());
        if !voters.contains(&ordinal) || (none_can && going == Going::RollOut) {
            return Ok(());
        }
        let others = voters.iter().filter(|&&other| other != ordinal && !self.may_vote(other));
        let others: Vec<Ordinal> = others.copied().collect();
        if none_can {
            let down: Vec<String> = others.iter().map(|&other| target.pod(other)).collect();
            return Err(self.refuse(
                &format!("etcd has no quorum, because of {}", down.join(", ")),
                "Each member that runs is needed to have one again.",
                &self.way_out(voters.len(), others.first().copied()),
            ));
        }
        Err(self.refuse(
            &format!("whether a quorum would serve without it is not known ({unseen})"),
            "What is not known to be safe is refused.",
            &format!(
                "It is tried again by itself; if it stays so, see why the webhook does not hear members whose pods are Ready (kubectl logs -n {} -l app.kubernetes.io/component=webhook).",
                target.namespace
            ),
        ))
    }

    /// Whether its vote may count now: the member answers, or its pod is Ready although it does not answer here.
    fn may_vote(&self, ordinal: Ordinal) -> bool {
        let pod = self.pods.get(&ordinal).copied().unwrap_or_default();
        !pod.terminating && (pod.ready || matches!(self.answers.get(&ordinal), Some(Ok(_))))
    }

    /// Why another voter does not serve, or is not known to serve; `None`: it serves.
    fn sick(&self, ordinal: Option<Ordinal>, id: Id) -> Option<String> {
        let Some(ordinal) = ordinal else { return Some(format!("member {id} is at none of its pods")) };
        let pod = self.target.pod(ordinal);
        if self.pods.get(&ordinal).is_some_and(|pod| pod.terminating) {
            return Some(format!("{pod} is being deleted"));
        }
        match self.answers.get(&ordinal) {
            Some(Ok(answer)) if answer.member == id && answer.leader.is_some() => None,
            Some(Ok(answer)) if answer.member == id => Some(format!("{pod} knows no leader")),
            Some(Ok(answer)) => Some(format!("{pod} answers as member {}, etcd lists {id}", answer.member)),
            Some(Err(why)) => Some(format!("{pod} does not answer ({why})")),
            None => Some(format!("{pod} was not asked")),
        }
    }

    fn way_out(&self, voters: usize, sick: Option<Ordinal>) -> String {
        let Self { target, going, wanted, .. } = *self;
        let namespace = &target.namespace;
        let fewer = usize::try_from(wanted).is_ok_and(|wanted| wanted < voters);
        match going {
            Going::RollOut => {
                let cure = sick.map_or_else(String::new, |sick| {
                    format!(
                        " If the new template is its cure, delete the pod, which is made again from it: kubectl delete pod -n {namespace} {}.",
                        target.pod(sick)
                    )
                });
                format!("Repair what is named, and the roll-out goes on by itself.{cure} Or take the change back.")
            }
            Going::Eviction if fewer => format!(
                "{wanted} replicas are wanted and {voters} members vote: the etcd-scaler Job takes the others out first (kubectl get jobs -n {namespace}). If it cannot, go back to {voters}: {}.",
                self.scale(&voters.to_string())
            ),
            Going::Eviction => "Repair what is named first; kubectl drain tries again by itself until then.".to_owned(),
        }
    }

    fn scale(&self, count: &str) -> String {
        let Target { namespace, statefulset, .. } = self.target;
        format!("kubectl scale -n {namespace} statefulset/{statefulset} --replicas={count}")
    }

    fn refuse(&self, found: &str, why: &str, way_out: &str) -> String {
        let Self { target, ordinal, going, .. } = *self;
        let pod = target.pod(ordinal);
        match going {
            Going::RollOut => {
                format!("deleting {pod} for the roll-out of {target} is refused: {found}. {why} {way_out}")
            }
            Going::Eviction => format!("evicting {pod} is refused for now: {found}. {why} {way_out}"),
        }
    }
}

/// The sentence that keeps a pod because the API server did not answer.
#[must_use]
pub fn unread(pod: &str, why: &str) -> String {
    format!(
        "whether {pod} may go is not known: {why}. What is not known to be safe is refused. It is tried again by itself."
    )
}

#[cfg(test)]
mod tests;
