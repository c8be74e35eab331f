//! The nodes that a release's members may be on, by a label of its own.

use crate::process::kubectl;
use crate::release::Release;

/// With a label for the nodes that the release's members may be on; no node has it behind.
///
/// # Errors
/// Those of the scenario, or when a node cannot be labelled.
pub async fn with_places(
    release: &Release,
    scenario: impl AsyncFnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let place = format!("etcd-scaler-tests/{}", release.name);
    unlabel("--all", &place).await?;
    let outcome = scenario(&place).await;
    unlabel("--all", &place).await?;
    outcome
}

/// Lets members be on this node.
///
/// # Errors
/// When it cannot be labelled.
pub async fn label(node: &str, place: &str) -> anyhow::Result<()> {
    kubectl(["label", "node", node, &format!("{place}=here"), "--overwrite"]).await.map(drop)
}

/// Lets no member be put on this node any more.
///
/// # Errors
/// When it cannot be labelled.
pub async fn unlabel(node: &str, place: &str) -> anyhow::Result<()> {
    kubectl(["label", "nodes", node, &format!("{place}-")]).await.map(drop)
}
