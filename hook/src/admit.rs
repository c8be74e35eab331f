//! The init container of a joining pod: etcd starts when the Job permits it and the data
//! directory fits.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use etcd::{DataDir, identify};
use membership::record::Permission;
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use crate::report;

/// How often the downward-API file is read. The kubelet writes it well under 1 s after the
/// annotation (measured); reading a small file is nothing.
const LOOK: Duration = Duration::from_millis(50);
/// How often the wait is said again.
const REPEAT: Duration = Duration::from_secs(30);

/// Waits for the permission, then lets etcd start on this directory or refuses.
///
/// Waiting has no deadline of its own: the Job has one, and until it adds the member nothing
/// depends on this pod.
pub async fn run(data_dir: &Path, permission_file: &Path) -> anyhow::Result<()> {
    let found = identify(data_dir)?;
    // The first process of a container ignores signals that it does not listen for.
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut said = None;
    let permission = loop {
        if let Some(permission) = read(permission_file)? {
            break permission;
        }
        // With somebody's data in it this directory will not be let go: better said before the
        // member is added than after.
        if let DataDir::Member { member, cluster } = found {
            bail!(
                "{} holds the data of member {member} of cluster {cluster}, which is not joining now, so etcd is not started on it. If that member was removed for good, move the directory's content away on this node, then delete this pod",
                data_dir.display()
            );
        }
        if said.is_none_or(|since: tokio::time::Instant| since.elapsed() >= REPEAT) {
            info!(
                "waiting for the etcd-scaler Job to add this member to etcd; how to follow it: annotation etcd-scaler.io/waits-for of this pod"
            );
            said = Some(tokio::time::Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            _ = terminate.recv() => bail!("the pod is deleted before the member was added"),
        }
    };
    let verdict = judge(found, &permission).with_context(|| format!("{} is refused", data_dir.display()))?;
    info!("{verdict}");
    report::last_word(&verdict);
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<Option<Permission>> {
    match std::fs::read_to_string(file) {
        // The file exists, empty, until the annotation is set.
        Ok(text) if text.trim().is_empty() => Ok(None),
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is not a permission: {text:?}", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", file.display())),
    }
}

fn judge(found: DataDir, permission: &Permission) -> anyhow::Result<String> {
    let Permission { member: own, cluster: ours, live } = permission;
    match found {
        DataDir::Empty => {
            Ok(format!("permitted: starting as member {own} of cluster {ours} on an empty data directory"))
        }
        DataDir::Member { member, cluster } if member == *own && cluster == *ours => {
            Ok(format!("permitted: starting again as member {own} of cluster {ours} on its own data"))
        }
        DataDir::Member { cluster, .. } if cluster != *ours => {
            bail!(
                "it holds data of another cluster ({cluster}, this one is {ours}); starting on it would split the Service"
            )
        }
        DataDir::Member { member, .. } if live.contains(&member) => {
            bail!(
                "it holds the data of member {member}, which is in etcd's member list now; two members must never share data"
            )
        }
        DataDir::Member { member, .. } => {
            bail!(
                "it holds the data of removed member {member}; move the directory's content away on this node, then delete this pod"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use membership::record::Id;

    fn judged(found: DataDir) -> Result<String, String> {
        let permission = Permission { member: Id(4), cluster: Id(9), live: vec![Id(1), Id(2), Id(3), Id(4)] };
        judge(found, &permission).map_err(|error| error.to_string())
    }

    #[test]
    fn an_empty_directory_and_ones_own_data_are_let_go() {
        assert!(judged(DataDir::Empty).is_ok());
        assert!(judged(DataDir::Member { member: Id(4), cluster: Id(9) }).is_ok());
    }

    #[test]
    fn anybody_elses_data_is_refused() {
        let other = |member, cluster| judged(DataDir::Member { member: Id(member), cluster: Id(cluster) }).unwrap_err();
        says(&other(4, 8), "another cluster");
        says(&other(2, 9), "in etcd's member list");
        says(&other(7, 9), "removed member");
    }

    fn says(text: &str, part: &str) {
        assert!(text.contains(part), "{text}");
    }

    #[test]
    fn an_empty_file_is_no_permission_and_garbage_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("permission");
        assert!(read(&file).unwrap().is_none());
        std::fs::write(&file, "").unwrap();
        assert!(read(&file).unwrap().is_none());
        std::fs::write(&file, "{").unwrap();
        assert!(read(&file).is_err());
    }
}
