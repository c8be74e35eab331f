//! One scenario: a release of its own, cleaned up before and behind, judged in its end, and on a
//! failure everything that tells why.

use std::panic::AssertUnwindSafe;
use std::time::Instant;

use anyhow::{anyhow, bail};
use futures::FutureExt;

use crate::dump::dump;
use crate::faults::repair_bed;
use crate::referee::judge::{Rule, Violation, judge};
use crate::referee::{Referee, told};
use crate::release::{Helm, Release};
use crate::turns;

/// A rule that a scenario breaks on purpose, and why it may.
pub type Excused<'a> = (Rule, &'a str);

/// Runs a scenario. With `KEEP=1` a failed one's release is left for a look; the next run of the
/// same scenario removes it.
///
/// # Errors
/// What the scenario did not find as promised, or the referee.
pub async fn run(
    name: &str,
    helm: Helm,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run_on(Release::of(name, helm), scenario).await
}

/// Runs a scenario on a release that is not quite as the others.
///
/// # Errors
/// What the scenario did not find as promised, or the referee.
pub async fn run_on(
    release: Release,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run_excused(release, &[], scenario).await
}

/// Runs a scenario that breaks rules on purpose, by hand: what breaks them is printed all the same.
///
/// # Errors
/// What the scenario did not find as promised, or the referee.
pub async fn run_excused(
    release: Release,
    excused: &[Excused<'_>],
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = turns::shared().await;
    on(release, excused, scenario, false).await
}

/// Runs a scenario that harms the test bed itself, its nodes or its API server: with nobody else at
/// work, and with all of them well again behind it.
///
/// # Errors
/// What the scenario did not find as promised, or the referee.
pub async fn run_alone(
    release: Release,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    run_alone_excused(release, &[], scenario).await
}

/// Runs a scenario that harms the test bed itself and breaks rules on purpose.
///
/// # Errors
/// What the scenario did not find as promised, or the referee.
pub async fn run_alone_excused(
    release: Release,
    excused: &[Excused<'_>],
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = turns::alone().await;
    repair_bed().await?;
    on(release, excused, scenario, true).await
}

async fn on(
    release: Release,
    excused: &[Excused<'_>],
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
    harms_bed: bool,
) -> anyhow::Result<()> {
    release.remove().await?;
    release.make_namespace().await?;
    let referee = Referee::start(&release).await?;
    let began = Instant::now();
    // A panic (an assert) is a failure like any other: it must not keep from cleaning up.
    let outcome = AssertUnwindSafe(scenario(&release)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
    let ended =
        format!("{:.0} s | {}", began.elapsed().as_secs_f64(), if outcome.is_ok() { "passed" } else { "failed" });
    if outcome.is_err() {
        dump(&release, &referee).await;
    }
    if harms_bed {
        // Nothing can be read or cleaned up on a node that is away.
        repair_bed().await?;
    }
    let judged = judged(&release, &referee, &ended, excused).await;
    if outcome.is_ok() && judged.is_err() {
        dump(&release, &referee).await;
    }
    let outcome = match (outcome, judged) {
        (Ok(()), judged) => judged,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(broken)) => Err(error.context(format!("{broken:#}; and the scenario failed"))),
    };
    if outcome.is_err() && std::env::var_os("KEEP").is_some() {
        return outcome;
    }
    let removed = async {
        release.remove().await?;
        release.remove_directories().await
    };
    outcome.and(removed.await)
}

/// The referee's word, and the line that `make test-all`'s table is made of.
async fn judged(release: &Release, referee: &Referee, ended: &str, excused: &[Excused<'_>]) -> anyhow::Result<()> {
    let history = referee.history(release).await?;
    let violations = judge(&history);
    let name = release.namespace.trim_start_matches("test-");
    println!(
        "RESULT | {name} | {ended} | longest write stall {} ms | {} membership changes | {} acknowledged writes | {} broken",
        history.longest_stall(),
        history.membership_changes(),
        history.acknowledged(),
        violations.len(),
    );
    for unseen in &history.unseen {
        release.say(&format!("the referee: {unseen}"));
    }
    let is_excused = |violation: &&Violation| excused.iter().any(|(rule, _)| *rule == violation.rule);
    for violation in &violations {
        let why = excused.iter().find(|(rule, _)| *rule == violation.rule).map(|(_, why)| *why);
        let excuse = why.map(|why| format!("       excused: {why}\n")).unwrap_or_default();
        release.say(&format!("{}{excuse}", told(&history, violation)));
    }
    let broken: Vec<String> = violations.iter().filter(|it| !is_excused(it)).map(|it| it.rule.to_string()).collect();
    if broken.is_empty() { Ok(()) } else { bail!("the referee: broken are {}", broken.join("; ")) }
}
