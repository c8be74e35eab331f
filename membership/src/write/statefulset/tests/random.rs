//! What holds for every StatefulSet, whatever its chart made of it.

use proptest::prelude::*;

use super::*;
use crate::know::environment;

fn entry() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec!["ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE", "ETCD_LOG_LEVEL", "X"]);
    let value = prop_oneof![
        Just(json!({ "value": "existing" })),
        Just(json!({ "value": "puls8-etcd-0=http://chart:2380" })),
        Just(json!({ "value": "a=http://a:2380,\nb=http://b:2380" })),
        Just(json!({ "valueFrom": { "configMapKeyRef": { "name": "c", "key": "k" } } })),
        Just(json!({})),
    ];
    (name, value).prop_map(|(name, value)| with(value, "/name", json!(name)))
}

/// Most are understood.
fn container() -> impl Strategy<Value = Value> {
    let whole = prop::sample::select(vec![
        template::etcd(),
        template::bitnamis("bitnami/etcd:3.5.6-debian-11-r10"),
        template::bitnamis("bitnamilegacy/etcd:3.6.4"),
    ]);
    let entries = prop::collection::vec(entry(), 0..6);
    let flags =
        prop::sample::select(vec!["--quota-backend-bytes=1", "--initial-cluster=a", "--initial-cluster-state=new"]);
    (whole, entries, prop::option::weighted(0.1, flags), 0..20_u32).prop_map(|(mut etcd, entries, flag, odd)| {
        let env = etcd["env"].as_array_mut().unwrap();
        env.retain(|entry| !entry["name"].as_str().unwrap().starts_with("ETCD_INITIAL_CLUSTER"));
        env.extend(entries);
        match odd {
            0 => etcd["env"] = Value::Null,
            1 => drop(etcd.as_object_mut().unwrap().remove("env")),
            _ => {}
        }
        if let Some(flag) = flag {
            etcd["args"] = json!([flag]);
        }
        etcd
    })
}

fn template() -> impl Strategy<Value = Value> {
    let containers = (prop::collection::vec(container(), 1..4), prop::bool::weighted(0.9), 0..3_usize);
    (containers, 0..2_u32).prop_map(|((mut containers, has_etcd, etcd), label)| {
        let etcd = etcd % containers.len();
        for (index, container) in containers.iter_mut().enumerate() {
            let name = if has_etcd && index == etcd { "etcd".into() } else { format!("c{index}") };
            container["name"] = name.into();
        }
        json!({ "metadata": { "labels": { "l": label } }, "spec": { "containers": containers } })
    })
}

fn strategy() -> impl Strategy<Value = Option<Value>> {
    prop_oneof![
        Just(None),
        Just(Some(json!({ "type": "OnDelete" }))),
        Just(Some(json!({ "type": "RollingUpdate" }))),
        Just(Some(json!({ "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 1 } }))),
        (0..9_u32).prop_map(|p| Some(json!({ "type": "RollingUpdate", "rollingUpdate": { "partition": p } }))),
    ]
}

fn annotations() -> impl Strategy<Value = Option<Value>> {
    let record = prop_oneof![
        1 => Just(None),
        1 => Just(Some("not a record".to_owned())),
        6 => (1..6_u32).prop_map(|count| Some(record_of(count).annotation())),
    ];
    let kept = prop_oneof![Just(None), Just(Some("0")), Just(Some("2")), Just(Some("a lot"))];
    (record, kept, any::<bool>()).prop_map(|(record, kept, other)| {
        let mut map = serde_json::Map::new();
        map.extend(record.map(|record| (RECORD.to_owned(), record.into())));
        map.extend(kept.map(|kept| (KEPT_PARTITION.to_owned(), kept.into())));
        map.extend(other.then(|| ("other".to_owned(), "x".into())));
        (!map.is_empty()).then_some(Value::Object(map))
    })
}

fn statefulset() -> impl Strategy<Value = Value> {
    let status = (0..2_u32, 0..4_u32, any::<bool>());
    (template(), strategy(), annotations(), prop::option::of(0..8_u32), status).prop_map(
        |(pods, strategy, annotations, replicas, (observed, updated, settled))| {
            let mut spec = json!({
                "template": pods, "serviceName": puls8().service, "volumeClaimTemplates": template::claims(),
            });
            spec.as_object_mut().unwrap().extend(strategy.map(|s| ("updateStrategy".to_owned(), s)));
            spec.as_object_mut().unwrap().extend(replicas.map(|r| ("replicas".to_owned(), r.into())));
            let mut metadata = json!({ "name": "puls8-etcd", "generation": 1 });
            metadata.as_object_mut().unwrap().extend(annotations.map(|a| ("annotations".to_owned(), a)));
            let update = if settled { "a" } else { "b" };
            let status = json!({ "observedGeneration": observed, "updatedReplicas": updated, "currentRevision": "a", "updateRevision": update });
            json!({ "metadata": metadata, "spec": spec, "status": status })
        },
    )
}

/// An update: each part of the new object is either the old one's or another.
fn update() -> impl Strategy<Value = (Value, Value, bool)> {
    let same = prop::array::uniform4(prop::bool::weighted(0.6));
    (statefulset(), statefulset(), same, any::<bool>()).prop_map(|(old, mut new, same, by_hook)| {
        let parts = ["/metadata/annotations", "/spec/replicas", "/spec/template", "/spec/updateStrategy"];
        for (part, same) in parts.into_iter().zip(same) {
            if same {
                let (parent, key) = part.rsplit_once('/').unwrap();
                let parent = new.pointer_mut(parent).unwrap().as_object_mut().unwrap();
                match old.pointer(part) {
                    Some(value) => parent.insert(key.to_owned(), value.clone()),
                    None => parent.remove(key),
                };
            }
        }
        (old, new, by_hook)
    })
}

/// Everything that is not ours to write (docs/decisions/0004-partition.md, 0008-failure-policies.md): managed
/// environment, partition, our annotations out.
fn not_ours(object: &Value) -> Value {
    let mut object = object.clone();
    let template = get(&object, &TEMPLATE).cloned().unwrap_or_default();
    object["spec"]["template"] = env::without_managed(&template, "etcd");
    let mut edit = Edit::new(&object);
    edit.remove(&["metadata", "annotations", RECORD]);
    edit.remove(&["metadata", "annotations", KEPT_PARTITION]);
    edit.remove(&PARTITION);
    for emptied in [&["metadata", "annotations"][..], &PARTITION[..3], &PARTITION[..2]] {
        if edit.get(emptied).is_some_and(|value| value.as_object().is_some_and(serde_json::Map::is_empty)) {
            edit.remove(emptied);
        }
    }
    edit.object
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_patch((old, new, by_hook) in update()) {
        let target = puls8();
        let Ok(update) = Update::new(&old, &new, &target, by_hook) else { return Ok(()) };
        let patch = update.patch();

        // Valid RFC 6902, also after a round through its JSON.
        let sent = serde_json::to_string(&patch).unwrap();
        let mut stored = new.clone();
        json_patch::patch(&mut stored, &serde_json::from_str::<Patch>(&sent).unwrap()).unwrap();

        // Idempotent: for the same request again, and as the next, identical request.
        let again = Update::new(&old, &stored, &target, by_hook).unwrap().patch();
        prop_assert!(again.is_empty(), "again: {again} after {patch}");
        // (What a roll-out put off is written with the next request after it.)
        let next = Update::new(&stored, &stored, &target, false).unwrap().patch();
        prop_assert!(next.is_empty() || rollout(&old).is_some(), "next: {next} after {patch}");

        // Touches only what is ours to write.
        prop_assert_eq!(not_ours(&stored), not_ours(&new));

        let managed = update.manages() && environment::container(&stored["spec"]["template"]["spec"], "etcd").is_some();
        let rewritten = rollout(&old).is_none() || get(&old, &TEMPLATE) != get(&new, &TEMPLATE);
        if managed && rewritten {
            let index = environment::container(&stored["spec"]["template"]["spec"], "etcd").unwrap();
            let container = &stored["spec"]["template"]["spec"]["containers"][index];
            let values = |name: &str| -> Vec<&Value> {
                list(container, &["env"]).iter().filter(|e| text(e, &["name"]) == Some(name)).collect()
            };
            // Never a duplicate, always the one line; with the name that keeps an empty disk from starting
            // wherever pods are made from this template.
            let mut wanted = target.initial_cluster(0..replicas(&new));
            let made_from = update.changes_template() || on_delete(&new);
            let start = start::of_statefulset(&stored, &target).unwrap();
            if made_from && !start.scripts {
                wanted = env::without_start_on_no_data(&wanted);
            }
            prop_assert_eq!(values(INITIAL_CLUSTER), [&json!({ "name": INITIAL_CLUSTER, "value": wanted })]);
            if !start.state_does_harm {
                prop_assert_eq!(values(INITIAL_CLUSTER_STATE), [&json!({ "name": INITIAL_CLUSTER_STATE, "value": "existing" })]);
            }
        }

        // What is not understood gets nothing new, and no update ends in what cannot start and did before.
        if start::of_statefulset(&new, &target).is_err() {
            let had = |object: &Value| annotation(object, KEPT_PARTITION).is_some();
            prop_assert!(!had(&stored) || had(&old) || had(&new));
            let env = |object: &Value| {
                let containers = list(object, &["spec", "template", "spec", "containers"]).iter();
                containers.flat_map(|container| list(container, &["env"]).to_vec()).collect::<Vec<_>>()
            };
            let asked = env(&new);
            prop_assert!(env(&stored).iter().all(|entry| asked.contains(entry)), "{patch}");
        }
        if update.never_starts().is_none() && start::shadowed(&old, &target).is_none() {
            prop_assert_eq!(start::shadowed(&stored, &target), None);
        }

        // Nobody rolls when only replicas or the managed environment change.
        let changes = replicas(&old) != replicas(&new) || get(&old, &TEMPLATE) != get(&stored, &TEMPLATE);
        if update.manages() && changes && !update.changes_template() && rollout(&old).is_none() && !on_delete(&new) {
            let most = replicas(&old).max(replicas(&new));
            prop_assert!(partition(&stored).is_some_and(|partition| partition >= most), "{patch}");
        }
    }
}
