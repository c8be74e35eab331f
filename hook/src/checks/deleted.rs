//! Before an upgrade: would it delete the etcd of its release?

use anyhow::{Context, bail};
use kube::api::ListParams;
use kubernetes::objects::{Objects, patiently};
use membership::decide::deleted::{Release, refusal};
use tokio::time::Instant;

/// Looks at the StatefulSets of the namespace.
///
/// # Errors
/// Which one would be deleted, and the ways out; or that the API server did not tell which there are.
pub async fn none(objects: &Objects, release: &Release<'_>, end: Instant) -> anyhow::Result<()> {
    let labels = format!("app.kubernetes.io/instance={},app.kubernetes.io/name=etcd", release.name);
    let which = ListParams::default().labels(&labels);
    let listed = patiently(end, || async {
        objects.statefulsets.list(&which).await.context("failed to list the StatefulSets of the release")
    });
    let listed =
        tokio::time::timeout_at(end, listed).await.context("the API server did not answer before the deadline")?;
    let live = listed?.items.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    match refusal(release, live.iter()) {
        Some(why) => bail!("{why} (nothing was changed)"),
        None => Ok(()),
    }
}
