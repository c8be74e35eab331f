//! The checks and the snapshot before members change, made by whichever begins the change: the check before an upgrade,
//! or the run itself.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::ListParams;
use kubernetes::objects::Objects;
use kubernetes::report::Reports;
use kubernetes::statefulset::record;
use membership::know::capacity;
use membership::know::names::Target;
use membership::know::record::{Record, State};
use membership::know::statefulset::override_of;
use membership::know::volume::{VolumePlan, is_provisioned};
use serde::Serialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::checks::pools::DiskPools;
use crate::checks::snapshot::{self, Snapshots};

/// The flags of what is looked at and taken.
#[derive(Debug, clap::Args)]
pub struct BeforeArgs {
    /// The namespace of Mayastor's DiskPools [default: the StatefulSet's].
    #[arg(long, env = "ETCD_SCALER_DISK_POOLS_NAMESPACE")]
    disk_pools_namespace: Option<String>,
    /// Members join only where there are DiskPools.
    #[arg(long, env = "ETCD_SCALER_DISK_POOLS_REQUIRED", default_value = "false", action = clap::ArgAction::Set)]
    disk_pools_required: bool,
    /// The directory in which a snapshot is kept before members change [default: none is taken].
    #[arg(long, env = "ETCD_SCALER_BEFORE_SNAPSHOT_DIR")]
    before_snapshot_dir: Option<PathBuf>,
    /// Of this cluster's snapshots the newest so many stay then, at least 1 [default: all].
    #[arg(long, env = "ETCD_SCALER_BEFORE_SNAPSHOT_KEEP")]
    before_snapshot_keep: Option<NonZeroUsize>,
    /// None is taken when there is one of this cluster that is not older and not damaged.
    #[arg(long, env = "ETCD_SCALER_BEFORE_SNAPSHOT_MAX_AGE", default_value = "10m", value_parser = humantime::parse_duration)]
    before_snapshot_max_age: Duration,
}

impl BeforeArgs {
    /// What they ask for; `volumes`: how newcomers' volumes are made.
    #[must_use]
    pub fn before(self, target: &Target, volumes: VolumePlan) -> Before {
        let namespace = self.disk_pools_namespace.filter(|it| !it.is_empty());
        let namespace = namespace.unwrap_or_else(|| target.namespace.clone());
        let (keep, max_age) = (self.before_snapshot_keep, self.before_snapshot_max_age);
        Before {
            volumes,
            pools: DiskPools { namespace, required: self.disk_pools_required },
            snapshot: self.before_snapshot_dir.map(|dir| Snapshots { dir, keep, max_age }),
        }
    }
}

/// What is checked and taken.
#[derive(Clone, Debug)]
pub struct Before {
    /// How newcomers' volumes are made.
    pub volumes: VolumePlan,
    /// The DiskPools, which must be well for members to join.
    pub pools: DiskPools,
    /// Where the snapshot is kept; `None`: none is taken.
    pub snapshot: Option<Snapshots>,
}

impl Before {
    /// Makes the checks, and takes the snapshot, that come before `statefulset`'s members become `wanted`.
    ///
    /// Does nothing if there is no record, because no member changes then; or if a member is recorded as bootstrapping,
    /// joining or leaving, because that change has begun already and is ended first.
    ///
    /// # Errors
    /// What keeps the change from beginning; nothing was changed.
    pub async fn see_to(
        &self,
        objects: &Objects,
        reports: &Reports,
        target: &Target,
        statefulset: &StatefulSet,
        wanted: u32,
        end: Instant,
    ) -> anyhow::Result<()> {
        let whole = |record: &Record| record.members.values().all(|recorded| recorded.state == State::Member);
        let Some(record) = record(statefulset)?.filter(whole) else { return Ok(()) };
        // Only for more members: if storage is sick, fewer may be the cure.
        if record.count() < wanted {
            let live = serde_json::to_value(statefulset)?;
            if let Some(found) = self.pools.found(&objects.client).await? {
                match override_of(&live) {
                    Some(Ok(lifted)) if lifted.count == wanted => warn!("{found}. Lifted: {}", lifted.reason),
                    _ => bail!("{found}. No member was added"),
                }
            }
            if let Some(found) = no_volume(objects, &self.volumes, &live).await? {
                bail!("{found}, and upgrade again. No member was added");
            }
            for warning in self.warnings(objects, &record, &live, wanted).await? {
                reports.trouble("ScaleWarning", warning).await;
            }
        }
        if let Some(snapshots) = self.snapshot.as_ref().filter(|_| record.count() != wanted) {
            info!("{}", snapshot::before(snapshots, target, end).await?);
        }
        Ok(())
    }

    /// Warnings: what may go wrong, and is tried all the same.
    async fn warnings(
        &self,
        objects: &Objects,
        record: &Record,
        live: &Value,
        wanted: u32,
    ) -> anyhow::Result<Vec<String>> {
        let mut warnings = Vec::new();
        match objects.nodes.list(&ListParams::default()).await {
            Ok(nodes) => warnings.extend(capacity::too_few_nodes(live, &values(&nodes.items)?, wanted)),
            Err(error) => warnings.push(format!("whether there is a node for each newcomer is not known: {error}")),
        }
        if record.count() == 1 && self.snapshot.is_none() {
            warnings.push(
                "one member holds everything there is, and no snapshot of it is taken before a second joins (snapshot.enabled, docs/snapshot.md)".into(),
            );
        }
        Ok(warnings)
    }
}

/// Why newcomers' claims would get no volume, in a sentence.
async fn no_volume(objects: &Objects, plan: &VolumePlan, live: &Value) -> anyhow::Result<Option<String>> {
    let Some((asked, class)) = capacity::claim(live) else { return Ok(None) };
    Ok(match class {
        // For a claim of the empty class somebody makes volumes by hand.
        Some("") => None,
        Some(class) => {
            let found = objects.classes.get_opt(class).await;
            let found = found.with_context(|| format!("failed to read StorageClass {class}"))?;
            let ours = !is_provisioned(found.as_ref().map(|class| class.provisioner.as_str()));
            capacity::too_small(&plan.capacity, asked).filter(|_| ours)
        }
        None => {
            let all =
                objects.classes.list(&ListParams::default()).await.context("failed to list the StorageClasses")?;
            capacity::no_default(&values(&all.items)?)
        }
    })
}

fn values<K: Serialize>(objects: &[K]) -> anyhow::Result<Vec<Value>> {
    objects.iter().map(|object| Ok(serde_json::to_value(object)?)).collect()
}
