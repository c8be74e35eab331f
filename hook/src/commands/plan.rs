//! The flags of `hook plan`.

use std::process::ExitCode;
use std::time::Duration;

use kubernetes::flags::{Claims, TargetArgs};
use operate::output::Output;
use operate::plan;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct PlanArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// The count that is asked about.
    #[arg(long)]
    replicas: u32,
    /// What becomes of the claim of a member that was removed.
    #[arg(long, env = "ETCD_SCALER_ON_SCALE_DOWN", default_value = "keep")]
    on_scale_down: Claims,
    /// How the answer is written.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// It ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

impl PlanArgs {
    /// Looks and answers.
    pub async fn run(self) -> ExitCode {
        let Self { target, replicas, on_scale_down, output, deadline } = self;
        let asked = plan::Asked { replicas, on_scale_down: on_scale_down.into() };
        plan::run(target.target(), asked, deadline, output).await
    }
}
