//! A clean history passes; each rule, broken on purpose in one, is found.

use serde_json::json;

use super::*;
use crate::referee::history::{Names, ReadBack, Start};

const NAMESPACE: &str = "test-a";
const SET: &str = "a-r-etcd";
const HOOK: &str = "system:serviceaccount:test-a:a-r-etcd-scaler-hook";
const WEBHOOK: &str = "system:serviceaccount:test-a:a-r-etcd-scaler-webhook";
const ADMIN: &str = "kubernetes-admin";
const IMAGE: &str = "localhost/etcd-scaler:dev";
const CLUSTER: Id = Id(0xc);

fn url(ordinal: u64) -> String {
    format!("http://{SET}-{ordinal}.{SET}-headless.{NAMESPACE}.svc.cluster.local:2380")
}

fn id(ordinal: u64) -> Id {
    Id(0x10 + ordinal)
}

/// Milliseconds, so that a history reads well.
fn ms(at: i64) -> Micros {
    at * 1000
}

/// A history in the making; every step is at a time of its own, in milliseconds.
struct Story(History);

impl Story {
    /// Three members that were bootstrapped, recorded and scaled to four, as it should be.
    fn clean() -> Self {
        let mut story = Self::of_three();
        story
            .set(2000, ADMIN, 4)
            .create(2100, 3, joiner(3))
            .log(3000, What::Add { member: id(3), learner: true, urls: vec![url(3)], first: false })
            .record(3100, &[(0, "member"), (1, "member"), (2, "member"), (3, "joining")])
            .permit(3200, 3)
            .start(3300, 3)
            .log(3900, What::Publish(id(3)))
            .record(4000, &[(0, "member"), (1, "member"), (2, "member"), (3, "member")])
            .delete(4100, HOOK, 3, joiner(3))
            .create(4500, 3, pod(3, "second"))
            .log(6000, What::Promote(id(3)));
        story
    }

    fn of_three() -> Self {
        let names = Names { namespace: NAMESPACE.into(), statefulset: SET.into(), image: IMAGE.into() };
        let mut story = Self(History { names, ..History::default() });
        story.set(100, ADMIN, 3);
        for ordinal in 0..3 {
            story.create(200, ordinal, pod(ordinal, "first"));
            story.log(500, What::Add { member: id(ordinal), learner: false, urls: vec![url(ordinal)], first: true });
        }
        for ordinal in 0..3 {
            story.log(600, What::Publish(id(ordinal)));
        }
        story.record(1000, &[(0, "member"), (1, "member"), (2, "member")]);
        story
    }

    fn log(&mut self, at: i64, what: What) -> &mut Self {
        self.log_of(CLUSTER, at, what)
    }

    fn log_of(&mut self, cluster: Id, at: i64, what: What) -> &mut Self {
        if !self.0.logs.iter().any(|log| log.cluster == cluster) {
            self.0.logs.push(Log { cluster, since: Micros::MIN, entries: Vec::new() });
        }
        let log = &mut self.0.logs.iter_mut().find(|log| log.cluster == cluster).unwrap().entries;
        log.push(Entry { index: log.len() as u64 + 1, term: 2, at: Some(ms(at)), what });
        self
    }

    fn request(&mut self, at: i64, user: &str, verb: &str, resource: &str, name: &str) -> &mut Request {
        self.0.requests.push(Request {
            received: ms(at),
            done: ms(at) + 500,
            user: user.into(),
            verb: verb.into(),
            resource: resource.into(),
            name: name.into(),
            code: 200,
            ..Request::default()
        });
        self.0.requests.sort_by_key(|request| request.received);
        let place = self.0.requests.iter().rposition(|request| request.received == ms(at)).unwrap();
        &mut self.0.requests[place]
    }

    /// The StatefulSet with this many replicas, its record kept.
    fn set(&mut self, at: i64, user: &str, replicas: u64) -> &mut Self {
        let mut set = self.live_set();
        set["spec"]["replicas"] = replicas.into();
        let request = self.request(at, user, "patch", "statefulsets", SET);
        request.sent = json!({ "spec": { "replicas": replicas } });
        request.object = set;
        self
    }

    fn live_set(&self) -> Value {
        let last = self.0.requests.iter().rev().find(|it| it.resource == "statefulsets" && !it.dry_run);
        last.map_or_else(
            || json!({ "metadata": { "name": SET }, "spec": { "template": template() } }),
            |it| it.object.clone(),
        )
    }

    fn record(&mut self, at: i64, members: &[(u64, &str)]) -> &mut Self {
        let entry = |&(ordinal, state): &(u64, &str)| {
            (ordinal.to_string(), json!({ "id": id(ordinal).to_string(), "state": state }))
        };
        let members: serde_json::Map<String, Value> = members.iter().map(entry).collect();
        let record = json!({ "v": 1, "cluster": CLUSTER.to_string(), "members": members }).to_string();
        let mut set = self.live_set();
        set["metadata"]["annotations"] = json!({ RECORD: record });
        let request = self.request(at, HOOK, "patch", "statefulsets", SET);
        request.sent = json!({ "metadata": { "annotations": { RECORD: record } } });
        request.object = set;
        self
    }

    fn create(&mut self, at: i64, ordinal: u64, pod: Value) -> &mut Self {
        let request = self.request(at, CONTROLLER, "create", "pods", &format!("{SET}-{ordinal}"));
        (request.object, request.code) = (pod, 201);
        self
    }

    fn delete(&mut self, at: i64, user: &str, ordinal: u64, pod: Value) -> &mut Self {
        self.request(at, user, "delete", "pods", &format!("{SET}-{ordinal}")).object = pod;
        self
    }

    fn permit(&mut self, at: i64, ordinal: u64) -> &mut Self {
        let request = self.request(at, HOOK, "patch", "pods", &format!("{SET}-{ordinal}"));
        request.sent = json!({ "metadata": { "annotations": { PERMISSION: "{}" } } });
        request.object = joiner(ordinal);
        self
    }

    fn start(&mut self, at: i64, ordinal: u64) -> &mut Self {
        let uid = format!("joiner-{ordinal}");
        self.0.starts.push(Start { pod: format!("{SET}-{ordinal}"), uid, restarts: 0, at: ms(at) });
        self
    }

    fn answer(&mut self, at: i64, call: Call, via: &str, member: Id, revision: i64) -> &mut Self {
        let answer =
            Answer { sent: ms(at), got: ms(at) + 900, call, via: via.into(), member, cluster: CLUSTER, revision };
        self.0.answers.push(answer);
        self
    }

    /// What is broken: exactly this one rule, if any.
    fn broken(&self) -> Option<Rule> {
        let found = judge(&self.0);
        let rules: BTreeSet<Rule> = found.iter().map(|violation| violation.rule).collect();
        assert!(rules.len() <= 1, "{found:#?}");
        rules.into_iter().next()
    }
}

fn template() -> Value {
    json!({
        "metadata": { "labels": { "app": "etcd" }, "annotations": { "etcd-scaler.io/initial-cluster": "all" } },
        "spec": {
            "containers": [{ "name": "etcd", "image": "etcd:3.6", "env": [
                { "name": "ETCD_NAME", "value": "$(POD_NAME)" },
                { "name": "ETCD_INITIAL_CLUSTER", "value": "all" },
            ], "volumeMounts": [{ "name": "data", "mountPath": "/data" }] }],
            "serviceAccountName": SET,
        },
    })
}

/// An ordinary pod: as the template has it, with what the API server and the webhook add.
fn pod(ordinal: u64, uid: &str) -> Value {
    let mut spec = template()["spec"].clone();
    spec["containers"][0]["env"][1]["value"] = format!("itself={}", url(ordinal)).into();
    spec["tolerations"] = json!([{ "key": "node.kubernetes.io/not-ready" }]);
    json!({
        "metadata": { "name": format!("{SET}-{ordinal}"), "uid": format!("{uid}-{ordinal}"),
                      "labels": { "app": "etcd", "apps.kubernetes.io/pod-index": ordinal.to_string() } },
        "spec": spec,
        "status": { "phase": "Running" },
    })
}

fn joiner(ordinal: u64) -> Value {
    let mut pod = pod(ordinal, "joiner");
    pod["metadata"]["uid"] = format!("joiner-{ordinal}").into();
    pod["spec"]["initContainers"] = json!([{ "name": ADMIT, "image": IMAGE }]);
    let peers: Vec<String> = (0..=ordinal).map(|it| format!("{SET}-{it}={}", url(it))).collect();
    pod["spec"]["containers"][0]["env"][1]["value"] = peers.join(",").into();
    pod
}

#[test]
fn a_clean_history_passes() {
    let mut story = Story::clean();
    for (at, revision) in [(1500, 10), (2500, 20), (3500, 20), (7000, 40)] {
        story.answer(at, Call::Put, SERVICE, id(0), revision);
        story.answer(at + 1, Call::Linearizable, SERVICE, id(1), revision);
        // What a member has may lag behind what others answered.
        story.answer(at + 2, Call::Serializable, &url(2), id(2), revision - 5);
    }
    story.0.read_back.push(ReadBack { member: "a".into(), lost: 0, wrong: 0, examples: vec![] });
    assert_eq!(judge(&story.0), []);
    assert_eq!(story.0.membership_changes(), 2);
    assert_eq!(story.0.longest_stall(), 3500);
}

#[test]
fn invariant_1_two_unstarted_members() {
    let mut story = Story::of_three();
    story.log(2000, What::Add { member: Id(1), learner: true, urls: vec!["http://x:2380".into()], first: false });
    assert_eq!(story.broken(), None, "one is no violation");
    story.log(2100, What::Add { member: Id(2), learner: true, urls: vec!["http://y:2380".into()], first: false });
    assert_eq!(story.broken(), Some(Rule::NeverTwoUnstarted));
}

#[test]
fn invariant_1_what_etcd_refused_is_no_member() {
    let mut story = Story::of_three();
    for (member, at) in [(Id(1), 2000), (Id(2), 2100)] {
        story.log(at, What::Add { member, learner: true, urls: vec![url(3)], first: false });
    }
    assert_eq!(story.broken(), None, "the second has the first one's peer URL");
}

#[test]
fn invariant_2_a_voter_that_never_started_too_many() {
    let mut story = Story::of_three();
    story.log(2000, What::Remove(id(2)));
    assert_eq!(story.broken(), None, "two of two");
    story.log(2100, What::Add { member: Id(1), learner: false, urls: vec!["http://x:2380".into()], first: false });
    assert_eq!(story.broken(), None, "two of three");
    story.log(2200, What::Remove(id(1)));
    assert_eq!(story.broken(), Some(Rule::QuorumOfStarted), "one of two");
}

/// 4 → 3: the member removed, its pod deleted, at these times.
fn scaled_down(removed: i64, deleted: i64) -> Story {
    let mut story = Story::clean();
    story.set(8000, ADMIN, 3).log(removed, What::Remove(id(3))).delete(deleted, HOOK, 3, pod(3, "second"));
    story
}

#[test]
fn invariant_3_a_pod_deleted_before_its_member_is_removed() {
    assert_eq!(scaled_down(8500, 8501).broken(), None);
    assert_eq!(scaled_down(8510, 8500).broken(), None, "within the tolerance either order may be");
    assert_eq!(scaled_down(8600, 8500).broken(), Some(Rule::RemovedBeforeItsPod));
    // Its admission was answered after the removal.
    let mut asked = scaled_down(8600, 8500);
    asked.0.requests.iter_mut().filter(|it| it.verb == "delete").for_each(|it| it.done = ms(8700));
    assert_eq!(asked.broken(), None);
    let mut never = Story::clean();
    never.set(8000, ADMIN, 3).delete(8100, CONTROLLER, 3, pod(3, "second"));
    assert_eq!(never.broken(), Some(Rule::RemovedBeforeItsPod));
}

#[test]
fn invariant_3_by_the_scale_to_none() {
    let mut story = Story::clean();
    let scale = story.request(8000, ADMIN, "patch", "statefulsets/scale", SET);
    // As the API server answers it.
    scale.object = json!({ "spec": {}, "status": { "replicas": 4 } });
    story.delete(8100, CONTROLLER, 3, pod(3, "second"));
    assert_eq!(story.broken(), Some(Rule::RemovedBeforeItsPod));
}

#[test]
fn invariant_3_a_person_may_delete_and_stop() {
    let mut by_hand = Story::clean();
    by_hand.set(8000, ADMIN, 3).delete(8100, ADMIN, 3, pod(3, "second")).delete(8200, CONTROLLER, 3, pod(3, "second"));
    assert_eq!(by_hand.broken(), None);
    let evicted = |by: &str, made: &str, ordinal: u64| {
        let mut story = Story::clean();
        story.set(8000, ADMIN, 3).request(8100, by, "create", "pods/eviction", &format!("{SET}-{ordinal}"));
        let mut gone = pod(3, "second");
        gone["metadata"]["creationTimestamp"] = made.into();
        story.delete(8200, CONTROLLER, 3, gone).broken()
    };
    assert_eq!(evicted(ADMIN, "1970-01-01T00:00:01Z", 3), None);
    for other in [evicted(ADMIN, "2070-01-01T00:00:00Z", 3), evicted(ADMIN, "1970-01-01T00:00:01Z", 2)] {
        assert_eq!(other, Some(Rule::RemovedBeforeItsPod), "another pod was evicted");
    }
    assert_eq!(evicted(CONTROLLER, "1970-01-01T00:00:01Z", 3), Some(Rule::RemovedBeforeItsPod));
    let one_of_all = |options: Value| {
        let mut story = Story::clean();
        story.set(8000, ADMIN, 3).delete(8100, ALL_CONTROLLERS, 3, pod(3, "second"));
        story.0.requests.last_mut().unwrap().sent = options;
        story.broken()
    };
    assert_eq!(one_of_all(json!({})), Some(Rule::RemovedBeforeItsPod));
    assert_eq!(one_of_all(json!({ "preconditions": { "uid": "second-3" } })), None, "the garbage collector");
    let mut stop = Story::clean();
    stop.set(8000, ADMIN, 0);
    stop.0.requests.last_mut().unwrap().object["metadata"]["annotations"][STOP] = "".into();
    stop.delete(8100, CONTROLLER, 3, pod(3, "second"));
    assert_eq!(stop.broken(), None);
}

#[test]
fn invariant_4_a_joining_pod_starts_on_another_list() {
    let mut story = Story::of_three();
    story.set(2000, ADMIN, 5).create(2100, 4, joiner(4));
    story.log(3000, What::Add { member: id(4), learner: true, urls: vec![url(4)], first: false });
    story.permit(3200, 4).start(3300, 4);
    assert_eq!(
        story.broken(),
        Some(Rule::StartsOnTheLiveList),
        "member 3 is in its initial cluster and not in the list"
    );
}

#[test]
fn invariant_4_a_joining_pod_starts_unpermitted() {
    let mut story = Story::of_three();
    story.set(2000, ADMIN, 4).create(2100, 3, joiner(3));
    story.log(3000, What::Add { member: id(3), learner: true, urls: vec![url(3)], first: false });
    story.start(3300, 3);
    assert_eq!(story.broken(), Some(Rule::StartsOnTheLiveList));
    story.permit(3400, 3);
    assert_eq!(story.broken(), Some(Rule::StartsOnTheLiveList), "too late");
    story.permit(3250, 3);
    assert_eq!(story.broken(), None);
}

#[test]
fn invariant_4_with_data_of_its_own_it_may_start_again() {
    let mut story = Story::of_three();
    story.set(2000, ADMIN, 4).create(2100, 3, joiner(3));
    story.log(3000, What::Add { member: id(3), learner: true, urls: vec![url(3)], first: false });
    story.permit(3200, 3).start(3300, 3);
    let mut again = joiner(3);
    again["metadata"]["uid"] = "again".into();
    story.create(3500, 3, again).start(3600, 3);
    story.0.starts[1].uid = "again".into();
    assert_eq!(story.broken(), None, "the first has left its data");
    story.0.starts.remove(0);
    assert_eq!(story.broken(), Some(Rule::StartsOnTheLiveList));
}

#[test]
fn invariant_6_a_member_restarted_for_its_environment() {
    let mut story = Story::clean();
    let mut settled = pod(1, "first");
    settled["metadata"]["annotations"] = json!({ "etcd-scaler.io/initial-cluster": "itself" });
    story.delete(7000, CONTROLLER, 1, settled);
    assert_eq!(story.broken(), Some(Rule::RestartsNobody));
}

#[test]
fn invariant_6_a_rollout_and_what_has_failed_are_other_reasons() {
    let mut rollout = Story::clean();
    rollout.set(7000, ADMIN, 4);
    rollout.0.requests.last_mut().unwrap().object["spec"]["template"]["spec"]["containers"][0]["image"] =
        "etcd:3.7".into();
    rollout.delete(7100, CONTROLLER, 1, pod(1, "first"));
    assert_eq!(rollout.broken(), None);
    let mut restarted = Story::clean();
    restarted.set(7000, ADMIN, 4);
    restarted.0.requests.last_mut().unwrap().object["spec"]["template"]["metadata"]["annotations"] =
        json!({ "restartedAt": "now" });
    restarted.delete(7100, CONTROLLER, 1, pod(1, "first"));
    assert_eq!(restarted.broken(), None);
    let mut failed = pod(1, "first");
    failed["status"]["phase"] = "Failed".into();
    let mut story = Story::clean();
    story.delete(7000, CONTROLLER, 1, failed);
    assert_eq!(story.broken(), None);
}

fn dry(story: &mut Story, at: i64, replicas: u64) {
    story.set(at, HOOK, replicas);
    story.0.requests.iter_mut().find(|request| request.received == ms(at)).unwrap().dry_run = true;
}

#[test]
fn invariant_8_a_dry_run_with_a_job_a_member_or_a_pod_behind_it() {
    let tried = || {
        let mut story = Story::of_three();
        dry(&mut story, 2000, 4);
        story
    };
    assert_eq!(tried().broken(), None);
    let mut job = tried();
    job.request(2500, WEBHOOK, "create", "jobs", "scale-x");
    assert_eq!(job.broken(), Some(Rule::DryRunChangesNothing));
    let mut member = tried();
    member.log(2500, What::Add { member: id(3), learner: true, urls: vec![url(3)], first: false });
    assert_eq!(member.broken(), Some(Rule::DryRunChangesNothing));
    let mut made = tried();
    made.create(2500, 3, joiner(3));
    assert_eq!(made.broken(), Some(Rule::DryRunChangesNothing));
    let mut stored = tried();
    stored.record(2500, &[(0, "member"), (1, "member"), (2, "member")]);
    stored.0.requests.last_mut().unwrap().object["spec"]["replicas"] = 4.into();
    assert_eq!(stored.broken(), Some(Rule::DryRunChangesNothing));
}

#[test]
fn invariant_8_what_is_done_in_earnest_afterwards_is_no_effect_of_it() {
    let mut story = Story::of_three();
    dry(&mut story, 2000, 4);
    story.set(2200, ADMIN, 4).request(2500, WEBHOOK, "create", "jobs", "scale-x");
    story.create(2600, 3, joiner(3));
    assert_eq!(story.broken(), None);
}

#[test]
fn invariant_9_a_key_that_is_not_the_loads() {
    let mut story = Story::clean();
    story.log(7000, What::Foreign("put".into(), "etcd-scaler/probe".into()));
    assert_eq!(story.broken(), Some(Rule::OnlyMembershipCalls));
}

#[test]
fn invariant_10_a_members_pod_that_waits_for_us() {
    let mut story = Story::clean();
    story.delete(7000, ADMIN, 1, pod(1, "first")).create(7100, 1, joiner(1));
    assert_eq!(story.broken(), Some(Rule::ServedIsNeverHeld));
    let mut image = pod(1, "again");
    image["spec"]["initContainers"] = json!([{ "name": "look", "image": IMAGE }]);
    let mut story = Story::clean();
    story.delete(7000, ADMIN, 1, pod(1, "first")).create(7100, 1, image);
    assert_eq!(story.broken(), Some(Rule::ServedIsNeverHeld));
}

#[test]
fn invariant_10_a_members_pod_that_is_denied() {
    let denied = |ordinal: u64| {
        let mut story = Story::of_three();
        let request = story.request(7100, CONTROLLER, "create", "pods", &format!("{SET}-{ordinal}"));
        (request.code, request.message) = (403, "etcd-scaler: ordinal is not a member".into());
        story
    };
    assert_eq!(denied(1).broken(), Some(Rule::ServedIsNeverHeld));
    assert_eq!(denied(3).broken(), None, "a newcomer may be");
}

#[test]
fn invariant_10_a_newcomer_that_serves_and_is_not_yet_recorded_may_be_held() {
    let mut story = Story::of_three();
    story.log(3000, What::Add { member: id(3), learner: true, urls: vec![url(3)], first: false });
    story.record(3100, &[(0, "member"), (1, "member"), (2, "member"), (3, "joining")]);
    story.log(3900, What::Publish(id(3)));
    story.set(2000, ADMIN, 4).create(4500, 3, joiner(3));
    assert_eq!(story.broken(), None);
    story.log(4000, What::Promote(id(3)));
    assert_eq!(story.broken(), Some(Rule::ServedIsNeverHeld), "a voter has served");
}

/// The StatefulSet deleted with its pods and made anew, with another UID, over what is left; its first pod too.
fn made_anew() -> Story {
    let mut story = Story::clean();
    story.request(7000, ADMIN, "delete", "statefulsets", SET);
    let made = story.request(7200, ADMIN, "create", "statefulsets", SET);
    made.object =
        json!({ "metadata": { "name": SET, "uid": "anew" }, "spec": { "replicas": 4, "template": template() } });
    story.create(7300, 1, of_anew("third"));
    story
}

fn of_anew(uid: &str) -> Value {
    let mut pod = pod(1, uid);
    pod["metadata"]["ownerReferences"] = json!([{ "kind": "StatefulSet", "name": SET, "uid": "anew" }]);
    pod
}

#[test]
fn invariants_6_and_10_a_pod_of_another_statefulset_is_another_pod_until_etcd_starts_in_one() {
    let holds = || {
        let mut held = of_anew("fourth");
        held["spec"]["initContainers"] = json!([{ "name": "set-aside", "image": IMAGE }]);
        held
    };
    let mut story = made_anew();
    story.delete(7400, HOOK, 1, of_anew("third")).create(7500, 1, holds());
    assert_eq!(story.broken(), None, "no etcd has started since the one before went with its pods");
    let started = |pod: &str, at: i64| {
        let mut story = made_anew();
        story.0.starts.push(Start { pod: format!("{SET}-1"), uid: pod.into(), restarts: 0, at: ms(at) });
        story
    };
    let mut restarted = started("third-1", 7350);
    restarted.delete(7400, HOOK, 1, of_anew("third"));
    assert_eq!(restarted.broken(), Some(Rule::RestartsNobody), "it took the data over and served");
    let mut held = started("third-1", 7350);
    held.create(7500, 1, holds());
    assert_eq!(held.broken(), Some(Rule::ServedIsNeverHeld));
    let mut late = started("first-1", 7350);
    late.delete(7400, HOOK, 1, of_anew("third")).create(7500, 1, holds());
    assert_eq!(late.broken(), None, "a last start in a pod of the one before");
    let mut orphaned = made_anew();
    let deletion = orphaned.0.requests.iter_mut().find(|it| it.verb == "delete" && it.resource == "statefulsets");
    deletion.unwrap().sent = json!({ "kind": "DeleteOptions", "propagationPolicy": "Orphan" });
    orphaned.delete(7400, HOOK, 1, of_anew("third"));
    assert_eq!(orphaned.broken(), Some(Rule::RestartsNobody), "the members live on in their pods");
}

#[test]
fn invariant_11_a_second_cluster_answers_through_the_service() {
    let mut story = Story::clean();
    for (at, cluster) in [(7000, CLUSTER), (7100, Id(0xd)), (7200, CLUSTER)] {
        story.answer(at, Call::Serializable, SERVICE, id(0), 10);
        story.0.answers.last_mut().unwrap().cluster = cluster;
    }
    assert_eq!(story.broken(), Some(Rule::OneCluster));
}

#[test]
fn invariant_11_a_second_cluster_is_on_the_disks() {
    let second = |story: &mut Story| {
        let what = What::Add { member: Id(9), learner: false, urls: vec![url(0)], first: true };
        story.log_of(Id(0xd), 9000, what).log_of(Id(0xd), 9100, What::Publish(Id(9)));
    };
    let mut beside = Story::clean();
    second(&mut beside);
    assert_eq!(beside.broken(), Some(Rule::OneCluster));
    let mut anew = Story::clean();
    anew.request(8000, ADMIN, "delete", "statefulsets", SET);
    second(&mut anew);
    assert_eq!(anew.broken(), None, "uninstalled and installed again over nothing");
    let deletion =
        anew.0.requests.iter_mut().find(|request| request.verb == "delete" && request.resource == "statefulsets");
    deletion.unwrap().sent = json!({ "kind": "DeleteOptions", "propagationPolicy": "Orphan" });
    assert_eq!(anew.broken(), Some(Rule::OneCluster), "its pods went on");
}

#[test]
fn a_lost_write_is_found_in_every_way() {
    let breaks: [fn(&mut History); 5] = [
        |history| _ = history.vanished.insert((1, 7)),
        |history| history.missing.push("traffic/0/1 at service".into()),
        |history| history.differences.push("#7".into()),
        |history| history.read_back.push(ReadBack { member: "m".into(), lost: 1, wrong: 0, examples: vec![] }),
        |history| history.read_back.push(ReadBack { member: "m".into(), lost: 0, wrong: 1, examples: vec![] }),
    ];
    for lose in breaks {
        let mut story = Story::clean();
        lose(&mut story.0);
        assert_eq!(story.broken(), Some(Rule::NothingIsLost));
    }
}

#[test]
fn a_revision_that_goes_back_is_found_by_member_and_for_all() {
    let mut member = Story::clean();
    member.answer(7000, Call::Serializable, &url(2), id(2), 10).answer(7001, Call::Serializable, SERVICE, id(2), 9);
    assert_eq!(member.broken(), Some(Rule::RevisionsGoForward));
    let mut all = Story::clean();
    all.answer(7000, Call::Put, SERVICE, id(1), 10).answer(7001, Call::Linearizable, &url(2), id(2), 9);
    assert_eq!(all.broken(), Some(Rule::RevisionsGoForward));
}

#[test]
fn answers_that_overlap_may_come_in_any_order() {
    let mut story = Story::clean();
    story.answer(7000, Call::Put, SERVICE, id(1), 10).answer(7000, Call::Linearizable, SERVICE, id(2), 9);
    assert_eq!(story.broken(), None);
}

#[test]
fn what_must_not_change_is_compared() {
    assert!(unchanged("the list", &1, &1).is_ok());
    assert!(unchanged("the list", &1, &2).unwrap_err().to_string().contains("the list"));
}
