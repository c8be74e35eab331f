//! Drift: etcd is not what the record says any more, and no scale of ours made the difference.
//!
//! For example: a member was removed, added or replaced by hand; another cluster answers under the same names, after a
//! restore; one member answers as a cluster of its own. [`recognise`] names the drift for which a scale is refused,
//! [`plan`] says what `hook reconcile` or `hook forget` would write. Neither guesses: what was not positively seen is
//! refused.

use std::collections::BTreeMap;

use crate::know::names::{Ordinal, Target};
use crate::know::observed::{Agreed, Answered, ListedMember, Observed, agreed, ordinal_of, views};
use crate::know::quorum::quorum;
use crate::know::record::{Record, Recorded, State};

/// What was found, and the way out, for a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drift {
    /// What differs, without a full stop.
    pub found: String,
    /// What to do, in whole sentences.
    pub way_out: String,
}

impl Drift {
    /// The reason with which a run ends.
    #[must_use]
    pub fn sentence(&self) -> String {
        format!("{}. Nothing was changed. {}", self.found, self.way_out)
    }
}

/// What `hook reconcile` or `hook forget` may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: record and member list are the same, or the next run corrects the difference by itself. Which.
    Nothing(String),
    /// `hook reconcile`: this record, which follows the member list; each difference and what becomes of it.
    Reconcile(Record, Vec<String>),
    /// `hook forget`: the record is another cluster's and is dropped. Why.
    Forget(String),
    /// Neither may; what, why, and what to do.
    Refused(String),
}

/// The one command line that runs a subcommand of the hook, as a Job from the CronJob's template.
#[must_use]
pub fn command(target: &Target, subcommand: &str) -> String {
    command_with(target, subcommand, &[])
}

/// The same, with options.
#[must_use]
pub fn command_with(target: &Target, subcommand: &str, options: &[&str]) -> String {
    let Target { namespace, cronjob, .. } = target;
    let words: Vec<String> = ["/hook", subcommand].iter().chain(options).map(|word| format!("\"{word}\"")).collect();
    format!(
        "kubectl -n {namespace} create job {subcommand} --from=cronjob/{cronjob} --dry-run=client -o json | kubectl patch --local -f - --type=json -p '[{{\"op\":\"replace\",\"path\":\"/spec/template/spec/containers/0/command\",\"value\":[{}]}}]' -o json | kubectl -n {namespace} create -f -",
        words.join(",")
    )
}

/// The same, in a sentence.
fn run(target: &Target, subcommand: &str) -> String {
    format!(
        "{} prints the plan (kubectl -n {} logs job/{subcommand}); with \"--yes\" behind \"{subcommand}\", and another name for the Job, it is done",
        command(target, subcommand),
        target.namespace
    )
}

/// The command `etcdctl member remove`, run in the pod of a member that holds this list.
fn removal(target: &Target, answers: &BTreeMap<Ordinal, Answered>, live: &Agreed, member: &ListedMember) -> String {
    format!("{} member remove {}", teller(target, answers, live), member.id)
}

/// The command that runs etcdctl in the pod of a member that holds this list.
fn teller(target: &Target, answers: &BTreeMap<Ordinal, Answered>, live: &Agreed) -> String {
    let holds =
        |view: &crate::know::observed::View| view.agreed.cluster == live.cluster && view.agreed.members == live.members;
    let views = views(answers);
    let asked = views.iter().find(|view| holds(view)).and_then(|view| view.holders.keys().next().copied());
    format!(
        "kubectl -n {} exec {} -c {} -- etcdctl",
        target.namespace,
        target.pod(asked.unwrap_or(0)),
        target.container
    )
}

/// The drift by which the members that answer are not the recorded ones. `None`: there is none, or it is not known.
#[must_use]
pub fn recognise(target: &Target, record: &Record, answers: &BTreeMap<Ordinal, Answered>) -> Option<Drift> {
    if let Some(drift) = split(target, record, answers) {
        return Some(drift);
    }
    let live = agreed(target, answers, Some(record)).ok()?;
    match live.by_ordinal(target) {
        Err(member) => Some(stranger(target, answers, &live, member)),
        Ok(_) if live.cluster != record.cluster => Some(another_cluster(target, record, &live)),
        Ok(listed) => changed(target, record, &listed),
    }
}

/// A member at no pod of the StatefulSet, while there is no record yet: none could be written that names it.
#[must_use]
pub fn unnamed(target: &Target, answers: &BTreeMap<Ordinal, Answered>) -> Option<Drift> {
    let live = agreed(target, answers, None).ok()?;
    let member = live.by_ordinal(target).err()?;
    Some(stranger(target, answers, &live, member))
}

/// A member that answers as a cluster of its own, though the recorded cluster lists it.
#[must_use]
pub fn split(target: &Target, record: &Record, answers: &BTreeMap<Ordinal, Answered>) -> Option<Drift> {
    let views = views(answers);
    let ours = views.iter().find(|view| view.is_whole() && view.is_recorded(record))?;
    let (odd, ordinal, member) = views.iter().filter(|view| *view != ours && view.is_whole()).find_map(|view| {
        view.holders.keys().find_map(|&ordinal| {
            let member = ours.agreed.members.iter().find(|member| ordinal_of(target, member) == Some(ordinal))?;
            Some((view, ordinal, member))
        })
    })?;
    let pod = target.pod(ordinal);
    let (alone, others) = (odd.agreed.members.len(), pods(target, ours.holders.keys().copied()));
    let data = if odd.agreed.cluster == ours.agreed.cluster {
        "its data is set aside".to_owned()
    } else {
        "another cluster's data is never started on, so it waits until that is moved away on its node".to_owned()
    };
    Some(Drift {
        found: format!(
            "{pod} answers as a cluster of its own (cluster {}, {alone} in its member list) beside {others} (cluster {}): it was restored alone, or started with --force-new-cluster, and what clients write to it the others do not have",
            odd.agreed.cluster, ours.agreed.cluster
        ),
        way_out: format!(
            "Take it out of the others' member list ({}), then let the record follow: {}. {pod} joins anew then; {data}",
            removal(target, answers, &ours.agreed, member),
            run(target, "reconcile")
        ),
    })
}

/// The drift of a member whose peer URL is not that of any pod: it is in one of our pods with the URL spelled in
/// another way, or it runs elsewhere.
#[must_use]
pub fn stranger(target: &Target, answers: &BTreeMap<Ordinal, Answered>, live: &Agreed, member: &ListedMember) -> Drift {
    let is_free = |ordinal: &Ordinal| live.members.iter().all(|it| ordinal_of(target, it) != Some(*ordinal));
    if let Some(ordinal) = at_pod(target, answers, member).filter(is_free) {
        return spelled_otherwise(target, answers, live, ordinal, member);
    }
    Drift {
        found: format!(
            "etcd lists member {} ({:?}) with peer URL {}, which is no pod of {target}",
            member.id,
            member.name,
            member.peer_urls.join(",")
        ),
        way_out: if member.started() {
            "No record can name it. It has run elsewhere, and whether it is needed only who ran it can tell: have it leave etcd from there, or check --cluster-domain and the headless Service's name".into()
        } else {
            format!(
                "No record can name it, and it never started: remove it ({}), or check --cluster-domain and the headless Service's name",
                removal(target, answers, live, member)
            )
        },
    }
}

/// The ordinal of the pod that a member is in, also if its peer URL is spelled in another way than ours: by its peer
/// URL, by who answers with its ID, by its name, or by the host in its URL. So a member that is away now is no
/// stranger.
#[must_use]
pub fn at_pod(target: &Target, answers: &BTreeMap<Ordinal, Answered>, member: &ListedMember) -> Option<Ordinal> {
    let answering = |(&ordinal, answered): (&Ordinal, &Answered)| {
        answered.as_ref().is_ok_and(|answer| answer.member == member.id).then_some(ordinal)
    };
    let host = |url: &String| {
        let host = url.split_once("://")?.1;
        target.ordinal_of(host.split(['.', ':', '/']).next()?)
    };
    ordinal_of(target, member)
        .or_else(|| answers.iter().find_map(answering))
        .or_else(|| target.ordinal_of(&member.name))
        .or_else(|| member.peer_urls.iter().find_map(host))
}

/// A member in a pod of ours with another peer URL than its pod's. The way out has the commands for all such members.
fn spelled_otherwise(
    target: &Target,
    answers: &BTreeMap<Ordinal, Answered>,
    live: &Agreed,
    ordinal: Ordinal,
    member: &ListedMember,
) -> Drift {
    let pod = target.pod(ordinal);
    let others = live.members.iter().filter(|member| ordinal_of(target, member).is_none() && !member.learner);
    let asked = teller(target, answers, live);
    let commands = others.filter_map(|member| {
        let url = target.peer_url(at_pod(target, answers, member)?);
        Some(format!("{asked} member update {} --peer-urls={url}", member.id))
    });
    let commands: Vec<String> = commands.collect();
    Drift {
        found: format!(
            "etcd lists the member in {pod} ({}) with peer URL {}, and needed is {}",
            member.id,
            member.peer_urls.join(","),
            target.peer_url(ordinal)
        ),
        way_out: format!(
            "It stays a member: only the URL has to change. Have its chart give that one (ETCD_INITIAL_ADVERTISE_PEER_URLS, and for each member in ETCD_INITIAL_CLUSTER); then, one after the other: {}",
            commands.join("; ")
        ),
    }
}

/// Another cluster under the same names.
#[must_use]
pub fn another_cluster(target: &Target, record: &Record, live: &Agreed) -> Drift {
    Drift {
        found: format!(
            "the members answer from cluster {}, the record of {target} names cluster {}: it was restored from a snapshot, or made anew",
            live.cluster, record.cluster
        ),
        way_out: format!(
            "Find out which is the right one. If it is the one that answers, drop the other's record: {}; the next record is written from what answers",
            run(target, "forget")
        ),
    }
}

/// The recorded cluster with another member list.
#[must_use]
pub fn changed(target: &Target, record: &Record, listed: &[(Ordinal, &ListedMember)]) -> Option<Drift> {
    let differences = differences(target, record, listed);
    if differences.is_empty() {
        return None;
    }
    let found: Vec<String> = differences.into_iter().map(|(_, what)| what).collect();
    Some(Drift {
        found: format!("etcd's member list is not as the record of {target} has it: {}", found.join("; ")),
        way_out: format!(
            "{}If it is meant, let the record follow: {}",
            follow(listed, record),
            run(target, "reconcile")
        ),
    })
}

/// The way out by the count: it can be lowered, if exactly the highest members were removed.
fn follow(listed: &[(Ordinal, &ListedMember)], record: &Record) -> String {
    let count = u32::try_from(listed.len()).unwrap_or(u32::MAX);
    let lower = (0..count).eq(listed.iter().map(|(ordinal, _)| *ordinal)) && count < record.count();
    if !lower {
        return String::new();
    }
    format!("If who was removed is to stay out, let the count follow (helm upgrade --set etcd.replicaCount={count}). ")
}

/// Each difference between the recorded members and the list, with its ordinal. Members that are joining or leaving are
/// left out: the next run takes care of them.
fn differences(target: &Target, record: &Record, listed: &[(Ordinal, &ListedMember)]) -> Vec<(Ordinal, String)> {
    let mut found = Vec::new();
    let settled = record.members.iter().filter(|(_, recorded)| recorded.state.is_settled());
    for (&ordinal, Recorded { id, .. }) in settled {
        let pod = target.pod(ordinal);
        let what = match listed.iter().find(|(at, _)| *at == ordinal) {
            Some((_, member)) if member.id == *id => continue,
            Some((_, member)) => {
                format!("{pod} is member {}, recorded is {id}: it was replaced by hand", member.id)
            }
            None => format!("{pod} (member {id}) is not listed any more: it was removed by hand"),
        };
        found.push((ordinal, what));
    }
    for (ordinal, member) in listed.iter().filter(|(ordinal, _)| !record.members.contains_key(ordinal)) {
        let pod = target.pod(*ordinal);
        let how = match (member.started(), member.learner) {
            (false, _) => " and never started",
            (true, true) => " as a learner",
            (true, false) => "",
        };
        found.push((*ordinal, format!("{pod} (member {}) is not recorded: it was added by hand{how}", member.id)));
    }
    found
}

fn pods(target: &Target, ordinals: impl IntoIterator<Item = Ordinal>) -> String {
    ordinals.into_iter().map(|ordinal| target.pod(ordinal)).collect::<Vec<_>>().join(", ")
}

/// What `hook reconcile` or `hook forget` would do.
#[must_use]
pub fn plan(seen: &Observed) -> Plan {
    decide(seen).unwrap_or_else(Plan::Refused)
}

fn decide(seen: &Observed) -> Result<Plan, String> {
    let target = &seen.target;
    let nothing = seen.record.is_none();
    let empty = Record::new(crate::know::record::Id(0));
    let record = seen.record.as_ref().unwrap_or(&empty);
    if let Some(drift) = split(target, record, &seen.answers) {
        return Err(drift.sentence());
    }
    let live = seen.agreed().map_err(|why| {
        format!("what etcd's member list is now is not known, and what is not known is refused: {why}. Repair what is named, so that a quorum of one cluster answers, and run this again")
    })?;
    let listed = match live.by_ordinal(target) {
        Ok(listed) => listed,
        Err(member) => return Err(stranger(target, &seen.answers, &live, member).sentence()),
    };
    if nothing {
        // If the list has no gap, the next run writes the first record by itself. With a gap a person has to allow it.
        if listed.iter().map(|(ordinal, _)| *ordinal).eq((0..).take(listed.len())) {
            return Ok(Plan::Nothing(format!("{target} has no record: the next run writes it from what answers")));
        }
    } else if live.cluster != record.cluster {
        return forget(seen, record, &live);
    }
    let differences = differences(target, record, &listed);
    if differences.is_empty() {
        return Ok(Plan::Nothing(format!("the record of {target} and etcd's member list are the same")));
    }
    let after = after(seen, record, &live, &listed)?;
    if differences.iter().any(|(ordinal, _)| listed.iter().all(|(at, _)| at != ordinal)) {
        heard(seen, record, &live)?;
    }
    let what = differences.into_iter().map(|(ordinal, what)| format!("{what}; {}", becomes(seen, &after, ordinal)));
    Ok(Plan::Reconcile(after.clone(), what.collect()))
}

/// The record that follows the member list.
fn after(
    seen: &Observed,
    record: &Record,
    live: &Agreed,
    listed: &[(Ordinal, &ListedMember)],
) -> Result<Record, String> {
    let mut after = Record::new(live.cluster);
    for (&ordinal, recorded) in record.members.iter().filter(|(_, recorded)| !recorded.state.is_settled()) {
        after = after.with(ordinal, recorded.id, recorded.state);
    }
    for &(ordinal, member) in listed {
        let recorded = record.members.get(&ordinal);
        let state = match recorded {
            Some(recorded) if recorded.id == member.id => recorded.state,
            Some(recorded) if !recorded.state.is_settled() => continue,
            _ if seen.answer(ordinal).is_some_and(|answer| answer.member == member.id) => State::Member,
            _ if !member.started() || member.learner => State::Joining,
            _ => {
                let pod = seen.target.pod(ordinal);
                return Err(format!(
                    "etcd lists {pod} as voting member {}, which is not recorded and does not answer: what it is, is not known. Nothing was changed. Have it answer; if it is lost for good, remove it ({}); and run this again",
                    member.id,
                    removal(&seen.target, &seen.answers, live, member)
                ));
            }
        };
        after = after.with(ordinal, member.id, state);
    }
    Ok(after)
}

/// What becomes of an ordinal once `after` is the record.
fn becomes(seen: &Observed, after: &Record, ordinal: Ordinal) -> String {
    let (wanted, count) = (ordinal < seen.desired, seen.desired);
    match after.members.get(&ordinal) {
        None if wanted => {
            "the record drops it; its ordinal joins anew, in a pod made again, its old data set aside".into()
        }
        None => format!("the record drops it, {count} replicas are wanted"),
        Some(Recorded { id, state: State::Joining }) if wanted => {
            format!("recorded as joining: the next run has it join as member {id}, or takes it back")
        }
        Some(Recorded { id, state: State::Joining }) => {
            format!("recorded as joining: the next run takes member {id} back, {count} replicas are wanted")
        }
        Some(Recorded { id, .. }) if wanted => format!("it answers, and is recorded as member {id}"),
        Some(Recorded { id, .. }) => {
            format!("it answers, is recorded as member {id}, and the next run removes it: {count} replicas are wanted")
        }
    }
}

/// Drops the record of another cluster, unless that cluster may be alive.
fn forget(seen: &Observed, record: &Record, live: &Agreed) -> Result<Plan, String> {
    let target = &seen.target;
    let answers = seen.answers.iter().filter_map(|(&ordinal, answered)| Some((ordinal, answered.as_ref().ok()?)));
    let living: Vec<Ordinal> = answers.filter(|(_, it)| it.cluster == record.cluster).map(|(o, _)| o).collect();
    if !living.is_empty() {
        return Err(format!(
            "{} still answer from the recorded cluster {}, others from cluster {}: which is the right one is not known. Nothing was changed. Save both first (etcdctl snapshot save); then move the data of the wrong one's members aside on their nodes, delete nothing, restart them, and run this again",
            pods(target, living),
            record.cluster,
            live.cluster
        ));
    }
    heard(seen, record, live)?;
    let members: Vec<String> =
        record.members.iter().map(|(&ordinal, recorded)| format!("{} {}", target.pod(ordinal), recorded.id)).collect();
    Ok(Plan::Forget(format!(
        "the record names cluster {} ({}), the members answer from cluster {} ({} listed): the record and the Lease's copy are dropped, the next run writes the record from what answers",
        record.cluster,
        members.join(", "),
        live.cluster,
        live.members.len()
    )))
}

/// Refuses if the recorded members that run and do not hold this list would be a quorum among themselves: they might be
/// the recorded cluster, alive and not heard.
fn heard(seen: &Observed, record: &Record, live: &Agreed) -> Result<(), String> {
    let target = &seen.target;
    let tells: Vec<Ordinal> = views(&seen.answers)
        .into_iter()
        .filter(|view| view.agreed.cluster == live.cluster && view.agreed.members == live.members)
        .flat_map(|view| view.holders.into_keys())
        .collect();
    let recorded =
        record.members.iter().filter(|(_, recorded)| recorded.state.is_settled()).map(|(&ordinal, _)| ordinal);
    let recorded: Vec<Ordinal> = recorded.collect();
    let silent = recorded
        .iter()
        .copied()
        .filter(|ordinal| !tells.contains(ordinal) && seen.pods.get(ordinal).is_some_and(|pod| !pod.down));
    let silent: Vec<Ordinal> = silent.collect();
    if !recorded.is_empty() && silent.len() >= quorum(recorded.len()) {
        return Err(format!(
            "{} run and do not answer, and would be a quorum of the {} recorded members: whether they live as the recorded cluster is not known. Nothing was changed. Have them answer, and run this again; a pod whose etcd does not run does not count",
            pods(target, silent),
            recorded.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
