//! Which keys members hold differently. Every key of every member is read at one pinned revision, in ranges that end at
//! keys of the first member, so that only a few pages of each member are in memory.
//!
//! The reads are serializable: each member answers from its own database, and these are compared. If a member lags
//! behind or the revision is compacted meanwhile, that is no difference, and another revision is pinned.

mod cut;
mod entry;
mod merge;
mod page;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join;
use membership::know::names::Ordinal;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::member::Member;
use crate::refusal::CallError;
use crate::validation::{PAUSE, applied_by_all, may_pass};
use merge::Merge;
pub use merge::{Counts, Diff, Difference, Held, Kind};
use walk::{Read, walk};

/// The bounds of one comparison.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The time for one call to one member.
    pub call: Duration,
    /// How many revisions are tried, one after the other, if one is compacted or not reached.
    pub tries: u32,
    /// The time at which the comparison ends.
    pub end: Instant,
    /// How many differing keys are named. All are counted.
    pub named: usize,
}

/// Compares all keys of these members, by ordinal with their client URLs. The ranges end at keys of the first one.
///
/// # Errors
/// Why it could not be told, for the last try.
pub async fn diff(members: &BTreeMap<Ordinal, String>, limits: &Limits) -> Result<Diff, String> {
    let mut why = String::from("no try was made");
    for number in 0..limits.tries {
        if number > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        match attempt(members, limits).await {
            Ok(diff) => return Ok(diff),
            Err(Stopped::Call(error)) => {
                why = error.to_string();
                if !may_pass(&error) {
                    break;
                }
            }
            Err(Stopped::Late { keys, revision }) => {
                return Err(format!(
                    "the deadline passed after {keys} keys of each member were compared at revision {revision}"
                ));
            }
        }
        if limits.end <= Instant::now() {
            return Err(format!("the deadline passed; before: {why}"));
        }
    }
    Err(why)
}

/// Why one try did not end.
enum Stopped {
    Call(CallError),
    Late { keys: u64, revision: i64 },
}

impl From<CallError> for Stopped {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

async fn attempt(urls: &BTreeMap<Ordinal, String>, limits: &Limits) -> Result<Diff, Stopped> {
    let mut members = Vec::new();
    for url in urls.values() {
        members.push(Member::at(url, limits.call).await?);
    }
    if members.is_empty() {
        return Ok(Merge::new(urls.keys().copied(), 0, 0).finish());
    }
    let revision = applied_by_all(&members).await?;
    let merge = Merge::new(urls.keys().copied(), revision, limits.named);
    let (pages, waiting) = mpsc::channel(members.len());
    let walking = timeout_at(limits.end, walk(&members, revision, pages));
    let (walked, merge) = join(walking, compare(merge, waiting)).await;
    match walked {
        Ok(walked) => walked.map(|()| merge.finish()).map_err(Stopped::Call),
        Err(_) => Err(Stopped::Late { keys: merge.compared(), revision }),
    }
}

/// Compares pages as they come, until there are no more.
async fn compare(mut merge: Merge, mut pages: mpsc::Receiver<Read>) -> Merge {
    while let Some(Read { lane, entries, through }) = pages.recv().await {
        merge.feed(lane, entries, through);
        merge.advance();
    }
    merge
}
