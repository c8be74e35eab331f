//! Before an upgrade: would it delete no etcd, are the members healthy, and would the change be admitted? If a check
//! fails, nothing was changed.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kubernetes::objects::{Objects, patiently};
use kubernetes::report::{self, Reports};
use kubernetes::statefulset::{adopt, record, reference, replicas};
use kubernetes::volumes::claim_name;
use membership::decide::deleted::Release;
use membership::know::annotations::OnReset;
use membership::know::names::{MOST_MEMBERS, Ordinal, Target};
use membership::know::statefulset;
use membership::write::{ownership, statefulset::Update};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::checks::before::Before;
use crate::checks::{deleted, immutable, unused};

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The pause before members that are not all healthy are asked again.
const LOOK: Duration = Duration::from_millis(500);
/// How long members that are not all healthy may take to become so: an election, or the end of a restart.
const PATIENCE: Duration = Duration::from_secs(8);

/// Makes the checks. If the count stays the same, a finding is only a warning: the upgrade may be the cure.
///
/// # Errors
/// Why the upgrade must not go on.
pub async fn run(
    mut target: Target,
    before: &Before,
    manifest: Option<&Path>,
    (chart, deletes): (&str, &str),
    lease: &str,
    deadline: Duration,
) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    let objects = Objects::connect(&target.namespace).await?;
    let keeps = manifest.map(|_| target.statefulset.as_str());
    deleted::none(&objects, &Release { name: &before.volumes.release, chart, keeps, deletes }, end).await?;
    let Some(manifest) = manifest else {
        let result = "the upgrade deletes no etcd of the release";
        info!("{result}");
        report::last_word(result);
        return Ok(());
    };
    let text = std::fs::read_to_string(manifest).with_context(|| format!("failed to read {}", manifest.display()))?;
    let rendered: StatefulSet =
        serde_json::from_str(&text).with_context(|| format!("{} is not a StatefulSet", manifest.display()))?;
    let live = tokio::time::timeout_at(end, objects.statefulsets.get_opt(&target.statefulset)).await;
    let live = live.context("the API server did not answer before the deadline")?;
    let Some(live) = live.with_context(|| format!("failed to read {target}"))? else {
        info!("{target} does not exist yet: nothing to check");
        return Ok(());
    };
    adopt(&live, &mut target)?;
    let (from, to) = (replicas(&live), replicas(&rendered));
    let reports = Reports::about(objects.client.clone(), reference(&live), "preflight");
    let mut deleting = false;
    let checked = async {
        let tried = match dry_run(&objects, &target, &live, &rendered).await? {
            Tried::Fixed(fixed) => {
                return make_again(&objects, &target, &live, lease, &fixed, (&mut deleting, end)).await.map(Some);
            }
            Tried::Admitted(tried) => tried,
        };
        if from == to && rolls(&target, &live, &tried)? {
            warn_of_sick(&target, to, &reports, end).await;
        }
        if from != to && record(&live)?.is_none_or(|record| record.count() != to) {
            // Only the members that stay: one that is to leave may be gone already, and the guard decides whether it
            // may leave.
            all_healthy(&target, from.min(to), end).await?;
        }
        before.see_to(&objects, &reports, &target, &live, to, end).await?;
        anyhow::Ok(None)
    };
    let checked = match tokio::time::timeout_at(end, checked).await {
        Ok(checked) => checked,
        Err(_) => Err(anyhow::anyhow!("the checks did not end within {} s", deadline.as_secs())),
    };
    match checked {
        Ok(Some(made_again)) => {
            reports.did("StatefulSetDeleted", made_again.clone()).await;
            report::last_word(&made_again);
            Ok(())
        }
        Ok(None) => {
            release_count(&objects, &target, &live, &rendered, end).await?;
            let result = format!("preflight passed: {from} → {to} replicas would be admitted");
            info!("{result}");
            report::last_word(&result);
            Ok(())
        }
        // Except for a change of an immutable field: Helm would fail at it too, without saying what to do.
        Err(error) if from == to && !error.is::<Fixed>() => {
            warn!("the replica count stays {to}, so the upgrade goes on: {error:#}");
            Ok(())
        }
        Err(error) => {
            let why = format!("{error:#}");
            reports.failed("ScaleRefused", why.clone()).await;
            if deleting {
                bail!("{why} (its StatefulSet, in which etcd never ran, may be gone already: upgrade again to go on)");
            }
            bail!("{why} (nothing was changed)")
        }
    }
}

/// Takes the ownership of the count from `kubectl scale`, which would make Helm 4 fail. By now the webhook has agreed,
/// in the dry run, to the release's count or to keeping the live one. The object is read again before each try, because
/// any write, also of its status, makes another version.
async fn release_count(
    objects: &Objects,
    target: &Target,
    checked: &StatefulSet,
    rendered: &StatefulSet,
    end: Instant,
) -> anyhow::Result<()> {
    let rendered = serde_json::to_value(rendered)?;
    loop {
        let live = patiently(end, || objects.statefulset(target)).await?;
        if replicas(&live) != replicas(checked) {
            bail!("the count of {target} became {} while it was checked; upgrade again", replicas(&live));
        }
        let live = serde_json::to_value(live)?;
        let keep = statefulset::on_reset(&rendered) == Some(OnReset::Keep)
            && statefulset::replicas(&live) != statefulset::replicas(&rendered);
        let Some(patch) = ownership::release(&live, keep) else { return Ok(()) };
        let (params, patch) = (PatchParams::default(), Patch::<StatefulSet>::Json(patch));
        match objects.statefulsets.patch(&target.statefulset, &params, &patch).await {
            Ok(_) => {
                info!("the count was set with kubectl scale: the release may change it again");
                return Ok(());
            }
            // The object has another version by now.
            Err(kube::Error::Api(status)) if [409, 422].contains(&status.code) && Instant::now() + LOOK < end => {
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                return Err(error).with_context(|| {
                    format!("failed to let the release have the count of {target} again; upgrade again")
                });
            }
        }
    }
}

/// The error that the change is of an immutable field; has the way out.
#[derive(Debug)]
struct Fixed(String);

impl std::fmt::Display for Fixed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fixed {}

/// The outcome of the dry run.
enum Tried {
    /// It is admitted, and would be stored like this.
    Admitted(Box<StatefulSet>),
    /// It changes immutable fields; these, in words.
    Fixed(Vec<String>),
}

/// Whether the change rolls the pods.
fn rolls(target: &Target, live: &StatefulSet, tried: &StatefulSet) -> anyhow::Result<bool> {
    let (live, tried) = (serde_json::to_value(live)?, serde_json::to_value(tried)?);
    // As if our Job asked, so that a change of our annotations is not refused here.
    Ok(Update::new(&live, &tried, target, true).is_ok_and(|update| update.changes_template()))
}

/// Warns that the roll-out will stand still because a member is sick. It is not refused: it may be the cure.
async fn warn_of_sick(target: &Target, count: u32, reports: &Reports, end: Instant) {
    let Some((ordinal, sick)) = lasting_sickness(target, count, end).await else { return };
    let note = format!(
        "{sick}, and this upgrade changes the pod template. Its roll-out stands still before a pod without which no quorum would serve, and goes on by itself when every member is well. If the change is the cure, delete the pod of the sick member after the upgrade: kubectl delete pod -n {} {}",
        target.namespace,
        target.pod(ordinal)
    );
    reports.trouble("RollOutWaits", note).await;
}

/// A server-side dry run of the whole StatefulSet, which the webhook judges too.
async fn dry_run(
    objects: &Objects,
    target: &Target,
    live: &StatefulSet,
    rendered: &StatefulSet,
) -> anyhow::Result<Tried> {
    // With Helm's field manager, as the upgrade itself will have it.
    let params =
        PatchParams { dry_run: true, force: true, field_manager: Some("helm".into()), ..PatchParams::default() };
    match objects.statefulsets.patch(&target.statefulset, &params, &Patch::Apply(rendered)).await {
        Ok(tried) => Ok(Tried::Admitted(Box::new(tried))),
        Err(kube::Error::Api(status)) if status.message.contains("failed calling webhook") => bail!(
            "etcd-scaler's webhook does not answer, and without it no change of members is safe: {}. See why (kubectl -n {} get pods -l app.kubernetes.io/component=webhook), then upgrade again",
            status.message,
            target.namespace
        ),
        Err(kube::Error::Api(status)) if status.code == 422 && status.message.contains("fields other than") => {
            Ok(Tried::Fixed(immutable::differences(live, rendered)))
        }
        Err(kube::Error::Api(status)) => bail!("{}", status.message),
        Err(error) => Err(error).context("failed to try the change out (server-side dry run)"),
    }
}

/// For a change of immutable fields. If etcd never ran in the StatefulSet, deletes it, so that Helm makes it as the
/// chart has it now; says what was done. Else fails with the commands by which a person does it around the running
/// pods. `deleting` is set before the first delete.
async fn make_again(
    objects: &Objects,
    target: &Target,
    live: &StatefulSet,
    lease: &str,
    differences: &[String],
    (deleting, end): (&mut bool, Instant),
) -> anyhow::Result<String> {
    match unused::remove(objects, target, lease, deleting, end)
        .await
        .context("failed to make way for the StatefulSet")?
    {
        Ok(()) => Ok(format!(
            "{target}: {}, which Kubernetes lets nobody change in a StatefulSet. etcd never ran in it, so it was deleted with its empty claims; Helm makes it again",
            differences.join(", ")
        )),
        Err(used) => {
            info!("{target} cannot simply be made again: {used}");
            let unbound = unbound_claims(objects, target, live).await?;
            bail!(Fixed(immutable::way_out(target, differences, &unbound)))
        }
    }
}

/// The members' claims to which no volume was bound yet.
async fn unbound_claims(objects: &Objects, target: &Target, live: &StatefulSet) -> anyhow::Result<Vec<String>> {
    let mut unbound = Vec::new();
    for ordinal in 0..replicas(live).min(MOST_MEMBERS) {
        let Some(claim) = claim_name(live, target, ordinal) else { continue };
        let found = objects.claims.get_opt(&claim).await.with_context(|| format!("failed to read claim {claim}"))?;
        let pending = |phase: String| phase == "Pending";
        if found.and_then(|found| found.status?.phase).is_some_and(pending) {
            unbound.push(claim);
        }
    }
    Ok(unbound)
}

/// Every member must answer, lead or follow, and report no alarm.
async fn all_healthy(target: &Target, count: u32, end: Instant) -> anyhow::Result<()> {
    match lasting_sickness(target, count, end).await {
        None => Ok(()),
        Some((_, sick)) => bail!(
            "{sick}; a change of members needs every member healthy. Repair it first (kubectl describe pod), then upgrade again"
        ),
    }
}

/// A member that is sick in every look, and how; waits for [`PATIENCE`].
async fn lasting_sickness(target: &Target, count: u32, end: Instant) -> Option<(Ordinal, String)> {
    let end = end.min(Instant::now() + PATIENCE);
    loop {
        let answers = etcd::observe(target, 0..count, ANSWER).await;
        let sick = answers.iter().find_map(|(&o, answered)| Some((o, sick(target, o, answered)?)))?;
        if Instant::now() + LOOK >= end {
            return Some(sick);
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn sick(target: &Target, ordinal: Ordinal, answered: &membership::know::observed::Answered) -> Option<String> {
    let pod = target.pod(ordinal);
    match answered {
        Err(why) => Some(format!("{pod} does not answer ({why})")),
        Ok(answer) if answer.leader.is_none() => Some(format!("{pod} knows no leader")),
        Ok(answer) if !answer.errors.is_empty() => Some(format!("{pod} reports {}", answer.errors.join(", "))),
        Ok(_) => None,
    }
}
