//! What `hook validate` answers, for each verdict.

use std::collections::BTreeMap;

use etcd::{Counts, Hashed};
use membership::world::puls8;

use super::*;
use crate::documented::documented;

fn voters(count: u32) -> Vec<Voter> {
    (0..count).map(|ordinal| Voter { ordinal, member: Id(u64::from(ordinal) + 1) }).collect()
}

fn keys(hashes: &[u32]) -> Keys {
    let hashed = |&hash: &u32| Hashed { hash, compact_revision: 5 };
    Keys { revision: 90, members: (0..).zip(hashes.iter().map(hashed)).collect() }
}

fn held(value_hash: u64, lease: i64) -> Held {
    Held { mod_revision: 7, create_revision: 7, version: 1, lease, value_hash, value_bytes: 12 }
}

/// Of these members the second holds others keys.
fn differing(members: u32) -> Diff {
    let same = Counts { keys: 100, ..Counts::default() };
    let mut counts: BTreeMap<Ordinal, Counts> = (0..members).map(|ordinal| (ordinal, same)).collect();
    counts.insert(1, Counts { keys: 100, missing: 1, extra: 1, value: 1, metadata: 1 });
    let key = |key: &[u8], kind: Kind, ours: Option<Held>, theirs: Option<Held>| {
        let mut held: BTreeMap<Ordinal, Option<Held>> = (0..members).map(|ordinal| (ordinal, ours.clone())).collect();
        held.insert(1, theirs);
        Difference { key: key.to_vec(), held, differ: BTreeMap::from([(1, kind)]), majority: members > 2 }
    };
    let first = vec![
        key(b"/a\xff", Kind::Missing, Some(held(0xaa, 0)), None),
        key(b"/b", Kind::Value, Some(held(0xaa, 0)), Some(held(0xbb, 0))),
        key(b"/c", Kind::Metadata, Some(held(0xaa, 0)), Some(held(0xaa, 9))),
    ];
    Diff { revision: 91, members: counts, differing: 4, undecided: if members > 2 { 0 } else { 4 }, first }
}

fn answer(members: u32, hashes: &Hashes, diff: Option<Result<Diff, String>>) -> Answer {
    let mut answer = Answer::about(&puls8(), voters(members));
    answer.hashed(hashes);
    if let Some(diff) = diff {
        answer.compared(Some(hashes), diff);
    }
    answer
}

#[test]
fn a_person_reads_who_holds_what() {
    let text = answer(3, &Hashes::Differ(keys(&[1, 2, 1])), Some(Ok(differing(3)))).text();
    let expected = "\
MEMBER        ID                HASH      COMPACT REVISION  KEYS  MISSING  EXTRA  VALUE  METADATA
puls8-etcd-0  0000000000000001  00000001  5                 100   0        0      0      0
puls8-etcd-1  0000000000000002  00000002  5                 100   1        1      1      1
puls8-etcd-2  0000000000000003  00000001  5                 100   0        0      0      0

KEY     MEMBER        DIFFERS   MOD REVISION  VERSION  LEASE             VALUE HASH        BYTES
/a\\xff  puls8-etcd-0  -         7             1        0000000000000000  00000000000000aa  12
/a\\xff  puls8-etcd-1  missing   -             -        -                 -                 -
/a\\xff  puls8-etcd-2  -         7             1        0000000000000000  00000000000000aa  12
/b      puls8-etcd-0  -         7             1        0000000000000000  00000000000000aa  12
/b      puls8-etcd-1  value     7             1        0000000000000000  00000000000000bb  12
/b      puls8-etcd-2  -         7             1        0000000000000000  00000000000000aa  12
/c      puls8-etcd-0  -         7             1        0000000000000000  00000000000000aa  12
/c      puls8-etcd-1  metadata  7             1        0000000000000009  00000000000000aa  12
/c      puls8-etcd-2  -         7             1        0000000000000000  00000000000000aa  12
and 1 more

4 keys differ at revision 91 (/a\\xff, /b, /c, …): puls8-etcd-1 alone holds other keys than the 2 others, which agree. Replace its member; until then do not scale or restart anything
";
    assert_eq!(text, expected);
}

#[test]
fn of_two_members_none_is_named() {
    let answer = answer(2, &Hashes::Differ(keys(&[1, 2])), Some(Ok(differing(2))));
    assert_eq!((answer.verdict, answer.replace.as_ref()), (Verdict::Differ, None));
    assert!(answer.reason.contains("who is wrong cannot be told"), "{}", answer.reason);
}

#[test]
fn a_hash_that_differs_counts_only_when_keys_do() {
    let equal = Diff {
        members: (0..3).map(|o| (o, Counts { keys: 100, ..Counts::default() })).collect(),
        differing: 0,
        undecided: 0,
        first: Vec::new(),
        revision: 91,
    };
    let hashes = Hashes::Differ(keys(&[1, 2, 1]));
    let confirmed_not = answer(3, &hashes, Some(Ok(equal.clone())));
    assert_eq!(confirmed_not.verdict, Verdict::Equal);
    assert!(confirmed_not.reason.contains("HashKV differs"), "{}", confirmed_not.reason);
    let untold = answer(3, &hashes, Some(Err("etcd-1 is away".into())));
    assert_eq!((untold.verdict, untold.differing), (Verdict::Unknown, None));
    assert!(untold.reason.starts_with("HashKV differs at revision 90, and"), "{}", untold.reason);
    // And the other way round: what the keys say holds.
    let keyed = answer(3, &Hashes::Unknown("compacted".into()), Some(Ok(equal.clone())));
    assert_eq!(keyed.verdict, Verdict::Equal);
    let mut unhashed = Answer::about(&puls8(), voters(3));
    unhashed.compared(None, Ok(equal));
    assert_eq!(unhashed.reason, "3 voting members hold the same 100 keys at revision 91, compared key by key");
    assert_eq!((unhashed.verdict, unhashed.hash_revision), (Verdict::Equal, None));
    unhashed.compared(None, Err("etcd-1 is away".into()));
    let untold = "the keys could not be compared one by one: etcd-1 is away; validate again when it has passed";
    assert_eq!((unhashed.verdict, unhashed.reason.as_str()), (Verdict::Unknown, untold));
}

#[test]
fn each_verdict_has_its_exit_code() {
    let equal = answer(3, &Hashes::Equal(keys(&[1, 1, 1])), None);
    assert_eq!(equal.reason, "3 voting members hold the same keys at revision 90 (HashKV 00000001)");
    let differ = answer(3, &Hashes::Differ(keys(&[1, 2, 1])), Some(Ok(differing(3))));
    let unknown = answer(3, &Hashes::Unknown("etcd-1 is away".into()), None);
    let nothing = Answer::unknown(&puls8(), "no API server".into());
    let codes = [&equal, &differ, &unknown, &nothing].map(|answer| answer.verdict.exit_code());
    assert_eq!(codes, [0, 3, 1, 1]);
    assert_eq!(nothing.text(), "whether the members hold the same could not be told: no API server\n");
    let document = include_str!("../../../../docs/commands.md");
    for (verdict, answer) in [("equal", equal), ("differ", differ), ("unknown", unknown)] {
        assert_eq!(serde_json::to_value(answer.verdict).unwrap(), verdict);
        let row = format!("| {} | `{verdict}` |", answer.verdict.exit_code());
        assert!(document.contains(&row), "docs/commands.md has no row {row}");
    }
}

#[test]
fn every_field_and_every_kind_is_in_the_document() {
    let answer = answer(3, &Hashes::Differ(keys(&[1, 2, 1])), Some(Ok(differing(3))));
    documented("## `hook validate`", &serde_json::to_value(&answer).unwrap());
    let document = include_str!("../../../../docs/commands.md");
    for kind in [Kind::Missing, Kind::Extra, Kind::Value, Kind::Metadata] {
        assert!(document.contains(&format!("`{}`", word(kind))), "{kind:?}");
    }
}
