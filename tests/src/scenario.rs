//! One scenario: a release of its own, cleaned up before and behind, and on a failure everything
//! that tells why.

use std::panic::AssertUnwindSafe;

use anyhow::anyhow;
use futures::FutureExt;

use crate::dump::dump;
use crate::release::{Helm, Release};

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
    release.remove().await?;
    release.make_namespace().await?;
    // A panic (an assert) is a failure like any other: it must not keep from cleaning up.
    let outcome = AssertUnwindSafe(scenario(&release)).catch_unwind().await;
    let outcome = outcome.unwrap_or_else(|_| Err(anyhow!("it panicked, see above")));
    if outcome.is_err() {
        dump(&release).await;
        if std::env::var_os("KEEP").is_some() {
            return outcome;
        }
    }
    let removed = async {
        release.remove().await?;
        release.remove_directories().await
    };
    outcome.and(removed.await)
}
