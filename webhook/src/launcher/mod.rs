//! Starts the scaling Job when the StatefulSet wants members that the record does not have: after `kubectl scale`;
//! under Helm's `--wait`, which waits before the post-upgrade hooks; on adoption. And when a member's pod waits for a
//! volume that the Job can make bindable again.
//!
//! It reacts to watches: while nothing changes it asks nothing of the API server (the members are asked all the time, by
//! [`crate::health`]). [`decide`], which is pure, says what it does next. The Job's
//! name follows from state and attempt, so two replicas cannot start it twice. After [`MOST_ATTEMPTS`] attempts at the
//! same state it stops and says so; it begins again if the count or the record changes, or if a member answers that did
//! not before.

mod job;
pub mod lost_claim;
pub mod lost_disk;
pub mod owner;
mod volume;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use job::Seen;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::PostParams;
use kube::runtime::watcher;
use kube::{Api, Client};
use kubernetes::watch::{Change, follow};
use membership::know::names::{TARGET, Target};
use membership::know::object::annotation;
use membership::know::record::State;
use membership::know::statefulset;
use membership::know::volume::VolumePlan;
use membership::write::ownership;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{info, warn};
use volume::Volumes;

use crate::events::{Events, Reason, hash};
use crate::health::Health;
use crate::health::cluster::{Cluster, FIELD_MANAGER, Live};

/// How long a change waits for Helm's own Job, which does the same work. Without `--wait` Helm makes it right after the
/// objects, and one Job is easier to follow than two.
const GRACE: SignedDuration = SignedDuration::from_secs(2);
/// The pause after a first failed attempt; three times as long after each further one.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(10);
/// The most attempts at one state; the pauses between them are about seven minutes together.
const MOST_ATTEMPTS: u32 = 5;
/// The pause when a Job could not be made.
const AFTER_ERROR: Duration = Duration::from_secs(10);

/// A state for which a Job is wanted: this StatefulSet, this count, this record.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Need {
    uid: String,
    desired: u32,
    /// A hash that names the state, the same on every replica.
    run: String,
    /// The StatefulSet's generation. After a correction of its spec, what failed may succeed, so earlier attempts do
    /// not count. It is not part of `run`, because the Job's own writes may change it too, and are no correction.
    generation: u64,
    /// The Job is wanted only to make volumes bindable that are reserved for claims that were deleted.
    frees: bool,
}

/// What is remembered about the state that was seen last.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Memory {
    need: Need,
    since: Timestamp,
    /// How many attempts there were. Remembered here, because a Job is removed an hour after its end.
    tried: u32,
    /// How many of them do not count: those before a member that had not answered answered again, or before the
    /// StatefulSet was changed.
    forgiven: u32,
    /// Whether it was said that nothing more is tried.
    given_up: bool,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// Nothing until something changes.
    Rest,
    /// Decide again at this time.
    WaitUntil(Timestamp),
    /// Make the Job of this attempt, from 0.
    Launch(u32),
    /// Say that nothing more will be tried.
    GiveUp,
}

/// Starts Jobs.
pub struct Launcher {
    cronjobs: Api<CronJob>,
    jobs: Api<Job>,
    configmaps: Api<ConfigMap>,
    /// The ConfigMap without which the chart's pods start no etcd.
    token: String,
    namespace: String,
    cronjob: String,
    target: String,
    volumes: Volumes,
    cluster: Cluster,
    events: Events,
}

impl Launcher {
    /// A launcher that makes Jobs from this target's CronJob, and volumes by this plan.
    pub fn new(client: &Client, target: &Target, plan: VolumePlan, cluster: Cluster, events: Events) -> Self {
        let Target { namespace, statefulset, cronjob, .. } = target;
        Self {
            cronjobs: Api::namespaced(client.clone(), namespace),
            jobs: Api::namespaced(client.clone(), namespace),
            configmaps: Api::namespaced(client.clone(), namespace),
            token: target.bootstrap(),
            namespace: namespace.clone(),
            cronjob: cronjob.clone(),
            target: statefulset.clone(),
            volumes: Volumes::new(client, namespace, plan),
            cluster,
            events,
        }
    }

    /// Watches and starts, for ever.
    pub async fn run(
        self,
        mut live: watch::Receiver<Live>,
        mut health: Health,
        mut kept: watch::Receiver<BTreeSet<String>>,
    ) {
        let (sender, mut jobs) = watch::channel(None);
        let config = watcher::Config::default().labels(&format!("{TARGET}={}", self.target));
        tokio::spawn(follow(self.jobs.clone(), config, "our Jobs", move |change| tell(&sender, change)));
        let (token, mut token_there) = watch::channel(None);
        let mut token = Some(token);
        let mut memory: Option<Memory> = None;
        let mut told = None;
        loop {
            let object = live.borrow_and_update().object().filter(|object| !self.cluster.left(object));
            let object = object.filter(|object| self.is_understood(object, &mut told));
            // The count came through `statefulsets/scale`, so no Helm makes a Job of its own.
            let scaled = object.as_ref().is_some_and(|object| ownership::is_scaled(object));
            let waiting = kept.borrow_and_update().clone();
            let held = object.as_ref().is_some_and(|it| statefulset::waits_for_token(it, &self.cluster.target(it)));
            if let Some(token) = token.take_if(|_| held) {
                self.follow_token(token);
            }
            let token_gone = held && *token_there.borrow_and_update() == Some(false);
            let need = object.as_ref().and_then(|object| need(object, token_gone).or_else(|| frees(object, &waiting)));
            let known = jobs.borrow_and_update().clone();
            let now = Timestamp::now();
            memory = need.map(|need| match memory.take() {
                Some(memory) if memory.need == need => memory,
                Some(memory) if memory.need.run == need.run => {
                    Memory { forgiven: memory.tried, given_up: false, need, ..memory }
                }
                _ => Memory { need, since: now, tried: 0, forgiven: 0, given_up: false },
            });
            // Nothing is decided before the watch of the Jobs has answered: a Job may be active already.
            let mut pause = None;
            if let (Some(memory), Some(known)) = (&mut memory, &known) {
                memory.tried = memory.tried.max(attempts(&memory.need, known));
                match decide(memory, known, scaled || memory.need.frees, now) {
                    Step::Rest => {}
                    Step::WaitUntil(then) => pause = Some(then.duration_since(now).unsigned_abs()),
                    Step::Launch(attempt) => {
                        let ahead = self.make_volume(object.as_deref());
                        pause = Some(tokio::join!(self.launch(&memory.need, attempt), ahead).0);
                    }
                    Step::GiveUp => self.give_up(memory),
                }
            }
            let paused = async {
                match pause {
                    // A little longer than asked: a timer that fires early would only ask again.
                    Some(pause) => tokio::time::sleep(pause + Duration::from_millis(20)).await,
                    None => std::future::pending().await,
                }
            };
            let ended = tokio::select! {
                changed = live.changed() => changed.is_err(),
                changed = jobs.changed() => changed.is_err(),
                changed = kept.changed() => changed.is_err(),
                Ok(()) = token_there.changed() => false,
                () = health.improved() => {
                    forgive(memory.as_mut());
                    false
                }
                () = paused => false,
            };
            if ended {
                return;
            }
        }
    }

    /// Whether it is understood how etcd is started, so that a Job can do anything. If not, says so once for each
    /// generation of the StatefulSet.
    fn is_understood(&self, object: &Value, told: &mut Option<(String, u64)>) -> bool {
        let Some(not_understood) = self.cluster.not_understood(object) else { return true };
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
        let writing = (uid.to_owned(), object["metadata"]["generation"].as_u64().unwrap_or(0));
        if told.as_ref() != Some(&writing) {
            let note = not_understood.sentence(&self.cluster.target(object));
            warn!("{note}");
            self.events.tell(uid, Reason::NotUnderstood, &note);
            *told = Some(writing);
        }
        false
    }

    /// Watches whether the ConfigMap with the token is there.
    fn follow_token(&self, there: watch::Sender<Option<bool>>) {
        let config = watcher::Config::default().fields(&format!("metadata.name={}", self.token));
        let configmaps: Api<ConfigMap> = self.configmaps.clone();
        tokio::spawn(follow(configmaps, config, "the ConfigMap with the token", move |change| {
            there.send_replace(Some(match change {
                Change::Is(_) => true,
                Change::Gone(_) => false,
                Change::All(all) => !all.is_empty(),
            }));
        }));
    }

    /// Makes the Job; returns how long to wait until it shows up in the watch.
    async fn launch(&self, need: &Need, attempt: u32) -> Duration {
        match self.make(need, attempt).await {
            Ok(Some(name)) => {
                info!(job = name, desired = need.desired, attempt, "Job started");
                let note = if need.frees {
                    format!(
                        "etcd-scaler started Job {name}: a member waits for its volume, which is kept for a claim that was deleted"
                    )
                } else {
                    format!(
                        "etcd-scaler started Job {name}: {} members are wanted and the record differs",
                        need.desired
                    )
                };
                self.events.tell(&need.uid, Reason::Started, &note);
                GRACE.unsigned_abs()
            }
            // The other replica was first.
            Ok(None) => GRACE.unsigned_abs(),
            Err(error) => {
                warn!(%error, cronjob = self.cronjob, "cannot start a Job, trying again in {} s", AFTER_ERROR.as_secs());
                AFTER_ERROR
            }
        }
    }

    async fn make_volume(&self, object: Option<&Value>) {
        let Some(object) = object else { return };
        match self.volumes.make_next(object, &self.cluster.target(object)).await {
            Ok(Some(told)) => {
                info!("{told}");
                let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
                self.events.tell(uid, Reason::VolumeMade, &told);
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "the newcomer's volume is left to the Job"),
        }
    }

    async fn make(&self, need: &Need, attempt: u32) -> Result<Option<String>, kube::Error> {
        let cronjob = self.cronjobs.get(&self.cronjob).await?;
        let job = job::from_template(&cronjob, &self.target, &need.run, attempt);
        let params = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
        match self.jobs.create(&params, &job).await {
            Ok(job) => Ok(job.metadata.name),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn give_up(&self, memory: &mut Memory) {
        memory.given_up = true;
        let Need { uid, desired, .. } = &memory.need;
        let note = format!(
            "etcd-scaler tried {MOST_ATTEMPTS} times to get to {desired} verified members and stops; see the log of the last Job \
             with label {TARGET}={}. Repair what it names, then: kubectl create job -n {} --from=cronjob/{} {}-by-hand. It tries \
             again by itself when the count changes or a member answers that did not before.",
            self.target, self.namespace, self.cronjob, self.cronjob
        );
        warn!(desired, "{note}");
        self.events.tell(uid, Reason::GivenUp, &note);
    }
}

/// The state for which a Job is wanted, if there is one; `token_gone`: the token's ConfigMap is missing, so members'
/// pods that are as the chart made them could not start again.
fn need(object: &Value, token_gone: bool) -> Option<Need> {
    let desired = statefulset::replicas(object);
    let deleting = !object["metadata"]["deletionTimestamp"].is_null();
    if deleting || desired == 0 || statefulset::first_ordinal(object) != 0 {
        return None;
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let recorded_for = annotation(object, membership::know::names::RECORDED_FOR);
    let verified = match statefulset::record(object) {
        None => false,
        // A record of a later version: a Job of this version can do nothing.
        Some(Err(_)) => return None,
        Some(Ok(record)) => {
            let all_members = record.members.values().all(|recorded| recorded.state == State::Member);
            recorded_for == Some(&uid) && all_members && record.members.keys().copied().eq(0..desired)
        }
    };
    if verified && !token_gone {
        return None;
    }
    let record = annotation(object, membership::know::names::RECORD);
    // A person's answer about what an earlier cluster left behind; it only matters before there is a record.
    let word = annotation(object, membership::know::names::BOOTSTRAP).filter(|_| record.is_none()).unwrap_or_default();
    let gone = if verified { "no token" } else { word };
    let run = hash(&[&uid, &desired.to_string(), record.unwrap_or_default(), gone]);
    let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
    Some(Need { uid, desired, run, generation, frees: false })
}

/// The state in which a Job is wanted only to make volumes bindable by these claims (UIDs); once for each claim.
fn frees(object: &Value, claims: &BTreeSet<String>) -> Option<Need> {
    if claims.is_empty() || !object["metadata"]["deletionTimestamp"].is_null() {
        return None;
    }
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
    let waiting: Vec<&str> = claims.iter().map(String::as_str).collect();
    let run = hash(&[&[uid.as_str()], &waiting[..]].concat());
    let generation = object["metadata"]["generation"].as_u64().unwrap_or(0);
    Some(Need { uid, desired: statefulset::replicas(object), run, generation, frees: true })
}

/// What to do about a state for which a Job is wanted, given the Jobs that there are; `scaled`: the count came through
/// `statefulsets/scale`, so not from Helm.
fn decide(memory: &Memory, jobs: &BTreeMap<String, Seen>, scaled: bool, now: Timestamp) -> Step {
    if jobs.values().any(|job| job.ended.is_none()) {
        return Step::Rest;
    }
    let ours = |job: &&Seen| job.run.as_deref() == Some(memory.need.run.as_str());
    let counted = memory.tried.saturating_sub(memory.forgiven);
    if counted >= MOST_ATTEMPTS {
        return if memory.given_up { Step::Rest } else { Step::GiveUp };
    }
    let last = |some: &dyn Fn(&&Seen) -> bool| jobs.values().filter(some).filter_map(|job| job.ended).max();
    // A Job that has just ended may have written a record that the watch of the StatefulSet has not reported yet.
    let told = last(&|_| true).map_or(Timestamp::UNIX_EPOCH, |ended| ended + GRACE);
    let settled = told.max(memory.since + if scaled { SignedDuration::ZERO } else { GRACE });
    // After a failed Job at this state, also one of Helm's, the next attempt waits.
    let failed = last(&|job| ours(job) || (job.failed && job.ended > Some(memory.since)));
    let pause = FIRST_PAUSE * 3_i32.pow(counted.saturating_sub(1));
    let due = failed.map_or(settled, |failed| settled.max(failed + pause));
    if due > now { Step::WaitUntil(due) } else { Step::Launch(memory.tried) }
}

/// How many attempts there were at a state, by the numbers of the Jobs: the CronJob's history limits remove older Jobs.
fn attempts(need: &Need, jobs: &BTreeMap<String, Seen>) -> u32 {
    let ours = jobs.values().filter(|job| job.run.as_deref() == Some(need.run.as_str()));
    ours.map(|job| job.attempt + 1).max().unwrap_or(0)
}

/// Notes that a member answers that did not before: what failed may succeed now, so earlier attempts do not count.
fn forgive(memory: Option<&mut Memory>) {
    if let Some(memory) = memory {
        memory.forgiven = memory.tried;
        memory.given_up = false;
    }
}

fn tell(jobs: &watch::Sender<Option<BTreeMap<String, Seen>>>, change: Change<Job>) {
    let named = |job: &Job| (job.metadata.name.clone().unwrap_or_default(), Seen::of(job));
    jobs.send_modify(|jobs| {
        let known = jobs.get_or_insert_default();
        match change {
            Change::Is(job) => known.extend([named(&job)]),
            Change::Gone(job) => known.retain(|name, _| *name != named(&job).0),
            Change::All(all) => *known = all.iter().map(named).collect(),
        }
    });
}

#[cfg(test)]
mod tests;
