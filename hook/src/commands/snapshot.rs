//! The flags of `hook snapshot`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use kubernetes::flags::TargetArgs;
use operate::output::Output;

use crate::checks::snapshot::{self, Run};

/// The flags.
#[derive(Debug, clap::Args)]
pub struct SnapshotArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The directory in which snapshots are kept.
    #[arg(long, env = "ETCD_SCALER_SNAPSHOT_DIR")]
    dir: PathBuf,
    /// Of this cluster's snapshots the newest so many stay, at least 1 [default: all].
    #[arg(long, env = "ETCD_SCALER_SNAPSHOT_KEEP")]
    keep: Option<NonZeroUsize>,
    /// None is taken when there is one of this cluster that is not older and not damaged [default: always taken].
    #[arg(long, env = "ETCD_SCALER_SNAPSHOT_MAX_AGE", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
    /// It ends after this time, without a file.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "600s", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// How the result is printed, after the log lines.
    #[arg(short, long, default_value = "table")]
    output: Output,
}

impl SnapshotArgs {
    /// Takes a snapshot, or finds a recent one.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { target, dir, keep, max_age, deadline, output } = self;
        snapshot::run(Run { target: target.target(), dir, keep, max_age, deadline, output }).await
    }
}
