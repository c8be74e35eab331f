//! One scenario: a release of its own, cleaned up before and behind, and on a failure everything
//! that tells why.

use std::panic::AssertUnwindSafe;

use anyhow::anyhow;
use futures::FutureExt;

use crate::dump::dump;
use crate::faults::repair_nodes;
use crate::release::{Helm, Release};
use crate::turns;

/// Runs a scenario. With `KEEP=1` a failed one's release is left for a look; the next run of the
/// same scenario removes it.
///
/// # Errors
/// What the scenario did not find as promised.
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
/// What the scenario did not find as promised.
pub async fn run_on(
    release: Release,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = turns::shared().await;
    on(release, scenario, false).await
}

/// Runs a scenario that harms the test bed's nodes: with nobody else at work, and with all nodes
/// well again behind it.
///
/// # Errors
/// What the scenario did not find as promised.
pub async fn run_alone(
    release: Release,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let _turn = turns::alone().await;
    repair_nodes().await?;
    on(release, scenario, true).await
}

async fn on(
    release: Release,
    scenario: impl AsyncFnOnce(&Release) -> anyhow::Result<()>,
    harms_nodes: bool,
) -> anyhow::Result<()> {
    release.remove().await?;
    release.make_namespace().await?;
    // A panic (an assert) is a failure like any other: it must not keep from cleaning up.
    let outcome = AssertUnwindSafe(scenario(&release)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
    if outcome.is_err() {
        dump(&release).await;
    }
    if harms_nodes {
        // Nothing can be cleaned up on a node that is away.
        repair_nodes().await?;
    }
    if outcome.is_err() && std::env::var_os("KEEP").is_some() {
        return outcome;
    }
    let removed = async {
        release.remove().await?;
        release.remove_directories().await
    };
    outcome.and(removed.await)
}
