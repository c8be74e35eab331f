//! `hook replace`: removes a lost member from etcd and deletes its pod, claim and volume; then its ordinal joins anew.
//! It prints the plan; with `--yes` it does that, and goes on with the scaling run, which has the newcomer join.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::DeleteParams;
use kubernetes::lease::Lease;
use kubernetes::objects::{Objects, is_passing, patiently, this_one};
use kubernetes::report::{self, Reports};
use kubernetes::statefulset::{adopt, reference, understood};
use kubernetes::volumes::{self, claim_name};
use membership::decide::next_step;
use membership::decide::replace::{self, Asked, Left, Step};
use membership::know::names::Ordinal;
use membership::know::observed::Observed;
use membership::know::volume::VolumePlan;
use tokio::time::Instant;
use tracing::info;

use crate::failpoint::Failpoint;
use crate::run::apply::{Applied, Apply};
use crate::run::drift::DecidedArgs;
use crate::run::observe::Observer;
use crate::run::scale::{self, Run};
use crate::run::waits::Waits;

/// How long an observation for which it is refused is made again, and how long a member must be seen as lost in every
/// look: a member that is only late answers the next time.
const PATIENCE: Duration = Duration::from_secs(10);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// The exit code of a plan that has something to do.
const TO_DO: u8 = 3;

/// The flags of a replacement.
#[derive(Debug, clap::Args)]
pub struct ReplaceArgs {
    #[command(flatten)]
    decided: DecidedArgs,
    /// The ordinal of the member, as in its pod's name.
    #[arg(long)]
    ordinal: Ordinal,
    /// Also when the member serves: its data is known to be wrong.
    #[arg(long)]
    even_if_it_serves: bool,
}

impl ReplaceArgs {
    /// Prints the plan, and with `--yes` does it.
    ///
    /// # Errors
    /// Why it is neither.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { decided: DecidedArgs { scale, yes }, ordinal, even_if_it_serves } = self;
        run(Asked { ordinal, even_if_it_serves }, scale.run(), yes).await
    }
}

/// Prints the plan, and with `yes` does it and brings the cluster to its count. The exit code is 0 when
/// it is done, 3 when there is something to do.
///
/// # Errors
/// Why it is neither; what was done by then is in the log and in Events.
pub async fn run(asked: Asked, run: Run, yes: bool) -> anyhow::Result<ExitCode> {
    let objects = Objects::connect(&run.target.namespace).await?;
    let end = Instant::now() + if yes { run.deadline } else { 3 * PATIENCE };
    let mut lease = Lease::acquire(objects.leases.clone(), &run.lease, &run.pod_name, end).await?;
    let outcome = clear(asked, &objects, &run, &mut lease, yes, end).await;
    lease.release().await;
    match outcome? {
        Some(plan) => {
            let said = format!(
                "plan: {plan}. Take a snapshot first (docs/snapshot.md). Nothing was changed; with --yes it is done"
            );
            info!("{said}");
            report::last_word(&said);
            Ok(ExitCode::from(TO_DO))
        }
        None => {
            scale::run(run).await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Removes the member with all that it had. Without `yes` returns the plan instead.
async fn clear(
    asked: Asked,
    objects: &Objects,
    run: &Run,
    lease: &mut Lease,
    yes: bool,
    end: Instant,
) -> anyhow::Result<Option<String>> {
    let mut target = run.target.clone();
    let statefulset = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&statefulset, &mut target)?;
    understood(&statefulset, &target)?;
    let reports = Reports::about(objects.client.clone(), reference(&statefulset), &run.pod_name);
    let mut observer = Observer::default();
    let refuses_until = end.min(Instant::now() + PATIENCE);
    let mut waits = Waits::default();
    // Since when every look has said that it is lost.
    let mut lost_since = None;
    loop {
        let round = async {
            lease.keep().await?;
            let (seen, statefulset) = observer.observe(objects, &mut target, &run.plan, lease).await?;
            let left = left(objects, &run.plan, &seen, &statefulset, asked.ordinal).await?;
            anyhow::Ok((seen, statefulset, left))
        };
        let (seen, statefulset, left) = match round.await {
            Err(error) if is_passing(&error) && Instant::now() + LOOK < end => {
                tokio::time::sleep(LOOK).await;
                continue;
            }
            round => round?,
        };
        let step = match replace::next(&seen, asked, &left) {
            Err(_) if Instant::now() + LOOK < refuses_until => {
                lost_since = None;
                tokio::time::sleep(LOOK).await;
                continue;
            }
            step => step.map_err(anyhow::Error::msg)?,
        };
        let lost_for = lost_since.get_or_insert_with(Instant::now).elapsed();
        if step.takes_out() && !asked.even_if_it_serves && lost_for < PATIENCE {
            tokio::time::sleep(LOOK).await;
            continue;
        }
        if !yes {
            return Ok(Some(replace::plan(&seen, asked.ordinal, &step)));
        }
        if step == Step::Out {
            return Ok(None);
        }
        if Instant::now() > end {
            bail!(
                "the deadline passed before {} was out of the way; run this again, it goes on from here",
                seen.target.pod(asked.ordinal)
            );
        }
        let apply =
            Apply { objects, lease, reports: &reports, plan: &run.plan, seen: &seen, statefulset: &statefulset };
        match apply_step(&apply, asked.ordinal, step).await {
            Ok(Applied::Done) => {
                waits.over();
                continue;
            }
            Ok(Applied::NotYet(why)) => waits.say(&why),
            Err(error) if is_passing(&error) => waits.say(&format!("the API server: {error:#}")),
            Err(error) => return Err(error),
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn apply_step(apply: &Apply<'_>, ordinal: Ordinal, step: Step) -> anyhow::Result<Applied> {
    let Apply { objects, reports, plan, seen, statefulset, .. } = *apply;
    let pod = seen.target.pod(ordinal);
    match step {
        Step::MoveLeader(heir, id) => apply.step(next_step::Step::MoveLeader(heir, id)).await,
        Step::Remove(id) => {
            let at = [Failpoint::BeforeRemove, Failpoint::MemberRemoved];
            apply
                .remove(ordinal, id, at, |pod| crate::run::apply::Told {
                    reason: "MemberRemoved",
                    note: format!("{pod} (member {id}) is removed from etcd: it is replaced"),
                    trouble: true,
                })
                .await
        }
        Step::Record(record) => {
            apply.step(next_step::Step::Record(record, format!("{pod} is out of etcd and is to join anew"))).await
        }
        Step::RemoveClaim => {
            let claim = claim_name(statefulset, &seen.target, ordinal).context("no claim template")?;
            let found =
                objects.claims.get_opt(&claim).await.with_context(|| format!("failed to read claim {claim}"))?;
            volumes::remove(objects, &seen.target, plan, &claim, ordinal).await?;
            let Some(uid) = found.and_then(|claim| claim.metadata.uid) else { return Ok(Applied::Done) };
            match objects.claims.delete(&claim, &this_one(&uid)).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => {}
                Err(error) => return Err(error).with_context(|| format!("failed to delete claim {claim}")),
            }
            let note = format!("claim {claim} is deleted, with the volume made for it: {pod} is replaced");
            reports.did("ClaimRemoved", note).await;
            Ok(Applied::Done)
        }
        Step::RemovePod { uid, forced: false } => {
            let note = |pod: &str| format!("pod {pod} is deleted: it is replaced");
            apply.delete_pod(ordinal, &uid, Failpoint::PodRemoved, "PodRemoved", note).await
        }
        Step::RemovePod { uid, forced: true } => {
            let forced = DeleteParams { grace_period_seconds: Some(0), ..this_one(&uid) };
            let deleted = objects.pods.delete(&pod, &forced).await;
            if let Some(gone) = crate::run::apply::is_gone(&deleted) {
                return Ok(Applied::NotYet(gone));
            }
            deleted.with_context(|| format!("failed to delete pod {pod}"))?;
            let note = format!(
                "pod {pod} is deleted without waiting for its node, which does not answer: its member is out of etcd"
            );
            reports.trouble("PodRemoved", note).await;
            Ok(Applied::Done)
        }
        Step::Wait(what) => Ok(Applied::NotYet(what)),
        Step::Out => Ok(Applied::Done),
    }
}

/// What is left of the member outside etcd.
async fn left(
    objects: &Objects,
    plan: &VolumePlan,
    seen: &Observed,
    statefulset: &StatefulSet,
    ordinal: Ordinal,
) -> anyhow::Result<Left> {
    let Some(claim) = claim_name(statefulset, &seen.target, ordinal) else { return Ok(Left::default()) };
    let found = objects.claims.get_opt(&claim).await.with_context(|| format!("failed to read claim {claim}"))?;
    let volume = volumes::made_for(objects, &seen.target, plan, &claim, ordinal).await?.is_some();
    let node_is_away = match seen.pods.get(&ordinal).and_then(|pod| pod.node.as_deref()) {
        None => false,
        Some(node) => {
            let found = objects.nodes.get_opt(node).await.with_context(|| format!("failed to read node {node}"))?;
            !found.as_ref().is_some_and(volumes::is_ready)
        }
    };
    let ending = found.as_ref().is_some_and(|claim| claim.metadata.deletion_timestamp.is_some());
    // The controller makes a claim with each pod, so a claim without a volume is the newcomer's already.
    let old = volume || found.as_ref().is_some_and(|claim| !volumes::is_unbound(claim));
    Ok(Left { claim: old && found.is_some() && !ending, storage: old || ending, node_is_away })
}
