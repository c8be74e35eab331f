//! The answer of `hook status`, for people and for programs. Its fields are a contract
//! (docs/commands.md).

use std::collections::BTreeMap;

use etcd::Status;
use jiff::Timestamp;
use membership::know::names::{Ordinal, Target};
use membership::know::observed::Agreed;
use membership::know::record::{Id, Record, State};
use membership::know::size::size;
use serde::Serialize;

use crate::table::{known, table};

/// Everything that was seen.
pub struct Seen {
    /// The cluster.
    pub target: Target,
    /// `spec.replicas`.
    pub desired: u32,
    /// The record.
    pub record: Option<Record>,
    /// The agreed member list, or why there is none.
    pub agreed: Result<Agreed, String>,
    /// By ordinal.
    pub statuses: BTreeMap<Ordinal, Result<Status, String>>,
    /// Whether each pod that exists is Ready.
    pub pods: BTreeMap<Ordinal, bool>,
    /// The run that works now.
    pub running: Option<Running>,
    /// The run that ended last.
    pub last: Option<Last>,
    /// What could not be read.
    pub unknown: Vec<String>,
}

/// The run that works now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Running {
    /// Its pod, which holds the Lease.
    pub holder: String,
    /// Since when.
    pub since: Option<Timestamp>,
}

/// The run that ended last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Last {
    /// Its Job.
    pub job: String,
    /// `Complete` or `Failed`.
    pub result: String,
    /// When it ended.
    pub at: Timestamp,
}

/// The whole answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    namespace: String,
    statefulset: String,
    desired: u32,
    recorded: Option<u32>,
    cluster: Option<Id>,
    members: Vec<Member>,
    /// Members in etcd's list under whose ID no pod of ours answers.
    strangers: Vec<Stranger>,
    running: Option<Running>,
    last: Option<Last>,
    unknown: Vec<String>,
}

/// One ordinal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Member {
    pod: String,
    ready: Option<bool>,
    role: Option<&'static str>,
    state: Option<State>,
    recorded_member: Option<Id>,
    member: Option<Id>,
    version: Option<String>,
    db_size: Option<u64>,
    db_in_use: Option<u64>,
    db_quota: Option<u64>,
    revision: Option<i64>,
    raft_index: Option<u64>,
    raft_applied_index: Option<u64>,
    raft_lag: Option<u64>,
    alarms: Vec<String>,
    error: Option<String>,
}

/// A member of etcd's list under whose ID no pod of ours answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Stranger {
    member: Id,
    name: String,
    learner: bool,
    started: bool,
}

impl Answer {
    /// The answer, from what was seen.
    pub fn of(seen: Seen) -> Self {
        let Seen { target, desired, record, agreed, statuses, pods, running, last, mut unknown } = seen;
        let told = || statuses.values().filter_map(|status| status.as_ref().ok());
        let furthest = told().map(|status| status.raft_index).max().unwrap_or(0);
        let heard: Vec<Id> = told().map(|status| status.member).collect();
        let (mut cluster, mut strangers) = (None, Vec::new());
        match agreed {
            Ok(agreed) => {
                cluster = Some(agreed.cluster);
                let listed = agreed.members.iter().filter(|listed| !heard.contains(&listed.id));
                strangers.extend(listed.map(|listed| Stranger {
                    member: listed.id,
                    name: listed.name.clone(),
                    learner: listed.learner,
                    started: listed.started(),
                }));
            }
            Err(why) => unknown.push(format!("etcd's member list: {why}")),
        }
        let members = statuses.iter().map(|(&ordinal, status)| {
            let recorded = record.as_ref().and_then(|record| record.members.get(&ordinal));
            let (told, error) = match status {
                Ok(status) => (Some(status), None),
                Err(why) => (None, Some(why.clone())),
            };
            Member {
                pod: target.pod(ordinal),
                ready: pods.get(&ordinal).copied(),
                role: told.map(role),
                state: recorded.map(|recorded| recorded.state),
                recorded_member: recorded.map(|recorded| recorded.id),
                member: told.map(|told| told.member),
                version: told.map(|told| told.version.clone()),
                db_size: told.map(|told| told.db.size),
                db_in_use: told.map(|told| told.db.in_use),
                db_quota: told.and_then(|told| told.db.quota),
                revision: told.map(|told| told.revision),
                raft_index: told.map(|told| told.raft_index),
                raft_applied_index: told.map(|told| told.applied_index),
                raft_lag: told.map(|told| furthest.saturating_sub(told.applied_index)),
                alarms: told.map(|told| told.errors.clone()).unwrap_or_default(),
                error,
            }
        });
        Self {
            members: members.collect(),
            namespace: target.namespace,
            statefulset: target.statefulset,
            desired,
            recorded: record.map(|record| record.count()),
            cluster,
            strangers,
            running,
            last,
            unknown,
        }
    }

    /// For people, in etcdctl's words.
    pub fn text(&self) -> String {
        let Self { namespace, statefulset, desired, recorded, cluster, members, strangers, running, last, unknown } =
            self;
        let mut text = format!(
            "StatefulSet {namespace}/{statefulset}: {desired} members wanted, {} recorded, cluster {}\n",
            known(*recorded),
            known(*cluster)
        );
        let heading = [
            "MEMBER",
            "READY",
            "ROLE",
            "RECORD",
            "ID",
            "VERSION",
            "DB SIZE",
            "IN USE",
            "QUOTA",
            "REVISION",
            "RAFT INDEX",
            "LAG",
            "ALARMS AND ERRORS",
        ];
        let row = |member: &Member| {
            let mut row = vec![member.pod.clone(), known(member.ready), known(member.role)];
            row.extend([known(member.state.map(state)), known(member.member), known(member.version.as_ref())]);
            row.extend([member.db_size, member.db_in_use, member.db_quota].map(|bytes| known(bytes.map(size))));
            row.extend([known(member.revision), known(member.raft_index), known(member.raft_lag)]);
            let mut trouble = member.alarms.clone();
            trouble.extend(member.error.clone());
            if let (Some(live), Some(recorded)) = (member.member, member.recorded_member)
                && live != recorded
            {
                trouble.push(format!("recorded is member {recorded}"));
            }
            row.push(known((!trouble.is_empty()).then(|| trouble.join("; "))));
            row
        };
        text += &table(&heading, &members.iter().map(row).collect::<Vec<_>>());
        for Stranger { member, name, learner, started } in strangers {
            let name = if name.is_empty() { "-" } else { name };
            let role = if *learner { "learner" } else { "voter" };
            let started = if *started { "started" } else { "unstarted" };
            text += &format!("in etcd's member list and not heard: {member} ({name}, {role}, {started})\n");
        }
        let since = |since: &Option<Timestamp>| since.map(|at| format!(" since {at}")).unwrap_or_default();
        text += &match running {
            Some(running) => format!("running: {}{}\n", running.holder, since(&running.since)),
            None => "running: nothing\n".into(),
        };
        text += &match last {
            Some(Last { job, result, at }) => format!("last run: Job {job} {result} at {at}\n"),
            None => "last run: -\n".into(),
        };
        unknown.iter().fold(text, |text, unknown| text + &format!("not told: {unknown}\n"))
    }
}

/// The role of a member, by its own answer.
fn role(status: &Status) -> &'static str {
    match status {
        Status { learner: true, .. } => "learner",
        Status { member, leader, .. } if *leader == Some(*member) => "leader",
        _ => "voter",
    }
}

fn state(state: State) -> &'static str {
    match state {
        State::Bootstrapping => "bootstrapping",
        State::Joining => "joining",
        State::Member => "member",
        State::Leaving => "leaving",
    }
}

#[cfg(test)]
mod tests;
