//! Before our chart is uninstalled beside a StatefulSet that stays: gives it back as its own chart has it, without
//! rolling a pod.
//!
//! First, while our partition is in force, the managed environment is put back to that of the current revision, so that
//! the template is the one that the pods were made from. When the controller has seen that, the partition is put back
//! to the kept one. The webhook writes both into the request that writes our annotations, so no field changes its
//! owner.

use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kubernetes::flags::{LeaseArgs, TargetArgs};
use kubernetes::objects::{Objects, patiently};
use kubernetes::{report, serving};
use membership::know::names::{KEPT_PARTITION, LEAVING, LEFT, RECORD, RECORDED_FOR, Target};
use membership::know::statefulset::managed_of;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::info;

/// The pause between two looks whether the controller has seen the change.
const LOOK: Duration = Duration::from_millis(200);

/// The flags.
#[derive(Debug, clap::Args)]
pub struct LeaveArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    /// It ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

impl LeaveArgs {
    /// Gives the StatefulSet back.
    ///
    /// # Errors
    /// Why it is not given back; nothing was rolled.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { target, lease, deadline } = self;
        let target = target.target();
        let lease = lease.name(&target);
        run(&target, &lease, deadline).await
    }
}

/// Gives the StatefulSet back.
///
/// # Errors
/// Why it is not given back; nothing was rolled.
pub async fn run(target: &Target, lease: &str, deadline: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + deadline;
    let objects = Objects::connect(&target.namespace).await?;
    let read = || async {
        let found = objects.statefulsets.get_opt(&target.statefulset).await;
        found.with_context(|| format!("failed to read {target}"))
    };
    let Some(live) = patiently(end, read).await? else {
        return done("there is no StatefulSet to give back".into());
    };
    let annotations = live.metadata.annotations.clone().unwrap_or_default();
    if !annotations.contains_key(RECORD) {
        return done(format!("{target} was not changed by etcd-scaler: nothing to give back"));
    }
    if annotations.contains_key(KEPT_PARTITION) {
        let env = patiently(end, || current_env(&objects, target, &live)).await?;
        write(&objects, target, end, json!({ LEAVING: Value::Object(env).to_string() })).await?;
        loop {
            let live = patiently(end, || objects.statefulset(target)).await?;
            if is_current(&live) {
                break;
            }
            if Instant::now() + LOOK >= end {
                bail!(
                    "{target} differs from what its pods were made from by more than etcd-scaler's changes, so its update partition was left as it is. Finish or undo the roll-out, then uninstall again; or uninstall with --no-hooks and set spec.updateStrategy yourself"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    patiently(end, || serving::forget(&objects, lease)).await?;
    let left = json!({ LEFT: Timestamp::now().to_string(), LEAVING: null, RECORD: null, RECORDED_FOR: null });
    write(&objects, target, end, left).await?;
    done(format!(
        "{target} is given back: environment and update partition are its own chart's again, no pod was touched"
    ))
}

fn done(result: String) -> anyhow::Result<()> {
    info!("{result}");
    report::last_word(&result);
    Ok(())
}

/// The managed environment of the revision that the pods were made from; `null` for a variable that it has not.
async fn current_env(
    objects: &Objects,
    target: &Target,
    live: &StatefulSet,
) -> anyhow::Result<serde_json::Map<String, Value>> {
    let name = live.status.as_ref().and_then(|status| status.current_revision.clone()).unwrap_or_default();
    let revision = objects.revisions.get(&name).await;
    let revision = revision.with_context(|| format!("failed to read ControllerRevision {name:?} of {target}"))?;
    let data = revision.data.with_context(|| format!("ControllerRevision {name} holds nothing"))?;
    Ok(managed_of(&data.0, target))
}

/// Whether the controller has seen that the template is the one that the pods were made from.
fn is_current(live: &StatefulSet) -> bool {
    live.status.as_ref().is_some_and(|status| {
        status.observed_generation == live.metadata.generation && status.current_revision == status.update_revision
    })
}

async fn write(objects: &Objects, target: &Target, end: Instant, annotations: Value) -> anyhow::Result<()> {
    let patch = json!({ "metadata": { "annotations": annotations } });
    let params = PatchParams::default();
    patiently(end, || async {
        let written = objects.statefulsets.patch(&target.statefulset, &params, &Patch::Merge(&patch)).await;
        written.map(drop).with_context(|| format!("failed to give {target} back"))
    })
    .await
}
