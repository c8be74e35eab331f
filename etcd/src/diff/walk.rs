//! Reads all keys of all members, each member by itself, so that none waits for another one's page.
//!
//! The first member is read page by page, and the others up to where each of its pages ended. It is at most a range or
//! two ahead of the slowest, because what is ahead is kept in memory.

use futures::future::{try_join, try_join_all};
use tokio::sync::mpsc;

use super::cut::Cut;
use super::entry::{Entry, Through};
use super::page::{Page, PageSize, Range, is_too_large};
use crate::member::Member;
use crate::refusal::CallError;

/// How many ranges may wait for a member while it reads one.
const AHEAD: usize = 1;

/// A member's next keys.
pub struct Read {
    /// The member, numbered in the order of the walk.
    pub lane: usize,
    /// In order.
    pub entries: Vec<Entry>,
    /// Up to where its keys are read.
    pub through: Through,
}

/// Reads all keys of these members at a revision that all have applied.
///
/// # Errors
/// The first call that failed.
pub async fn walk(members: &[Member], revision: i64, pages: mpsc::Sender<Read>) -> Result<(), CallError> {
    let mut lanes = members.iter().enumerate().map(|(lane, member)| Lane {
        lane,
        member,
        revision,
        through: Through::start(),
        size: PageSize::default(),
        pages: pages.clone(),
    });
    let Some(first) = lanes.next() else { return Ok(()) };
    let (bounds, others): (Vec<_>, Vec<_>) = lanes
        .map(|lane| {
            let (bound, bounds) = mpsc::channel(AHEAD);
            (bound, lane.follow(bounds))
        })
        .unzip();
    try_join(first.lead(bounds), try_join_all(others)).await.map(drop)
}

/// One member's part of the walk.
struct Lane<'a> {
    lane: usize,
    member: &'a Member,
    revision: i64,
    /// Up to where it is read.
    through: Through,
    size: PageSize,
    pages: mpsc::Sender<Read>,
}

impl Lane<'_> {
    /// Reads to the last key, and after each page tells the others how far it is.
    async fn lead(mut self, bounds: Vec<mpsc::Sender<Through>>) -> Result<(), CallError> {
        let mut cut = Cut::default();
        while let Through::Before(from) = &self.through {
            let to = cut.end(from).map_or(Through::End, Through::Before);
            let range = Range { from: from.clone(), to };
            let limit = self.size.limit();
            let Some(page) = self.page(&range, limit).await? else { continue };
            cut.saw(&page.entries, limit, page.more);
            self.hand_on(page, &range).await;
            for bound in &bounds {
                // If a member does not take it any more, it has failed, and that ends the walk.
                let _ = bound.send(self.through.clone()).await;
            }
        }
        Ok(())
    }

    /// Reads up to each of these bounds, and not further.
    async fn follow(mut self, mut bounds: mpsc::Receiver<Through>) -> Result<(), CallError> {
        while let Some(bound) = bounds.recv().await {
            while let Through::Before(from) = &self.through
                && self.through < bound
            {
                let range = Range { from: from.clone(), to: bound.clone() };
                if let Some(page) = self.page(&range, self.size.limit()).await? {
                    self.hand_on(page, &range).await;
                }
            }
        }
        Ok(())
    }

    /// Reads a page; `None`: it was too large for one message, and fewer keys are asked for next.
    async fn page(&mut self, range: &Range, limit: usize) -> Result<Option<Page>, CallError> {
        match self.member.page(range, limit, self.revision).await {
            Ok(page) => Ok(Some(page)),
            Err(error) if is_too_large(&error) && limit > 1 => {
                self.size.too_large();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Hands a page to the comparison. The next page begins behind it.
    async fn hand_on(&mut self, page: Page, range: &Range) {
        self.size.saw(page.entries.len(), page.bytes);
        self.through = page.through(range);
        let read = Read { lane: self.lane, entries: page.entries, through: self.through.clone() };
        // The comparison does not end before the walk, so this does not fail.
        let _ = self.pages.send(read).await;
    }
}
