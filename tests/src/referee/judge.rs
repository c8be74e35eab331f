//! The judgement: each invariant of docs/how-it-works.md, asked of what happened. Pure.
//!
//! Order among membership changes is that of the members' own logs; no clock takes part. Between a
//! membership change and a write to the API server it is that of their times, see [`TOLERANCE`].
//! Invariants 5 (unknown refuses) and 7 (killed anywhere, it ends the same) are the scenarios' own
//! to show: see [`unchanged`].

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use membership::know::quorum::quorum;
use membership::know::record::Id;
use serde_json::Value;

use super::history::{
    ADMIT, ALL_CONTROLLERS, CONTROLLER, Entry, History, Log, Member, MemberList, Micros, PERMISSION, RECORD, Request,
    STOP, Start, What,
};
use crate::journal::{Answer, Call, SERVICE};

/// Between the time of a membership change and that of a request. Both are noted on one clock: the
/// change by etcd when it has applied it and before it answers, to the millisecond or better; the
/// request when it arrives. So what follows a change is never noted before it, but for the
/// rounding; this much is left for a busy machine, and what is closer counts as either order.
pub const TOLERANCE: Micros = 20_000;
/// How long a record may be written before every part of the API server knows it.
const RECORD_IS_KNOWN: Micros = 200_000;

/// What must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// 1.
    NeverTwoUnstarted,
    /// 2.
    QuorumOfStarted,
    /// 3.
    RemovedBeforeItsPod,
    /// 4.
    StartsOnTheLiveList,
    /// 6.
    RestartsNobody,
    /// 8.
    DryRunChangesNothing,
    /// 9.
    OnlyMembershipCalls,
    /// 10.
    ServedIsNeverHeld,
    /// 11.
    OneCluster,
    /// What was acknowledged is there, on every member.
    NothingIsLost,
    /// No member, and no reader, goes back in time.
    RevisionsGoForward,
}

/// A rule that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which.
    pub rule: Rule,
    /// When, if that can be told.
    pub at: Option<Micros>,
    /// What happened.
    pub what: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverTwoUnstarted => "1: never two unstarted members",
            Self::QuorumOfStarted => "2: no step leaves fewer started voters than quorum of the result",
            Self::RemovedBeforeItsPod => {
                "3: no pod of a member is deleted by a scale-down before its member is removed"
            }
            Self::StartsOnTheLiveList => {
                "4: a joining pod starts etcd only when the live member list equals its initial cluster"
            }
            Self::RestartsNobody => "6: a scale restarts no existing pod",
            Self::DryRunChangesNothing => "8: a dry run changes nothing",
            Self::OnlyMembershipCalls => "9: nothing but membership calls is ever written to etcd",
            Self::ServedIsNeverHeld => "10: a pod whose member has ever served is never held",
            Self::OneCluster => "11: never a second cluster ID behind the Service",
            Self::NothingIsLost => "an acknowledged write is on every member",
            Self::RevisionsGoForward => "no revision goes backwards",
        })
    }
}

/// Judges.
#[must_use]
pub fn judge(history: &History) -> Vec<Violation> {
    let court = Court::of(history);
    [
        court.never_two_unstarted(),
        court.quorum_of_started(),
        court.removed_before_its_pod(),
        court.starts_on_the_live_list(),
        court.restarts_nobody(),
        court.dry_run_changes_nothing(),
        court.only_membership_calls(),
        court.served_is_never_held(),
        court.one_cluster(),
        nothing_is_lost(history),
        revisions_go_forward(&history.answers),
    ]
    .concat()
}

/// For invariants 5 and 7: that nothing of what was looked at is another one now.
///
/// # Errors
/// What was and what is.
pub fn unchanged<T: PartialEq + fmt::Debug>(what: &str, before: &T, after: &T) -> anyhow::Result<()> {
    anyhow::ensure!(before == after, "{what} changed from\n{before:?}\nto\n{after:?}");
    Ok(())
}

/// The history, and what follows from it.
struct Court<'a> {
    history: &'a History,
    clusters: Vec<Cluster<'a>>,
}

/// A cluster's membership, step by step.
struct Cluster<'a> {
    id: Id,
    /// When it is first heard of.
    since: Micros,
    /// Each change of the list, and the list then.
    steps: Vec<(&'a Entry, MemberList)>,
}

impl<'a> Cluster<'a> {
    fn of(id: Id, log: &'a [Entry]) -> Self {
        let (mut list, mut steps) = (MemberList::nobody(), Vec::new());
        for entry in log {
            if list.apply(&entry.what) {
                steps.push((entry, list.clone()));
            }
        }
        Self { id, since: log.iter().filter_map(|entry| entry.at).min().unwrap_or(Micros::MIN), steps }
    }

    /// The lists that may have been in force at a time: those before and after each change that is
    /// too close to tell, or has no time.
    fn lists(&self, at: Micros) -> impl Iterator<Item = &MemberList> {
        static NOBODY: MemberList = MemberList::nobody();
        let surely_before = |step: &(&Entry, MemberList)| step.0.at.is_some_and(|its| its < at - TOLERANCE);
        let surely_after = |step: &(&Entry, MemberList)| step.0.at.is_some_and(|its| its > at + TOLERANCE);
        let from = self.steps.iter().rposition(surely_before).map_or(0, |last| last + 1);
        let to = self.steps.iter().skip(from).position(surely_after).map_or(self.steps.len(), |first| from + first);
        let before = from.checked_sub(1).and_then(|last| self.steps.get(last)).map_or(&NOBODY, |(_, list)| list);
        std::iter::once(before).chain(self.steps[from..to].iter().map(|(_, list)| list))
    }
}

impl<'a> Court<'a> {
    fn of(history: &'a History) -> Self {
        let mut clusters: Vec<_> = history.logs.iter().map(|log| Cluster::of(log.cluster, &log.entries)).collect();
        clusters.sort_by_key(|cluster| cluster.since);
        Self { history, clusters }
    }

    /// The lists that may have been in force, of the cluster that was the last to begin; none while nobody lives.
    fn lists(&self, at: Micros) -> Vec<&MemberList> {
        if self.nobody_lives(at) {
            return Vec::new();
        }
        let cluster = self.clusters.iter().rev().find(|cluster| cluster.since <= at + TOLERANCE);
        cluster.map(|cluster| cluster.lists(at).collect()).unwrap_or_default()
    }

    /// Whether the StatefulSet that was there before has gone with its pods, and in no pod since then etcd has started:
    /// whatever was a member is none that could be restarted or held.
    fn nobody_lives(&self, at: Micros) -> bool {
        let name = &self.history.names.statefulset;
        let uninstalls = self.history.requests.iter().filter(|it| it.uninstalls() && it.name == *name);
        let Some(gone) = uninstalls.map(|it| it.done).filter(|done| *done <= at).max() else { return false };
        let sets = self.history.requests.iter().filter(|it| it.sets() && it.verb != "delete" && it.name == *name);
        // With another UID: its pods are others, whatever they are called.
        let made: BTreeSet<&str> = sets.filter(|it| it.received >= gone).map(Request::uid).collect();
        let pods = self.history.requests.iter().filter(|it| it.of_pod("create") && it.took_effect());
        let its: BTreeSet<&str> = pods.filter(|it| made.contains(it.owner())).map(Request::uid).collect();
        let started = |start: &Start| start.at <= at + TOLERANCE && its.contains(start.uid.as_str());
        !self.history.starts.iter().any(started)
    }

    /// An ordinal's member.
    fn member<'l>(&self, list: &'l MemberList, ordinal: u64) -> Option<(Id, &'l Member)> {
        let its = |url: &String| self.history.names.ordinal(url) == Some(ordinal);
        list.members.iter().find(|(_, member)| member.urls.iter().any(its)).map(|(&id, member)| (id, member))
    }

    fn ordinal(&self, request: &Request) -> Option<u64> {
        self.history.names.ordinal(&request.name)
    }

    /// Whether it is the StatefulSet controller's doing, or that of a program of ours.
    fn is_automatic(&self, request: &Request) -> bool {
        // The garbage collector deletes an object of a UID.
        let one_of_all = request.user == ALL_CONTROLLERS && request.sent["preconditions"]["uid"].is_null();
        request.user == CONTROLLER || one_of_all || self.history.names.ours(&request.user)
    }

    /// The StatefulSet's writes that were answered before a time, the last one first.
    fn sets_before(&self, at: Micros) -> impl Iterator<Item = &'a Request> {
        let name = &self.history.names.statefulset;
        self.history.requests.iter().rev().filter(move |it| it.sets() && it.name == *name && it.done <= at)
    }

    /// How many replicas were wanted then.
    fn replicas(&self, at: Micros) -> Option<u64> {
        let last = self.sets_before(at).next()?;
        if last.verb == "delete" { None } else { last.replicas() }
    }

    /// The StatefulSet as it was then, scales aside.
    fn set(&self, at: Micros) -> Option<&'a Value> {
        let last = self.sets_before(at).find(|it| it.resource == "statefulsets")?;
        (last.verb != "delete").then_some(&last.object)
    }

    /// The record as it was then.
    fn record(&self, at: Micros) -> Option<Value> {
        let record = self.set(at)?["metadata"]["annotations"][RECORD].as_str()?;
        serde_json::from_str(record).ok()
    }

    /// First deletions of the target's pods by programs, of pods that had not ended by themselves.
    fn deletions(&self) -> impl Iterator<Item = (&'a Request, u64)> {
        let mut seen = BTreeSet::new();
        let deletions = self.history.requests.iter().filter(|it| it.of_pod("delete") && it.took_effect());
        // Whoever was first: a pod that terminates may be deleted again.
        let first = deletions.filter(move |it| it.uid().is_empty() || seen.insert(it.uid()));
        first.filter_map(|it| {
            let ended = matches!(it.object["status"]["phase"].as_str(), Some("Failed" | "Succeeded"));
            (self.is_automatic(it) && !ended && !self.is_evicted(it)).then_some(it).zip(self.ordinal(it))
        })
    }

    /// Whether the pod that is deleted had been evicted by a person: it terminates, and is deleted again.
    fn is_evicted(&self, deletion: &Request) -> bool {
        let made =
            deletion.object["metadata"]["creationTimestamp"].as_str().and_then(|at| at.parse::<Timestamp>().ok());
        let made = made.map_or(Micros::MIN, Timestamp::as_microsecond);
        let evictions = self.history.requests.iter().filter(|it| it.resource == "pods/eviction" && it.took_effect());
        let of_it = |it: &&Request| it.name == deletion.name && (made..=deletion.received).contains(&it.received);
        evictions.filter(of_it).any(|it| !self.is_automatic(it))
    }

    fn never_two_unstarted(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (entry, list) in self.clusters.iter().flat_map(|cluster| &cluster.steps) {
            // Those of the first list are made all at once, by nobody's step.
            let unstarted = list.members.iter().filter(|(_, member)| !member.started && !member.first);
            let unstarted: Vec<String> = unstarted.map(|(id, member)| format!("{id} {:?}", member.urls)).collect();
            if unstarted.len() > 1 && matches!(entry.what, What::Add { .. }) {
                let what = format!("after #{} ({}) unstarted are {}", entry.index, entry.what, unstarted.join(", "));
                found.push(Violation { rule: Rule::NeverTwoUnstarted, at: entry.at, what });
            }
        }
        found
    }

    fn quorum_of_started(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (entry, list) in self.clusters.iter().flat_map(|cluster| &cluster.steps) {
            if matches!(entry.what, What::Publish(_) | What::Add { first: true, .. }) {
                continue;
            }
            let voters = list.members.values().filter(|member| !member.learner);
            let (voters, started) = voters.fold((0, 0), |(all, up), it| (all + 1, up + usize::from(it.started)));
            if started < quorum(voters) {
                let what = format!(
                    "after #{} ({}) {started} of {voters} voters were ever started, quorum is {}",
                    entry.index,
                    entry.what,
                    quorum(voters)
                );
                found.push(Violation { rule: Rule::QuorumOfStarted, at: entry.at, what });
            }
        }
        found
    }

    fn removed_before_its_pod(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (request, ordinal) in self.deletions() {
            let at = request.received;
            let stopped = self.set(at).is_some_and(|set| set["metadata"]["annotations"][STOP].is_string());
            let Some(replicas) = self.replicas(at).filter(|&replicas| ordinal >= replicas && !stopped) else {
                continue;
            };
            // It takes effect after its admission, which asks etcd: from when it is sent until it is
            // answered the member may come and go.
            let lists = [self.lists(at), self.lists(request.done)].concat();
            if !lists.is_empty() && lists.iter().all(|list| self.member(list, ordinal).is_some()) {
                let what = format!("{request}: {replicas} replicas, and the member is in etcd");
                found.push(Violation { rule: Rule::RemovedBeforeItsPod, at: Some(at), what });
            }
        }
        found
    }

    fn starts_on_the_live_list(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let of_pods = |verb| self.history.requests.iter().filter(move |it| it.of_pod(verb) && it.took_effect());
        for start in self.history.starts.iter().filter(|start| start.restarts == 0) {
            let made = of_pods("create").find(|it| it.uid() == start.uid && it.is_joiner());
            let Some((made, ordinal)) = made.and_then(|made| Some((made, self.history.names.ordinal(&start.pod)?)))
            else {
                continue;
            };
            let mut broken = |what| found.push(Violation { rule: Rule::StartsOnTheLiveList, at: Some(start.at), what });
            let lists = self.lists(start.at);
            if lists.is_empty() || lists.iter().any(|list| self.has_data(list, ordinal, start)) {
                continue;
            }
            let permitted = of_pods("patch").any(|it| {
                it.sent["metadata"]["annotations"][PERMISSION].is_string()
                    && it.uid() == start.uid
                    && it.received <= start.at + TOLERANCE
            });
            if !permitted {
                broken(format!("joining pod {} (uid {}) starts etcd without a permission", start.pod, start.uid));
            }
            let initial = initial_cluster(&made.object);
            if !lists.iter().any(|list| list.urls() == initial) {
                let live: Vec<_> = lists.iter().map(|list| list.urls()).collect();
                broken(format!("{} starts with the initial cluster {initial:?}, live is {live:?}", start.pod));
            }
        }
        found
    }

    /// Whether this ordinal's member surely has data of its own: it has served, or an earlier pod
    /// started under the same ID. Then etcd does not look at its initial cluster, and a joining pod
    /// needs no permission.
    fn has_data(&self, list: &MemberList, ordinal: u64, start: &Start) -> bool {
        let Some((id, member)) = self.member(list, ordinal) else { return false };
        let earlier = self.history.starts.iter().filter(|it| it.pod == start.pod && it.at < start.at);
        let same = |it: &Start| {
            let lists = self.lists(it.at);
            !lists.is_empty() && lists.iter().all(|list| self.member(list, ordinal).is_some_and(|(its, _)| its == id))
        };
        member.started || earlier.into_iter().any(same)
    }

    fn restarts_nobody(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for (request, ordinal) in self.deletions() {
            let at = request.received;
            let (Some(replicas), Some(set)) = (self.replicas(at), self.set(at)) else { continue };
            let lists = self.lists(at);
            let is_member = !lists.is_empty() && lists.iter().all(|list| self.member(list, ordinal).is_some());
            // A joining pod is a throw-away; what no longer fits its template rolls for another reason.
            if ordinal < replicas
                && is_member
                && !request.is_joiner()
                && fits(&request.object, &set["spec"]["template"])
            {
                let what = format!("{request}: it is a member's pod and as its template has it");
                found.push(Violation { rule: Rule::RestartsNobody, at: Some(at), what });
            }
        }
        found
    }

    fn dry_run_changes_nothing(&self) -> Vec<Violation> {
        let requests = &self.history.requests;
        let name = &self.history.names.statefulset;
        let mut found = Vec::new();
        for (place, dry) in requests.iter().enumerate() {
            let is_dry = dry.dry_run && dry.succeeded() && dry.resource.starts_with("statefulsets");
            let (Some(tried), Some(live)) = (dry.replicas(), self.replicas(dry.received)) else {
                continue;
            };
            if !is_dry || dry.name != *name || tried == live {
                continue;
            }
            let wanted = |it: &&Request| it.sets() && it.name == *name && sends_replicas(it);
            // Until somebody wants another count in earnest.
            let end = requests[place..].iter().find(wanted).map_or(Micros::MAX, |it| it.received);
            for later in requests[place + 1..].iter().filter(|it| it.received < end && it.took_effect()) {
                let stored = later.sets() && later.name == *name && later.replicas() == Some(tried);
                let a_job = later.resource == "jobs"
                    && later.verb == "create"
                    && self.history.names.ours(&later.user)
                    && self.is_as_recorded(later.received);
                let a_pod = later.of_pod("create") && self.ordinal(later).is_some_and(|ordinal| ordinal >= live);
                if stored || a_job || a_pod {
                    let what = format!("{later} follows from a dry run only ({dry})");
                    found.push(Violation { rule: Rule::DryRunChangesNothing, at: Some(later.received), what });
                }
            }
            let steps = self.clusters.iter().flat_map(|cluster| &cluster.steps);
            for (entry, _) in steps {
                let What::Add { urls, first: false, .. } = &entry.what else { continue };
                let beyond = urls.iter().any(|url| self.history.names.ordinal(url).is_some_and(|it| it >= live));
                if beyond && entry.at.is_some_and(|at| at > dry.done + TOLERANCE && at < end - TOLERANCE) {
                    let what = format!("#{} ({}) follows from a dry run only ({dry})", entry.index, entry.what);
                    found.push(Violation { rule: Rule::DryRunChangesNothing, at: entry.at, what });
                }
            }
        }
        found
    }

    /// Whether there was nothing to do: as many members are recorded as wanted, all of them verified.
    fn is_as_recorded(&self, at: Micros) -> bool {
        let (Some(record), Some(replicas)) = (self.record(at), self.replicas(at)) else { return false };
        let Some(members) = record["members"].as_object() else { return false };
        members.len() as u64 == replicas && members.values().all(|it| it["state"] == "member")
    }

    fn only_membership_calls(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        for Log { cluster, entries, .. } in &self.history.logs {
            for entry in entries.iter().filter(|entry| matches!(entry.what, What::Foreign(..))) {
                let what = format!(
                    "#{} of cluster {cluster} is neither etcd's own nor the load's: {}",
                    entry.index, entry.what
                );
                found.push(Violation { rule: Rule::OnlyMembershipCalls, at: entry.at, what });
            }
        }
        found
    }

    fn served_is_never_held(&self) -> Vec<Violation> {
        let mut found = Vec::new();
        let created = self.history.requests.iter().filter(|it| it.of_pod("create") && !it.dry_run);
        for request in created {
            let Some(ordinal) = self.ordinal(request) else { continue };
            let denied = request.code == 403 && request.message.contains("etcd-scaler");
            let held = denied || (request.succeeded() && holds(&request.object, &self.history.names.image));
            if held && self.has_served(ordinal, request.received) {
                let how = if denied { "is denied" } else { "waits for our image" };
                let what = format!("{request}: the pod of a member that has served {how}");
                found.push(Violation { rule: Rule::ServedIsNeverHeld, at: Some(request.received), what });
            }
        }
        found
    }

    /// Whether an ordinal's member had surely served: it votes and was started, or was recorded.
    fn has_served(&self, ordinal: u64, at: Micros) -> bool {
        let recorded = |at| {
            let record = self.record(at)?;
            let its = &record["members"][ordinal.to_string()];
            let served = ["member", "bootstrapping", "leaving"].iter().any(|state| its["state"] == *state);
            its["id"].as_str().filter(|_| served)?.parse::<Id>().ok()
        };
        // As it is now, and was before: not written or taken back only just.
        let (now, before) = (recorded(at), recorded(at - RECORD_IS_KNOWN));
        let recorded = now.filter(|_| now == before);
        let lists = self.lists(at);
        let served = |list: &&MemberList| {
            self.member(list, ordinal).is_some_and(|(id, it)| recorded == Some(id) || (it.started && !it.learner))
        };
        !lists.is_empty() && lists.iter().all(served)
    }

    fn one_cluster(&self) -> Vec<Violation> {
        // Each cluster that served, when it was first and last heard of.
        let mut heard: BTreeMap<Id, (Micros, Micros)> = BTreeMap::new();
        let answers = self.history.answers.iter().filter(|answer| answer.via == SERVICE);
        let answers = answers.map(|answer| (answer.cluster, answer.got));
        let logs = self.clusters.iter().flat_map(|cluster| {
            let runs = cluster.steps.iter().filter(|(entry, _)| matches!(entry.what, What::Publish(_)));
            runs.filter_map(|(entry, _)| Some((cluster.id, entry.at?)))
        });
        for (cluster, at) in answers.chain(logs) {
            let (first, last) = heard.entry(cluster).or_insert((at, at));
            (*first, *last) = ((*first).min(at), (*last).max(at));
        }
        let mut heard: Vec<(Id, (Micros, Micros))> = heard.into_iter().collect();
        heard.sort_by_key(|&(_, (first, _))| first);
        let mut found = Vec::new();
        for pair in heard.windows(2) {
            let [(old, (_, last)), (new, (first, _))] = *pair else { continue };
            // Uninstalled and installed anew, over nothing: another cluster is what is wanted.
            let anew = self
                .history
                .requests
                .iter()
                .any(|it| it.uninstalls() && it.received > last - TOLERANCE && it.received < first + TOLERANCE);
            if !anew {
                let what = format!("cluster {new} serves beside cluster {old}");
                found.push(Violation { rule: Rule::OneCluster, at: Some(first), what });
            }
        }
        found
    }
}

fn sends_replicas(request: &Request) -> bool {
    request.verb == "delete"
        || request.resource == "statefulsets/scale"
        || match &request.sent {
            // A JSON patch.
            Value::Array(operations) => {
                operations.iter().any(|it| it["path"].as_str().is_some_and(|path| path.starts_with("/spec")))
            }
            sent => !sent["spec"]["replicas"].is_null(),
        }
}

/// The peer URLs that a pod's etcd is given.
fn initial_cluster(pod: &Value) -> BTreeSet<&str> {
    let env = container(pod, "etcd").and_then(|etcd| etcd["env"].as_array()).into_iter().flatten();
    let value = env.filter(|it| it["name"] == "ETCD_INITIAL_CLUSTER").filter_map(|it| it["value"].as_str()).next_back();
    value
        .into_iter()
        .flat_map(|value| value.split(','))
        .filter_map(|peer| peer.split_once('='))
        .map(|it| it.1)
        .collect()
}

fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    pod["spec"]["containers"].as_array()?.iter().find(|container| container["name"] == name)
}

/// Whether a pod waits for us or for our image.
fn holds(pod: &Value, image: &str) -> bool {
    let lists = ["initContainers", "containers"].map(|kind| pod["spec"][kind].as_array());
    let ours = |it: &Value| it["name"] == ADMIT || (!image.is_empty() && it["image"] == image);
    lists.into_iter().flatten().flatten().any(ours)
        || pod["spec"]["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty())
}

/// The variables that are written for each ordinal.
const MANAGED: [&str; 2] = ["ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE"];

/// Whether a pod is as a template has it, managed variables aside: a rollout has no reason to
/// replace it. The API server and the controller add to some of the lists.
fn fits(pod: &Value, template: &Value) -> bool {
    let within = |field: &str, part: &Value, whole: &Value| match field {
        "containers" | "initContainers" => all_in(part, whole, container_fits),
        "volumes" | "tolerations" => all_in(part, whole, |a, b| a == b),
        _ => part == whole,
    };
    ["labels", "annotations"].into_iter().all(|kind| {
        let (its, pods) = (&template["metadata"][kind], &pod["metadata"][kind]);
        let its = its.as_object().into_iter().flatten();
        // Ours are written anew for each pod.
        its.filter(|(key, _)| !key.starts_with("etcd-scaler.io/")).all(|(key, value)| pods[key] == *value)
    }) && template["spec"]
        .as_object()
        .is_some_and(|spec| spec.iter().all(|(field, value)| within(field, value, &pod["spec"][field])))
}

fn all_in(part: &Value, whole: &Value, fits: impl Fn(&Value, &Value) -> bool) -> bool {
    let whole = whole.as_array().map(Vec::as_slice).unwrap_or_default();
    part.as_array().into_iter().flatten().all(|one| whole.iter().any(|other| fits(one, other)))
}

fn container_fits(part: &Value, whole: &Value) -> bool {
    let env = |list: &Value| -> Vec<Value> {
        let all = list.as_array().into_iter().flatten();
        all.filter(|it| !MANAGED.iter().any(|name| it["name"] == *name)).cloned().collect()
    };
    part.as_object().into_iter().flatten().all(|(field, value)| match field.as_str() {
        "env" => env(value) == env(&whole["env"]),
        "volumeMounts" => all_in(value, &whole["volumeMounts"], |a, b| a == b),
        _ => *value == whole[field],
    })
}

fn nothing_is_lost(history: &History) -> Vec<Violation> {
    let mut found = Vec::new();
    let mut lost = |what: String| found.push(Violation { rule: Rule::NothingIsLost, at: None, what });
    if let Some((client, number)) = history.vanished.first() {
        lost(format!(
            "{} acknowledged puts are in no member's log, the first is {client}/{number}",
            history.vanished.len()
        ));
    }
    for read in history.read_back.iter().filter(|read| read.lost + read.wrong > 0) {
        lost(format!(
            "{}: {} keys are lost, {} wrong: {}",
            read.member,
            read.lost,
            read.wrong,
            read.examples.join(", ")
        ));
    }
    if let Some(first) = history.missing.first() {
        lost(format!("{} reads did not find what was acknowledged, the first: {first}", history.missing.len()));
    }
    for difference in &history.differences {
        lost(format!("two members disagree: {difference}"));
    }
    found
}

fn revisions_go_forward(answers: &[Answer]) -> Vec<Violation> {
    // Each of these is one line of history: what a member has, and what everybody agrees on.
    let mut lines: BTreeMap<(Id, Option<Id>), Vec<&Answer>> = BTreeMap::new();
    for answer in answers {
        if answer.call != Call::Serializable {
            lines.entry((answer.cluster, None)).or_default().push(answer);
        }
        lines.entry((answer.cluster, Some(answer.member))).or_default().push(answer);
    }
    let mut found = Vec::new();
    for ((cluster, member), answers) in lines {
        let mut by_end = answers.clone();
        by_end.sort_by_key(|answer| answer.got);
        let mut by_start = answers;
        by_start.sort_by_key(|answer| answer.sent);
        // The highest that was answered before the one in hand was sent.
        let (mut ended, mut highest): (_, Option<&Answer>) = (by_end.into_iter().peekable(), None);
        let mut told = 0;
        for answer in by_start {
            while let Some(before) = ended.next_if(|before| before.got < answer.sent) {
                highest = highest.filter(|highest| highest.revision >= before.revision).or(Some(before));
            }
            let Some(highest) = highest.filter(|highest| highest.revision > answer.revision && told < 3) else {
                continue;
            };
            told += 1;
            let who = member.map_or_else(|| format!("cluster {cluster}"), |member| format!("member {member}"));
            let what = format!(
                "{who} answered revision {} ({:?} via {}) and later {} ({:?} via {})",
                highest.revision, highest.call, highest.via, answer.revision, answer.call, answer.via
            );
            found.push(Violation { rule: Rule::RevisionsGoForward, at: Some(answer.got), what });
        }
    }
    found
}

#[cfg(test)]
mod tests;
