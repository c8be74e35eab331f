//! Where the next range ends.
//!
//! etcd counts every key of a range, however few are asked for. So pages with only a limit cost the square of the
//! number of keys (measured: 18 s for 1 M keys on three members). Therefore each range has an end, guessed from how
//! close the keys of the last page were to each other. A wrong guess costs time, never a key: what is read ends at the
//! last key that came, or at the end that was asked for.

use super::entry::Entry;

/// A range is to have 5/4 of the keys that fit into a page, so that the limit cuts it and the page is full.
const MORE: (u128, u128) = (5, 4);
/// A page with less than 1/16 of the keys that were asked for has hardly any.
const HARDLY_ANY: u128 = 16;
/// How many bytes of a key are taken as one number.
const DIGITS: u32 = 12;
/// How many of these bytes, at most, are before the first one in which the keys of a page differ, so that a sum can
/// carry into them.
const BEFORE: usize = 4;

/// The digits for which the bytes of keys are taken. A byte that is no such digit counts as the nearest one below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Alphabet {
    Decimal,
    Hex,
    Bytes,
}

impl Alphabet {
    /// The smallest that has all these bytes.
    fn of<'a>(bytes: impl IntoIterator<Item = &'a u8>) -> Self {
        let mut found = Self::Decimal;
        for &byte in bytes {
            if !found.has(byte) {
                found = Self::Hex;
            }
            if !found.has(byte) {
                return Self::Bytes;
            }
        }
        found
    }

    fn has(self, byte: u8) -> bool {
        self.byte(self.digit(byte)) == byte
    }

    fn radix(self) -> u128 {
        match self {
            Self::Decimal => 10,
            Self::Hex => 16,
            Self::Bytes => 256,
        }
    }

    fn digit(self, byte: u8) -> u8 {
        match (self, byte) {
            (Self::Bytes, byte) => byte,
            (Self::Hex, b'a'..) => (byte - b'a').min(5) + 10,
            (_, byte) => byte.clamp(b'0', b'9') - b'0',
        }
    }

    fn byte(self, digit: u8) -> u8 {
        match (self, digit) {
            (Self::Bytes, digit) => digit,
            (_, ..10) => b'0' + digit,
            (_, digit) => b'a' + (digit - 10),
        }
    }

    /// The bytes of a key from `at` on as a number; a key that ends goes on with zeros.
    fn number(self, key: &[u8], at: usize) -> u128 {
        let digits = (at..).map(|at| key.get(at).map_or(0, |byte| self.digit(*byte)));
        digits.take(DIGITS as usize).fold(0, |number, digit| number * self.radix() + u128::from(digit))
    }

    /// The number that every number is below.
    fn end(self) -> u128 {
        self.radix().pow(DIGITS)
    }
}

/// A distance between keys: a difference of the numbers that begin at a position in the key.
#[derive(Clone, Copy, Debug)]
struct Span {
    at: usize,
    step: u128,
    alphabet: Alphabet,
    /// Where the keys begin to differ.
    differ: usize,
}

/// The guess how long a range should be.
#[derive(Debug, Default)]
pub struct Cut {
    /// `None`: nothing was seen yet.
    span: Option<Span>,
}

impl Cut {
    /// The end of the range that begins at `from`; `None`: it goes to the last key.
    pub fn end(&self, from: &[u8]) -> Option<Vec<u8>> {
        self.span?.beyond(from)
    }

    /// Adapts to a page that was asked for with this limit.
    pub fn saw(&mut self, entries: &[Entry], limit: usize, more: bool) {
        let (keys, limit) = (entries.len() as u128, limit as u128);
        if more {
            // The page is full, so its keys show how close they are, whatever the guess was.
            self.span = Span::of(entries).map(|span| span.times(MORE.0, MORE.1));
        } else if let Some(span) = self.span {
            let few = keys * HARDLY_ANY < limit;
            self.span = if few { span.widened() } else { Some(span.times(limit * MORE.0, keys * MORE.1)) };
        }
    }
}

impl Span {
    /// From the first to the last of these keys.
    fn of(entries: &[Entry]) -> Option<Self> {
        let (first, last) = (&entries.first()?.key, &entries.last()?.key);
        let differ = first.iter().zip(last).take_while(|(a, b)| a == b).count();
        let alphabet = Alphabet::of(entries.iter().flat_map(|entry| entry.key.iter().skip(differ)));
        let before = first[..differ].iter().rev().take(BEFORE).take_while(|byte| alphabet.has(**byte)).count();
        let at = differ - before;
        let step = alphabet.number(last, at).checked_sub(alphabet.number(first, at))?;
        // 0 if the last key is the first one with zeros behind it.
        Some(Self { at, step: step.max(1), alphabet, differ })
    }

    /// The distance times `times`, divided by `of`.
    fn times(self, times: u128, of: u128) -> Self {
        Self { step: (self.step.saturating_mul(times) / of).max(1), ..self }
    }

    /// The distance to where the byte before the first differing one is one higher: behind the last key of a prefix,
    /// the next keys are at least that far. `None`: there is no byte before.
    fn widened(self) -> Option<Self> {
        let differ = self.differ.checked_sub(1)?;
        let alphabet = Alphabet::Bytes;
        Some(Self { at: differ, step: alphabet.end() / alphabet.radix(), alphabet, differ })
    }

    /// The key at this distance behind `from`; `None`: it is behind every key.
    fn beyond(&self, from: &[u8]) -> Option<Vec<u8>> {
        let Self { at, step, alphabet, .. } = *self;
        let mut end: Vec<u8> = from.iter().copied().chain(std::iter::repeat(0)).take(at).collect();
        let mut sum = alphabet.number(from, at).saturating_add(step);
        if sum >= alphabet.end() {
            return successor(end);
        }
        let mut digits = Vec::new();
        for _ in 0..DIGITS {
            digits.push(alphabet.byte(u8::try_from(sum % alphabet.radix()).unwrap_or(u8::MAX)));
            sum /= alphabet.radix();
        }
        end.extend(digits.iter().rev());
        // A byte that is no digit may be higher than the digit it was taken for, and the sum then lower than `from`.
        if *end > *from { Some(end) } else { successor(from.iter().copied().take(at + 1).collect()) }
    }
}

/// The lowest key above all keys with this prefix; `None`: there is none.
fn successor(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if let Some(next) = last.checked_add(1) {
            prefix.push(next);
            return Some(prefix);
        }
    }
    None
}
