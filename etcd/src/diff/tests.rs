//! Pages cut at any place give the same differences, and each is counted once.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::cut::Cut;
use super::entry::{Entry, Through};
use super::merge::{Counts, Diff, Kind, Merge};
use super::page::{Page, PageSize, Range};

/// A member's keys: a byte for the value, one for the version.
type Keys = BTreeMap<Vec<u8>, (u8, u8)>;

fn entry(key: &[u8], (value, version): (u8, u8)) -> Entry {
    Entry { key: key.to_vec(), value: vec![value], lease: 0, version: i64::from(version), created: 1, modified: 2 }
}

/// What a server answers, and how many keys it counts for that.
fn serve(keys: &Keys, range: &Range, limit: usize) -> (Page, usize) {
    let within = keys.range(range.from.clone()..).take_while(|(key, _)| match &range.to {
        Through::Before(to) => *key < to,
        Through::End => true,
    });
    let all: Vec<_> = within.collect();
    let entries: Vec<Entry> = all.iter().take(limit).map(|(key, held)| entry(key, **held)).collect();
    (Page { more: all.len() > entries.len(), bytes: 0, entries }, all.len())
}

/// Compares with pages cut where `cuts` says: whose turn it is, the most keys, and the key before
/// which the range ends.
fn compare(members: &[Keys], cuts: Vec<(usize, usize, Vec<u8>)>) -> Diff {
    let mut merge = Merge::new(0..members.len() as u32, 7, usize::MAX);
    let mut known = vec![Through::start(); members.len()];
    let to_the_end = (0..).map(|turn: usize| (turn, 3, Vec::new()));
    for (turn, limit, to) in cuts.into_iter().chain(to_the_end) {
        if known.iter().all(|through| *through == Through::End) {
            break;
        }
        let lane = turn % members.len();
        let Through::Before(from) = known[lane].clone() else { continue };
        let to = if to > from { Through::Before(to) } else { Through::End };
        let range = Range { from, to };
        let (page, _) = serve(&members[lane], &range, limit);
        known[lane] = page.through(&range);
        merge.feed(lane, page.entries, known[lane].clone());
        merge.advance();
    }
    merge.finish()
}

/// By key, who differs and how.
type Differences = BTreeMap<Vec<u8>, BTreeMap<u32, Kind>>;

/// The same without pages.
fn plainly(members: &[Keys]) -> (BTreeMap<u32, Counts>, Differences) {
    let mut counts: BTreeMap<u32, Counts> = (0..members.len() as u32).map(|it| (it, Counts::default())).collect();
    let mut differences = BTreeMap::new();
    for key in members.iter().flat_map(BTreeMap::keys).collect::<BTreeSet<_>>() {
        let held: Vec<_> = members.iter().map(|member| member.get(key)).collect();
        let alike = |one: &&Option<&(u8, u8)>| held.iter().filter(|it| it == one).count() * 2 > held.len();
        let base = held.iter().find(alike).unwrap_or(&held[0]);
        let mut differ = BTreeMap::new();
        for (ordinal, held) in (0..).zip(&held) {
            let counts = counts.get_mut(&ordinal).unwrap();
            counts.keys += u64::from(held.is_some());
            let (kind, count) = match (base, held) {
                (base, held) if base == held => continue,
                (Some(_), None) => (Kind::Missing, &mut counts.missing),
                (None, _) => (Kind::Extra, &mut counts.extra),
                (Some(base), Some(held)) if base.0 != held.0 => (Kind::Value, &mut counts.value),
                _ => (Kind::Metadata, &mut counts.metadata),
            };
            *count += 1;
            differ.insert(ordinal, kind);
        }
        if !differ.is_empty() {
            differences.insert(key.clone(), differ);
        }
    }
    (counts, differences)
}

/// Keys of which many are near each other, one the beginning of another, or with zeros behind.
fn key() -> impl Strategy<Value = Vec<u8>> {
    vec(prop_oneof![Just(0_u8), Just(b'/'), Just(b'a'), Just(0xff), any::<u8>()], 1..6)
}

proptest! {
    #[test]
    fn wherever_the_pages_are_cut_the_same_is_found(
        common in btree_map(key(), (any::<u8>(), 0_u8..3), 0..40),
        changes in vec(vec((any::<prop::sample::Index>(), key(), any::<u8>(), 0_u8..4), 0..5), 1..5),
        cuts in vec((0_usize..8, 1_usize..9, key()), 0..60),
    ) {
        let members: Vec<Keys> = changes.into_iter().map(|changes| {
            let mut member = common.clone();
            for (which, key, value, how) in changes {
                let near = (!common.is_empty()).then(|| which.index(common.len())).and_then(|at| common.keys().nth(at));
                match (near, how) {
                    (Some(near), 0) => { member.remove(near); }
                    (Some(near), 1) => { member.insert(near.clone(), (value, 1)); }
                    (Some(near), 2) => { if let Some(held) = member.get_mut(near) { held.1 += 1; } }
                    _ => { member.insert(key, (value, 1)); }
                }
            }
            member
        }).collect();
        let (counts, differences) = plainly(&members);
        let diff = compare(&members, cuts);
        prop_assert_eq!(diff.differing, differences.len() as u64);
        let first: Vec<_> = diff.first.iter().map(|it| (it.key.clone(), it.differ.clone())).collect();
        prop_assert_eq!(first, differences.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(&diff.members, &counts);
        let undecided = diff.first.iter().filter(|it| !it.majority).count() as u64;
        prop_assert_eq!(diff.undecided, undecided);
    }

    #[test]
    fn however_keys_lie_each_is_read_once(
        keys in prop::collection::btree_set(key(), 0..200), limit in 1_usize..20
    ) {
        let keys: Keys = keys.into_iter().map(|key| (key, (0, 0))).collect();
        let Walk { read, .. } = walk(&keys, limit);
        prop_assert!(read.iter().eq(keys.keys()));
    }
}

/// What a walk over all keys read and cost.
struct Walk {
    read: Vec<Vec<u8>>,
    calls: usize,
    counted: usize,
}

fn walk(keys: &Keys, limit: usize) -> Walk {
    let (mut cut, mut at) = (Cut::default(), Through::start());
    let mut walk = Walk { read: Vec::new(), calls: 0, counted: 0 };
    while let Through::Before(from) = at {
        let to = cut.end(&from).map_or(Through::End, Through::Before);
        assert!(to > Through::Before(from.clone()), "an empty range from {from:?}");
        let range = Range { from, to };
        let (page, counted) = serve(keys, &range, limit);
        cut.saw(&page.entries, limit, page.more);
        at = page.through(&range);
        walk.calls += 1;
        walk.counted += counted;
        walk.read.extend(page.entries.into_iter().map(|entry| entry.key));
    }
    walk
}

#[test]
fn the_cost_of_a_walk_grows_with_the_number_of_keys() {
    const LIMIT: usize = 100;
    let mixed = |n: u64| n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (n << 7);
    let hashed = |n: u64| format!("{:016x}{:016x}", mixed(n), mixed(n + 1));
    let ways: [(&str, &dyn Fn(u64) -> String); 5] = [
        ("numbers", &|n| format!("/load/{n}")),
        ("padded numbers", &|n| format!("/openebs.io/mayastor/apis/v0/clusters/c/{n:09}")),
        ("hashes", &|n| format!("/volumes/{}", hashed(n))),
        ("names of kinds", &|n| format!("/registry/{:02}/ns-{}/pod-{}", n % 17, n % 97, hashed(n))),
        // More than a page under each of many prefixes that are far from each other.
        ("far prefixes", &|n| format!("{}{}/{:06}", hashed(n / 500), hashed(n / 500 + 1), n)),
    ];
    for (way, name) in ways {
        let keys: Keys = (0..20_000).map(|n| (name(n).into_bytes(), (0, 0))).collect();
        let Walk { read, calls, counted } = walk(&keys, LIMIT);
        assert_eq!(read.len(), 20_000, "{way}");
        // Without an end to the ranges it is 100 times the number of keys.
        assert!(counted <= 5 * read.len(), "{way}: {counted} keys counted");
        assert!(calls <= 20 * read.len() / LIMIT, "{way}: {calls} calls");
    }
}

#[test]
fn only_one_that_differs_from_a_majority_which_agrees_is_named() {
    let with = |keys: &[(&str, u8)]| -> Keys { keys.iter().map(|&(key, v)| (key.into(), (v, 1))).collect() };
    let (a, b, c) = (with(&[("k", 1)]), with(&[("k", 2)]), with(&[("k", 3)]));
    let outlier = |members: &[&Keys]| {
        let members: Vec<Keys> = members.iter().map(|&member| member.clone()).collect();
        compare(&members, Vec::new()).outlier()
    };
    assert_eq!(outlier(&[&a, &b, &a]), Some(1));
    assert_eq!(outlier(&[&b, &a, &a]), Some(0));
    assert_eq!(outlier(&[&a, &a, &a]), None);
    assert_eq!(outlier(&[&a, &b]), None, "who of two is wrong nobody can tell");
    assert_eq!(outlier(&[&a, &b, &c]), None, "no two agree");
    assert_eq!(outlier(&[&a, &b, &a, &b]), None);
    assert_eq!(outlier(&[&a, &b, &c, &a, &a]), None, "two are to be replaced");
    assert_eq!(outlier(&[&a, &a, &a, &b]), Some(3));
}

#[test]
fn no_value_is_in_what_is_found() {
    let one = Entry { value: b"secret".to_vec(), ..entry(b"k", (0, 1)) };
    let other = Entry { value: b"another".to_vec(), lease: 5, ..one.clone() };
    let mut merge = Merge::new([0, 1], 9, 10);
    merge.feed(0, vec![one], Through::End);
    merge.feed(1, vec![other], Through::End);
    merge.advance();
    let found = merge.finish();
    let held = found.first[0].held[&1].as_ref().unwrap();
    // echo -n another | sha256sum
    assert_eq!((held.value_hash, held.value_bytes, held.lease), (0xae44_8ac8_6c4e_8e4d, 7, 5));
    assert!(!format!("{found:?}").contains("secret"));
}

#[test]
fn a_page_weighs_about_as_much_whatever_the_values_are() {
    let mut size = PageSize::default();
    for _ in 0..10 {
        size.saw(size.limit(), size.limit() * 1000);
    }
    assert_eq!(size.limit(), 1048);
    size.saw(1048, 1048 * 100_000);
    assert_eq!(size.limit(), 10);
    size.saw(10, 10 * 100);
    assert_eq!(size.limit(), 20, "grows slowly: the next values may be large again");
    size.too_large();
    size.too_large();
    assert_eq!(size.limit(), 1);
}
