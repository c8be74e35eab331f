//! Where the next range ends.
//!
//! etcd counts every key of a range, however few are asked for: page after page with a limit alone
//! costs the square of the number of keys (measured: 18 s for 1 M keys on three members). So each
//! range has an end, guessed from how close the last page's keys were to each other. A guess that
//! is wrong costs a count too many or a page too few, never a key: what is known ends at the last
//! key that came, or at the end that was asked for.

use super::merge::Entry;

/// So many pages are aimed at with one range: a page that is cut by its limit is full.
const PAGES: u64 = 2;

/// A distance between keys: so many units of the eight bytes that begin at a position.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: usize,
    step: u64,
}

/// The guess.
#[derive(Debug, Default)]
pub struct Cut {
    /// `None`: nothing was seen yet.
    span: Option<Span>,
}

impl Cut {
    /// The end of the range that begins here; `None`: to the last key.
    pub fn end(&self, from: &[u8]) -> Option<Vec<u8>> {
        self.span?.beyond(from)
    }

    /// Learns from a page that was asked for with this limit.
    pub fn saw(&mut self, entries: &[Entry], limit: usize, more: bool) {
        let keys = entries.len() as u64;
        let limit = limit as u64;
        if more {
            // Full: these keys are as close as that, whatever the guess was.
            let measured = entries.first().zip(entries.last());
            self.span = measured
                .and_then(|(first, last)| Span::between(&first.key, &last.key))
                .map(|span| Span { step: span.step.saturating_mul(PAGES), ..span });
        } else if let Some(span) = &mut self.span {
            match limit.checked_div(keys) {
                Some(0 | 1) => {}
                Some(times @ ..16) => span.step = span.step.saturating_mul(times * PAGES),
                // Hardly any: behind the end of a prefix, the next keys are a byte or more away.
                _ => span.widen(),
            }
        }
    }
}

impl Span {
    /// From one key to a later one.
    fn between(first: &[u8], last: &[u8]) -> Option<Self> {
        let at = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let step = window(last, at).checked_sub(window(first, at))?;
        // 0: the later one only has zeros more.
        Some(Self { at, step: step.max(1) })
    }

    /// To where the byte before is the next one.
    fn widen(&mut self) {
        match self.at.checked_sub(1) {
            Some(at) => *self = Self { at, step: 1 << 56 },
            None => self.step = self.step.saturating_mul(256),
        }
    }

    /// The key so far behind this one; `None`: behind every key.
    fn beyond(&self, from: &[u8]) -> Option<Vec<u8>> {
        let mut end: Vec<u8> = from.iter().copied().chain(std::iter::repeat(0)).take(self.at).collect();
        let (sum, carried) = window(from, self.at).overflowing_add(self.step);
        if carried {
            // The next larger prefix.
            while let Some(last) = end.pop() {
                if let Some(next) = last.checked_add(1) {
                    end.push(next);
                    return Some(end);
                }
            }
            return None;
        }
        end.extend(sum.to_be_bytes());
        Some(end)
    }
}

/// Eight bytes of a key as a number; a key that ends goes on with zeros.
fn window(key: &[u8], at: usize) -> u64 {
    let bytes = key.iter().copied().skip(at).chain(std::iter::repeat(0)).take(8);
    bytes.fold(0, |number, byte| number << 8 | u64::from(byte))
}
