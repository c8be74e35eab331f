//! The flags of `hook status`.

use std::process::ExitCode;
use std::time::Duration;

use kubernetes::flags::{LeaseArgs, TargetArgs};
use operate::output::Output;
use operate::status;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lease: LeaseArgs,
    /// How the answer is written.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// It ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

impl StatusArgs {
    /// Looks and answers.
    pub async fn run(self) -> ExitCode {
        let Self { target, lease, output, deadline } = self;
        let target = target.target();
        let lease = lease.name(&target);
        status::run(target, &lease, deadline, output).await
    }
}
