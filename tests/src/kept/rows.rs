//! The rows: all that can be, and few of them in which each pair of values is.

use std::collections::BTreeSet;

use super::{By, Row, Share};
use crate::release::Storage;
use crate::seed::Seed;

/// Every row that can be.
#[must_use]
pub fn all() -> Vec<Row> {
    let mut rows = Vec::new();
    for counts in [(1, 3), (3, 1), (3, 3), (3, 4)] {
        for storage in [Storage::Manual, Storage::Provisioned] {
            for by in [By::Helm4, By::Helm3, By::Rendered] {
                for directories in [Share::All, Share::One, Share::None] {
                    for bits in 0..32 {
                        let bit = |at: u32| bits >> at & 1 == 0;
                        let (namespace, claims, volumes, lease, statefulset) = (bit(0), bit(1), bit(2), bit(3), bit(4));
                        rows.push(Row {
                            counts,
                            storage,
                            by,
                            namespace,
                            statefulset,
                            claims,
                            volumes,
                            directories,
                            lease,
                        });
                    }
                }
            }
        }
    }
    rows.retain(Row::can_be);
    rows
}

/// The pairs of a row: two factors, each with its value.
fn pairs(row: &Row) -> BTreeSet<(usize, String, usize, String)> {
    let values = [
        format!("{:?}", row.counts),
        format!("{:?}", row.storage),
        format!("{:?}", row.by),
        row.namespace.to_string(),
        row.statefulset.to_string(),
        row.claims.to_string(),
        row.volumes.to_string(),
        format!("{:?}", row.directories),
        row.lease.to_string(),
    ];
    let each = values.iter().enumerate();
    each.clone()
        .flat_map(|(a, one)| each.clone().skip(a + 1).map(move |(b, other)| (a, one.clone(), b, other.clone())))
        .collect()
}

/// A set of rows in which each pair of values is that is in any row: always the row next that has the most new pairs.
#[must_use]
pub fn pairwise() -> Vec<Row> {
    let all = all();
    let mut missing: BTreeSet<_> = all.iter().flat_map(pairs).collect();
    let mut rows = Vec::new();
    while !missing.is_empty() {
        let new = |row: &Row| pairs(row).intersection(&missing).count();
        // The first of the best, so that the set is always the same.
        let Some(best) = all.iter().rev().max_by_key(|row| new(row)).copied() else { break };
        missing = missing.difference(&pairs(&best)).cloned().collect();
        rows.push(best);
    }
    rows
}

/// Rows of the whole product, by chance.
pub fn by_chance(seed: &mut Seed, count: usize) -> Vec<Row> {
    let all = all();
    (0..count).map(|_| seed.pick(&all)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pair_is_in_the_set_and_the_set_is_small() {
        let of_all: BTreeSet<_> = all().iter().flat_map(pairs).collect();
        let set = pairwise();
        let of_set: BTreeSet<_> = set.iter().flat_map(pairs).collect();
        assert_eq!(of_all, of_set);
        assert!(set.len() <= 24, "{} rows", set.len());
        assert_eq!(set, pairwise());
        insta::assert_snapshot!(set.iter().map(Row::to_string).collect::<Vec<_>>().join("\n"));
    }
}
