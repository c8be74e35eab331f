//! Do all members hold the same keys? HashKV of every one at one pinned revision.

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
    /// The member's compact revision; hashes compare only where it is the same.
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
    /// Nothing comparable was seen; why, for the last try.
    Unknown(String),
}

/// Between two tries: what kept a member from answering (a lag, a compaction, a restart) passes.
pub(crate) const PAUSE: Duration = Duration::from_millis(500);

/// Compares the members of these ordinals, trying again (a member that lags behind, a compaction
/// in between) until `tries` are used up. `call` bounds one call: hashing reads every key.
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

/// Whether what kept a member from answering passes: another revision is pinned then.
pub(crate) fn may_pass(error: &CallError) -> bool {
    matches!(error.refusal(), Refusal::FutureRevision | Refusal::Compacted | Refusal::Unknown)
}

async fn attempt(urls: &BTreeMap<Ordinal, String>, call: Duration) -> Result<Keys, CallError> {
    let mut members = Vec::new();
    for (&ordinal, url) in urls {
        members.push((ordinal, Member::at(url, call).await?));
    }
    let revision = applied_by_all(members.iter().map(|(_, member)| member)).await?;
    // How many keys there are is not asked: etcd walks its whole index for that, with writes waiting, and a sixteenth
    // of the time of four hashes on two cores. The comparison key by key counts what it reads.
    let hashed = join_all(members.iter().map(|(ordinal, member)| async move {
        let mut client = member.client.clone();
        let answer = member.bounded("endpoint hashkv", client.hash_kv(revision)).await?;
        Ok((*ordinal, Hashed { hash: answer.hash(), compact_revision: answer.compact_version() }))
    }));
    let members = hashed.await.into_iter().collect::<Result<_, CallError>>()?;
    Ok(Keys { revision, members })
}

/// The latest revision that each of them has applied, by a linearizable read on each; 0 of none. Every write acknowledged
/// until now is at or below it, and one that is ahead of what it could have is not waited for.
///
/// # Errors
/// When one of them did not answer.
pub(crate) async fn applied_by_all(members: impl IntoIterator<Item = &Member>) -> Result<i64, CallError> {
    let revisions = join_all(members.into_iter().map(Member::revision)).await;
    let revisions: Vec<i64> = revisions.into_iter().collect::<Result<_, _>>()?;
    Ok(revisions.into_iter().min().unwrap_or(0))
}

/// Any key: that none is found is told without a look at the others.
const ANY_KEY: &str = "health";

impl Member {
    /// Its revision now, by a linearizable read: every write acknowledged until now is at or below it, and its database has
    /// them.
    async fn revision(&self) -> Result<i64, CallError> {
        let mut client = self.client.clone();
        let options = GetOptions::new().with_count_only();
        let answer = self.bounded("get", client.get(ANY_KEY, Some(options))).await?;
        Ok(answer.header().map_or(0, etcd_client::ResponseHeader::revision))
    }
}
