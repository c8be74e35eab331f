//! Whether all members hold the same keys, by the HashKV of each at one pinned revision.

use std::collections::BTreeMap;
use std::time::Duration;

use etcd_client::GetOptions;
use futures::future::join_all;
use membership::know::names::{Ordinal, Target};

use crate::member::Member;
use crate::refusal::{CallError, Refusal};

/// One member's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hashed {
    /// 32 bits over all keys up to the revision.
    pub hash: u32,
    /// The member's compact revision. Hashes are comparable only if it is the same.
    pub compact_revision: i64,
}

/// What all members hold at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The pinned revision.
    pub revision: i64,
    /// By ordinal.
    pub members: BTreeMap<Ordinal, Hashed>,
}

/// The outcome of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every member holds the same.
    Equal(Keys),
    /// At the same revision and the same compact revision they differ.
    Differ(Keys),
    /// No comparable hashes were seen; why, at the last try.
    Unknown(String),
}

/// The pause between two tries: a lag, a compaction or a restart passes meanwhile.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Compares the members of these ordinals. Tries up to `tries` times if a member lags behind or a compaction comes in
/// between. `call` is the most that one call may take; hashing reads every key.
pub async fn validate(target: &Target, ordinals: &[Ordinal], call: Duration, tries: u32) -> Verdict {
    let urls = ordinals.iter().map(|&ordinal| (ordinal, target.client_url(ordinal))).collect();
    validate_at(&urls, call, tries).await
}

/// The same for members at these client URLs.
pub async fn validate_at(urls: &BTreeMap<Ordinal, String>, call: Duration, tries: u32) -> Verdict {
    let mut why = String::from("no try was made");
    for number in 0..tries {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match attempt(urls, call).await {
            Ok(keys) => {
                let mut hashed = keys.members.values();
                let Some(first) = hashed.next() else {
                    return Verdict::Unknown("no member to ask".into());
                };
                if keys.members.values().all(|h| h == first) {
                    return Verdict::Equal(keys);
                }
                if keys.members.values().all(|h| h.compact_revision == first.compact_revision) {
                    return Verdict::Differ(keys);
                }
                why = format!("members were compacted differently at revision {}", keys.revision);
            }
            Err(error) => {
                why = error.to_string();
                if !may_pass(&error) {
                    break;
                }
            }
        }
    }
    Verdict::Unknown(why)
}

/// Whether what kept a member from answering may pass, so that another revision is tried.
pub(crate) fn may_pass(error: &CallError) -> bool {
    matches!(error.refusal(), Refusal::FutureRevision | Refusal::Compacted | Refusal::Unknown)
}

async fn attempt(urls: &BTreeMap<Ordinal, String>, call: Duration) -> Result<Keys, CallError> {
    let mut members = Vec::new();
    for (&ordinal, url) in urls {
        members.push((ordinal, Member::at(url, call).await?));
    }
    let revision = applied_by_all(members.iter().map(|(_, member)| member)).await?;
    // The number of keys is not asked for: etcd walks its whole index for that while writes wait, for a sixteenth of
    // the time of four hashes on two cores. The comparison key by key counts what it reads.
    let hashed = join_all(members.iter().map(|(ordinal, member)| async move {
        let mut client = member.client.clone();
        let answer = member.bounded("endpoint hashkv", client.hash_kv(revision)).await?;
        Ok((*ordinal, Hashed { hash: answer.hash(), compact_revision: answer.compact_version() }))
    }));
    let members = hashed.await.into_iter().collect::<Result<_, CallError>>()?;
    Ok(Keys { revision, members })
}

/// The latest revision that all of them have applied, by a linearizable read on each; 0 if there are none. Every write
/// that was acknowledged until now is at or below it. It is the lowest of theirs, so a member whose revision is too
/// high makes none wait.
///
/// # Errors
/// When one of them did not answer.
pub(crate) async fn applied_by_all(members: impl IntoIterator<Item = &Member>) -> Result<i64, CallError> {
    let revisions = join_all(members.into_iter().map(Member::revision)).await;
    let revisions: Vec<i64> = revisions.into_iter().collect::<Result<_, _>>()?;
    Ok(revisions.into_iter().min().unwrap_or(0))
}

/// A key that need not exist: a read of one key does not look at the others.
const ANY_KEY: &str = "health";

impl Member {
    /// Its revision now, by a linearizable read: its database has every write that was acknowledged until now.
    async fn revision(&self) -> Result<i64, CallError> {
        let mut client = self.client.clone();
        let options = GetOptions::new().with_count_only();
        let answer = self.bounded("get", client.get(ANY_KEY, Some(options))).await?;
        Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
    }
}
