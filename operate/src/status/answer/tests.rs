//! What `hook status` answers, for people and for programs.

use membership::know::observed::{Database, ListedMember};
use membership::world::puls8;

use super::*;
use crate::documented::documented;

/// A cluster with everything that a status can show.
fn seen() -> Seen {
    let target = puls8();
    let status = |id: u64, learner: bool, applied: u64| Status {
        member: Id(id),
        leader: Some(Id(1)),
        learner,
        version: "3.6.16".into(),
        db: Database { size: 2_097_152, in_use: 1_048_576, quota: Some(8_589_934_592) },
        revision: 41,
        raft_index: 60,
        applied_index: applied,
        errors: Vec::new(),
    };
    let mut full = Status { errors: vec!["memberID:2 alarm:NOSPACE".into()], ..status(2, false, 58) };
    full.db.quota = None;
    let listed = |id: u64, name: &str, learner: bool| ListedMember {
        id: Id(id),
        name: name.into(),
        peer_urls: Vec::new(),
        client_urls: if name.is_empty() { Vec::new() } else { vec!["http://x".into()] },
        learner,
    };
    let members = vec![
        listed(1, "puls8-etcd-0", false),
        listed(2, "puls8-etcd-1", false),
        listed(4, "puls8-etcd-3", true),
        listed(9, "", false),
    ];
    let record = Record::new(Id(0xc)).with(0, Id(1), State::Member).with(1, Id(5), State::Member);
    Seen {
        record: Some(record.with(2, Id(3), State::Leaving).with(3, Id(4), State::Joining)),
        target,
        desired: 4,
        agreed: Ok(Agreed { cluster: Id(0xc), leader: Some(Id(1)), members }),
        statuses: BTreeMap::from([
            (0, Ok(status(1, false, 60))),
            (1, Ok(full)),
            (2, Err("connection refused".into())),
            (3, Ok(status(4, true, 50))),
        ]),
        pods: BTreeMap::from([(0, true), (1, true), (3, false)]),
        running: Some(Running { holder: "scale-x".into(), since: Some(Timestamp::UNIX_EPOCH) }),
        last: Some(Last { job: "post".into(), result: "Failed".into(), at: Timestamp::UNIX_EPOCH }),
        unknown: vec!["failed to read pod puls8-etcd-2".into()],
    }
}

#[test]
fn a_person_reads_it_in_etcdctls_words() {
    let text = Answer::of(seen()).text();
    let expected = "\
StatefulSet puls8/puls8-etcd: 4 members wanted, 3 recorded, cluster 000000000000000c
MEMBER        READY  ROLE     RECORD   ID                VERSION  DB SIZE  IN USE  QUOTA   REVISION  RAFT INDEX  LAG  ALARMS AND ERRORS
puls8-etcd-0  true   leader   member   0000000000000001  3.6.16   2.1 MB   1.0 MB  8.6 GB  41        60          0    -
puls8-etcd-1  true   voter    member   0000000000000002  3.6.16   2.1 MB   1.0 MB  -       41        60          2    memberID:2 alarm:NOSPACE; recorded is member 0000000000000005
puls8-etcd-2  -      -        leaving  -                 -        -        -       -       -         -           -    connection refused
puls8-etcd-3  false  learner  joining  0000000000000004  3.6.16   2.1 MB   1.0 MB  8.6 GB  41        60          10   -
in etcd's member list and not heard: 0000000000000009 (-, voter, unstarted)
running: scale-x since 1970-01-01T00:00:00Z
last run: Job post Failed at 1970-01-01T00:00:00Z
not told: failed to read pod puls8-etcd-2
";
    assert_eq!(text, expected);
}

#[test]
fn who_is_away_and_that_there_is_no_list_is_said() {
    let away = |_| Err("no answer within 2.0 s".into());
    let statuses = (0..3).map(|ordinal| (ordinal, away(ordinal))).collect();
    let answer = Answer::of(Seen {
        agreed: Err("no member answered".into()),
        record: None,
        statuses,
        running: None,
        last: None,
        unknown: Vec::new(),
        ..seen()
    });
    let text = answer.text();
    assert!(text.contains("4 members wanted, - recorded, cluster -"), "{text}");
    assert!(
        text.contains("running: nothing\nlast run: -\nnot told: etcd's member list: no member answered\n"),
        "{text}"
    );
    assert_eq!(text.matches("no answer within 2.0 s").count(), 3, "{text}");
}

#[test]
fn every_field_is_in_the_document() {
    documented("## `hook status`", &serde_json::to_value(Answer::of(seen())).unwrap());
}
