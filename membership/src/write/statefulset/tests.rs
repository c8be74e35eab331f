//! By name what each kind of write does; the properties over random ones are in `random`.

use serde_json::json;

use std::collections::BTreeMap;

use super::*;
use crate::know::names::Ordinal;
use crate::know::names::tests::puls8;
use crate::know::object::list;
use crate::know::observed::{self, Answered};
use crate::know::record::{Id, State};
use crate::know::statefulset::{self, behind, claims, lives, rolls_nobody, unknown_strategy};
use crate::world::template;

mod random;

fn record_of(count: u32) -> Record {
    (0..count).fold(Record::new(Id(0xc1)), |record, o| record.with(o, Id(0x10 + u64::from(o)), State::Member))
}

/// The StatefulSet as a chart with a fixed environment makes it.
fn charts() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": "puls8-etcd", "namespace": "puls8", "uid": "sts-uid", "generation": 1 },
        "spec": {
            "replicas": 3, "serviceName": "puls8-etcd-headless",
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } },
            "template": { "metadata": { "labels": { "app": "etcd" } }, "spec": { "containers": [
                { "name": "sidecar", "image": "exporter:1", "env": [{ "name": "ETCD_INITIAL_CLUSTER", "value": "not ours" }] },
                template::etcd()
            ] } },
            "volumeClaimTemplates": template::claims()
        },
        "status": { "observedGeneration": 1, "replicas": 3, "updatedReplicas": 3, "currentRevision": "a", "updateRevision": "a" }
    })
}

fn with(mut object: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').unwrap();
    let key = key.replace("~1", "/");
    match object.pointer_mut(parent).unwrap_or_else(|| panic!("{path}")) {
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        other => drop(other.as_object_mut().unwrap().insert(key, value)),
    }
    object
}

fn annotated(object: Value, record: &Record) -> Value {
    with(object, "/metadata/annotations", json!({ RECORD: record.annotation() }))
}

#[test]
fn a_strategy_that_rolls_more_than_one_at_once_or_is_not_known_is_named() {
    let named = |strategy: Value, count| unknown_strategy(&with(charts(), "/spec/updateStrategy", strategy), count);
    let rolls = |max: Value| named(json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": max } }), 5);
    for known in [json!(null), json!({ "type": "OnDelete" }), json!({ "type": "RollingUpdate" })] {
        assert_eq!(named(known, 7), None);
    }
    for one in [json!(1), json!("0%"), json!("39%"), json!("1%")] {
        assert_eq!(rolls(one.clone()), None, "{one}");
    }
    for more in [json!(2), json!("40%"), json!("100%"), json!("two"), json!(-1)] {
        assert!(rolls(more.clone()).is_some(), "{more}");
    }
    assert_eq!(rolls(json!("40%")).unwrap(), "spec.updateStrategy.rollingUpdate.maxUnavailable is 40%");
    let recreate = named(json!({ "type": "Recreate" }), 3).unwrap();
    assert_eq!(recreate, "spec.updateStrategy.type is Recreate, which this etcd-scaler does not know");
}

/// Neither the environment, which would roll by a rule that is not known, nor a partition, which belongs to RollingUpdate.
#[test]
fn under_a_strategy_that_is_not_known_nothing_is_written() {
    let old = with(annotated(charts(), &record_of(3)), "/spec/updateStrategy", json!({ "type": "Recreate" }));
    let image = "/spec/template/spec/containers/1/image";
    for new in [old.clone(), with(old.clone(), "/spec/replicas", json!(4)), with(old.clone(), image, json!("etcd:2"))] {
        assert_eq!(write(&old, &new, false)["spec"], new["spec"]);
    }
    let held = with(old.clone(), "/metadata/annotations/etcd-scaler.io~1partition", json!("0"));
    assert!(!rolls_nobody(&held) && rolls_nobody(&with(held, "/spec/updateStrategy/type", json!("RollingUpdate"))));
}

/// What the API server stores: the request as rewritten.
#[track_caller]
fn write(old: &Value, new: &Value, by_hook: bool) -> Value {
    let mut stored = new.clone();
    json_patch::patch(&mut stored, &Update::new(old, new, &puls8(), by_hook).unwrap().patch()).unwrap();
    stored
}

/// The StatefulSet as it lives once the record is written.
fn live() -> Value {
    let live = write(&charts(), &annotated(charts(), &record_of(3)), true);
    with(with(live, "/metadata/generation", json!(2)), "/status/observedGeneration", json!(2))
}

fn env_of(object: &Value, name: &str) -> Vec<String> {
    list(object, &["spec", "template", "spec", "containers", "1", "env"])
        .iter()
        .filter(|entry| text(entry, &["name"]) == Some(name))
        .map(|entry| text(entry, &["value"]).unwrap_or("(not a literal)").to_owned())
        .collect()
}

fn kept(object: &Value) -> Option<&str> {
    annotation(object, KEPT_PARTITION)
}

#[test]
fn the_records_first_write_brings_environment_and_partition() {
    let (old, new) = (charts(), annotated(charts(), &record_of(3)));
    let patch = Update::new(&old, &new, &puls8(), true).unwrap().patch();
    insta::assert_snapshot!(format!("{patch:#}"), @r#"
    [
      {
        "op": "add",
        "path": "/spec/template/spec/containers/1/env/1/value",
        "value": "puls8-etcd-0=http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-1=http://puls8-etcd-1.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-2=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380"
      },
      {
        "op": "add",
        "path": "/spec/template/spec/containers/1/env/2/value",
        "value": "existing"
      },
      {
        "op": "add",
        "path": "/spec/updateStrategy/rollingUpdate/partition",
        "value": 3
      },
      {
        "op": "add",
        "path": "/metadata/annotations/etcd-scaler.io~1partition",
        "value": "0"
      }
    ]
    "#);
}

#[test]
fn a_scale_by_helm_with_the_charts_values() {
    // Helm 3 and 4 alike send the chart's environment again, and keep what they never set.
    let new = with(live(), "/spec/replicas", json!(4));
    let new = with(new, "/spec/template", charts()["spec"]["template"].clone());
    let patch = Update::new(&live(), &new, &puls8(), false).unwrap().patch();
    insta::assert_snapshot!(format!("{patch:#}"), @r#"
    [
      {
        "op": "add",
        "path": "/spec/template/spec/containers/1/env/1/value",
        "value": "puls8-etcd-0=http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-1=http://puls8-etcd-1.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-2=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-3=http://puls8-etcd-3.puls8-etcd-headless.puls8.svc.cluster.local:2380"
      },
      {
        "op": "add",
        "path": "/spec/template/spec/containers/1/env/2/value",
        "value": "existing"
      },
      {
        "op": "add",
        "path": "/spec/updateStrategy/rollingUpdate/partition",
        "value": 4
      }
    ]
    "#);
}

#[test]
fn before_a_record_nothing_is_touched() {
    let new = with(charts(), "/spec/template/spec/containers/1/env/1/value", json!("repaired by hand"));
    assert_eq!(write(&charts(), &new, false), new);
    let broken = with(charts(), "/metadata/annotations", json!({ RECORD: "{" }));
    assert_eq!(write(&broken, &broken, false), broken);
}

#[test]
fn an_identical_upgrade_changes_nothing() {
    let helms = with(live(), "/spec/template", charts()["spec"]["template"].clone());
    assert_eq!(write(&live(), &helms, false), live());
    // A chart that sets the partition itself, and a PUT without strategy or annotations.
    for strategy in
        [json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": 0 } }), json!({ "type": "RollingUpdate" })]
    {
        assert_eq!(write(&live(), &with(helms.clone(), "/spec/updateStrategy", strategy), false), live());
    }
    assert_eq!(write(&live(), &with(helms, "/metadata/annotations", json!(null)), false), live());
}

#[test]
fn a_left_over_larger_partition_of_ours_stays() {
    let five = write(&live(), &with(live(), "/spec/replicas", json!(5)), false);
    let back = write(&five, &with(five.clone(), "/spec/replicas", json!(3)), false);
    assert_eq!(partition(&back), Some(5));
    assert_eq!(write(&back, &back, false), back);
}

#[test]
fn another_change_of_the_template_is_rolled_out_whole() {
    let own_2 = write(&live(), &with(live(), "/spec/updateStrategy/rollingUpdate/partition", json!(2)), false);
    assert_eq!((partition(&own_2), kept(&own_2)), (Some(3), Some("2")), "the strategy alone updates the kept value");
    let new = with(own_2.clone(), "/spec/template/spec/containers/1/image", json!("registry.k8s.io/etcd:3.6.15"));
    let stored = write(&own_2, &new, false);
    assert_eq!((partition(&stored), kept(&stored)), (Some(2), None));
    // With a partition of its own in the same write, that one counts.
    let new = with(new, "/spec/updateStrategy/rollingUpdate/partition", json!(1));
    assert_eq!(partition(&write(&own_2, &new, false)), Some(1));
}

#[test]
fn a_partition_from_before_we_came_is_kept_as_their_own() {
    let theirs = with(charts(), "/spec/updateStrategy/rollingUpdate/partition", json!(2));
    let stored = write(&theirs, &annotated(theirs.clone(), &record_of(3)), true);
    assert_eq!((partition(&stored), kept(&stored)), (Some(3), Some("2")));
}

#[test]
fn without_ours_in_force_a_partition_is_the_persons_alone() {
    let new = with(live(), "/spec/template/spec/containers/1/image", json!("registry.k8s.io/etcd:3.6.15"));
    let rolled = write(&live(), &new, false);
    let canary = with(rolled.clone(), "/spec/updateStrategy/rollingUpdate/partition", json!(2));
    assert_eq!(write(&rolled, &canary, false), canary);
}

#[test]
fn a_roll_out_under_way_is_not_cut_in_half() {
    let new = with(live(), "/spec/template/spec/containers/1/image", json!("registry.k8s.io/etcd:3.6.15"));
    let rolling = write(&live(), &new, false);
    let status =
        json!({ "observedGeneration": 2, "updatedReplicas": 1, "currentRevision": "a", "updateRevision": "b" });
    let rolling = with(rolling, "/status", status);
    assert_eq!(rollout(&rolling).unwrap(), "1 of 3 pods are updated");
    let record = record_of(3).with(2, Id(9), State::Member);
    let new = with(rolling.clone(), "/metadata/annotations", json!({ RECORD: record.annotation() }));
    assert_eq!(write(&rolling, &new, true), new, "the hook's write");
    let back = with(rolling.clone(), "/spec/replicas", json!(2));
    assert_eq!(write(&rolling, &back, false), back, "going back");
}

#[test]
fn no_roll_out_is_seen_where_none_is() {
    assert_eq!(rollout(&charts()), None);
    let ours = with(live(), "/status/updateRevision", json!("b"));
    assert_eq!(rollout(&ours), None, "only the managed environment differs");
    assert_eq!(
        rollout(&with(charts(), "/metadata/generation", json!(2))).unwrap(),
        "the StatefulSet controller has seen generation 1 of 2"
    );
    let canary = with(
        with(charts(), "/status/updateRevision", json!("b")),
        "/spec/updateStrategy/rollingUpdate/partition",
        json!(2),
    );
    let canary = with(canary, "/status/updatedReplicas", json!(1));
    assert_eq!(rollout(&canary), None, "their own partition is reached");
    assert_eq!(statefulset::canary(&canary).unwrap(), "partition 2: 1 of 3 pods are updated");
    assert_eq!(statefulset::canary(&with(canary, "/status/updateRevision", json!("a"))), None, "one template");
    assert_eq!(statefulset::canary(&ours), None);
    let last = with(with(charts(), "/status/updateRevision", json!("b")), "/status/readyReplicas", json!(2));
    assert_eq!(rollout(&last).unwrap(), "all pods are updated, 2 of 3 are Ready");
    let written =
        write(&last, &with(last.clone(), "/metadata/annotations", json!({ RECORD: record_of(3).annotation() })), true);
    assert_eq!(written["spec"], last["spec"], "a partition now would keep the old template for ever");
    let on_delete = with(charts(), "/spec/updateStrategy", json!({ "type": "OnDelete" }));
    assert_eq!(rollout(&with(on_delete, "/metadata/generation", json!(9))), None);
}

#[test]
fn on_delete_gets_no_partition_and_finds_it_again_on_the_way_back() {
    let on_delete = json!({ "type": "OnDelete" });
    let stored = write(&live(), &with(live(), "/spec/updateStrategy", on_delete), false);
    assert_eq!((partition(&stored), kept(&stored)), (None, Some("0")));
    let four = write(&stored, &with(stored.clone(), "/spec/replicas", json!(4)), false);
    assert_eq!((partition(&four), env_of(&four, "ETCD_INITIAL_CLUSTER").len()), (None, 1));
    let rolling = json!({ "type": "RollingUpdate" });
    assert_eq!(partition(&write(&four, &with(four.clone(), "/spec/updateStrategy", rolling), false)), Some(4));
}

#[test]
fn one_line_whatever_the_chart_has() {
    let four = with(live(), "/spec/replicas", json!(4));
    let wanted = puls8().initial_cluster(0..4);
    // How etcd is started stays understood.
    let in_live = |object: &Value, env: Value| {
        let mut etcd = template::etcd();
        let own = etcd["env"].as_array_mut().unwrap();
        own.retain(|entry| !entry["name"].as_str().unwrap().starts_with("ETCD_INITIAL_CLUSTER"));
        own.extend(env.as_array().into_iter().flatten().cloned());
        with(object.clone(), "/spec/template/spec/containers/1", etcd)
    };
    let multi_line = json!([{ "name": "ETCD_INITIAL_CLUSTER", "value": "a=http://a:2380,\nb=http://b:2380" }]);
    let doubled = json!([
        { "name": "ETCD_INITIAL_CLUSTER", "value": "a" }, { "name": "X", "value": "1" },
        { "name": "ETCD_INITIAL_CLUSTER", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } },
        { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "new" }, { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "new" }
    ]);
    let indirect =
        json!([{ "name": "ETCD_INITIAL_CLUSTER", "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } }]);
    for env in [multi_line, doubled, indirect, json!([])] {
        let others: Vec<&Value> = env.as_array().into_iter().flatten().filter(|entry| entry["name"] == "X").collect();
        let stored = write(&in_live(&live(), json!(others)), &in_live(&four, env.clone()), false);
        assert_eq!(env_of(&stored, "ETCD_INITIAL_CLUSTER"), [wanted.as_str()], "{env}");
        assert_eq!(env_of(&stored, "ETCD_INITIAL_CLUSTER_STATE"), ["existing"], "{env}");
    }
}

#[test]
fn a_template_that_pods_are_made_from_starts_nobody_on_an_empty_disk() {
    let image = "/spec/template/spec/containers/1/image";
    let next = |object: &Value| with(object.clone(), image, json!("registry.k8s.io/etcd:3.6.15"));
    let (three, four) = (puls8().initial_cluster(0..3), puls8().initial_cluster(0..4));
    let cluster = |object: &Value| env_of(object, "ETCD_INITIAL_CLUSTER").remove(0);

    let rolled = write(&live(), &next(&live()), false);
    assert_eq!(cluster(&rolled), format!("{three},{}", env::NO_START_WITHOUT_DATA));
    let rolled = with(rolled, "/status/observedGeneration", json!(9));
    let charts_own = with(rolled.clone(), "/spec/template", next(&charts())["spec"]["template"].clone());
    assert_eq!(write(&rolled, &charts_own, false), rolled, "it stays as it is as long as nothing else changes");
    let scaled = write(&rolled, &with(charts_own, "/spec/replicas", json!(4)), false);
    assert_eq!(cluster(&scaled), four, "its pods are made from the revision before");
    assert_eq!(partition(&scaled), Some(4));

    let on_delete = with(live(), "/spec/updateStrategy", json!({ "type": "OnDelete" }));
    assert!(cluster(&write(&live(), &on_delete, false)).ends_with(env::NO_START_WITHOUT_DATA));
    let saved = with(live(), "/metadata/annotations", json!({}));
    let mut made = saved.clone();
    json_patch::patch(&mut made, &created(&saved, &puls8(), Some(&record_of(3)), None).unwrap()).unwrap();
    assert!(cluster(&made).ends_with(env::NO_START_WITHOUT_DATA));

    // Whoever never ran has no data, and is to start.
    let bootstrapping = record_of(3).with(2, Id(0x12), State::Bootstrapping);
    let began = annotated(live(), &bootstrapping);
    assert_eq!(cluster(&write(&began, &next(&began), false)), three);
    // Bitnami's scripts read the list at every start.
    let bitnamis =
        with(live(), "/spec/template/spec/containers/1", template::bitnamis("bitnami/etcd:3.5.6-debian-11-r10"));
    assert_eq!(cluster(&write(&live(), &bitnamis, false)), three);
}

#[test]
fn where_state_existing_does_harm_it_is_left_to_the_chart() {
    let with_image = |image: &str| {
        let mut etcd = if image.contains("bitnami") { template::bitnamis(image) } else { template::etcd() };
        etcd["env"].as_array_mut().unwrap().retain(|entry| entry["name"] != "ETCD_INITIAL_CLUSTER_STATE");
        let live = with(live(), "/spec/template/spec/containers/1", etcd);
        env_of(&write(&live, &with(live.clone(), "/spec/replicas", json!(4)), false), "ETCD_INITIAL_CLUSTER_STATE")
    };
    for harmed in [
        "docker.io/bitnamilegacy/etcd:3.6.4-debian-12-r4",
        "bitnami/etcd",
        "bitnami/etcd@sha256:00",
        "r:5000/bitnami/etcd:latest",
    ] {
        assert!(with_image(harmed).is_empty(), "{harmed}");
    }
    for fine in ["docker.io/bitnami/etcd:3.5.6-debian-11-r10", "quay.io/coreos/etcd:v3.6.14"] {
        assert_eq!(with_image(fine), ["existing"], "{fine}");
    }
}

#[test]
fn what_is_not_understood_is_not_written_to() {
    let mut flags = charts();
    flags["spec"]["template"]["spec"]["containers"][1]["args"] = json!(["--initial-cluster=a=http://a:2380"]);
    let flags = with(flags, "/spec/template/spec/containers/1/env", json!([]));
    let recorded = annotated(flags.clone(), &record_of(3));
    assert_eq!(write(&flags, &recorded, true), recorded);
    assert_eq!(created(&recorded, &puls8(), Some(&record_of(3)), None).unwrap(), Patch::default());
    let four = with(flags, "/spec/replicas", json!(4));
    assert!(created(&four, &puls8(), Some(&record_of(3)), None).is_err(), "the living members' count all the same");
}

/// Helm knows what it set itself: what the webhook added would stay beside the flag.
#[test]
fn a_chart_that_goes_over_to_flags_is_rid_of_our_variables() {
    let args = "/spec/template/spec/containers/1/args";
    let flags = json!(["--initial-cluster=a=http://a:2380", "--initial-cluster-state=new"]);
    let ours = with(live(), args, flags.clone());
    assert_eq!(Update::new(&live(), &ours, &puls8(), false).unwrap().never_starts(), None);
    let stored = write(&live(), &ours, false);
    assert!(
        env_of(&stored, "ETCD_INITIAL_CLUSTER").is_empty() && env_of(&stored, "ETCD_INITIAL_CLUSTER_STATE").is_empty()
    );
    assert_eq!(kept(&stored), None, "nor is a partition of ours");
    assert_eq!(partition(&stored), Some(0));
    // Its own variable beside its own flag.
    let own = with(ours, "/spec/template/spec/containers/1/env/1/value", json!("b=http://b:2380"));
    insta::assert_snapshot!(Update::new(&live(), &own, &puls8(), false).unwrap().never_starts().unwrap(), @"this change of StatefulSet puls8/puls8-etcd is refused: it gives etcd the flag --initial-cluster and the variable of that name. etcd ends where a setting is given twice, so no pod that is made again would start. Leave one of the two out.");
    // Where it was so already, this update is no worse, and may be the cure.
    assert_eq!(Update::new(&own, &own, &puls8(), false).unwrap().never_starts(), None);
}

#[test]
fn another_container_of_the_pod_is_not_ours() {
    assert_eq!(
        live()["spec"]["template"]["spec"]["containers"][0],
        charts()["spec"]["template"]["spec"]["containers"][0]
    );
    let renamed = with(charts(), "/spec/template/spec/containers/1/name", json!("db"));
    let stored = write(&renamed, &annotated(renamed.clone(), &record_of(3)), true);
    assert_eq!(stored["spec"], renamed["spec"]);
}

#[test]
fn only_the_hook_changes_the_record_and_a_dropped_one_is_put_back() {
    let other = annotated(live(), &record_of(4));
    insta::assert_snapshot!(Update::new(&live(), &other, &puls8(), false).err().unwrap(), @"changing the annotation etcd-scaler.io/record of StatefulSet puls8/puls8-etcd is refused: it holds what was verified about the etcd cluster, and only the etcd-scaler Job writes it. Leave the annotation out of the change.");
    assert!(Update::new(&charts(), &other, &puls8(), false).is_err(), "nor brings the first one");
    assert!(Update::new(&live(), &other, &puls8(), true).is_ok());
    let dropped = with(live(), "/metadata/annotations", json!({}));
    assert_eq!(write(&live(), &dropped, false), live());
    assert_eq!(annotation(&write(&live(), &dropped, true), RECORD), None, "the hook may forget");
}

#[test]
fn a_template_with_what_only_we_write_is_refused_where_it_is_new() {
    let marked = with(live(), "/spec/template/metadata", json!({ "annotations": { "etcd-scaler.io/joiner": "true" } }));
    insta::assert_snapshot!(Update::new(&live(), &marked, &puls8(), false).err().unwrap(), @"this pod template of StatefulSet puls8/puls8-etcd is refused: it has the annotation etcd-scaler.io/joiner, which only etcd-scaler writes, and only into a pod that waits to join. In a template it would be in every member's pod. Leave it out.");
    insta::assert_snapshot!(created(&marked, &puls8(), None, None).unwrap_err(), @"this pod template of StatefulSet puls8/puls8-etcd is refused: it has the annotation etcd-scaler.io/joiner, which only etcd-scaler writes, and only into a pod that waits to join. In a template it would be in every member's pod. Leave it out.");
    // What is there already must not keep it from being mended.
    assert!(Update::new(&marked, &with(marked.clone(), "/spec/replicas", json!(4)), &puls8(), false).is_ok());
    assert!(Update::new(&marked, &live(), &puls8(), false).is_ok());
}

fn answering(members: u32) -> BTreeMap<Ordinal, Answered> {
    let list: Vec<_> = (0..members)
        .map(|o| observed::ListedMember {
            id: Id(0x10 + u64::from(o)),
            name: puls8().pod(o),
            peer_urls: vec![puls8().peer_url(o)],
            client_urls: vec![puls8().client_url(o)],
            learner: false,
        })
        .collect();
    let answer = |o: u32| observed::Answer {
        member: Id(0x10 + u64::from(o)),
        cluster: Id(0xc1),
        leader: None,
        learner: false,
        version: "3.6.0".into(),
        revision: 1,
        raft_index: 1,
        applied_index: 1,
        errors: Vec::new(),
        alarms: Vec::new(),
        db: crate::know::observed::Database::default(),
        list: Some(list.clone()),
    };
    (0..members).map(|o| (o, Ok(answer(o)))).collect()
}

#[test]
fn a_record_lives_when_a_quorum_has_each_of_its_members() {
    assert!(lives(&record_of(3), &puls8(), &answering(3)));
    assert!(!lives(&record_of(4), &puls8(), &answering(3)), "wiped and bootstrapped anew");
    assert!(!lives(&record_of(3), &puls8(), &BTreeMap::new()), "nobody answers");
    let joining = record_of(3).with(3, Id(7), State::Joining);
    assert!(lives(&joining, &puls8(), &answering(3)), "who never served is not missed");
}

#[test]
fn a_statefulset_made_over_living_members_gets_their_record_and_no_other_count() {
    let new = annotated(charts(), &Record::new(Id(1)));
    let mut stored = new.clone();
    json_patch::patch(&mut stored, &created(&new, &puls8(), Some(&record_of(3)), None).unwrap()).unwrap();
    assert_eq!(annotation(&stored, RECORD), Some(record_of(3).annotation().as_str()));
    insta::assert_snapshot!(created(&new, &puls8(), Some(&record_of(4)), None).unwrap_err(), @"creating StatefulSet puls8/puls8-etcd with 3 replicas is refused: 4 etcd members answer in its place (puls8-etcd-0, puls8-etcd-1, puls8-etcd-2, puls8-etcd-3). Created with another count it would delete a living member's pod, or start one beside them. Create it with 4: helm upgrade --set etcd.replicaCount=4, and scale then.");
}

#[test]
fn over_kept_volumes_no_more_than_those_members_begin() {
    let new = |count: u32| {
        let mut new = with(charts(), "/spec/replicas", json!(count));
        new["spec"]["volumeClaimTemplates"] = json!([{ "metadata": { "name": "data" } }]);
        new
    };
    let refused = |count, kept: &[String]| over_kept_volumes(&new(count), &puls8(), &record_of(3), kept);
    let claims = claims(&new(3), &puls8(), 0..2);
    assert_eq!(claims, ["data-puls8-etcd-0", "data-puls8-etcd-1"]);
    assert_eq!(refused(3, &claims), None);
    assert_eq!(refused(7, &[]), None, "their data is gone");
    insta::assert_snapshot!(refused(7, &claims).unwrap());
}

#[test]
fn made_over_living_members_nobody_rolls_for_the_managed_environment_alone() {
    let revision = |object: &Value| {
        let mut template = object["spec"]["template"].clone();
        template["$patch"] = json!("replace");
        template["metadata"]["creationTimestamp"] = json!(null);
        json!({ "spec": { "template": template } })
    };
    let made = |new: &Value, newest: &Value| {
        let patch = created(new, &puls8(), Some(&record_of(3)), Some(&revision(newest))).unwrap();
        let mut stored = new.clone();
        json_patch::patch(&mut stored, &patch).unwrap();
        (partition(&stored), annotation(&stored, KEPT_PARTITION).map(str::to_owned))
    };
    let env = "/spec/template/spec/containers/1/env/1/value";
    let other_env = with(charts(), env, json!("puls8-etcd-0=http://other:2380"));
    assert_eq!(made(&other_env, &charts()), (Some(3), Some("0".into())));
    let other_image = with(charts(), "/spec/template/spec/containers/1/image", json!("registry.k8s.io/etcd:3.6.15"));
    assert_eq!(made(&other_image, &charts()), (Some(0), None), "a roll-out is whole");
}

#[test]
fn given_back_it_is_as_its_chart_had_it_and_nobody_rolls() {
    // Scaled 3 → 4 with a partition of the chart's own.
    let charts = with(charts(), "/spec/updateStrategy/rollingUpdate/partition", json!(1));
    let three = annotated(charts.clone(), &record_of(3));
    let four = write(&three, &with(three.clone(), "/spec/replicas", json!(4)), false);
    assert_ne!(four["spec"]["template"], charts["spec"]["template"]);
    let asks = |old: &Value, changes: &[(&str, Option<&str>)]| {
        let mut new = old.clone();
        for (key, value) in changes {
            new["metadata"]["annotations"][*key] = json!(value);
        }
        new
    };
    let env = Value::Object(managed_of(&charts, &puls8())).to_string();
    let leaving = write(&four, &asks(&four, &[(LEAVING, Some(&env))]), true);
    assert_eq!(leaving["spec"]["template"], charts["spec"]["template"], "the pods' own revision again");
    assert_eq!(partition(&leaving), Some(4), "and still nobody rolls");
    let left = asks(&leaving, &[(LEFT, Some("2026-11-24T10:00:00Z")), (LEAVING, None), (RECORD, None)]);
    let left = write(&leaving, &left, true);
    assert_eq!((partition(&left), annotation(&left, KEPT_PARTITION)), (Some(1), None));
    assert_eq!(left["spec"]["template"], charts["spec"]["template"]);
    let by_a_person = asks(&four, &[(LEFT, Some("2026-11-24T10:00:00Z"))]);
    assert!(Update::new(&four, &by_a_person, &puls8(), false).is_err());
}

#[test]
fn a_controller_with_something_to_do_is_behind() {
    let at = |replicas: u32, ready: u32| {
        with(with(charts(), "/status/replicas", json!(replicas)), "/status/readyReplicas", json!(ready))
    };
    assert_eq!(behind(&at(3, 3)), None);
    assert_eq!(behind(&at(2, 2)).unwrap(), "2 of 3 pods are there");
    assert_eq!(behind(&at(3, 2)).unwrap(), "2 of 3 pods are Ready");
    let rolling = with(with(at(3, 3), "/status/updateRevision", json!("b")), "/status/updatedReplicas", json!(1));
    assert_eq!(behind(&rolling).unwrap(), "1 of 3 pods are updated");
}
