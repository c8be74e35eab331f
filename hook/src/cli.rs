//! The command line: the subcommands, and what each runs. The flags of a command stand beside the command.

use std::process::ExitCode;

use clap::{Args as ClapArgs, Parser, Subcommand};
use kubernetes::report::{self, LogFormat, LogTo};

use crate::admit::{AdmitArgs, SetAsideArgs};
use crate::commands::leave::LeaveArgs;
use crate::commands::plan::PlanArgs;
use crate::commands::preflight::PreflightArgs;
use crate::commands::snapshot::SnapshotArgs;
use crate::commands::status::StatusArgs;
use crate::commands::validate::ValidateArgs;
use crate::run::drift::{self, DecidedArgs, Decision};
use crate::run::replace::ReplaceArgs;
use crate::run::scale::{self, ScaleArgs};

/// Scales an etcd StatefulSet safely.
#[derive(Debug, Parser)]
#[command(name = "hook", version, about)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    log: Log,
}

#[derive(Debug, ClapArgs)]
struct Log {
    /// How log lines are written.
    #[arg(long, global = true, env = "ETCD_SCALER_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// What is logged, in the syntax of tracing's filters.
    #[arg(long, global = true, env = "ETCD_SCALER_LOG_FILTER", default_value = "info")]
    log_filter: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Bring etcd to the StatefulSet's replica count, then compare the keys of all members.
    Scale(ScaleArgs),
    /// After members were changed by hand: have the record follow what they agree on now.
    Reconcile(DecidedArgs),
    /// After the whole cluster was replaced by another one: drop the record, so that the next run
    /// writes it from what answers.
    Forget(DecidedArgs),
    /// A member that is lost leaves etcd with its pod, claim and volume, and its ordinal joins anew.
    Replace(ReplaceArgs),
    /// Before an upgrade: are the members healthy, and would the change be admitted?
    Preflight(PreflightArgs),
    /// Before an uninstall: give a StatefulSet that stays back as its own chart has it.
    Leave(LeaveArgs),
    /// Compare the keys of all voting members: HashKV at one revision, and key by key where that differs.
    Validate(ValidateArgs),
    /// Members, record, and what is running.
    Status(StatusArgs),
    /// What a scale would do, and whether it would be admitted.
    Plan(PlanArgs),
    /// Save etcd's database into a file that etcdutl restores.
    Snapshot(SnapshotArgs),
    /// In a joining pod: wait until the Job permits etcd to start.
    Admit(AdmitArgs),
    /// In a pod of a cluster that begins anew: set aside what an earlier one left in the data directory.
    SetAside(SetAsideArgs),
}

impl Args {
    /// Does what was asked.
    ///
    /// # Errors
    /// Whatever kept it from being done, as one line for a person.
    pub async fn run(self) -> anyhow::Result<ExitCode> {
        let Self { command, log: Log { log_format, log_filter } } = self;
        let to = match command {
            Command::Validate(_) | Command::Status(_) | Command::Plan(_) => LogTo::Stderr,
            _ => LogTo::Stdout,
        };
        report::log(to, log_format, &log_filter)?;
        match command {
            Command::Validate(asked) => return Ok(asked.run().await),
            Command::Status(asked) => return Ok(asked.run().await),
            Command::Plan(asked) => return Ok(asked.run().await),
            Command::Reconcile(DecidedArgs { scale, yes }) => {
                return drift::run(Decision::Reconcile, scale.run(), yes).await;
            }
            Command::Forget(DecidedArgs { scale, yes }) => return drift::run(Decision::Forget, scale.run(), yes).await,
            Command::Replace(asked) => return asked.run().await,
            Command::Scale(asked) => scale::run(asked.run()).await?,
            Command::Preflight(asked) => asked.run().await?,
            Command::Leave(asked) => asked.run().await?,
            Command::Snapshot(asked) => asked.run().await?,
            Command::Admit(asked) => asked.run().await?,
            Command::SetAside(asked) => asked.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory;

    use super::*;

    /// The documented command line replaces the command of the CronJob's container and nothing else.
    #[test]
    fn what_a_person_decides_takes_the_flags_of_a_scale() {
        let flags =
            ["--namespace=n", "--statefulset=s", "--cronjob=r-etcd-scaler", "--deadline=240s", "--lease=s-scaler"];
        let more = ["--join-deadline=60s", "--release=r", "--release-namespace=n", "--pv-host-path=/p", "--pod-name=p"];
        for words in [&["scale"][..], &["reconcile"], &["reconcile", "--yes"], &["forget"], &["forget", "--yes"]] {
            let line = ["hook"].iter().chain(words).chain(&flags).chain(&more);
            Args::try_parse_from(line).unwrap_or_else(|error| panic!("{words:?}: {error}"));
        }
    }

    /// Hidden ones too: whoever runs one in a pod sees how it ended.
    #[test]
    fn the_exit_codes_of_each_command_are_documented() {
        let document = include_str!("../../docs/commands.md");
        let section = document.split_once("## Exit codes\n").map(|(_, rest)| rest).unwrap_or_default();
        let section = section.split("\n## ").next().unwrap_or_default();
        let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
        let explained: BTreeSet<String> = rows.map(|(name, _)| name.to_owned()).collect();
        let commands = Args::command();
        let mut found: BTreeSet<String> =
            commands.get_subcommands().map(|command| format!("hook {}", command.get_name())).collect();
        found.insert("webhook".into());
        assert_eq!(explained, found, "left: docs/commands.md, right: the commands");
    }
}
