//! The flags of `hook preflight`.

use std::path::PathBuf;
use std::time::Duration;

use kubernetes::flags::{LeaseArgs, TargetArgs, VolumeArgs};

use crate::checks::before::BeforeArgs;
use crate::checks::preflight;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct PreflightArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    volumes: VolumeArgs,
    #[command(flatten)]
    before: BeforeArgs,
    /// The StatefulSet as the release will have it, in JSON [default: it has none of its own].
    #[arg(long, env = "ETCD_SCALER_MANIFEST")]
    manifest: Option<PathBuf>,
    /// The name of the chart in the release.
    #[arg(long, env = "ETCD_SCALER_CHART", default_value = "etcd-scaler")]
    chart: String,
    /// A StatefulSet of the release that the upgrade may delete.
    #[arg(long, env = "ETCD_SCALER_DELETES", default_value = "")]
    deletes: String,
    #[command(flatten)]
    lease: LeaseArgs,
    /// The check ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

impl PreflightArgs {
    /// Checks what an upgrade would change.
    ///
    /// # Errors
    /// Why the upgrade must not go on.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { target, volumes, before, manifest, chart, deletes, lease, deadline } = self;
        let target = target.target();
        let (lease, before) = (lease.name(&target), before.before(&target, volumes.plan()));
        preflight::run(target, &before, manifest.as_deref(), (&chart, &deletes), &lease, deadline).await
    }
}
