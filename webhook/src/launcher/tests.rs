//! When a Job is wanted, and when it is made.

use serde_json::json;

use super::*;

pub fn statefulset(replicas: u32, record: Option<&str>) -> Value {
    let annotations =
        record.map(|record| json!({ "etcd-scaler.io/record": record, "etcd-scaler.io/recorded-for": "sts-uid" }));
    json!({ "metadata": { "uid": "sts-uid", "annotations": annotations }, "spec": { "replicas": replicas } })
}

pub fn record(states: &[&str]) -> String {
    let members: serde_json::Map<String, Value> = states
        .iter()
        .enumerate()
        .map(|(o, state)| (o.to_string(), json!({ "id": format!("{o:x}"), "state": state })))
        .collect();
    json!({ "v": 1, "cluster": "c1", "members": members }).to_string()
}

#[test]
fn a_job_is_wanted_while_the_record_is_not_what_is_desired() {
    let wants = |replicas, record: Option<&str>| need(&statefulset(replicas, record), false).is_some();
    let three = record(&["member"; 3]);
    assert!(wants(3, None), "no record yet");
    assert!(!wants(3, Some(&three)));
    assert!(wants(4, Some(&three)));
    assert!(wants(3, Some(&record(&["member", "member", "member", "joining"]))), "a join to be taken back");
    assert!(wants(4, Some(&record(&["member", "member", "member", "joining"]))));
    assert!(wants(3, Some(&record(&["member", "bootstrapping", "member"]))));
    assert!(!wants(0, Some(&three)), "stopped");
    assert!(!wants(3, Some("{}")), "a record that cannot be read");
    let mut again = statefulset(3, Some(&three));
    again["metadata"]["uid"] = json!("another");
    assert!(need(&again, false).is_some(), "made again, the record is from the Lease");
    let mut deleting = statefulset(4, Some(&three));
    deleting["metadata"]["deletionTimestamp"] = json!("2026-11-23T10:00:00Z");
    assert_eq!(need(&deleting, false), None);
    assert!(need(&statefulset(3, Some(&three)), true).is_some(), "the token is gone");
}

#[test]
fn a_persons_word_is_another_run_until_there_is_a_record() {
    let run = |record: Option<&str>, word: &str| {
        let mut object = statefulset(3, record);
        object["metadata"]["annotations"]["etcd-scaler.io/bootstrap"] = json!(word);
        need(&object, true).unwrap().run
    };
    assert_ne!(run(None, "anew-12345678"), run(None, "anew-87654321"));
    let three = record(&["member"; 3]);
    assert_eq!(run(Some(&three), "anew-12345678"), run(Some(&three), "anew-87654321"));
}

#[test]
fn another_count_or_record_is_another_run() {
    let run = |replicas, record: &str| need(&statefulset(replicas, Some(record)), false).unwrap().run;
    let (three, joining) = (record(&["member"; 3]), record(&["member", "member", "member", "joining"]));
    assert_eq!(run(4, &three), run(4, &three));
    assert_ne!(run(4, &three), run(5, &three));
    assert_ne!(run(4, &three), run(4, &joining));
}

#[test]
fn a_claim_whose_volume_is_kept_for_the_one_before_wants_a_job_of_its_own() {
    let live = statefulset(3, Some(&record(&["member"; 3])));
    let run = |claims: &[&str]| {
        let claims = claims.iter().map(|&uid| uid.to_owned()).collect();
        frees(&live, &claims).map(|need| need.run)
    };
    assert_eq!((need(&live, false), run(&[])), (None, None));
    assert_eq!(run(&["a", "b"]), run(&["b", "a"]));
    assert_ne!(run(&["a"]), run(&["b"]), "the claim was deleted again");
    let mut deleting = live.clone();
    deleting["metadata"]["deletionTimestamp"] = json!("2026-11-23T10:00:00Z");
    assert_eq!(frees(&deleting, &["a".to_owned()].into()), None);
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

/// Seen at second 0.
fn memory() -> Memory {
    let need = Need { uid: "sts-uid".into(), desired: 4, run: "run".into(), generation: 1, frees: false };
    Memory { need, since: at(0), tried: 0, forgiven: 0, given_up: false }
}

fn ours(attempt: u32, ended: Option<i64>) -> Seen {
    Seen { run: Some("run".into()), attempt, ended: ended.map(at), failed: ended.is_some() }
}

fn helms(ended: Option<i64>, failed: bool) -> Seen {
    Seen { run: None, attempt: 0, ended: ended.map(at), failed }
}

fn decided(memory: &Memory, jobs: &[Seen], second: i64) -> Step {
    decided_of(memory, jobs, false, second)
}

fn decided_of(memory: &Memory, jobs: &[Seen], scaled: bool, second: i64) -> Step {
    let jobs: BTreeMap<_, _> = jobs.iter().cloned().enumerate().map(|(n, job)| (n.to_string(), job)).collect();
    let tried = memory.tried.max(attempts(&memory.need, &jobs));
    decide(&Memory { tried, ..memory.clone() }, &jobs, scaled, at(second))
}

#[test]
fn after_a_scale_no_helm_is_waited_for() {
    assert_eq!(decided_of(&memory(), &[], true, 0), Step::Launch(0));
    // What a Job wrote last may still not have been told.
    assert_eq!(decided_of(&memory(), &[helms(Some(-1), false)], true, 0), Step::WaitUntil(at(1)));
    assert_eq!(decided_of(&memory(), &[ours(0, Some(100))], true, 101), Step::WaitUntil(at(110)));
}

#[test]
fn helms_own_job_comes_first() {
    assert_eq!(decided(&memory(), &[], 1), Step::WaitUntil(at(2)));
    assert_eq!(decided(&memory(), &[], 2), Step::Launch(0));
    assert_eq!(decided(&memory(), &[helms(None, false)], 100), Step::Rest);
    // It just ended: its record may not have been told yet. An old one does not delay.
    assert_eq!(decided(&memory(), &[helms(Some(9), false)], 10), Step::WaitUntil(at(11)));
    assert_eq!(decided(&memory(), &[helms(Some(-50), true)], 2), Step::Launch(0));
    // It just failed: not again at once.
    assert_eq!(decided(&memory(), &[helms(Some(9), true)], 12), Step::WaitUntil(at(19)));
    // What failed before the count was changed says nothing about this state.
    assert_eq!(decided(&memory(), &[helms(Some(-1), true)], 2), Step::Launch(0));
}

#[test]
fn attempts_are_ever_further_apart_and_end() {
    let memory = memory();
    assert_eq!(decided(&memory, &[ours(0, None)], 50), Step::Rest);
    for (attempt, pause) in [(0, 10), (1, 30), (2, 90), (3, 270)] {
        assert_eq!(decided(&memory, &[ours(attempt, Some(100))], 100 + pause - 1), Step::WaitUntil(at(100 + pause)));
        assert_eq!(decided(&memory, &[ours(attempt, Some(100))], 100 + pause), Step::Launch(attempt + 1), "{attempt}");
    }
    assert_eq!(decided(&memory, &[ours(4, Some(100))], 100), Step::GiveUp);
    assert_eq!(decided(&Memory { given_up: true, ..memory }, &[ours(4, Some(100))], 5000), Step::Rest);
}

#[test]
fn a_member_that_answers_anew_is_a_reason_to_try_again() {
    let mut memory = Memory { tried: 5, given_up: true, ..memory() };
    forgive(Some(&mut memory));
    assert_eq!(decided(&memory, &[ours(4, Some(100))], 105), Step::WaitUntil(at(110)));
    assert_eq!(decided(&memory, &[ours(4, Some(100))], 110), Step::Launch(5));
}

#[test]
fn what_was_given_up_stays_so_when_its_jobs_are_removed() {
    assert_eq!(decided(&Memory { tried: 5, given_up: true, ..memory() }, &[], 5000), Step::Rest);
    assert_eq!(decided(&Memory { tried: 2, ..memory() }, &[], 5000), Step::Launch(2));
}

#[test]
fn jobs_come_and_go() {
    let (sender, receiver) = watch::channel(None);
    let job = |name: &str| serde_json::from_value::<Job>(json!({ "metadata": { "name": name } })).unwrap();
    let names =
        || receiver.borrow().as_ref().map(|jobs: &BTreeMap<String, Seen>| jobs.keys().cloned().collect::<Vec<_>>());
    assert_eq!(names(), None);
    tell(&sender, Change::All(vec![job("a"), job("b")]));
    tell(&sender, Change::Is(job("c")));
    tell(&sender, Change::Gone(job("a")));
    assert_eq!(names().unwrap(), ["b", "c"]);
}

#[tokio::test]
async fn the_second_to_make_a_job_is_told_that_it_exists() {
    let api = crate::health::fake_api::FakeApi::default();
    let (client, target) = (api.client(), crate::health::cluster::tests::target());
    let events = Events::new(&client, &target, "pod".into());
    let cluster = crate::health::cluster::tests::cluster(&client);
    let launcher = Launcher::new(&client, &target, membership::world::plan(), cluster, events);
    let need = memory().need;
    assert!(launcher.make(&need, 0).await.is_err(), "no CronJob");
    let cronjob = json!({ "metadata": { "name": "puls8-etcd-scaler", "namespace": "puls8" }, "spec": { "schedule": "", "jobTemplate": {} } });
    api.put("/apis/batch/v1/namespaces/puls8/cronjobs/puls8-etcd-scaler", cronjob);
    let made = launcher.make(&need, 0).await.unwrap().unwrap();
    assert_eq!(launcher.make(&need, 0).await.unwrap(), None);
    assert_ne!(launcher.make(&need, 1).await.unwrap().unwrap(), made);
    assert_eq!(api.under("/apis/batch/v1/namespaces/puls8/jobs/").len(), 2);
}
