//! Every route in-process, with reviews as the API server sends them.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use membership::know::annotations::OnReset;
use membership::know::observed::{Answer, Answered, ListedMember};
use membership::know::record::{Id, Record, State as Recorded};
use membership::world::template;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::admission::held::Held;
use crate::events::Events;
use crate::health::Health;
use crate::health::cluster::tests::{cluster, target};
use crate::health::fake_api::FakeApi;

const STATEFULSET: &str = "/apis/apps/v1/namespaces/puls8/statefulsets/puls8-etcd";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/puls8/events/";
const HOOK: &str = "system:serviceaccount:puls8:hook";

/// The program as far as it answers, over an API server with the page's StatefulSet.
struct Bench {
    api: FakeApi,
    router: Router,
    readiness: Arc<Readiness>,
}

fn answers() -> BTreeMap<u32, Answered> {
    let target = crate::health::cluster::tests::target();
    let list = (0..3).map(|o| ListedMember {
        id: Id(o.into()),
        name: format!("puls8-etcd-{o}"),
        peer_urls: vec![target.peer_url(o)],
        client_urls: vec![target.client_url(o)],
        learner: false,
    });
    let list: Vec<_> = list.collect();
    let answer = |o: u32| Answer {
        member: Id(o.into()),
        cluster: Id(0xc1),
        leader: Some(Id(0)),
        learner: false,
        version: "3.6.14".into(),
        revision: 1,
        raft_index: 1,
        applied_index: 1,
        errors: Vec::new(),
        alarms: Vec::new(),
        db: membership::know::observed::Database::default(),
        list: Some(list.clone()),
    };
    (0..3).map(|o| (o, Ok(answer(o)))).collect()
}

fn statefulset() -> Value {
    let record = (0..3).fold(Record::new(Id(0xc1)), |record, o| record.with(o, Id(o.into()), Recorded::Member));
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "puls8-etcd", "namespace": "puls8", "uid": "sts-uid", "annotations": {
            "etcd-scaler.io/record": record.annotation(), "etcd-scaler.io/controller": membership::know::names::CONTROLLERS[0],
        } },
        "spec": {
            "replicas": 3, "serviceName": "puls8-etcd-headless", "volumeClaimTemplates": template::claims(),
            "template": { "spec": { "containers": [template::etcd()] } }
        }
    })
}

fn bench(health: Option<BTreeMap<u32, Answered>>) -> Bench {
    let api = FakeApi::default();
    api.put(STATEFULSET, statefulset());
    let client = api.client();
    let admission = Admission {
        cluster: cluster(&client),
        health: Health::fixed(health),
        events: Events::new(&client, &target(), "pod".into()),
        our_image: "etcd-scaler:1".into(),
        hook: HOOK.into(),
        on_reset: OnReset::default(),
        held: Held::nobody(),
    };
    let readiness = Arc::new(Readiness::default());
    Bench { api, router: router(admission, readiness.clone()), readiness }
}

fn review(resource: &str, operation: &str, name: &str, old: Value, new: Value) -> Value {
    let (resource, sub_resource) = resource.split_once('/').map_or((resource, None), |(r, s)| (r, Some(s)));
    json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "review-uid",
        "kind": { "group": "", "version": "v1", "kind": "X" },
        "resource": { "group": "", "version": "v1", "resource": resource },
        "subResource": sub_resource,
        "name": name, "namespace": "puls8", "operation": operation,
        "userInfo": { "username": "someone" },
        "object": new, "oldObject": old, "dryRun": false
    } })
}

/// `helm upgrade --set etcd.replicaCount=<count>`.
fn helm(count: u32) -> Value {
    let mut new = statefulset();
    new["spec"]["replicas"] = count.into();
    review("statefulsets", "UPDATE", "puls8-etcd", statefulset(), new)
}

impl Bench {
    async fn call(&self, path: &str, body: String) -> (StatusCode, String) {
        let request = Request::post(path).header("content-type", "application/json").body(Body::from(body)).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The response to a review, its patch decoded and its uid checked.
    async fn ask(&self, path: &str, review: Value) -> Value {
        let (status, body) = self.call(path, review.to_string()).await;
        assert_eq!(status, StatusCode::OK, "{body}");
        let mut response = serde_json::from_str::<Value>(&body).unwrap()["response"].take();
        assert_eq!(response["uid"], "review-uid");
        // kube writes the patch's bytes as a list of numbers, which Go reads as well as base64.
        if let Ok(patch) = serde_json::from_value::<Vec<u8>>(response["patch"].clone()) {
            response["patch"] = serde_json::from_slice(&patch).unwrap();
            assert_eq!(response["patchType"], "JSONPatch");
        }
        response
    }

    async fn get(&self, path: &str) -> StatusCode {
        self.router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap().status()
    }
}

#[tokio::test]
async fn a_scale_is_rewritten_and_the_even_size_warned_of() {
    let response = bench(Some(answers())).ask("/mutate", helm(4)).await;
    assert_eq!(response["allowed"], true, "{response}");
    assert_eq!(response["warnings"].as_array().unwrap().len(), 1);
    let paths: Vec<_> = response["patch"].as_array().unwrap().iter().map(|op| op["path"].as_str().unwrap()).collect();
    insta::assert_snapshot!(paths.join("\n"), @"
    /spec/template/spec/containers/0/env/1/value
    /spec/template/spec/containers/0/env/2/value
    /spec/updateStrategy
    /metadata/annotations/etcd-scaler.io~1partition
    ");
}

#[tokio::test]
async fn a_refusal_is_a_403_with_its_sentence_and_an_event() {
    let bench = bench(None);
    let response = bench.ask("/mutate", helm(4)).await;
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&json!(false), &json!(403)));
    assert!(response["status"]["message"].as_str().unwrap().contains("not known yet"), "{response}");
    tokio::task::yield_now().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let events = bench.api.under(EVENTS);
    assert_eq!(
        (events.len(), &events[0]["reason"], &events[0]["note"]),
        (1, &json!("ScaleRefused"), &response["status"]["message"])
    );
}

#[tokio::test]
async fn a_dry_run_is_answered_the_same_and_leaves_nothing_behind() {
    let bench = bench(None);
    let mut dry = helm(4);
    dry["request"]["dryRun"] = json!(true);
    assert_eq!(bench.ask("/mutate", dry).await["allowed"], false);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(bench.api.under(EVENTS).is_empty());
}

#[tokio::test]
async fn a_scale_is_decided_as_an_update_is() {
    let bench = bench(Some(answers()));
    // A Scale of 0 has no count at all.
    let scale = |spec: Value| {
        review(
            "statefulsets/scale",
            "UPDATE",
            "puls8-etcd",
            json!({ "spec": { "replicas": 3 } }),
            json!({ "spec": spec }),
        )
    };
    for spec in [json!({ "replicas": 8 }), json!({})] {
        assert_eq!(bench.ask("/validate", scale(spec)).await["status"]["code"], 403);
    }
    for count in 2..=4 {
        assert_eq!(bench.ask("/validate", scale(json!({ "replicas": count }))).await["allowed"], true);
    }
}

#[tokio::test]
async fn a_release_that_sets_a_scaled_count_back_is_refused_kept_or_followed() {
    let bench = bench(Some(answers()));
    let ask = |manager: &str, on_reset: Option<&str>| {
        let mut review = helm(2);
        let request = &mut review["request"];
        request["options"] =
            json!({ "kind": "UpdateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": manager });
        request["oldObject"]["metadata"]["managedFields"] = json!([
            { "manager": "kubectl", "operation": "Update", "subresource": "scale", "apiVersion": "apps/v1",
              "fieldsType": "FieldsV1", "fieldsV1": { "f:spec": { "f:replicas": {} } } }
        ]);
        if let Some(value) = on_reset {
            request["object"]["metadata"]["annotations"]["etcd-scaler.io/on-reset"] = json!(value);
        }
        review
    };
    let refused = bench.ask("/mutate", ask("helm", None)).await;
    assert!(refused["status"]["message"].as_str().unwrap().contains("were set with kubectl scale"), "{refused}");
    let kept = bench.ask("/mutate", ask("helm", Some("keep"))).await;
    let first = json!({ "op": "add", "path": "/spec/replicas", "value": 3 });
    assert!(kept["patch"].as_array().unwrap().contains(&first), "{kept}");
    assert_eq!(kept["warnings"].as_array().map(Vec::len), Some(1), "{kept}");
    for (manager, on_reset) in [("helm", Some("follow")), ("kubectl-edit", None), ("gitops", None)] {
        assert_eq!(bench.ask("/mutate", ask(manager, on_reset)).await["allowed"], true);
    }
}

#[tokio::test]
async fn only_the_hook_writes_the_record() {
    let mut review = helm(3);
    review["request"]["object"]["metadata"]["annotations"]["etcd-scaler.io/record"] = json!("mine");
    let bench = bench(Some(answers()));
    assert_eq!(bench.ask("/mutate", review.clone()).await["status"]["code"], 403);
    review["request"]["userInfo"]["username"] = json!(HOOK);
    assert_eq!(bench.ask("/mutate", review).await["allowed"], true);
}

fn pod(ordinal: u32) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": format!("puls8-etcd-{ordinal}"), "ownerReferences": [
            { "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "puls8-etcd", "uid": "sts-uid" }
        ] },
        "spec": { "containers": [template::etcd()] }
    })
}

#[tokio::test]
async fn a_pod_by_its_ordinal() {
    let bench = bench(None);
    let create = |pod: Value| review("pods", "CREATE", "", json!(null), pod);
    let joiner = bench.ask("/mutate", create(pod(3))).await;
    assert!(joiner["patch"].to_string().contains("/etc/etcd-scaler/permission"), "{joiner}");
    let member = bench.ask("/mutate", create(pod(0))).await;
    assert!(!member["patch"].to_string().contains("admit"), "{member}");
    let mut other = pod(3);
    other["metadata"]["name"] = json!("backup-3");
    assert_eq!(bench.ask("/mutate", create(other)).await["patch"], json!(null));
    let mut unknown = pod(3);
    unknown["spec"]["containers"][0]["env"] = json!([]);
    assert_eq!(bench.ask("/mutate", create(unknown)).await["status"]["code"], 403);
}

#[tokio::test]
async fn without_an_api_server_the_failure_policy_decides() {
    let bench = bench(None);
    bench.api.down();
    let (status, _) = bench.call("/mutate", review("pods", "CREATE", "", json!(null), pod(0)).to_string()).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    // What needs no call is answered.
    assert_eq!(bench.ask("/mutate", helm(3)).await["allowed"], true);
}

#[tokio::test]
async fn what_is_not_ours_passes_untouched() {
    let bench = bench(None);
    let mut other = helm(4);
    other["request"]["name"] = json!("other");
    let mut elsewhere = helm(4);
    elsewhere["request"]["namespace"] = json!("elsewhere");
    for review in [other, elsewhere] {
        let response = bench.ask("/mutate", review).await;
        assert_eq!((&response["allowed"], &response["patch"]), (&json!(true), &json!(null)));
    }
}

#[tokio::test]
async fn a_statefulset_that_is_created_where_nobody_answers_is_new() {
    let bench = bench(None);
    let response = bench.ask("/mutate", review("statefulsets", "CREATE", "", json!(null), statefulset())).await;
    assert_eq!(response["allowed"], true);
    // What the manifest says of members that do not answer is not verified.
    let removed = json!([{ "op": "remove", "path": "/metadata/annotations/etcd-scaler.io~1record" }]);
    assert_eq!(response["patch"], removed);
}

#[tokio::test]
async fn a_statefulset_that_is_created_where_pods_run_and_are_not_heard_has_its_record_back_and_no_other_count() {
    let bench = bench(None);
    let with = |count: u32| {
        let mut manifest = statefulset();
        manifest["spec"]["replicas"] = json!(count);
        bench.ask("/mutate", review("statefulsets", "CREATE", "", json!(null), manifest))
    };
    let pod = |status: Value, end: Value| {
        let metadata = json!({ "name": "puls8-etcd-1", "namespace": "puls8", "deletionTimestamp": end });
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "status": status })
    };
    let drops_record = |response: &Value| {
        let patch = response["patch"].as_array().cloned().unwrap_or_default();
        patch.iter().any(|it| it["op"] == "remove" && it["path"] == "/metadata/annotations/etcd-scaler.io~1record")
    };
    let path = "/api/v1/namespaces/puls8/pods/puls8-etcd-1";
    let revisions = json!({ "apiVersion": "apps/v1", "kind": "ControllerRevisionList", "metadata": {}, "items": [] });
    bench.api.put("/apis/apps/v1/namespaces/puls8/controllerrevisions", revisions);
    bench.api.put(path, pod(json!({ "phase": "Running" }), json!(null)));
    for count in [2, 5] {
        let refused = with(count).await;
        assert_eq!(refused["allowed"], false, "{count}");
        let told = refused["status"]["message"].as_str().unwrap();
        assert!(told.contains("run (puls8-etcd-1) and were not heard as one cluster"), "{told}");
        assert!(told.contains("Create it with 3"), "{told}");
    }
    let back = with(3).await;
    assert!(back["allowed"] == true && !drops_record(&back), "{back}");
    assert!(back["patch"].to_string().contains("existing"), "nobody starts as new: {back}");
    bench.api.put(path, pod(json!({ "phase": "Running" }), json!("2026-11-25T04:00:00Z")));
    let begun = with(3).await;
    assert!(begun["allowed"] == true && drops_record(&begun), "about to end: {begun}");
    bench.api.put(path, pod(json!({ "phase": "Pending" }), json!(null)));
    let begun = with(3).await;
    assert!(begun["allowed"] == true && drops_record(&begun), "it never ran: {begun}");
    bench.api.down();
    assert_eq!(with(3).await["allowed"], false, "not known");
}

#[tokio::test]
async fn a_pod_outside_the_count_is_asked_about_and_one_that_does_not_serve_may_be_rolled() {
    let bench = bench(None);
    let deleted = |ordinal: u32| review("pods", "DELETE", &format!("puls8-etcd-{ordinal}"), pod(ordinal), json!(null));
    assert_eq!(bench.ask("/validate", deleted(2)).await["allowed"], true, "it comes back");
    let mut nobody_rolls = statefulset();
    nobody_rolls["metadata"]["annotations"]["etcd-scaler.io/partition"] = json!("0");
    bench.api.put(STATEFULSET, nobody_rolls);
    let outdated = bench.ask("/validate", deleted(2)).await;
    assert!(outdated["status"]["message"].as_str().unwrap().contains("no roll-out is under way"), "{outdated}");
    bench.api.put(STATEFULSET, statefulset());
    let refused = bench.ask("/validate", deleted(3)).await;
    assert_eq!((&refused["allowed"], &refused["status"]["code"]), (&json!(false), &json!(403)));
    assert!(refused["status"]["message"].as_str().unwrap().contains("is not known"), "{refused}");
    let mut deleting = statefulset();
    deleting["metadata"]["deletionTimestamp"] = json!("2026-11-24T10:00:00Z");
    bench.api.put(STATEFULSET, deleting);
    assert_eq!(bench.ask("/validate", deleted(3)).await["allowed"], true, "all of it goes");
}

/// Its pods are Ready, and none of them is heard.
fn silent_members(bench: &Bench) {
    for ordinal in 0..3 {
        let mut pod = pod(ordinal);
        pod["status"]["conditions"] = json!([{ "type": "Ready", "status": "True" }]);
        bench.api.put(&format!("/api/v1/namespaces/puls8/pods/puls8-etcd-{ordinal}"), pod);
    }
}

fn eviction(pod: &str) -> Value {
    let eviction = json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": pod } });
    review("pods/eviction", "CREATE", pod, json!(null), eviction)
}

#[tokio::test]
async fn an_eviction_that_is_not_known_to_be_safe_may_be_asked_for_again() {
    let bench = bench(None);
    silent_members(&bench);
    let refused = async |says: &str| {
        let response = bench.ask("/validate", eviction("puls8-etcd-2")).await;
        let status = &response["status"];
        assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")), "{response}");
        assert!(status["message"].as_str().unwrap().contains(says), "{response}");
        // With retryAfterSeconds a client asks again in silence.
        assert!(status.get("details").is_none_or(Value::is_null), "{response}");
    };
    refused("whether a quorum would serve without it is not known").await;
    assert_eq!(bench.ask("/validate", eviction("backup-2")).await["allowed"], true, "not ours");
    assert_eq!(bench.ask("/validate", eviction("puls8-etcd-5")).await["allowed"], true, "there is none");
    bench.api.down();
    // Its failure policy would let it pass.
    refused("whether puls8-etcd-2 may go is not known").await;
}

#[tokio::test]
async fn a_roll_out_is_held_where_a_quorum_is_not_known_to_stay() {
    let bench = bench(None);
    silent_members(&bench);
    let delete = || bench.ask("/validate", review("pods", "DELETE", "puls8-etcd-2", pod(2), json!(null)));
    let refused = delete().await;
    assert_eq!(refused["status"]["code"], 403);
    assert!(refused["status"]["message"].as_str().unwrap().contains("for the roll-out of"), "{refused}");
    let mut numbered_otherwise = statefulset();
    numbered_otherwise["spec"]["ordinals"] = json!({ "start": 1 });
    bench.api.put(STATEFULSET, numbered_otherwise);
    assert_eq!(delete().await["allowed"], true, "nothing is known of its members");
}

#[tokio::test]
async fn who_writes_the_status_is_noted() {
    let bench = bench(None);
    let mut unknown = statefulset();
    unknown["metadata"]["annotations"]["etcd-scaler.io/controller"].take();
    bench.api.put(STATEFULSET, unknown);
    let mut status = review("statefulsets/status", "UPDATE", "puls8-etcd", statefulset(), statefulset());
    let noted = || bench.api.get(STATEFULSET).unwrap()["metadata"]["annotations"]["etcd-scaler.io/controller"].clone();
    status["request"]["dryRun"] = json!(true);
    assert_eq!(bench.ask("/validate", status.clone()).await["allowed"], true);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(noted(), json!(null), "a dry run leaves nothing behind");
    status["request"]["dryRun"] = json!(false);
    assert_eq!(bench.ask("/validate", status).await["allowed"], true);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(noted(), json!("someone"));
}

#[tokio::test]
async fn a_ready_pod_is_kept_until_its_statefulset_has_its_record_back() {
    let bench = bench(None);
    let mut made_again = statefulset();
    let record = made_again["metadata"]["annotations"]["etcd-scaler.io/record"].take();
    made_again["metadata"]["annotations"] = json!({});
    bench.api.put(STATEFULSET, made_again);
    let deleted = |ready: &str| {
        let mut pod = pod(2);
        pod["status"]["conditions"] = json!([{ "type": "Ready", "status": ready }]);
        bench.ask("/validate", review("pods", "DELETE", "puls8-etcd-2", pod, json!(null)))
    };
    assert_eq!(deleted("True").await["allowed"], true, "nothing was ever recorded");
    let lease =
        json!({ "metadata": { "name": "puls8-etcd-scaler", "annotations": { "etcd-scaler.io/record": record } } });
    bench.api.put("/apis/coordination.k8s.io/v1/namespaces/puls8/leases/puls8-etcd-scaler", lease);
    let refused = deleted("True").await;
    assert!(refused["status"]["message"].as_str().unwrap().contains("its record is not back yet"), "{refused}");
    assert_eq!(deleted("False").await["allowed"], true, "what never served may be made again");
    bench.api.put(STATEFULSET, statefulset());
    assert_eq!(deleted("True").await["allowed"], true, "a roll-out");
}

#[tokio::test]
async fn what_is_no_review_is_an_error() {
    let bench = bench(None);
    assert!(bench.call("/mutate", "{".into()).await.0.is_client_error());
    let (_, body) = bench
        .call("/validate", json!({ "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview" }).to_string())
        .await;
    assert!(body.contains(r#""allowed":false"#), "{body}");
}

#[tokio::test]
async fn alive_at_once_and_ready_when_all_was_seen() {
    let bench = bench(None);
    assert_eq!(bench.get("/livez").await, StatusCode::OK);
    assert_eq!(bench.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
    bench.readiness.bundles(true);
    bench.readiness.listener_answered();
    let live = watch::channel(crate::health::cluster::Live::Absent).1;
    bench.readiness.clone().watch_synced(live).await;
    assert_eq!(bench.get("/readyz").await, StatusCode::OK);
    bench.readiness.stopping();
    assert_eq!(bench.get("/readyz").await, StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn the_listener_answers_over_tls_under_the_services_name_alone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let api = FakeApi::default();
    let names = vec!["hook.puls8.svc".to_owned()];
    let certificates =
        crate::server::certificate::Certificates::load(&api.client(), "puls8", "tls", names).await.unwrap();
    let authority = certificates.authority().borrow().clone();
    let handle = Handle::new();
    let serve = axum_server::bind_rustls(SocketAddr::from(([127, 0, 0, 1], 0)), certificates.listener().await.unwrap());
    tokio::spawn(serve.handle(handle.clone()).serve(bench(None).router.into_make_service()));
    let port = handle.listening().await.unwrap().port();
    call_own_listener(port, "hook.puls8.svc", &authority).await.unwrap();
    assert!(call_own_listener(port, "other.puls8.svc", &authority).await.is_err());
}
