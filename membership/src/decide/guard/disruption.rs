//! Whether a member's pod may go for a while: for a roll-out, or because its node is drained.
//!
//! A quorum that serves now has to serve without it. The StatefulSet controller counts pods of its own order, and a
//! PodDisruptionBudget counts `spec.replicas`; the votes are in etcd's member list alone.

use std::collections::BTreeMap;

use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Answered, agreed, ordinal_of};
use crate::know::quorum::quorum;
use crate::know::record::{Id, Record, State};

/// What the pod goes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Going {
    /// The StatefulSet controller deletes it, to make it from another template.
    RollOut,
    /// It is asked to leave its node (`pods/eviction`).
    Eviction,
}

/// A pod, as the API server has it now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    /// The kubelet says that it is Ready.
    pub ready: bool,
    /// Being deleted: it may answer for a moment more.
    pub terminating: bool,
}

/// A pod that is to go, and everything that decides about it.
#[derive(Debug)]
pub struct Leave<'a> {
    /// The cluster.
    pub target: &'a Target,
    /// Whose pod.
    pub ordinal: Ordinal,
    /// What for.
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
    /// Decides. What is not known to be safe is refused, but for two cases in which nothing that serves goes: the
    /// member of this pod does not serve, and no quorum can serve.
    ///
    /// # Errors
    /// The sentence with which it is refused.
    pub fn decide(&self) -> Result<(), String> {
        // What waits, crashes or never was made takes no vote along.
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

    /// A quorum tells who votes. Somebody at no pod of ours counts, and is not heard.
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
            // Of one or two that are well, none can be spared and each has to be rolled.
            Going::RollOut if sick.is_empty() => Ok(()),
            // It serves nobody while its node is away, however that is asked for.
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

    /// No quorum tells. Where the pods say that there can be none, a roll-out may be what brings it back.
    fn unknown(&self, unseen: &str) -> Result<(), String> {
        let Self { target, ordinal, going, .. } = *self;
        // Not verified yet: nobody's to look after.
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

    /// Whether its vote may count now: it is heard, or its pod is Ready and nobody heard it.
    fn may_vote(&self, ordinal: Ordinal) -> bool {
        let pod = self.pods.get(&ordinal).copied().unwrap_or_default();
        !pod.terminating && (pod.ready || matches!(self.answers.get(&ordinal), Some(Ok(_))))
    }

    /// Why another voter does not serve, or is not known to.
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

/// The sentence with which a pod is kept where Kubernetes did not tell what is there.
#[must_use]
pub fn unread(pod: &str, why: &str) -> String {
    format!(
        "whether {pod} may go is not known: {why}. What is not known to be safe is refused. It is tried again by itself."
    )
}

#[cfg(test)]
mod tests;
