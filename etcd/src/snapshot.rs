//! Saves a member's whole database as a file that `etcdutl snapshot restore` takes.
//!
//! etcd streams the database of one read transaction and then the SHA-256 of what it sent; every version from 3.4 to
//! 3.7 does (`Snapshot` in v3rpc/maintenance.go, read in 3.4, 3.5.35 and 3.6.16). The file is both, one behind the
//! other, so it can be verified by itself at any time. A file without the hash is refused, as `etcdutl snapshot
//! restore` refuses it.
//!
//! [`Digest`] verifies, [`Partial`] is the file while it is written.

mod digest;
mod partial;

use std::io;
use std::path::{Path, PathBuf};

use etcd_client::{ResponseHeader, SnapshotStreaming, StatusResponse};
use membership::know::record::Id;

use crate::member::Member;
use crate::refusal::CallError;

use digest::Digest;
pub use digest::{Damage, Sha256, verify};
pub use partial::{Partial, sweep};

/// The call, in etcdctl's words.
const CALL: &str = "snapshot save";
/// How many bytes must stay free beside what is written: others may use the volume too.
const RESERVE: u64 = 64 << 20;
/// After how many written bytes the free space is looked at again.
const LOOK: u64 = 64 << 20;

/// Between which revisions the database was read.
///
/// The database has the revision of the status that the member was asked for before: etcd commits what it has applied
/// before it opens the read transaction. The exact revision is in the file (`etcdutl snapshot status` reads it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revisions {
    /// The database holds this revision and all before it.
    pub at_least: i64,
    /// It holds none after this one; `None`: the member did not answer afterwards.
    pub at_most: Option<i64>,
}

/// A database that was received and verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Saved {
    /// The ID of the member, by its own answer.
    pub member: Id,
    /// The cluster's ID, by the member's answer.
    pub cluster: Id,
    /// The server's version.
    pub version: String,
    /// The revisions that it holds.
    pub revisions: Revisions,
    /// The database's size in bytes; the file has 32 more.
    pub db_size: u64,
    /// The SHA-256 of the database, which is also the file's last 32 bytes.
    pub sha256: Sha256,
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The member did not give it.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The volume is too small or too full.
    #[error("{} has {free} bytes free, {needed} are needed", .dir.display())]
    NoRoom {
        /// The directory.
        dir: PathBuf,
        /// The bytes that may be written there.
        free: u64,
        /// The bytes that are needed.
        needed: u64,
    },
    /// The stream ended, or stood still, in the middle.
    #[error("{CALL} on {url}: the stream ended after {received} of {promised} bytes")]
    Short {
        /// The member's client URL.
        url: String,
        /// The bytes of the database that came.
        received: u64,
        /// The bytes that the member announced.
        promised: u64,
    },
    /// What came is not what was sent.
    #[error("{CALL} on {url}")]
    Damaged {
        /// The member's client URL.
        url: String,
        /// What is wrong.
        source: Damage,
    },
    /// A file could not be written or read.
    #[error("failed to {attempt} {}", .path.display())]
    File {
        /// What was attempted.
        attempt: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl SnapshotError {
    /// For a failed operation on a file.
    fn file<'a>(attempt: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Self + use<'a> {
        move |source| Self::File { attempt, path: path.to_owned(), source }
    }
}

impl Member {
    /// `snapshot save`: receives the member's database into `partial`, with bounded memory, and verifies it. Each
    /// answer and each part must come within the member's deadline; for the whole the caller sets a limit.
    ///
    /// # Errors
    /// Why there is no whole and verified snapshot. What was written of it is removed with `partial`.
    pub async fn snapshot(&self, partial: &mut Partial) -> Result<Saved, SnapshotError> {
        let before = self.status_response().await?;
        // The database may grow meanwhile.
        let size = u64::try_from(before.db_size()).unwrap_or(0);
        partial.has_room_for(size + size / 10)?;
        let mut client = self.client.clone();
        let mut stream = self.bounded(CALL, client.snapshot()).await?;
        let (db_size, sha256) = self.receive(&mut stream, partial).await?;
        // The file is whole whether or not the member still answers.
        let after = self.status_response().await.ok();
        let same = |after: &StatusResponse| ids(after.header()) == ids(before.header());
        let (member, cluster) = ids(before.header());
        Ok(Saved {
            member,
            cluster,
            version: before.version().to_owned(),
            revisions: Revisions {
                at_least: before.header().map_or(0, ResponseHeader::revision),
                at_most: after.filter(same).and_then(|after| Some(after.header()?.revision())),
            },
            db_size,
            sha256,
        })
    }

    async fn status_response(&self) -> Result<StatusResponse, CallError> {
        let mut client = self.client.clone();
        self.bounded("endpoint status", client.status()).await
    }

    async fn receive(
        &self,
        stream: &mut SnapshotStreaming,
        partial: &mut Partial,
    ) -> Result<(u64, Sha256), SnapshotError> {
        let mut digest = Digest::default();
        let (mut promised, mut looked) = (None, 0);
        while let Some(part) = self.bounded(CALL, stream.message()).await? {
            let (blob, remaining) = (part.blob(), part.remaining_bytes());
            let received = digest.bytes();
            let promised = *promised.get_or_insert(blob.len() as u64 + remaining);
            // A server that cannot read its own database goes on sending empty parts.
            if blob.is_empty() && remaining > 0 {
                return Err(SnapshotError::Short { url: self.url.clone(), received, promised });
            }
            if received == 0 || received - looked >= LOOK {
                looked = received;
                partial.has_room_for(blob.len() as u64 + remaining)?;
            }
            digest.feed(blob);
            partial.write(blob)?;
        }
        let (url, received) = (self.url.clone(), digest.bytes());
        let promised = promised.unwrap_or(0);
        if received < promised {
            return Err(SnapshotError::Short { url, received, promised });
        }
        match digest.finish() {
            Ok((db_size, sha256)) => Ok((db_size, sha256)),
            Err(source) => Err(SnapshotError::Damaged { url, source }),
        }
    }
}

/// The IDs in an answer's header; without a header zeros, which are no member's.
fn ids(header: Option<&ResponseHeader>) -> (Id, Id) {
    header.map_or((Id(0), Id(0)), |header| (Id(header.member_id()), Id(header.cluster_id())))
}
