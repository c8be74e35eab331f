//! What is seen to before members change, by whoever begins the change: the check before an upgrade, or the run itself.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::Client;
use membership::names::Target;
use membership::patch::statefulset::override_of;
use membership::record::{Record, State};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::observe::record;
use crate::pools::DiskPools;
use crate::snapshot;

/// What is looked at and taken.
#[derive(Clone, Debug)]
pub struct Before {
    /// Members join only while storage is well.
    pub pools: DiskPools,
    /// Where a snapshot is taken; `None`: none is.
    pub snapshot: Option<Snapshots>,
}

/// Where snapshots are kept.
#[derive(Clone, Debug)]
pub struct Snapshots {
    /// The directory.
    pub dir: PathBuf,
    /// How many; `None`: all.
    pub keep: Option<NonZeroUsize>,
    /// The age of one that need not be taken again.
    pub max_age: Duration,
}

impl Before {
    /// Before `statefulset`'s members become `wanted`. What is half done is ended first, and without a record nothing
    /// changes: then there is nothing to see to.
    ///
    /// # Errors
    /// What keeps the change from beginning; nothing was changed.
    pub async fn see_to(
        &self,
        client: &Client,
        target: &Target,
        statefulset: &StatefulSet,
        wanted: u32,
        end: Instant,
    ) -> anyhow::Result<()> {
        let whole = |record: &Record| record.members.values().all(|recorded| recorded.state == State::Member);
        let Some(record) = record(statefulset)?.filter(whole) else { return Ok(()) };
        // Fewer may be the cure where storage is sick.
        if record.count() < wanted
            && let Some(found) = self.pools.found(client).await?
        {
            match override_of(&serde_json::to_value(statefulset)?) {
                Some(Ok(lifted)) if lifted.count == wanted => warn!("{found}. Lifted: {}", lifted.reason),
                _ => bail!("{found}. No member was added"),
            }
        }
        if let Some(snapshots) = self.snapshot.as_ref().filter(|_| record.count() != wanted) {
            info!("{}", snapshot::before(snapshots, target, end).await?);
        }
        Ok(())
    }
}
