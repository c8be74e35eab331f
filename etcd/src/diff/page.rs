//! One page of one member's keys.

use etcd_client::GetOptions;

use super::entry::{Entry, Through};
use crate::member::Member;
use crate::refusal::CallError;

/// What is to be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first key.
    pub from: Vec<u8>,
    /// The end of the range, not included.
    pub to: Through,
}

/// What was read.
pub struct Page {
    /// In the order of their keys.
    pub entries: Vec<Entry>,
    /// The size of their keys and values.
    pub bytes: usize,
    /// There are more in the range.
    pub more: bool,
}

impl Page {
    /// How far the member is read with this page.
    pub fn through(&self, asked: &Range) -> Through {
        match self.entries.last() {
            Some(last) if self.more => Through::Before([last.key.as_slice(), &[0]].concat()),
            _ => asked.to.clone(),
        }
    }
}

/// About how many bytes a page is to have; the member and this program hold it in memory.
const BYTES: usize = 1 << 20;
/// The most keys of one page: the next keys may be larger than those before, and the member makes the whole answer in
/// memory.
const MOST_KEYS: usize = 4000;

/// How many keys are asked for at once, so that a page weighs about [`BYTES`].
#[derive(Debug)]
pub struct PageSize {
    limit: usize,
}

impl Default for PageSize {
    fn default() -> Self {
        Self { limit: 100 }
    }
}

impl PageSize {
    /// The number of keys to ask for.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adapts to a page that came; at most doubles.
    pub fn saw(&mut self, keys: usize, bytes: usize) {
        if let Some(average) = bytes.checked_div(keys) {
            let fits = BYTES / average.max(1);
            self.limit = fits.clamp(1, (self.limit * 2).min(MOST_KEYS));
        }
    }

    /// Adapts to an answer that did not fit into a message.
    pub fn too_large(&mut self) {
        self.limit = (self.limit / 8).max(1);
    }
}

/// The most bytes of an answer; the client's default is 4 MiB.
const MESSAGE: usize = 4 << 20;
/// The most bytes of an answer with one key: etcd's limit for a value is 1.5 MiB by default, and can be raised.
const ONE_KEY: usize = 64 << 20;

/// Whether a call failed because its answer is larger than this program takes.
pub fn is_too_large(error: &CallError) -> bool {
    error.brief().contains("message length too large")
}

impl Member {
    /// A page of this member's own keys at a revision that it has applied (a serializable read).
    pub(super) async fn page(&self, range: &Range, limit: usize, revision: i64) -> Result<Page, CallError> {
        let most = if limit == 1 { ONE_KEY } else { MESSAGE };
        let mut client = self.client.kv_client().max_decoding_message_size(most);
        let to = match &range.to {
            Through::Before(key) => key.clone(),
            // For etcd this means: every key from `from` on.
            Through::End => vec![0],
        };
        let options = GetOptions::new()
            .with_range(to)
            .with_revision(revision)
            .with_serializable()
            .with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        let mut answer = self.bounded("get", client.get(range.from.clone(), Some(options))).await?;
        let mut bytes = 0;
        let entries = answer.take_kvs().into_iter().map(|kv| {
            let (lease, version) = (kv.lease(), kv.version());
            let (created, modified) = (kv.create_revision(), kv.mod_revision());
            let (key, value) = kv.into_key_value();
            bytes += key.len() + value.len();
            Entry { key, value, lease, version, created, modified }
        });
        let entries = entries.collect();
        Ok(Page { entries, bytes, more: answer.more() })
    }
}
