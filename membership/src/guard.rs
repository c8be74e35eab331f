//! Whether a change of `spec.replicas` may start, and the sentence that refuses it.
//!
//! Pure: what was observed is an argument, and how long ago. Everything that was not positively
//! seen refuses (invariant 5). Each refusal says what was asked, what was found, why that is
//! unsafe, and the way out.

pub mod deletion;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::names::Ordinal;
use crate::names::{MOST_MEMBERS, Target};
use crate::observed::{Answer, Answered, agreed};
use crate::quorum::quorum;
use crate::record::{ParseRecordError, Record};

/// How old an observation may be; older is unknown.
pub const MAX_AGE: Duration = Duration::from_secs(10);

/// Through which resource the change came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The StatefulSet itself (Helm, `kubectl edit`, `apply`, `patch`).
    StatefulSet,
    /// `statefulsets/scale` (`kubectl scale`, an autoscaler).
    Scale,
}

/// What the members said, and how long ago.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// Since the answers came.
    pub age: Duration,
    /// By ordinal.
    pub answers: &'a BTreeMap<Ordinal, Answered>,
}

/// A change of `spec.replicas`, and everything that decides about it.
#[derive(Debug)]
pub struct Change<'a> {
    /// The cluster.
    pub target: &'a Target,
    /// Through which resource.
    pub request: Request,
    /// The live count.
    pub old: u32,
    /// The count that is asked for.
    pub new: u32,
    /// `spec.ordinals.start`, live and as asked for.
    pub first_ordinal: (u32, u32),
    /// What was verified.
    pub record: Option<Result<Record, ParseRecordError>>,
    /// Whether the pod template changes by more than the managed environment.
    pub changes_template: bool,
    /// The roll-out under way, in a sentence.
    pub rollout: Option<String>,
    /// The roll-out that the chart's or a person's partition stops half-way, in a sentence.
    pub canary: Option<String>,
    /// The members' health; `None`: not asked yet.
    pub seen: Option<Seen<'a>>,
}

/// The decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may start; the warnings reach the person who asked.
    Admit {
        /// Risks, each a sentence.
        warnings: Vec<String>,
    },
    /// It may not, for this reason.
    Refuse(String),
}

/// Decides about a change.
#[must_use]
pub fn decide(change: &Change<'_>) -> Decision {
    if change.first_ordinal.1 != 0 && (change.first_ordinal.0 != change.first_ordinal.1 || change.old != change.new) {
        return change.refuse(
            &format!("spec.ordinals.start is {}", change.first_ordinal.1),
            "The members are numbered from 0.",
            "Set spec.ordinals.start to 0 or leave it out.",
        );
    }
    // An update whose count equals the live one is a repair, or has nothing to do with scaling: a
    // sick etcd must not refuse its cure.
    if change.old == change.new {
        return Decision::Admit { warnings: Vec::new() };
    }
    match change.obstacle() {
        Some(refusal) => refusal,
        None => Decision::Admit { warnings: change.warnings() },
    }
}

impl Change<'_> {
    fn obstacle(&self) -> Option<Decision> {
        let Self { new, old, target, .. } = self;
        let keep = format!("Keep the {old}: helm upgrade --set etcd.replicaCount={old}.");
        if self.request == Request::Scale {
            let way_out = format!("Scale up with helm upgrade --set etcd.replicaCount={}.", new.max(old));
            return Some(self.refuse(
                "it came through statefulsets/scale (kubectl scale or an autoscaler)",
                "Neither scaling by that way nor scale-down is built yet in this version.",
                if new > old { &way_out } else { &keep },
            ));
        }
        if *new == 0 {
            return Some(self.refuse(
                "0 members are no cluster",
                "Stopping and scale-down are not built yet in this version.",
                &keep,
            ));
        }
        let record = match &self.record {
            Some(Ok(record)) => Some(record),
            Some(Err(error)) => {
                return Some(self.refuse(
                    &error.to_string(),
                    "What was verified about the cluster is unknown.",
                    "Ask again with the etcd-scaler version that wrote it.",
                ));
            }
            None => None,
        };
        if let Some(verified) = record.map(Record::count)
            && self.goes_back_to(verified)
        {
            return None;
        }
        if *new > MOST_MEMBERS {
            return Some(self.refuse(
                &format!("the most is {MOST_MEMBERS}"),
                "Every write waits for a majority: more members make etcd slower, not safer.",
                &format!("Ask for {MOST_MEMBERS} or fewer."),
            ));
        }
        let Some(record) = record else {
            return Some(self.refuse(
                "the cluster has not been verified yet (no record)",
                "A change during the bootstrap can make a second cluster.",
                &format!("Wait until {target} has the annotation etcd-scaler.io/record, which comes as soon as a quorum of its members answers, and ask again."),
            ));
        };
        let verified = record.count();
        if *new < verified {
            // Who has left the member list already takes no vote along.
            if let Some(rest) = self.left_by(record) {
                return self.health(&rest);
            }
            return Some(self.refuse(
                &format!("{verified} members are verified"),
                "A pod that goes before its member is removed from etcd costs the quorum, and scale-down is not built yet in this version.",
                &format!("Keep the {verified}: helm upgrade --set etcd.replicaCount={verified}."),
            ));
        }
        if verified != *old {
            return Some(self.refuse(
                &format!("another scale is under way: {old} asked for, {verified} members verified"),
                "Members join one scale at a time.",
                &format!(
                    "Wait until all {old} are members, or go back: helm upgrade --set etcd.replicaCount={verified}."
                ),
            ));
        }
        if self.changes_template {
            return Some(self.refuse(
                "the same update changes the pod template as well",
                "The newcomer would run what no member runs yet, and members would restart while it joins.",
                "Do one first, then the other: two upgrades.",
            ));
        }
        if let Some(rollout) = &self.rollout {
            return Some(self.refuse(
                &format!("a roll-out is under way ({rollout})"),
                "It restarts members while another joins.",
                &format!(
                    "Wait for it (kubectl rollout status -n {} statefulset/{}) and ask again.",
                    target.namespace, target.statefulset
                ),
            ));
        }
        if let Some(canary) = &self.canary {
            return Some(self.refuse(
                &format!("a roll-out stops half-way ({canary})"),
                "While a member joins no pod may roll, so one that is made again meanwhile would go back to the older template and its image.",
                "Finish it (spec.updateStrategy.rollingUpdate.partition 0) or take it back, and ask again.",
            ));
        }
        self.health(record)
    }

    /// Undo, rollback, `--atomic`: a step towards the verified count and not past it, also while
    /// members are sick.
    fn goes_back_to(&self, verified: u32) -> bool {
        let Self { new, old, .. } = *self;
        (verified <= new && new < old) || (old < new && new <= verified)
    }

    /// What is left of the record, when the members seen just now list exactly the ordinals that
    /// stay: the others were removed with etcdctl.
    fn left_by(&self, record: &Record) -> Option<Record> {
        let seen = self.seen.filter(|seen| seen.age <= MAX_AGE)?;
        let list = agreed(self.target, seen.answers).ok()?;
        let mut rest = record.clone();
        rest.members.retain(|ordinal, _| *ordinal < self.new);
        let stay: BTreeSet<_> = rest.members.values().map(|recorded| recorded.id).collect();
        let listed: BTreeSet<_> = list.members.iter().map(|member| member.id).collect();
        (list.cluster == record.cluster && stay == listed && rest.members.len() == self.new as usize).then_some(rest)
    }

    fn health(&self, record: &Record) -> Option<Decision> {
        let unknown = "What is not known to be safe is refused.";
        let again = "Ask again in a few seconds; if it stays so, see the webhook's log.";
        let Some(seen) = self.seen else {
            return Some(self.refuse(
                "the members' health is not known yet (etcd-scaler has just started)",
                unknown,
                again,
            ));
        };
        if seen.age > MAX_AGE {
            let (age, most) = (seen.age.as_secs(), MAX_AGE.as_secs());
            return Some(self.refuse(
                &format!("the members' health was last seen {age} s ago, the limit is {most} s"),
                unknown,
                again,
            ));
        }
        let sick: Vec<String> = record
            .members
            .iter()
            .filter_map(|(&ordinal, recorded)| {
                let answered = seen.answers.get(&ordinal);
                let trouble = match answered {
                    None => Some("was not asked yet".into()),
                    Some(Err(why)) => Some(why.clone()),
                    Some(Ok(answer)) if answer.member != recorded.id => {
                        Some(format!("answers as member {}, the record has {}", answer.member, recorded.id))
                    }
                    Some(Ok(answer)) => self.trouble(answer, record),
                };
                trouble.map(|trouble| format!("{}: {trouble}", self.target.pod(ordinal)))
            })
            .collect();
        if sick.is_empty() {
            return None;
        }
        let (all, needs) = (record.members.len(), quorum(self.new as usize));
        Some(self.refuse(
            &format!("{} of {all} members not healthy ({})", sick.len(), sick.join("; ")),
            &format!(
                "{} members need {needs} for a quorum, and a newcomer does not count until it has caught up.",
                self.new
            ),
            &format!(
                "Repair what is named and ask again; updates that keep the count of {} are always admitted.",
                self.old
            ),
        ))
    }

    /// What is wrong with a member that answered.
    fn trouble(&self, answer: &Answer, record: &Record) -> Option<String> {
        if answer.cluster != record.cluster {
            return Some(format!("is in cluster {}, the record has {}", answer.cluster, record.cluster));
        }
        if !answer.errors.is_empty() {
            return Some(format!("reports {}", answer.errors.join(", ")));
        }
        if answer.leader.is_none() {
            return Some("knows no leader".into());
        }
        if answer.learner {
            return Some("is a learner, not yet a voting member".into());
        }
        let Some(list) = &answer.list else {
            return Some("did not tell its member list".into());
        };
        for member in list {
            let name = member.peer_urls.first().and_then(|url| self.target.ordinal_of_peer_url(url));
            let name = name.map_or_else(|| member.id.to_string(), |ordinal| self.target.pod(ordinal));
            if !member.started() {
                return Some(format!("lists {name}, which has not started"));
            }
            if member.learner {
                return Some(format!("lists {name} as a learner"));
            }
        }
        let listed: BTreeSet<_> = list.iter().map(|member| member.id).collect();
        let recorded: BTreeSet<_> = record.members.values().map(|recorded| recorded.id).collect();
        if listed == recorded {
            return None;
        }
        let ids = |ids: Vec<String>| ids.join(" ");
        let extra = ids(listed.difference(&recorded).map(ToString::to_string).collect());
        let missing = ids(recorded.difference(&listed).map(ToString::to_string).collect());
        Some(match (extra.is_empty(), missing.is_empty()) {
            (false, true) => format!("lists members that are not in the record: {extra}"),
            (true, _) => format!("does not list members of the record: {missing}"),
            (false, false) => format!("lists {extra} where the record has {missing}"),
        })
    }

    fn warnings(&self) -> Vec<String> {
        let new = self.new;
        let tolerates = |members: u32| members - quorum(members as usize) as u32;
        if new % 2 == 1 || new < 2 {
            return Vec::new();
        }
        let few = tolerates(new);
        let failures = if few == 1 { "failure".into() } else { "failures".to_owned() };
        vec![format!(
            "{new} etcd members tolerate {few} {failures}, the same as {}; {} would tolerate {}",
            new - 1,
            new + 1,
            tolerates(new + 1)
        )]
    }

    fn refuse(&self, found: &str, why: &str, way_out: &str) -> Decision {
        let Self { target, old, new, .. } = self;
        let asked = if old == new {
            format!("this change of {target}")
        } else {
            format!("scaling {target} from {old} to {new}")
        };
        Decision::Refuse(format!("{asked} is refused: {found}. {why} {way_out}"))
    }
}

#[cfg(test)]
mod tests;
