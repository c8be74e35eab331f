//! The run: observe → plan → apply one step → observe again, until done or deadline; then compare
//! the keys of all members.

use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::ValueEnum;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kubernetes::flags::{LeaseArgs, TargetArgs, VolumeArgs};
use kubernetes::lease::Lease;
use kubernetes::objects::{Objects, is_passing, patiently};
use kubernetes::report::{self, Reports};
use kubernetes::serving::permit;
use kubernetes::statefulset::{adopt, record, reference, replicas, understood};
use membership::decide::next_step::{Limits, Step, did_not_join, next_step, out_of_time};
use membership::know::names::{RECORDED_FOR, SUMMARY, Target};
use membership::know::observed::Observed;
use membership::know::summary::{Status, Summary};
use membership::know::volume::VolumePlan;
use membership::write::serving::names;
use operate::validate::{self, Asked};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::checks::before::{Before, BeforeArgs};
use crate::failpoint::{self, Failpoint};
use crate::run::apply::{Applied, Apply};
use crate::run::bootstrap::{Bootstrap, keep_token};
use crate::run::budget::{Budget, Kept};
use crate::run::observe::Observer;
use crate::run::waits::Waits;

/// The pause between two looks while there is nothing to do but wait.
const LOOK: Duration = Duration::from_millis(100);
/// The pause between two log entries that etcd is asked to write for a member that has started and does not answer
/// ([`Observed::may_wait_for_entry`]).
const ENTRY: Duration = Duration::from_secs(1);
/// How long a run past its deadline may take to undo a join that is half done. The Job's activeDeadlineSeconds is later
/// (30 s after the deadline).
const UNDO: Duration = Duration::from_secs(20);
/// How long the comparison of the keys may take: a HashKV reads every key, which takes minutes on a large database.
const COMPARE: Duration = Duration::from_secs(120);
/// How many differing keys the comparison names. It counts all of them.
const NAMED: usize = 10;

/// What started the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trigger {
    /// Helm, after an install.
    PostInstall,
    /// Helm, after an upgrade or a rollback.
    PostUpgrade,
    /// The webhook's launcher.
    Launcher,
    /// A person.
    Manual,
}

/// The flags of a run.
#[derive(Debug, clap::Args)]
pub struct ScaleArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    volumes: VolumeArgs,
    #[command(flatten)]
    before: BeforeArgs,
    /// Keep a PodDisruptionBudget that lets so many members be evicted at once, or `none` [default: the StatefulSet's own
    /// chart has one, which is only looked at].
    #[arg(long, env = "ETCD_SCALER_BUDGET", value_parser = Budget::parse)]
    budget: Option<Budget>,
    /// What started this run.
    #[arg(long, env = "ETCD_SCALER_TRIGGER", default_value = "manual")]
    trigger: Trigger,
    /// The run ends after this time, with what is half done undone.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "240s", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// A member that is not promoted this long after `member add` is taken back; a learner has a second more for each
    /// 4 MB of the database.
    #[arg(long, env = "ETCD_SCALER_JOIN_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    join_deadline: Duration,
    #[command(flatten)]
    lease: LeaseArgs,
    /// Who holds the Lease: this pod.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
}

impl ScaleArgs {
    /// What the run is told.
    #[must_use]
    pub fn run(self) -> Run {
        let Self { target, volumes, before, budget, trigger, deadline, join_deadline, lease, pod_name } = self;
        let target = target.target();
        let (lease, plan) = (lease.name(&target), volumes.plan());
        let before = before.before(&target, plan.clone());
        let budget = budget.unwrap_or(Budget::Theirs);
        Run { target, plan, before, budget, trigger, deadline, join_deadline, lease, pod_name }
    }
}

/// What one run is told.
pub struct Run {
    /// The cluster, without the headless Service's name, which the live StatefulSet tells.
    pub target: Target,
    /// How volumes are made.
    pub plan: VolumePlan,
    /// What is checked and taken before members change.
    pub before: Before,
    /// Whose PodDisruptionBudget there is.
    pub budget: Budget,
    /// Who started it.
    pub trigger: Trigger,
    /// For everything.
    pub deadline: Duration,
    /// From `member add` to promotion.
    pub join_deadline: Duration,
    /// The Lease's name.
    pub lease: String,
    /// This pod's name.
    pub pod_name: String,
}

/// Runs until done, failed or at the deadline.
///
/// # Errors
/// Why it is not done, in one line.
pub async fn run(run: Run) -> anyhow::Result<()> {
    let Run { mut target, plan, before, budget, trigger, deadline, join_deadline, lease, pod_name } = run;
    let started = Instant::now();
    info!(
        "etcd-scaler {} for {target}, started by {trigger:?}, deadline {} s",
        env!("CARGO_PKG_VERSION"),
        deadline.as_secs()
    );
    let objects = Objects::connect(&target.namespace).await?;
    let end = started + deadline;
    let statefulset = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&statefulset, &mut target)?;
    let reports = Reports::about(objects.client.clone(), reference(&statefulset), &pod_name);
    if let Err(error) = understood(&statefulset, &target) {
        reports.failed("NotUnderstood", format!("{error:#}")).await;
        return Err(error);
    }
    let mut lease = Lease::acquire(objects.leases.clone(), &lease, &pod_name, end).await?;
    patiently(end, || keep_the_copies(&objects, &target, &lease)).await?;
    failpoint::at(Failpoint::LeaseTaken, &lease).await;
    let work = Work { objects: &objects, reports: &reports, plan: &plan, budget, join_deadline, end };
    let wanted = replicas(&statefulset);
    let seen_to = before.see_to(&objects, &reports, &target, &statefulset, wanted, end);
    let ready = lease.keep_during(seen_to).await;
    let bootstrap = Bootstrap { objects: &objects, reports: &reports, plan: &plan, end };
    let may_work = match ready {
        Ok(()) => bootstrap.until_started(&mut target, &mut lease).await,
        Err(error) => Err(error),
    };
    let worked = match may_work {
        Ok(()) => work.until_done(&mut target, &mut lease).await,
        Err(error) => Err(error),
    };
    let outcome = match worked {
        Ok(0) => Ok(format!("{target} is stopped: 0 replicas are wanted, its members stay as they are")),
        Ok(_) => {
            failpoint::at(Failpoint::BeforeValidation, &lease).await;
            lease.keep_during(validate(&objects, &target, &reports)).await
        }
        Err(error) => Err(error),
    };
    lease.release().await;
    match outcome {
        Ok(result) => {
            info!("done in {:.1} s: {result}", started.elapsed().as_secs_f64());
            report::last_word(&result);
            Ok(())
        }
        Err(error) => {
            reports.failed("ScaleFailed", format!("{error:#}")).await;
            Err(error)
        }
    }
}

/// Brings the copies of the record up to date: in the Lease, which outlives the StatefulSet, and in the Role that the
/// admission policy asks. They may differ if the StatefulSet was made again, the Lease or the Role deleted, or an
/// earlier run killed.
async fn keep_the_copies(objects: &Objects, target: &Target, lease: &Lease) -> anyhow::Result<()> {
    let statefulset = objects.statefulset(target).await?;
    let Some(record) = record(&statefulset)? else {
        return Ok(());
    };
    // A copy that cannot be read is written again.
    if lease.record().await.ok().flatten().as_ref() != Some(&record) {
        lease.write(Some(&record)).await?;
    }
    keep_token(objects, target, &statefulset).await?;
    let uid = statefulset.metadata.uid.clone().unwrap_or_default();
    permit(objects, lease.name(), target, &statefulset, &names(target, &record)).await?;
    let annotations = statefulset.metadata.annotations.as_ref();
    if annotations.and_then(|all| all.get(RECORDED_FOR)) != Some(&uid) {
        let patch = json!({ "metadata": { "uid": uid, "annotations": { RECORDED_FOR: uid } } });
        let written =
            objects.statefulsets.patch(&target.statefulset, &PatchParams::default(), &Patch::Merge(&patch)).await;
        written.with_context(|| format!("failed to write {RECORDED_FOR} of {target}"))?;
    }
    Ok(())
}

struct Work<'a> {
    objects: &'a Objects,
    reports: &'a Reports,
    plan: &'a VolumePlan,
    budget: Budget,
    join_deadline: Duration,
    end: Instant,
}

impl Work<'_> {
    /// Brings the cluster to the desired count, and returns that count.
    async fn until_done(&self, target: &mut Target, lease: &mut Lease) -> anyhow::Result<u32> {
        let mut observer = Observer::default();
        let mut waits = Waits::default();
        let mut budget = Kept::new(self.budget);
        let mut last_entry = Instant::now();
        let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
        // Why the run fails; it only undoes what is half done before it ends.
        let mut over: Option<anyhow::Error> = None;
        loop {
            let round = async {
                lease.keep().await?;
                observer.observe(self.objects, target, self.plan, lease).await
            };
            let (seen, statefulset) = match self.bounded(round).await {
                Ok(round) => round,
                Err(error) if self.end > Instant::now() && is_passing(&error) => {
                    waits.say(&format!("the API server: {error:#}"));
                    tokio::time::sleep(LOOK).await;
                    continue;
                }
                Err(error) => return Err(over.unwrap_or(error)),
            };
            let left = if over.is_some() { Duration::ZERO } else { self.end.saturating_duration_since(Instant::now()) };
            let step = next_step(&seen, &Limits { join: self.join_deadline, left });
            if let Some(over) = over.take_if(|_| !step.is_undo()) {
                return Err(over);
            }
            if left.is_zero() && over.is_none() {
                let error = deadline_error(&seen, &waits, &step);
                if !step.is_undo() {
                    return Err(error);
                }
                over = Some(error);
            }
            if self.end + UNDO < Instant::now() {
                // The error in `over` says that the member list is as before, which is true only after the undo. So
                // this is another error.
                bail!(
                    "the deadline passed before what was half done was undone: a newcomer may still be in etcd's member list (etcdctl member list); the next run goes on from there"
                );
            }
            // The budget is raised before a member is added. Not past the deadline, when the run only undoes.
            if over.is_none() {
                let follow = budget.follow(self.objects, self.reports, &statefulset, &seen, &step);
                match self.bounded(follow).await {
                    Ok(()) => {}
                    Err(error) if is_passing(&error) => {
                        waits.say(&format!("the API server: {error:#}"));
                        tokio::time::sleep(LOOK).await;
                        continue;
                    }
                    Err(error) => return Err(error),
                }
            }
            match step {
                Step::Done => return Ok(seen.desired),
                Step::Fail(why) => match waits.lasting() {
                    // Too little time is left for a join, because the run had to wait for something else.
                    Some((what, seconds)) if left < self.join_deadline => bail!(
                        "{why}. It had waited {seconds} s for {what}: see to that first (kubectl describe pods -n {})",
                        target.namespace
                    ),
                    _ => bail!(why),
                },
                Step::Wait(what) => {
                    waits.say(&what);
                    if last_entry.elapsed() >= ENTRY && seen.may_wait_for_entry() {
                        // If it is not written in time, the next look tells why.
                        let apply = self.apply(lease, &seen, &statefulset);
                        let _ = tokio::time::timeout(ENTRY, apply.write_entry()).await;
                        last_entry = Instant::now();
                    }
                }
                step => {
                    if let (None, Step::TakeBack(ordinal, _, why)) = (&over, &step)
                        && *ordinal < seen.desired
                    {
                        over = Some(anyhow!(did_not_join(&seen, *ordinal, why)));
                    }
                    let held = match &step {
                        Step::Renew(ordinal, ..) if seen.is_held(*ordinal) => Some(*ordinal),
                        _ => None,
                    };
                    match self.bounded(self.apply(lease, &seen, &statefulset).step(step)).await {
                        Ok(Applied::Done) => {
                            held.into_iter().for_each(|ordinal| observer.freed(ordinal));
                            waits.over();
                            continue;
                        }
                        Ok(Applied::NotYet(why)) => waits.say(&format!("etcd: {why}")),
                        Err(error) if is_passing(&error) => waits.say(&format!("the API server: {error:#}")),
                        Err(error) => return Err(error),
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                // A join is not undone now: the next run, which the launcher starts, goes on from here. If a member
                // that has started were removed, its data would be left behind, and no later run could use it.
                _ = terminate.recv() => bail!("the Job was told to stop (SIGTERM); the next run goes on from here"),
            }
        }
    }

    fn apply<'a>(&'a self, lease: &'a Lease, seen: &'a Observed, statefulset: &'a StatefulSet) -> Apply<'a> {
        let Self { objects, reports, plan, .. } = self;
        Apply { objects, lease, reports, plan, seen, statefulset }
    }

    /// Runs `work`, but not past the time that the undo may take.
    async fn bounded<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        match tokio::time::timeout_at(self.end + UNDO, work).await {
            Ok(result) => result,
            Err(_) => bail!("the deadline has passed while the API server or etcd did not answer"),
        }
    }
}

fn deadline_error(seen: &Observed, waits: &Waits, step: &Step) -> anyhow::Error {
    match step {
        Step::Fail(why) => anyhow!("{why}"),
        _ => anyhow!(out_of_time(seen, waits.what())),
    }
}

/// Compares all members' keys, key by key if their hashes differ, and writes what was found into the StatefulSet.
async fn validate(objects: &Objects, target: &Target, reports: &Reports) -> anyhow::Result<String> {
    let asked = Asked { keys: false, named: NAMED, deadline: COMPARE };
    let end = Instant::now() + COMPARE;
    let compared = tokio::time::timeout_at(end, validate::compare(objects, target.clone(), &asked, end)).await;
    let (status, found) = match compared {
        Ok(Ok(answer)) => (answer.verdict.into(), answer.reason),
        Ok(Err(error)) => (Status::Unknown, format!("the members' keys could not be compared: {error:#}")),
        Err(_) => (Status::Unknown, format!("the members' keys were not compared within {} s", COMPARE.as_secs())),
    };
    if let Err(error) = note(objects, target, status, &found).await {
        warn!("{error:#}");
    }
    match status {
        Status::True => {
            reports.did("Validated", found.clone()).await;
            Ok(found)
        }
        Status::False => {
            reports.trouble("KeysDiffer", found.clone()).await;
            bail!(found)
        }
        Status::Unknown => bail!("{found}; the members are as desired, run the Job again to compare them"),
    }
}

/// Writes what was found into the StatefulSet, if it is news.
async fn note(objects: &Objects, target: &Target, status: Status, found: &str) -> anyhow::Result<()> {
    let statefulset = objects.statefulset(target).await?;
    let before = statefulset.metadata.annotations.as_ref().and_then(|all| Summary::parse(all.get(SUMMARY)?));
    let now = Timestamp::now().to_string();
    let Some(summary) = Summary::with_data(before.as_ref(), status, found, &now) else { return Ok(()) };
    let patch = json!({ "metadata": {
        "uid": statefulset.metadata.uid,
        "annotations": { SUMMARY: summary.annotation() },
    } });
    let written = objects.statefulsets.patch(&target.statefulset, &PatchParams::default(), &Patch::Merge(&patch)).await;
    written.with_context(|| format!("failed to write into {target} what the comparison found"))?;
    Ok(())
}
