//! The scenarios that only `make test-all` runs: each of them is minutes, together they are hours.

mod bad_install;
mod by_hand;
mod drift;
mod failed_joins;
mod guard;
mod helm;
mod image_gone;
mod kills;
mod leaving;
mod lost_disk;
mod minds;
mod outages;
mod pools;
mod recreated;
mod replace;
mod rollout;
mod sick;
mod snapshot;
mod validation;
mod versions;
mod ways;
mod webhook_down;

use anyhow::Context;
use tests::cluster::top;
use tests::release::Release;

/// A command line of docs/commands.md that has these words, for this release.
fn documented(release: &Release, words: &str) -> anyhow::Result<String> {
    let document = std::fs::read_to_string(top().join("docs/commands.md")).context("no docs/commands.md")?;
    let line = document.lines().find(|line| line.starts_with("kubectl ") && line.contains(words));
    let line = line.with_context(|| format!("docs/commands.md has no command with {words:?}"))?;
    let line = line.replace("R-etcd-scaler", &format!("{}-etcd-scaler", release.name));
    Ok(line.replace("-n N ", &format!("-n {} ", release.namespace)))
}
