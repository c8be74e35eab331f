//! `hook reconcile` and `hook forget`: what a person decides if etcd is not what the record says any more. They print
//! the plan; with `--yes` they write it, as any other run writes the record.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kubernetes::lease::Lease;
use kubernetes::objects::{Objects, is_passing, patiently};
use kubernetes::report::{self, Reports};
use kubernetes::serving;
use kubernetes::statefulset::{adopt, reference, understood};
use membership::decide::drift::{self, Plan};
use membership::decide::next_step::Step;
use membership::know::names::{RECORD, RECORDED_FOR};
use membership::know::observed::Observed;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::run::apply::Apply;
use crate::run::observe::Observer;
use crate::run::scale::{Run, ScaleArgs};

/// How long the Lease is waited for, and how long an observation for which it is refused is made again. A person waits
/// for it.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The exit code of a plan that has something to do.
const TO_DO: u8 = 3;

/// With the flags of a scale, so that a Job from the CronJob's template needs another command only.
#[derive(Debug, clap::Args)]
pub struct DecidedArgs {
    #[command(flatten)]
    pub(crate) scale: ScaleArgs,
    /// Do what the plan says; without it nothing is changed and the exit code is 3 where there is
    /// something to do.
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What a person decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The members that answer are right: the record follows.
    Reconcile,
    /// The cluster that answers is right: the record of another one is dropped.
    Forget,
}

/// Prints the plan, and with `yes` does it. The exit code is 0 when it is done or there is nothing to
/// do, 3 when there is something to do.
///
/// # Errors
/// Why neither is so; nothing was changed then.
pub async fn run(decision: Decision, run: Run, yes: bool) -> anyhow::Result<ExitCode> {
    let end = Instant::now() + PATIENCE;
    let objects = Objects::connect(&run.target.namespace).await?;
    let mut lease = Lease::acquire(objects.leases.clone(), &run.lease, &run.pod_name, end).await?;
    let outcome = decide(decision, &objects, run, &mut lease, yes).await;
    lease.release().await;
    let (said, code) = outcome?;
    info!("{said}");
    report::last_word(&said);
    Ok(code)
}

/// What is said in the end, and the exit code.
async fn decide(
    decision: Decision,
    objects: &Objects,
    run: Run,
    lease: &mut Lease,
    yes: bool,
) -> anyhow::Result<(String, ExitCode)> {
    let Run { mut target, plan, pod_name, .. } = run;
    let end = Instant::now() + PATIENCE;
    let statefulset = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&statefulset, &mut target)?;
    if decision == Decision::Reconcile {
        understood(&statefulset, &target)?;
    }
    let reports = Reports::about(objects.client.clone(), reference(&statefulset), &pod_name);
    let mut observer = Observer::default();
    loop {
        let again = Instant::now() + LOOK < end;
        let round = async {
            lease.keep().await?;
            observer.observe(objects, &mut target, &plan, lease).await
        };
        let (seen, statefulset) = match round.await {
            Err(error) if again && is_passing(&error) => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            round => round?,
        };
        let (what, to_write) = match (decision, drift::plan(&seen)) {
            (_, Plan::Nothing(why)) => return Ok((format!("nothing to do: {why}"), ExitCode::SUCCESS)),
            // It may be refused only because a member answered late: look again.
            (_, Plan::Refused(_)) if again => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            (_, Plan::Refused(why)) => bail!(why),
            (Decision::Reconcile, Plan::Reconcile(record, what)) => (what.join(". "), Some(record)),
            (Decision::Forget, Plan::Forget(what)) => (what, None),
            (Decision::Reconcile, Plan::Forget(why)) => bail!("{}", other_way(&seen, why)),
            (Decision::Forget, Plan::Reconcile(_, what)) => bail!("{}", other_way(&seen, what.join(". "))),
        };
        if !yes {
            return Ok((format!("plan: {what}. Nothing was changed; with --yes it is done"), ExitCode::from(TO_DO)));
        }
        let written = match to_write {
            Some(record) => {
                let apply =
                    Apply { objects, lease, reports: &reports, plan: &plan, seen: &seen, statefulset: &statefulset };
                apply.step(Step::Record(record, what.clone())).await.map(drop)
            }
            None => forget(objects, lease, &reports, &seen, &statefulset, &what).await,
        };
        match written {
            Err(error) if again && is_passing(&error) => tokio::time::sleep(LOOK).await,
            written => {
                written?;
                return Ok((format!("done: {what}"), ExitCode::SUCCESS));
            }
        }
    }
}

/// The sentence for a drift that is for the other command.
fn other_way(seen: &Observed, what: String) -> String {
    let drift = seen.record.as_ref().and_then(|record| drift::recognise(&seen.target, record, &seen.answers));
    drift.map_or(what, |drift| drift.sentence())
}

/// Drops the Lease's copy first and the record last: if this run is killed in between, the record is still there for
/// the next one.
async fn forget(
    objects: &Objects,
    lease: &Lease,
    reports: &Reports,
    seen: &Observed,
    statefulset: &StatefulSet,
    what: &str,
) -> anyhow::Result<()> {
    let target = &seen.target;
    lease.write(None).await?;
    serving::forget(objects, lease.name()).await?;
    // With the resourceVersion that was read, as every write of the record.
    let patch = json!({ "metadata": {
        "resourceVersion": statefulset.metadata.resource_version,
        "annotations": { RECORD: null, RECORDED_FOR: null },
    } });
    let written = objects.statefulsets.patch(&target.statefulset, &PatchParams::default(), &Patch::Merge(&patch)).await;
    written.with_context(|| format!("failed to drop the record of {target}"))?;
    reports.did("Forgotten", format!("forgotten: {what}")).await;
    Ok(())
}
