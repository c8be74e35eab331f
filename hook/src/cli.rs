//! The command line, read once.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};
use kubernetes::flags::{Claims, TargetArgs, VolumeArgs};
use membership::decide::replace::Asked;
use membership::know::names::{Ordinal, Target};
use membership::know::record::Id;
use membership::know::volume::VolumePlan;

use crate::admit;
use crate::checks::before::{Before, Snapshots};
use crate::checks::pools::DiskPools;
use crate::checks::preflight;
use crate::checks::snapshot;
use crate::commands::leave;
use crate::run::budget::Budget;
use crate::run::drift::{self, Decision};
use crate::run::replace;
use crate::run::scale;
use kubernetes::report;
use kubernetes::report::{LogFormat, LogTo};
use operate::output::Output;
use operate::plan;
use operate::status;
use operate::validate;

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
    Scale(Scale),
    /// After members were changed by hand: have the record follow what they agree on now.
    Reconcile(Decided),
    /// After the whole cluster was replaced by another one: drop the record, so that the next run
    /// writes it from what answers.
    Forget(Decided),
    /// A member that is lost leaves etcd with its pod, claim and volume, and its ordinal joins anew.
    Replace(Replace),
    /// Before an upgrade: are the members healthy, and would the change be admitted?
    Preflight(Preflight),
    /// Before an uninstall: give a StatefulSet that stays back as its own chart has it.
    Leave(Leave),
    /// Compare the keys of all voting members: HashKV at one revision, and key by key where that differs.
    Validate(Validate),
    /// Members, record, and what is running.
    Status(Status),
    /// What a scale would do, and whether it would be admitted.
    Plan(Plan),
    /// Save etcd's database into a file that etcdutl restores.
    Snapshot(Snapshot),
    /// In a joining pod: wait until the Job permits etcd to start.
    Admit(Admit),
    /// In a pod of a cluster that begins anew: set aside what an earlier one left in the data directory.
    SetAside(SetAside),
}

/// What started the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Trigger {
    /// Helm, after an install.
    PostInstall,
    /// Helm, after an upgrade or a rollback.
    PostUpgrade,
    /// The webhook's launcher.
    Launcher,
    /// A person.
    Manual,
}

#[derive(Debug, ClapArgs)]
struct Scale {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    volumes: VolumeArgs,
    #[command(flatten)]
    before: BeforeArgs,
    /// Keep a PodDisruptionBudget that lets so many members be evicted at once, or `none` [default: the StatefulSet's own
    /// chart has one, which is only looked at].
    #[arg(long, env = "ETCD_SCALER_BUDGET", value_parser = Budget::parse)]
    budget: Option<Budget>,
    /// What started this run.
    #[arg(long, env = "ETCD_SCALER_TRIGGER", default_value = "manual")]
    trigger: Trigger,
    /// The run ends after this time, with what is half done undone.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "240s", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// A member that is not promoted this long after `member add` is taken back; a learner has a second more for each
    /// 4 MB of the database.
    #[arg(long, env = "ETCD_SCALER_JOIN_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    join_deadline: Duration,
    /// The Lease that lets one run work at a time [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: Option<String>,
    /// Who holds the Lease: this pod.
    #[arg(long, env = "POD_NAME")]
    pod_name: String,
}

/// With the flags of a scale, so that a Job from the CronJob's template needs another command only.
#[derive(Debug, ClapArgs)]
struct Decided {
    #[command(flatten)]
    scale: Scale,
    /// Do what the plan says; without it nothing is changed and the exit code is 3 where there is
    /// something to do.
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, ClapArgs)]
struct Replace {
    #[command(flatten)]
    decided: Decided,
    /// The ordinal of the member, as in its pod's name.
    #[arg(long)]
    ordinal: Ordinal,
    /// Also when the member serves: its data is known to be wrong.
    #[arg(long)]
    even_if_it_serves: bool,
}

#[derive(Debug, ClapArgs)]
struct BeforeArgs {
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
    fn before(self, target: &Target, volumes: VolumePlan) -> Before {
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

#[derive(Debug, ClapArgs)]
struct Preflight {
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
    /// The Lease of the runs [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: Option<String>,
    /// The check ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

#[derive(Debug, ClapArgs)]
struct Leave {
    #[command(flatten)]
    target: TargetArgs,
    /// The Lease of the runs [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: Option<String>,
    /// It ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "60s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

#[derive(Debug, ClapArgs)]
struct Validate {
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

#[derive(Debug, ClapArgs)]
struct Status {
    #[command(flatten)]
    target: TargetArgs,
    /// The Lease of the runs [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: Option<String>,
    /// How the answer is written.
    #[arg(short, long, default_value = "table")]
    output: Output,
    /// It ends after this time.
    #[arg(long, env = "ETCD_SCALER_DEADLINE", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

#[derive(Debug, ClapArgs)]
struct Plan {
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

#[derive(Debug, ClapArgs)]
struct Snapshot {
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

#[derive(Debug, ClapArgs)]
struct Admit {
    /// etcd's data directory.
    #[arg(long)]
    data_dir: PathBuf,
    /// The pod's annotation with the permission, as a downward-API file.
    #[arg(long)]
    permission_file: PathBuf,
    /// The downward-API file in which this pod's UID is: it is told to the Job that asks whether this pod waits.
    #[arg(long)]
    uid_file: Option<PathBuf>,
    /// The ID of the cluster that is joined.
    #[arg(long)]
    cluster: Id,
    /// The ID of another pod's member, when this pod was made; once for each.
    #[arg(long = "other")]
    others: Vec<Id>,
}

#[derive(Debug, ClapArgs)]
struct SetAside {
    /// etcd's data directory.
    #[arg(long)]
    data_dir: PathBuf,
    /// The UID of the StatefulSet in which the cluster begins: for each it is done once.
    #[arg(long = "for")]
    bootstrap: String,
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
            Command::Validate(Validate { target, keys, output, named, deadline }) => {
                return Ok(validate::run(target.target(), &validate::Asked { keys, named, deadline }, output).await);
            }
            Command::Status(Status { target, lease, output, deadline }) => {
                let target = target.target();
                let lease = lease_of(lease, &target);
                return Ok(status::run(target, &lease, deadline, output).await);
            }
            Command::Plan(Plan { target, replicas, on_scale_down, output, deadline }) => {
                let asked = plan::Asked { replicas, on_scale_down: on_scale_down.into() };
                return Ok(plan::run(target.target(), asked, deadline, output).await);
            }
            Command::Scale(scale) => scale::run(scale.run()).await?,
            Command::Reconcile(Decided { scale, yes }) => {
                return drift::run(Decision::Reconcile, scale.run(), yes).await;
            }
            Command::Forget(Decided { scale, yes }) => return drift::run(Decision::Forget, scale.run(), yes).await,
            Command::Replace(Replace { decided: Decided { scale, yes }, ordinal, even_if_it_serves }) => {
                return replace::run(Asked { ordinal, even_if_it_serves }, scale.run(), yes).await;
            }
            Command::Preflight(Preflight { target, volumes, before, manifest, chart, deletes, lease, deadline }) => {
                let target = target.target();
                let (lease, before) = (lease_of(lease, &target), before.before(&target, volumes.plan()));
                preflight::run(target, &before, manifest.as_deref(), (&chart, &deletes), &lease, deadline).await?;
            }
            Command::Leave(Leave { target, lease, deadline }) => {
                let target = target.target();
                leave::run(&target, &lease_of(lease, &target), deadline).await?;
            }
            Command::Snapshot(Snapshot { target, dir, keep, max_age, deadline, output }) => {
                snapshot::run(snapshot::Run { target: target.target(), dir, keep, max_age, deadline, output }).await?;
            }
            Command::Admit(Admit { data_dir, permission_file, uid_file, cluster, others }) => {
                let known = admit::Known { cluster, others };
                admit::run(&data_dir, &permission_file, uid_file.as_deref(), &known).await?;
            }
            Command::SetAside(SetAside { data_dir, bootstrap }) => admit::clear(&data_dir, &bootstrap)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Scale {
    fn run(self) -> scale::Run {
        let Self { target, volumes, before, budget, trigger, deadline, join_deadline, lease, pod_name } = self;
        let target = target.target();
        let (lease, plan) = (lease_of(lease, &target), volumes.plan());
        let before = before.before(&target, plan.clone());
        let budget = budget.unwrap_or(Budget::Theirs);
        scale::Run { target, plan, before, budget, trigger, deadline, join_deadline, lease, pod_name }
    }
}

fn lease_of(lease: Option<String>, target: &Target) -> String {
    lease.unwrap_or_else(|| format!("{}-scaler", target.statefulset))
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
