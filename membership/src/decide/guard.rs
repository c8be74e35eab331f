//! Whether a change of `spec.replicas` may start, or the sentence that refuses it.
//!
//! Pure: what was observed, and how long ago, are arguments. What was not positively seen is unknown, and unknown
//! refuses (invariant 5). Each refusal says what was asked, what was found, why that is unsafe, and the way out.

pub mod condition;
pub mod deletion;
pub mod disruption;
pub mod reset;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::decide::drift;
use crate::decide::guard::condition::{Concern, Way, concerns};
use crate::know::annotations::Override;
use crate::know::limits::Room;
use crate::know::names::Ordinal;
use crate::know::names::{CONTROLLERS, MOST_MEMBERS, OVERRIDE, STOP, Target};
use crate::know::observed::{Answer, Answered, ListedMember, agreed, ordinal_of};
use crate::know::quorum::quorum;
use crate::know::record::{ParseRecordError, Record, State};
use crate::know::start::NotUnderstood;

/// How old an observation may be. What was seen longer ago counts as unknown.
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
    /// Time since the answers came.
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
    /// What is not understood about how its etcd is started, if anything.
    pub not_understood: Option<NotUnderstood>,
    /// Whether the update changes more of the pod template than the managed environment.
    pub changes_template: bool,
    /// Whether the annotation that allows 0 replicas is there ([`crate::know::names::STOP`]).
    pub may_stop: bool,
    /// Whether the claim of a pod that is scaled away is deleted with it (`whenScaled: Delete`).
    pub deletes_claims: bool,
    /// The user as which the StatefulSet controller was last seen to work; `None`: never seen.
    pub controller: Option<&'a str>,
    /// The roll-out under way, in a sentence.
    pub rollout: Option<String>,
    /// The roll-out that the chart's or a person's own partition stops half-way (a canary), in a sentence.
    pub canary: Option<String>,
    /// Why it is not certain that `spec.updateStrategy` rolls one member at a time, in a sentence.
    pub strategy: Option<String>,
    /// The limits that the StatefulSet sets.
    pub room: Room,
    /// The sentence that members hold different keys, if the last comparison confirmed that.
    pub diverged: Option<String>,
    /// The annotation [`OVERRIDE`], if there is one.
    pub override_: Option<Result<Override, String>>,
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
        /// What would have refused it and was lifted by a person, each a sentence; it becomes an Event.
        lifted: Vec<String>,
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
    // An update that keeps the count is no scale. It may be a repair, and a sick etcd must not refuse its cure.
    if change.old == change.new {
        return change.rolls_during_a_join().unwrap_or(Decision::Admit { warnings: Vec::new(), lifted: Vec::new() });
    }
    let mut lifted = Vec::new();
    match change.obstacle(&mut lifted) {
        Some(refusal) => refusal,
        None => Decision::Admit { warnings: change.warnings(), lifted },
    }
}

impl Change<'_> {
    /// Refuses another pod template while a join or a removal is in progress (a member is recorded as joining or
    /// leaving): the roll-out would restart the other members meanwhile. A newcomer whose pod still waits is not in
    /// etcd's member list and not in the record, so its image may be corrected.
    fn rolls_during_a_join(&self) -> Option<Decision> {
        let Self { target, .. } = self;
        let Some(Ok(record)) = self.record.as_ref().filter(|_| self.changes_template) else { return None };
        let (ordinal, recorded) =
            record.members.iter().find(|(_, it)| [State::Joining, State::Leaving].contains(&it.state))?;
        let (pod, id) = (target.pod(*ordinal), recorded.id);
        let (does, way_out) = match recorded.state {
            State::Leaving => ("leaving", "it is out within seconds"),
            _ => ("joining", "it is a member, or taken back, within hook.joinDeadlineSeconds"),
        };
        Some(self.refuse(
            &format!("{pod} is {does} etcd (member {id})"),
            "A change of the pod template restarts the other members meanwhile.",
            &format!(
                "Ask again when the scale has ended: {way_out}. See kubectl -n {} get events --field-selector involvedObject.name={}.",
                target.namespace, target.statefulset
            ),
        ))
    }

    fn obstacle(&self, lifted: &mut Vec<String>) -> Option<Decision> {
        let Self { new, old, target, .. } = self;
        if *new == 0 {
            return self.stop();
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
        if let Some(not_understood) = &self.not_understood {
            let (why, way_out) = not_understood.why_and_way_out();
            return Some(self.refuse(&not_understood.found(), why, &way_out));
        }
        if *new > MOST_MEMBERS {
            return Some(self.refuse(
                &format!("the most is {MOST_MEMBERS}"),
                "Every write waits for a majority: more members make etcd slower, not safer.",
                &format!("Ask for {MOST_MEMBERS} or fewer."),
            ));
        }
        let Some(record) = record else {
            let seen = self.seen.filter(|seen| seen.age <= MAX_AGE);
            if let Some(drift) = seen.and_then(|seen| drift::unnamed(target, seen.answers)) {
                return Some(self.refuse(&drift.found, "No record can be written of it.", &drift.way_out));
            }
            return Some(self.refuse(
                "the cluster has not been verified yet (no record)",
                "A change during the bootstrap can make a second cluster.",
                &format!("Wait until {target} has the annotation etcd-scaler.io/record, which comes as soon as a quorum of its members answers, and ask again."),
            ));
        };
        let verified = record.count();
        // Members that were removed by hand are not in the list any more: no vote is lost with their pods.
        if *new < verified
            && let Some(rest) = self.left_by(record)
        {
            return self.all_healthy(&rest);
        }
        if *old == 0 {
            return Some(self.refuse(
                &format!("it is stopped with {verified} members"),
                "They come back together or not at all: fewer may be no quorum, and a newcomer needs one to join.",
                &format!("Start it first: {}. Scale then.", self.ask(verified)),
            ));
        }
        if let Some(gap) = record.gap() {
            return Some(self.refuse(
                &format!("{} has no member yet, and members above it have", target.pod(gap)),
                "Members join one at a time, the lowest missing ordinal first.",
                &format!(
                    "Ask again when it has joined; what it waits for: kubectl -n {} get events --field-selector involvedObject.name={}.",
                    target.namespace, target.statefulset
                ),
            ));
        }
        // Lower than what the scale-up under way has verified so far: it is undone, and those that have joined leave.
        // That is allowed.
        if verified != *old && !(*new < verified && verified < *old) {
            return Some(self.refuse(
                &format!("another scale is under way: {old} asked for, {verified} members verified"),
                "Members join and leave one scale at a time.",
                &format!("Wait until etcd has {old} members, or go back: {}.", self.ask(verified)),
            ));
        }
        if self.changes_template {
            return Some(self.refuse(
                "the same update changes the pod template as well",
                if new > old {
                    "The newcomer would run what no member runs yet, and members would restart while it joins."
                } else {
                    "Members would restart while others leave."
                },
                "Do one first, then the other: two upgrades.",
            ));
        }
        if let Some(rollout) = &self.rollout {
            return Some(self.refuse(
                &format!("a roll-out is under way ({rollout})"),
                if new > old {
                    "It restarts members while another joins."
                } else {
                    "It restarts members while others leave."
                },
                &format!(
                    "Wait for it (kubectl rollout status -n {} statefulset/{}) and ask again.",
                    target.namespace, target.statefulset
                ),
            ));
        }
        if let Some(canary) = &self.canary {
            return Some(self.refuse(
                &format!("a roll-out stops half-way ({canary})"),
                "While the count changes no pod may roll, so one that is made again meanwhile would go back to the older template and its image.",
                "Finish it (spec.updateStrategy.rollingUpdate.partition 0) or take it back, and ask again.",
            ));
        }
        if let Some(strategy) = &self.strategy {
            return Some(self.refuse(
                strategy,
                "A roll-out may then take more than one member at once, and what etcd-scaler holds back while the count changes may not be held back.",
                "Set spec.updateStrategy to RollingUpdate (without maxUnavailable, or with 1) or to OnDelete, and ask again.",
            ));
        }
        if let Some(diverged) = &self.diverged {
            return Some(self.refuse(
                &format!("the members did not hold the same keys when they were compared last: {diverged}"),
                "Each change of members lets another of them decide what was acknowledged.",
                &format!(
                    "Replace the member that is wrong (hook replace, docs/commands.md); or, if they were made equal otherwise, have them compared again: kubectl create job -n {} --from=cronjob/{} {}-compare.",
                    target.namespace, target.cronjob, target.statefulset
                ),
            ));
        }
        let sick = if new > old { self.all_healthy(record) } else { self.may_leave(record) };
        sick.or_else(|| self.concern(lifted))
    }

    /// Refuses for what is wrong although every member is healthy, unless a person has lifted it.
    fn concern(&self, lifted: &mut Vec<String>) -> Option<Decision> {
        let Self { target, new, old, .. } = self;
        let way = if new > old { Way::Up } else { Way::Down };
        // A scale-up may be undone whatever a rule that may be lifted says.
        let undo = way == Way::Down && matches!(&self.record, Some(Ok(record)) if record.count() < *old);
        // The members that leave are not judged.
        let mut stay = self.seen?.answers.clone();
        stay.retain(|ordinal, _| way == Way::Up || ordinal < new);
        let concerns = concerns(target, &stay, self.room, way).into_iter().filter(|it| !(undo && it.liftable));
        for Concern { found, why, way_out, liftable } in concerns {
            let wrong = match &self.override_ {
                Some(Ok(it)) if liftable && it.count == *new => {
                    lifted.push(format!("{found}; {new} members are wanted all the same: {}", it.reason));
                    continue;
                }
                Some(Ok(it)) if liftable => format!(" The annotation {OVERRIDE} is for {}.", it.count),
                Some(Err(wrong)) if liftable => format!(" And {wrong}."),
                _ => String::new(),
            };
            let all_the_same = if liftable {
                format!(
                    " To go on all the same: kubectl annotate --overwrite -n {} statefulset/{} {OVERRIDE}='{new}: why', and ask again.{wrong}",
                    target.namespace, target.statefulset
                )
            } else {
                String::new()
            };
            return Some(self.refuse(&found, why, &format!("{way_out}{all_the_same}")));
        }
        None
    }

    /// 0 replicas stop every pod and remove no member; the same members start when the count is set again. Refused
    /// unless the annotation allows it.
    fn stop(&self) -> Option<Decision> {
        let Self { target, old, .. } = self;
        let verified = match &self.record {
            Some(Ok(record)) => record.count(),
            Some(Err(_)) | None => *old,
        };
        if self.may_stop && verified == *old {
            return None;
        }
        let found = if self.may_stop {
            format!("0 members are no cluster, and another scale is under way ({verified} members verified)")
        } else {
            "0 members are no cluster".to_owned()
        };
        Some(self.refuse(
            &found,
            "Everything that needs this etcd stops with it.",
            &format!(
                "To stop it on purpose and lose nothing: kubectl annotate -n {} statefulset/{} {STOP}=true, then scale to 0; back to {verified} starts the same members again.",
                target.namespace, target.statefulset
            ),
        ))
    }

    /// The command that asks for a count, in the same way as this request came.
    fn ask(&self, count: u32) -> String {
        match self.request {
            Request::StatefulSet => format!("helm upgrade --set etcd.replicaCount={count}"),
            Request::Scale => format!(
                "kubectl scale -n {} statefulset/{} --replicas={count}",
                self.target.namespace, self.target.statefulset
            ),
        }
    }

    /// Whether the change only goes back towards the verified count.
    #[must_use]
    pub fn goes_back(&self) -> bool {
        matches!(&self.record, Some(Ok(record)) if self.goes_back_to(record.count()))
    }

    /// An undo, a rollback or `--atomic`: the count goes towards the verified one and not past it. Allowed also while
    /// members are sick. From 0 only the verified count is: a stopped cluster starts with all its members.
    fn goes_back_to(&self, verified: u32) -> bool {
        let Self { new, old, .. } = *self;
        (verified <= new && new < old) || (0 < old && old < new && new <= verified) || (old == 0 && new == verified)
    }

    /// The record without the members that were removed by hand, if the members seen just now list exactly those of the
    /// ordinals that stay.
    fn left_by(&self, record: &Record) -> Option<Record> {
        let seen = self.seen.filter(|seen| seen.age <= MAX_AGE)?;
        let list = agreed(self.target, seen.answers, Some(record)).ok()?;
        let mut rest = record.clone();
        rest.members.retain(|ordinal, _| *ordinal < self.new);
        let stay: BTreeSet<_> = rest.members.values().map(|recorded| recorded.id).collect();
        let listed: BTreeSet<_> = list.members.iter().map(|member| member.id).collect();
        (list.cluster == record.cluster && stay == listed && rest.members.len() == self.new as usize).then_some(rest)
    }

    /// Refuses if etcd was positively seen not to be what the record says.
    fn drifted(&self, record: &Record) -> Option<Decision> {
        // While a scale-up is under way, its newcomer is in the member list before it is in the record.
        if record.count() < self.old {
            return None;
        }
        let seen = self.seen.filter(|seen| seen.age <= MAX_AGE)?;
        let drift = drift::recognise(self.target, record, seen.answers)?;
        Some(self.refuse(&drift.found, "No count is safe while etcd is not what was verified.", &drift.way_out))
    }

    fn all_healthy(&self, record: &Record) -> Option<Decision> {
        if let Some(drifted) = self.drifted(record) {
            return Some(drifted);
        }
        let sick = match self.sick(record) {
            Ok(sick) => sick,
            Err(unknown) => return Some(unknown),
        };
        if sick.is_empty() {
            return None;
        }
        let (all, needs) = (record.members.len(), quorum(self.new as usize));
        Some(self.refuse(
            &format!("{} of {all} members not healthy ({})", sick.len(), sentence(&sick)),
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

    /// Refuses if the members from ordinal `new` on may not leave. Sick ones may, if every sick one is among them and
    /// those that stay are a quorum of the members before and after.
    fn may_leave(&self, record: &Record) -> Option<Decision> {
        let new = &self.new;
        if self.deletes_claims {
            return Some(self.refuse(
                "persistentVolumeClaimRetentionPolicy.whenScaled is Delete",
                "From this moment on the claim of a member that is still in etcd would go with its pod, whoever deletes that.",
                "Set it to Retain (the default) first. With pv.onScaleDown=delete etcd-scaler deletes a claim itself, after its member is gone.",
            ));
        }
        if let Some(unguarded) = self.unguarded() {
            return Some(unguarded);
        }
        if let Some(drifted) = self.drifted(record) {
            return Some(drifted);
        }
        let sick = match self.sick(record) {
            Ok(sick) => sick,
            Err(unknown) => return Some(unknown),
        };
        // A newcomer that is still joining is no voter, and is taken back first.
        let all = record.count();
        let sick: BTreeMap<_, _> = sick.into_iter().filter(|(ordinal, _)| *ordinal < all).collect();
        let (staying, needs) = (*new as usize, quorum(all as usize));
        let stay_sick = sick.range(..new).map(|(_, why)| why.as_str()).collect::<Vec<_>>();
        if !stay_sick.is_empty() {
            let healthy_go = (*new..all).filter(|ordinal| !sick.contains_key(ordinal)).count();
            return Some(self.refuse(
                &format!("{} of the {new} members that stay not healthy ({})", stay_sick.len(), stay_sick.join("; ")),
                &match healthy_go {
                    0 => "What is left would be a sick cluster.".to_owned(),
                    1 => "A healthy member would go and a sick one stay: one failure more and nothing can be written.".to_owned(),
                    _ => format!("{healthy_go} healthy members would go and sick ones stay: one failure more and nothing can be written."),
                },
                "Repair what is named and ask again. Members leave from the highest ordinal down, so a sick one can go only with all those above it.",
            ));
        }
        if !sick.is_empty() && staying < needs {
            return Some(self.refuse(
                &format!("{} of {all} members not healthy ({})", sick.len(), sentence(&sick)),
                &format!("To remove a member {needs} of {all} must agree, and {staying} healthy ones would stay."),
                &format!("Repair one of them first, or ask for {needs} or more."),
            ));
        }
        None
    }

    /// Refuses if the StatefulSet controller works as a user whose deletes the webhook is not asked about, or if that
    /// user is not known: nothing would keep the pods until their members have left.
    fn unguarded(&self) -> Option<Decision> {
        let [own, shared] = CONTROLLERS;
        let why = "The pod of a member that still votes would be deleted unasked.";
        match self.controller {
            Some(user) if CONTROLLERS.contains(&user) => None,
            Some(user) => Some(self.refuse(
                &format!("the StatefulSet controller works as {user}, and etcd-scaler holds back {own} and {shared}"),
                why,
                "Run kube-controller-manager with --use-service-account-credentials=true, and ask again.",
            )),
            None => Some(self.refuse(
                "as which user the StatefulSet controller works is not known yet",
                why,
                "It is seen when the controller next writes the StatefulSet's status, which the webhook has it do. Ask again in a few seconds; if it stays so, see the webhook's log.",
            )),
        }
    }

    /// The recorded members that are not healthy, and why, by ordinal. An error if it is not known.
    fn sick(&self, record: &Record) -> Result<BTreeMap<Ordinal, String>, Decision> {
        let unknown = "What is not known to be safe is refused.";
        let again = "Ask again in a few seconds; if it stays so, see the webhook's log.";
        let Some(seen) = self.seen else {
            return Err(self.refuse(
                "the members' health is not known yet (etcd-scaler has just started)",
                unknown,
                again,
            ));
        };
        if seen.age > MAX_AGE {
            let (age, most) = (seen.age.as_secs(), MAX_AGE.as_secs());
            return Err(self.refuse(
                &format!("the members' health was last seen {age} s ago, the limit is {most} s"),
                unknown,
                again,
            ));
        }
        let sick = record.members.iter().filter_map(|(&ordinal, recorded)| {
            let trouble = match seen.answers.get(&ordinal) {
                None => Some("was not asked yet".into()),
                Some(Err(why)) => Some(why.clone()),
                Some(Ok(answer)) if answer.member != recorded.id => {
                    Some(format!("answers as member {}, the record has {}", answer.member, recorded.id))
                }
                Some(Ok(answer)) => self.trouble(answer, record),
            };
            trouble.map(|trouble| (ordinal, format!("{}: {trouble}", self.target.pod(ordinal))))
        });
        Ok(sick.collect())
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
        // For ordinals that leave, list and record are not compared: a newcomer may be in only one of them.
        let goes = |ordinal: Ordinal| self.new < self.old && ordinal >= self.new;
        let at = |member: &ListedMember| ordinal_of(self.target, member);
        for member in list {
            let ordinal = at(member);
            // It leaves, so it does not matter whether it has started.
            if ordinal.is_some_and(goes) {
                continue;
            }
            let name = ordinal.map_or_else(|| member.id.to_string(), |ordinal| self.target.pod(ordinal));
            if !member.started() {
                return Some(format!("lists {name}, which has not started"));
            }
            if member.learner {
                return Some(format!("lists {name} as a learner"));
            }
        }
        let listed: BTreeSet<_> = list.iter().filter(|it| !at(it).is_some_and(goes)).map(|it| it.id).collect();
        let recorded = record.members.iter().filter(|(ordinal, _)| !goes(**ordinal));
        let recorded: BTreeSet<_> = recorded.map(|(_, recorded)| recorded.id).collect();
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
        let Self { new, old, .. } = *self;
        if new == 1 && old > 1 {
            return vec!["1 etcd member tolerates no failure: without it nothing can be read or written, and its disk is the only copy".into()];
        }
        let mut warnings = match self.seen.filter(|_| new > old) {
            Some(seen) => condition::warnings(self.target, seen.answers),
            None => Vec::new(),
        };
        let tolerates = |members: u32| members - quorum(members as usize) as u32;
        if new % 2 == 1 || new < 2 {
            return warnings;
        }
        let few = tolerates(new);
        let failures = if few == 1 { "failure".into() } else { "failures".to_owned() };
        warnings.push(format!(
            "{new} etcd members tolerate {few} {failures}, the same as {}; {} would tolerate {}",
            new - 1,
            new + 1,
            tolerates(new + 1)
        ));
        warnings
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

/// The reasons, joined for a sentence.
fn sentence(sick: &BTreeMap<Ordinal, String>) -> String {
    sick.values().map(String::as_str).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
