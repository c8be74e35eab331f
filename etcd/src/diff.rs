//! Which keys do members hold differently? Every key of every member at one pinned revision, in
//! ranges that are cut at the first member's keys, so that memory is a few pages a member.
//!
//! The reads are serializable: each member answers from its own database, which is what is compared.
//! A member that lags behind or a revision that is compacted meanwhile is no difference: another
//! revision is pinned then.

mod cut;
mod merge;
mod page;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::time::Duration;

use futures::future::join_all;
use membership::names::Ordinal;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::Instant;

use crate::member::Member;
use crate::refusal::CallError;
use crate::validation::{PAUSE, applied_by_all, may_pass};
use cut::Cut;
pub use merge::{Counts, Diff, Difference, Held, Kind};
use merge::{Entry, Merge};
use page::{Page, PageSize, Range, Through};

/// The bounds of one comparison.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For one call to one member.
    pub call: Duration,
    /// So many revisions are pinned, one after the other, when one does not hold.
    pub tries: u32,
    /// Nothing is begun after this.
    pub end: Instant,
    /// So many differing keys are named; all are counted.
    pub named: usize,
}

/// Compares all keys of these members, by ordinal at their client URLs, the first being the one at
/// whose keys the ranges are cut.
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

/// Why one try did not come to its end.
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
    // Beside the reads: members do not stand idle while their keys are compared.
    let comparing = spawn_blocking(|| compare(merge, waiting));
    let scanned = Scan::of(members, revision, pages).run(limits.end).await;
    let merge = comparing.await.unwrap_or_else(|error| resume_unwind(error.into_panic()));
    match scanned? {
        End::Reached => Ok(merge.finish()),
        End::Late => Err(Stopped::Late { keys: merge.compared(), revision }),
    }
}

/// Compares pages as they come, until there are no more.
fn compare(mut merge: Merge, mut pages: mpsc::Receiver<Read>) -> Merge {
    while let Some(Read { lane, entries, through }) = pages.blocking_recv() {
        merge.feed(lane, entries, through);
        merge.advance();
    }
    merge
}

/// A member's next keys.
struct Read {
    lane: usize,
    entries: Vec<Entry>,
    /// So far they are known.
    through: Through,
}

/// How a walk ended.
enum End {
    Reached,
    Late,
}

/// One walk over all keys.
struct Scan {
    members: Vec<Member>,
    revision: i64,
    pages: mpsc::Sender<Read>,
    /// How far the keys of each are read.
    through: Vec<Through>,
    /// Where the first member's last page began.
    last: Through,
    cut: Cut,
    size: PageSize,
}

impl Scan {
    fn of(members: Vec<Member>, revision: i64, pages: mpsc::Sender<Read>) -> Self {
        let through = vec![Through::start(); members.len()];
        let (cut, size) = (Cut::default(), PageSize::default());
        Self { members, revision, pages, through, last: Through::start(), cut, size }
    }

    async fn run(mut self, end: Instant) -> Result<End, CallError> {
        while self.through.iter().any(|through| *through != Through::End) {
            if end <= Instant::now() {
                return Ok(End::Late);
            }
            // While the others read up to where the first one is, it reads its next page.
            let limit = self.size.limit();
            let ranges: Vec<Option<Range>> = (0..self.members.len()).map(|lane| self.range(lane)).collect();
            let reads = self.members.iter().zip(&ranges).map(async |(member, range)| match range {
                Some(range) => member.page(range, limit, self.revision).await.map(Some),
                None => Ok(None),
            });
            let mut pages = Vec::new();
            for page in join_all(reads).await {
                pages.push(match page {
                    // Too much for one message: nothing of this round is used, the next asks for less.
                    Err(error) if page::is_too_large(&error) && limit > 1 => {
                        pages.clear();
                        break;
                    }
                    page => page?,
                });
            }
            if pages.is_empty() {
                self.size.too_large();
                continue;
            }
            self.take(pages, ranges, limit).await;
        }
        Ok(End::Reached)
    }

    /// What a member is to read next, if anything.
    fn range(&self, lane: usize) -> Option<Range> {
        let Through::Before(from) = &self.through[lane] else { return None };
        if lane > 0 {
            // Everything below the first one's bound, and no key further.
            let bound = &self.through[0];
            return (self.through[lane] < *bound).then(|| Range { from: from.clone(), to: bound.clone() });
        }
        // Not while others are behind: what is ahead of them is kept in memory.
        let caught_up = self.through.iter().all(|through| *through >= self.last);
        caught_up.then(|| Range { from: from.clone(), to: self.cut.end(from).map_or(Through::End, Through::Before) })
    }

    async fn take(&mut self, pages: Vec<Option<Page>>, ranges: Vec<Option<Range>>, limit: usize) {
        for (lane, (page, range)) in pages.into_iter().zip(ranges).enumerate() {
            let (Some(page), Some(range)) = (page, range) else { continue };
            self.size.saw(page.entries.len(), page.bytes);
            if lane == 0 {
                self.cut.saw(&page.entries, limit, page.more);
                self.last = self.through[0].clone();
            }
            let through = page.through(&range);
            self.through[lane] = through.clone();
            // Who compares ends after this.
            let _ = self.pages.send(Read { lane, entries: page.entries, through }).await;
        }
    }
}
