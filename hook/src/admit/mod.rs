//! The init container of a joining pod. It ends, so that etcd starts, when the Job permits it and etcd may start on
//! what is in the data directory. A removed member's data is set aside first.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use etcd::{DataDir, cleared, identify, is_cleared, keep_aside, set_aside};
use kubernetes::{report, waiting};
use membership::know::record::{Id, Permission};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

/// The pause between two reads of the downward-API file. The kubelet writes it well under 1 s after the annotation
/// (measured), and reading a small file costs nothing.
const LOOK: Duration = Duration::from_millis(50);
/// After how long the wait is said again.
const REPEAT: Duration = Duration::from_secs(30);

/// The flags of the wait.
#[derive(Debug, clap::Args)]
pub struct AdmitArgs {
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

impl AdmitArgs {
    /// Waits for the permission, then lets etcd start on this directory or refuses.
    ///
    /// # Errors
    /// Why it refuses.
    pub async fn run(self) -> anyhow::Result<()> {
        let Self { data_dir, permission_file, uid_file, cluster, others } = self;
        run(&data_dir, &permission_file, uid_file.as_deref(), &Known { cluster, others }).await
    }
}

/// The flags of setting aside.
#[derive(Debug, clap::Args)]
pub struct SetAsideArgs {
    /// etcd's data directory.
    #[arg(long)]
    data_dir: PathBuf,
    /// The UID of the StatefulSet in which the cluster begins: for each it is done once.
    #[arg(long = "for")]
    bootstrap: String,
}

impl SetAsideArgs {
    /// Sets aside what is in the directory.
    ///
    /// # Errors
    /// When it could not be moved.
    pub fn run(self) -> anyhow::Result<()> {
        clear(&self.data_dir, &self.bootstrap)
    }
}

/// What is known of the cluster when the pod is made.
#[derive(Debug)]
struct Known {
    /// The cluster that this pod is to join.
    cluster: Id,
    /// The members of the other ordinals.
    others: Vec<Id>,
}

/// Waits for the permission, then lets etcd start on this directory or refuses.
///
/// The wait has no deadline: until the Job adds the member nothing depends on this pod, and for the join the Job has a
/// deadline.
async fn run(data_dir: &Path, permission_file: &Path, uid_file: Option<&Path>, known: &Known) -> anyhow::Result<()> {
    let refused = || format!("{} is refused", data_dir.display());
    // Data on which etcd may not start whatever the permission says is reported now, before the member is added.
    hopeless(identify(data_dir)?, known).with_context(refused)?;
    // The first process of a container ignores signals that it does not listen for.
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let mut said = None;
    let telling = async {
        if let Some(file) = uid_file {
            waiting::tell(file).await;
        }
        std::future::pending::<()>().await;
    };
    tokio::pin!(telling);
    let permission = loop {
        if let Some(permission) = read(permission_file)? {
            break permission;
        }
        if said.is_none_or(|since: tokio::time::Instant| since.elapsed() >= REPEAT) {
            info!(
                "waiting for the etcd-scaler Job to add this member to etcd; how to follow it: annotation etcd-scaler.io/waits-for of this pod"
            );
            said = Some(tokio::time::Instant::now());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = &mut telling => {}
            _ = terminate.recv() => bail!("the pod is deleted before the member was added"),
        }
    };
    let mut verdict = judge(identify(data_dir)?, &permission).with_context(refused)?;
    if let Some(old) = &verdict.set_aside
        && let Some(kept) = set_aside(data_dir, old)?
    {
        verdict.says = format!("{}; what was there is kept in {}", verdict.says, kept.display());
    }
    info!("{}", verdict.says);
    report::last_word(&verdict.says);
    Ok(())
}

/// Sets aside whatever is in the directory, before a new cluster begins by a person's decision. Nothing is deleted. It
/// is done once for each bootstrap: in a pod that is made again, the directory has the new cluster's data.
///
/// # Errors
/// When it could not be moved.
fn clear(data_dir: &Path, bootstrap: &str) -> anyhow::Result<()> {
    if is_cleared(data_dir, bootstrap) {
        info!("{} was cleared before: what is there is the new cluster's", data_dir.display());
        return Ok(());
    }
    let name = match identify(data_dir) {
        Ok(DataDir::Member { member, cluster }) => format!("{cluster}-{member}"),
        Ok(DataDir::Empty) => "without-a-log".into(),
        Err(_) => "unreadable".into(),
    };
    let says = match keep_aside(data_dir, &name)? {
        Some(kept) => format!("what was there is kept in {}", kept.display()),
        None => format!("{} is empty", data_dir.display()),
    };
    cleared(data_dir, bootstrap)?;
    info!("{says}");
    report::last_word(&says);
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

/// etcd may start.
#[derive(Debug)]
struct Verdict {
    says: String,
    /// If set, what is in the directory is moved aside first, under this name.
    set_aside: Option<String>,
}

/// Refuses data on which this pod may never start, whatever ID it is given.
fn hopeless(found: DataDir, known: &Known) -> anyhow::Result<()> {
    match found {
        DataDir::Member { cluster, .. } if cluster != known.cluster => anothers(cluster, known.cluster),
        DataDir::Member { member, .. } if known.others.contains(&member) => shared(member),
        _ => Ok(()),
    }
}

fn judge(found: DataDir, permission: &Permission) -> anyhow::Result<Verdict> {
    let Permission { member: own, cluster: ours, live } = permission;
    match found {
        // A start that failed may leave files, but no log. They are of no use, so they are moved aside.
        DataDir::Empty => Ok(Verdict {
            says: format!("permitted: starting as member {own} of cluster {ours} on an empty data directory"),
            set_aside: Some("without-a-log".into()),
        }),
        DataDir::Member { cluster, .. } if cluster != *ours => anothers(cluster, *ours),
        DataDir::Member { member, .. } if member == *own => Ok(Verdict {
            says: format!("permitted: starting again as member {own} of cluster {ours} on its own data"),
            set_aside: None,
        }),
        DataDir::Member { member, .. } if live.contains(&member) => shared(member),
        DataDir::Member { member, .. } => Ok(Verdict {
            says: format!(
                "permitted: starting as member {own} of cluster {ours}, not on the data of removed member {member}"
            ),
            set_aside: Some(member.to_string()),
        }),
    }
}

fn anothers<T>(cluster: Id, ours: Id) -> anyhow::Result<T> {
    bail!(
        "it holds data of another cluster ({cluster}, this one is {ours}); starting on it would split the Service. If that data is of no use, move the directory's content away on this node, then delete this pod"
    )
}

fn shared<T>(member: Id) -> anyhow::Result<T> {
    bail!(
        "it holds the data of member {member}, which is another pod's in etcd's member list now; two members must never share data. Find out which volume belongs to that pod, then delete this pod"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(found: DataDir) -> anyhow::Result<Verdict> {
        let permission = Permission { member: Id(4), cluster: Id(9), live: vec![Id(1), Id(2), Id(3), Id(4)] };
        judge(found, &permission)
    }

    #[test]
    fn an_empty_directory_and_ones_own_data_are_let_go() {
        assert_eq!(judged(DataDir::Empty).unwrap().set_aside.as_deref(), Some("without-a-log"));
        assert_eq!(judged(DataDir::Member { member: Id(4), cluster: Id(9) }).unwrap().set_aside, None);
    }

    #[test]
    fn a_removed_members_data_is_set_aside_under_its_id() {
        let verdict = judged(DataDir::Member { member: Id(7), cluster: Id(9) }).unwrap();
        assert_eq!(verdict.set_aside.as_deref(), Some("0000000000000007"));
        says(&verdict.says, "removed member 0000000000000007");
    }

    #[test]
    fn anybody_elses_data_is_refused_at_once_where_it_can_be_told() {
        let known = Known { cluster: Id(9), others: vec![Id(1), Id(2)] };
        let other = |member, cluster| DataDir::Member { member: Id(member), cluster: Id(cluster) };
        for (found, part) in [(other(4, 8), "another cluster"), (other(2, 9), "another pod's")] {
            says(&judged(found).unwrap_err().to_string(), part);
            says(&hopeless(found, &known).unwrap_err().to_string(), part);
        }
        for found in [DataDir::Empty, other(4, 9), other(7, 9)] {
            assert!(hopeless(found, &known).is_ok(), "{found:?}");
        }
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
