//! What happened during a scenario: from the members' own logs, the API server's audit log, the
//! logs of etcd's containers and what the load saw. All of it was noted on one clock.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use membership::know::record::Id;
use serde_json::Value;

use crate::journal::{Answer, Call};

/// Microseconds since 1970.
pub type Micros = i64;

/// The annotation by which a joining pod is let go.
pub const PERMISSION: &str = "etcd-scaler.io/permission";
/// The annotation with what was verified.
pub const RECORD: &str = "etcd-scaler.io/record";
/// The annotation that says that a scale to 0 stops the cluster and removes nobody.
pub const STOP: &str = "etcd-scaler.io/stop";
/// The init container that holds a joining pod.
pub const ADMIT: &str = "admit";
/// The StatefulSet controller.
pub const CONTROLLER: &str = "system:serviceaccount:kube-system:statefulset-controller";
/// As whom it works where all controllers are one user.
pub const ALL_CONTROLLERS: &str = "system:kube-controller-manager";

/// Everything that is judged.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Whose it is.
    pub names: Names,
    /// What each cluster committed, in the order in which they began.
    pub logs: Vec<Log>,
    /// What two members of one cluster have committed differently, or who began anew, in words.
    pub differences: Vec<String>,
    /// Writes to the API server, in the order in which they arrived.
    pub requests: Vec<Request>,
    /// Starts of etcd's containers.
    pub starts: Vec<Start>,
    /// What the load was answered, puts and reads.
    pub answers: Vec<Answer>,
    /// When each put of the load was acknowledged, by client and number.
    pub acknowledged_at: BTreeMap<(u32, u64), Micros>,
    /// Numbers of the load that were acknowledged and are in no member's log: client and number.
    pub vanished: BTreeSet<(u32, u64)>,
    /// Reads of the load that did not find what was acknowledged before, in words.
    pub missing: Vec<String>,
    /// What was read back from each member in the end.
    pub read_back: Vec<ReadBack>,
    /// What could not be looked at, in words.
    pub unseen: Vec<String>,
}

/// Names that tell whose an object is.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The namespace.
    pub namespace: String,
    /// The StatefulSet.
    pub statefulset: String,
    /// The image of the product.
    pub image: String,
}

/// What a cluster committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// Its ID.
    pub cluster: Id,
    /// It began after this.
    pub since: Micros,
    /// In its order.
    pub entries: Vec<Entry>,
}

/// An entry that a cluster has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub index: u64,
    /// The term in which it was proposed.
    pub term: u64,
    /// When the first member said that it had applied it. Only membership has a time.
    pub at: Option<Micros>,
    /// What it says.
    pub what: What,
}

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A member is added.
    Add {
        /// Its ID.
        member: Id,
        /// As a learner.
        learner: bool,
        /// Its peer URLs.
        urls: Vec<String>,
        /// It is of the first member list, which nobody added.
        first: bool,
    },
    /// A learner becomes a voter.
    Promote(Id),
    /// A member is removed.
    Remove(Id),
    /// A member gets other peer URLs.
    Update(Id, Vec<String>),
    /// A member tells its client URLs: it runs.
    Publish(Id),
    /// A put of the load: client and number.
    Load(u32, u64),
    /// Something that is neither etcd's own nor the load's: the call and its key.
    Foreign(String, String),
    /// etcd's own: elections, compaction, versions, alarms.
    Own,
}

/// A write to the API server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// When it arrived.
    pub received: Micros,
    /// When it was answered.
    pub done: Micros,
    /// Who asked.
    pub user: String,
    /// `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// The resource, with its subresource: `statefulsets/scale`.
    pub resource: String,
    /// The object's name.
    pub name: String,
    /// The status code of the answer.
    pub code: u64,
    /// The message of a refusal.
    pub message: String,
    /// It was to change nothing.
    pub dry_run: bool,
    /// The body.
    pub sent: Value,
    /// The object as it was answered.
    pub object: Value,
}

/// A start of etcd's container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The pod.
    pub pod: String,
    /// Its UID.
    pub uid: String,
    /// How many starts of this container there were before.
    pub restarts: u64,
    /// When it said its first word.
    pub at: Micros,
}

/// What a member held in the end of what was acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadBack {
    /// The member.
    pub member: String,
    /// Acknowledged keys that it does not have.
    pub lost: u64,
    /// Acknowledged keys that hold something else there.
    pub wrong: u64,
    /// Some of them.
    pub examples: Vec<String>,
}

/// Something that happened, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When, if somebody noted it.
    pub at: Option<Micros>,
    /// What.
    pub text: String,
}

impl Names {
    /// The ordinal of a pod or a member of the StatefulSet, by its name, host name or peer URL.
    #[must_use]
    pub fn ordinal(&self, name: &str) -> Option<u64> {
        let name = name.rsplit("//").next()?.split(['.', ':']).next()?;
        let number = name.strip_prefix(&self.statefulset)?.strip_prefix('-')?;
        // "01" is another name than "1".
        number.parse().ok().filter(|ordinal: &u64| ordinal.to_string() == number)
    }

    /// Whether a user is one of the release's own ServiceAccounts.
    #[must_use]
    pub fn ours(&self, user: &str) -> bool {
        user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split(':').next()) == Some(&self.namespace)
    }
}

impl Request {
    /// Whether it had its way.
    #[must_use]
    pub fn succeeded(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Whether it changed something.
    #[must_use]
    pub fn took_effect(&self) -> bool {
        self.succeeded() && !self.dry_run
    }

    /// A write of the StatefulSet or of its scale that took effect.
    #[must_use]
    pub fn sets(&self) -> bool {
        self.took_effect() && self.resource.starts_with("statefulsets")
    }

    /// A deletion of the StatefulSet that takes its pods along: what is made afterwards may be new.
    #[must_use]
    pub fn uninstalls(&self) -> bool {
        self.sets() && self.verb == "delete" && self.sent["propagationPolicy"] != "Orphan"
    }

    /// The count in a StatefulSet or its scale, as it is afterwards.
    #[must_use]
    pub fn replicas(&self) -> Option<u64> {
        let replicas = self.object["spec"]["replicas"].as_u64();
        // A Scale leaves 0 out.
        replicas.or_else(|| (self.resource == "statefulsets/scale" && self.object["spec"].is_object()).then_some(0))
    }

    /// A creation (`create`) or another write of a pod, by whomever.
    #[must_use]
    pub fn of_pod(&self, verb: &str) -> bool {
        self.resource == "pods" && self.verb == verb
    }

    /// A pod's or a StatefulSet's annotation, as it is afterwards.
    #[must_use]
    pub fn annotation(&self, name: &str) -> Option<&str> {
        self.object["metadata"]["annotations"][name].as_str()
    }

    /// Whether the pod is one that waits to join. By its annotation a member's could pass for one.
    #[must_use]
    pub fn is_joiner(&self) -> bool {
        let mut init = self.object["spec"]["initContainers"].as_array().into_iter().flatten();
        init.any(|container| container["name"] == ADMIT)
    }

    /// The UID of the StatefulSet that a pod belongs to.
    #[must_use]
    pub fn owner(&self) -> &str {
        let mut owners = self.object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        owners.find_map(|owner| (owner["kind"] == "StatefulSet").then(|| owner["uid"].as_str())?).unwrap_or_default()
    }

    /// The object's UID.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.object["metadata"]["uid"].as_str().unwrap_or_default()
    }
}

/// A member, as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its peer URLs.
    pub urls: Vec<String>,
    /// It has no vote.
    pub learner: bool,
    /// It has told its client URLs.
    pub started: bool,
    /// It is of the first member list.
    pub first: bool,
}

/// The member list at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberList {
    /// By ID.
    pub members: BTreeMap<Id, Member>,
    /// IDs that never come back.
    removed: BTreeSet<Id>,
}

impl MemberList {
    /// Before a cluster begins.
    #[must_use]
    pub const fn nobody() -> Self {
        Self { members: BTreeMap::new(), removed: BTreeSet::new() }
    }

    /// Applies an entry as etcd does, which refuses some although they are committed. Returns
    /// whether the list is another one now.
    pub fn apply(&mut self, what: &What) -> bool {
        match what {
            What::Add { member, learner, urls, first } => {
                let taken = self.members.values().any(|other| other.urls.iter().any(|url| urls.contains(url)));
                if taken || self.removed.contains(member) || self.members.contains_key(member) {
                    return false;
                }
                let new = Member { urls: urls.clone(), learner: *learner, started: false, first: *first };
                self.members.insert(*member, new);
                true
            }
            What::Promote(member) => self.change(*member, |it| it.learner, |it| it.learner = false),
            What::Publish(member) => self.change(*member, |it| !it.started, |it| it.started = true),
            What::Update(member, urls) => self.change(*member, |it| it.urls != *urls, |it| it.urls.clone_from(urls)),
            What::Remove(member) => {
                let gone = self.members.remove(member).is_some();
                if gone {
                    self.removed.insert(*member);
                }
                gone
            }
            What::Load(..) | What::Foreign(..) | What::Own => false,
        }
    }

    fn change(&mut self, member: Id, if_it: impl Fn(&Member) -> bool, to: impl Fn(&mut Member)) -> bool {
        match self.members.get_mut(&member) {
            Some(member) if if_it(member) => {
                to(member);
                true
            }
            _ => false,
        }
    }

    /// All peer URLs.
    #[must_use]
    pub fn urls(&self) -> BTreeSet<&str> {
        self.members.values().flat_map(|member| member.urls.iter().map(String::as_str)).collect()
    }
}

impl History {
    /// How often a member list changed after it was first made, starts of members aside.
    #[must_use]
    pub fn membership_changes(&self) -> usize {
        let changes = self.logs.iter().map(|log| {
            let mut list = MemberList::default();
            let changed = log.entries.iter().filter(|entry| list.apply(&entry.what));
            let changes = changed.filter(|entry| {
                !matches!(entry.what, What::Publish(_)) && !matches!(entry.what, What::Add { first: true, .. })
            });
            changes.count()
        });
        changes.sum()
    }

    /// How many puts were acknowledged.
    #[must_use]
    pub fn acknowledged(&self) -> usize {
        self.answers.iter().filter(|answer| answer.call == Call::Put).count()
    }

    /// The longest time without an acknowledgement to anybody, in milliseconds.
    #[must_use]
    pub fn longest_stall(&self) -> i64 {
        let puts = self.answers.iter().filter(|answer| answer.call == Call::Put);
        let mut at: Vec<Micros> = puts.map(|put| put.got).collect();
        at.sort_unstable();
        at.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or(0) / 1000
    }

    /// All that changed something, in the order of time; what has no time stands behind what came
    /// before it in its own source.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<(Micros, Line)> = Vec::new();
        for Log { cluster, entries, .. } in &self.logs {
            let (mut list, mut last) = (MemberList::default(), Micros::MIN);
            for entry in entries {
                if !list.apply(&entry.what) && !matches!(entry.what, What::Foreign(..)) {
                    continue;
                }
                last = entry.at.unwrap_or(last);
                let text = format!("etcd {cluster} #{}: {}", entry.index, entry.what);
                lines.push((last, Line { at: entry.at, text }));
            }
        }
        for request in &self.requests {
            let text = format!("API {request}");
            lines.push((request.received, Line { at: Some(request.received), text }));
        }
        for start in &self.starts {
            let text = format!("etcd starts in {} (uid {}, {} starts before)", start.pod, start.uid, start.restarts);
            lines.push((start.at, Line { at: Some(start.at), text }));
        }
        lines.sort_by_key(|&(at, _)| at);
        lines.into_iter().map(|(_, line)| line).collect()
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { member, learner, urls, first } => {
                let how = if *first { "first member" } else { "member add" };
                let role = if *learner { "learner" } else { "voter" };
                write!(f, "{how} {member} as {role}, {}", urls.join(","))
            }
            Self::Promote(member) => write!(f, "member promote {member}"),
            Self::Remove(member) => write!(f, "member remove {member}"),
            Self::Update(member, urls) => write!(f, "member update {member}, {}", urls.join(",")),
            Self::Publish(member) => write!(f, "{member} runs"),
            Self::Load(client, number) => write!(f, "put of the load {client}/{number}"),
            Self::Foreign(call, key) => write!(f, "{call} {key}"),
            Self::Own => write!(f, "etcd's own"),
        }
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, verb, resource, name, code, message, .. } = self;
        let user = user.strip_prefix("system:serviceaccount:").unwrap_or(user);
        write!(f, "{user}: {verb} {resource}/{name} → {code}")?;
        if self.dry_run {
            write!(f, " (dry run)")?;
        }
        if let Some(replicas) = self.replicas() {
            write!(f, ", {replicas} replicas")?;
        }
        if resource == "pods" && !self.uid().is_empty() {
            write!(f, ", uid {}{}", self.uid(), if self.is_joiner() { ", a joiner" } else { "" })?;
        }
        if let Some(record) = self.sent["metadata"]["annotations"][RECORD].as_str() {
            write!(f, ", record {record}")?;
        }
        if let Some(permission) = self.sent["metadata"]["annotations"][PERMISSION].as_str() {
            write!(f, ", permission {permission}")?;
        }
        if message.is_empty() { Ok(()) } else { write!(f, ": {message}") }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at.and_then(|at| Timestamp::from_microsecond(at).ok());
        let at = at.map_or_else(|| "    (no time)".to_owned(), |at| at.strftime("%H:%M:%S.%6f").to_string());
        write!(f, "{at:<15} {}", self.text)
    }
}
