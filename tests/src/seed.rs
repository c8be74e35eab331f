//! Chance that can be had again: the seed is printed, and `SEED` sets it.

use crate::release::now;

/// A row of numbers that follows from its seed.
#[derive(Debug)]
pub struct Seed(u64);

impl Seed {
    /// From `SEED`, else another one each time.
    #[must_use]
    pub fn from_environment() -> Self {
        let set = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        Self(set.unwrap_or_else(|| now().unsigned_abs()))
    }

    /// What has to be said to have it again.
    #[must_use]
    pub fn again(&self) -> String {
        format!("SEED={}", self.0)
    }

    /// The next number (splitmix64, whose constants these are).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of these; they are never none.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// These in another order.
    pub fn shuffle<T>(&mut self, all: &mut [T]) {
        for last in (1..all.len()).rev() {
            all.swap(last, self.below(last + 1));
        }
    }

    /// A number below this one, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        // Below the bound, so it fits.
        (self.next() % bound as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_row_and_all_of_it() {
        let row = |seed| {
            let mut all: Vec<u32> = (0..20).collect();
            Seed(seed).shuffle(&mut all);
            all
        };
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
        let mut sorted = row(7);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..20).collect::<Vec<_>>());
    }
}
