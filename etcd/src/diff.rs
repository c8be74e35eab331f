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
use std::time::Duration;

use futures::future::join_all;
use membership::names::Ordinal;
use tokio::time::Instant;

use crate::member::Member;
use crate::refusal::CallError;
use crate::validation::{PAUSE, may_pass};
use cut::Cut;
use merge::Merge;
pub use merge::{Counts, Diff, Difference, Held, Kind};
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
    let Some(first) = members.first() else {
        return Ok(Merge::new(urls.keys().copied(), 0, 0).finish());
    };
    // A linearizable read: every write acknowledged until now is at or below this revision.
    let revision = first.count(None).await?.revision;
    // The same at the revision, on each: its own database has it from now on.
    let applied = join_all(members.iter().map(|member| member.count(Some(revision)))).await;
    applied.into_iter().collect::<Result<Vec<_>, CallError>>()?;
    let merge = Merge::new(urls.keys().copied(), revision, limits.named);
    Scan { members, revision, merge, cut: Cut::default(), size: PageSize::default(), ahead: 0 }.run(limits.end).await
}

/// One walk over all keys.
struct Scan {
    members: Vec<Member>,
    revision: i64,
    merge: Merge,
    cut: Cut,
    size: PageSize,
    /// How many keys the first member's last page had.
    ahead: usize,
}

impl Scan {
    async fn run(mut self, end: Instant) -> Result<Diff, Stopped> {
        while !self.merge.is_done() {
            if end <= Instant::now() {
                return Err(Stopped::Late { keys: self.merge.compared(), revision: self.revision });
            }
            // While the others read up to where the first one is, it reads its next page.
            let bound = self.merge.through(0).clone();
            let limit = self.size.limit();
            let ranges: Vec<Option<Range>> = (0..self.members.len()).map(|lane| self.range(lane, &bound)).collect();
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
            self.take(pages, &ranges, limit);
        }
        Ok(self.merge.finish())
    }

    /// What a member is to read next, if anything.
    fn range(&self, lane: usize, bound: &Through) -> Option<Range> {
        let Through::Before(from) = self.merge.through(lane) else { return None };
        if lane > 0 {
            // Everything below the first one's bound, and no key further.
            return (self.merge.through(lane) < bound).then(|| Range { from: from.clone(), to: bound.clone() });
        }
        // Not while others are behind: what is ahead of them is kept in memory.
        (self.merge.waiting(0) <= self.ahead)
            .then(|| Range { from: from.clone(), to: self.cut.end(from).map_or(Through::End, Through::Before) })
    }

    fn take(&mut self, pages: Vec<Option<Page>>, ranges: &[Option<Range>], limit: usize) {
        for (lane, (page, range)) in pages.into_iter().zip(ranges).enumerate() {
            let (Some(page), Some(range)) = (page, range) else { continue };
            self.size.saw(page.entries.len(), page.bytes);
            if lane == 0 {
                self.cut.saw(&page.entries, limit, page.more);
                self.ahead = page.entries.len();
            }
            let through = page.through(range);
            self.merge.feed(lane, page.entries, through);
        }
        self.merge.advance();
    }
}
