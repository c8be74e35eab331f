//! The flags of `hook validate`.

use std::process::ExitCode;
use std::time::Duration;

use kubernetes::flags::TargetArgs;
use operate::output::Output;
use operate::validate;

/// The flags.
#[derive(Debug, clap::Args)]
pub struct ValidateArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Compare key by key also where the hashes are equal.
    #[arg(long)]
    keys: bool,
    /// How the answer is written.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// So many differing keys are named; all are counted.
    #[arg(long, default_value_t = 20)]
    named: usize,
    /// What could not be told until then is unknown.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "240s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

impl ValidateArgs {
    /// Compares and answers.
    pub async fn run(self) -> ExitCode {
        let Self { target, keys, output, named, deadline } = self;
        validate::run(target.target(), &validate::Asked { keys, named, deadline }, output).await
    }
}
