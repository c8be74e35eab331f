//! What is told about the load: how much was acknowledged, and how long it ever stood still.

use std::fmt::Write;

use crate::verify::Read;
use ::tests::journal::History;
use serde_json::{Value, json};

/// A span of time, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Its start.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

/// The numbers of a load.
#[derive(Debug)]
pub struct Counts {
    /// By client: the numbers 1 to this one were acknowledged.
    pub acknowledged_by_client: Vec<u64>,
    failed: u64,
    whole: Span,
    window: Option<Span>,
}

/// Acknowledgements within a span of time.
#[derive(Debug, PartialEq, Eq)]
struct Span {
    acknowledged: u64,
    /// The longest time without an acknowledgement to anybody.
    stall: i64,
    /// The longest time that any one client was without one.
    stall_of_a_client: i64,
}

impl Counts {
    /// Counts.
    pub fn of(clients: &[History], window: Option<Window>) -> anyhow::Result<Self> {
        anyhow::ensure!(!clients.is_empty(), "there is no journal: was the load ever started?");
        let each: Vec<&[i64]> = clients.iter().map(|client| client.acknowledged_at.as_slice()).collect();
        Ok(Self {
            acknowledged_by_client: clients.iter().map(History::acknowledged).collect(),
            failed: clients.iter().map(|client| client.failed_at.len() as u64).sum(),
            whole: Span::of(&each, None),
            window: window.map(|window| Span::of(&each, Some(window))),
        })
    }

    /// One line of JSON.
    pub fn json(&self, reads: &[Read]) -> String {
        let members: serde_json::Map<String, Value> = reads
            .iter()
            .map(|read| (read.member.clone(), json!({ "read": read.read, "lost": read.lost, "wrong": read.wrong })))
            .collect();
        let mut counts = self.whole.json();
        counts["failed_attempts"] = json!(self.failed);
        if let Some(window) = &self.window {
            counts["window"] = window.json();
        }
        if !reads.is_empty() {
            counts["members"] = json!(members);
            let examples: Vec<&String> = reads.iter().flat_map(|read| &read.examples).collect();
            counts["examples"] = json!(examples);
        }
        format!("{counts}\n")
    }

    /// For people.
    pub fn table(&self, reads: &[Read]) -> String {
        let mut text = String::new();
        let clients = self.acknowledged_by_client.len();
        let mut line = |what: &str, Span { acknowledged, stall, stall_of_a_client }: &Span| {
            // Writing to a String does not fail.
            let _ = writeln!(
                text,
                "{what:<24} {acknowledged:>7} acknowledged, longest pause {stall} ms (of one client {stall_of_a_client} ms)"
            );
        };
        line(&format!("{clients} clients, in all"), &self.whole);
        if let Some(window) = &self.window {
            line("in the window", window);
        }
        let _ = writeln!(text, "{:<24} {:>7} (each put again until acknowledged)", "failed attempts", self.failed);
        if !reads.is_empty() {
            let _ = writeln!(text, "\n{:<24} {:>7} {:>7} {:>7}", "member", "read", "lost", "wrong");
        }
        for Read { member, read, lost, wrong, examples } in reads {
            let _ = writeln!(text, "{member:<24} {read:>7} {lost:>7} {wrong:>7}");
            for example in examples {
                let _ = writeln!(text, "  {example}");
            }
        }
        text
    }
}

impl Span {
    fn of(clients: &[&[i64]], window: Option<Window>) -> Self {
        let mut all: Vec<i64> = clients.iter().flat_map(|times| times.iter().copied()).collect();
        all.sort_unstable();
        Self {
            acknowledged: all.iter().filter(|&&at| window.is_none_or(|w| w.from <= at && at <= w.to)).count() as u64,
            stall: longest_gap(&all, window),
            stall_of_a_client: clients.iter().map(|times| longest_gap(times, window)).max().unwrap_or(0),
        }
    }

    fn json(&self) -> Value {
        json!({
            "acknowledged": self.acknowledged,
            "longest_stall_ms": self.stall,
            "longest_stall_of_a_client_ms": self.stall_of_a_client,
        })
    }
}

/// The longest gap between two acknowledgements that overlaps the window, the one that the
/// window's end cuts off included: a load that never came back has stalled, too.
fn longest_gap(times: &[i64], window: Option<Window>) -> i64 {
    let between = times.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let overlaps = window.is_none_or(|w| *after > w.from && *before < w.to);
        overlaps.then_some(after - before)
    });
    let end = window.and_then(|w| times.iter().rev().find(|&&at| at <= w.to).map(|last| w.to - last));
    // Only where nothing came later; what did is counted in full above.
    let cut_off = end.filter(|_| window.is_some_and(|w| times.last().is_some_and(|&last| last <= w.to)));
    between.chain(cut_off).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history(times: &[i64]) -> History {
        History { acknowledged_at: times.to_vec(), ..History::default() }
    }

    #[test]
    fn a_stall_is_nobody_being_acknowledged() {
        let counts = Counts::of(&[history(&[0, 10, 500]), history(&[5, 250, 510])], None).unwrap();
        assert_eq!(counts.whole, Span { acknowledged: 6, stall: 250, stall_of_a_client: 490 });
    }

    #[test]
    fn a_window_counts_its_own_and_the_whole_of_a_stall_that_reaches_into_it() {
        let clients = [history(&[0, 100, 900, 1000, 1010])];
        let window = |from, to| Counts::of(&clients, Some(Window { from, to })).unwrap().window;
        assert_eq!(window(500, 1005), Some(Span { acknowledged: 2, stall: 800, stall_of_a_client: 800 }));
        assert_eq!(window(950, 1005), Some(Span { acknowledged: 1, stall: 100, stall_of_a_client: 100 }));
        let gone = window(950, 3010);
        assert_eq!(gone, Some(Span { acknowledged: 2, stall: 2000, stall_of_a_client: 2000 }), "it never came back");
    }

    #[test]
    fn no_journal_is_no_success() {
        assert!(Counts::of(&[], None).is_err());
    }
}
