//! Each state of an ordinal by name, and every reason for which a joiner cannot be held.

use serde_json::json;

use super::*;
use crate::know::names::RECORD;
use crate::know::names::tests::puls8;
use crate::know::object::annotation;
use crate::know::record::Id;
use crate::world::template;

const OURS: &str = "etcd-scaler:1";

fn statefulset(record: Option<&str>) -> Value {
    let mut object = json!({
        "metadata": { "name": "puls8-etcd", "uid": "sts-uid" }, "spec": { "volumeClaimTemplates": template::claims() }
    });
    if let Some(record) = record {
        object["metadata"]["annotations"] = json!({ RECORD: record });
    }
    object
}

/// Three members, 3 joining, 1 still bootstrapping.
fn live() -> Value {
    let record = [(0, State::Member), (1, State::Bootstrapping), (2, State::Member), (3, State::Joining)]
        .into_iter()
        .fold(Record::new(Id(1)), |record, (o, state)| record.with(o, Id(0x10 + u64::from(o)), state));
    statefulset(Some(&record.annotation()))
}

fn pod(ordinal: Ordinal) -> Value {
    json!({
        "metadata": {
            "name": format!("puls8-etcd-{ordinal}"),
            "ownerReferences": [{ "kind": "StatefulSet", "name": "puls8-etcd", "uid": "sts-uid" }]
        },
        "spec": {
            "initContainers": [{ "name": "owner", "image": "busybox:1" }],
            "containers": [
                { "name": "exporter", "image": "exporter:1" },
                {
                    "name": "etcd", "image": "registry.k8s.io/etcd:3.6.14", "imagePullPolicy": "IfNotPresent",
                    "command": ["/usr/local/bin/etcd"],
                    "env": [
                        { "name": "ETCD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                        { "name": "ETCD_DATA_DIR", "value": "/var/lib/etcd/data" },
                        { "name": "ETCD_INITIAL_CLUSTER", "value": "as the chart has it" },
                        { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "new" },
                        { "name": "ETCD_INITIAL_ADVERTISE_PEER_URLS", "value": "http://$(ETCD_NAME).puls8-etcd-headless.puls8.svc.cluster.local:2380" }
                    ],
                    "livenessProbe": { "httpGet": { "path": "/livez", "port": 2381 } },
                    "startupProbe": { "httpGet": { "path": "/readyz", "port": 2381 } },
                    "readinessProbe": { "httpGet": { "path": "/readyz", "port": 2381 } },
                    "securityContext": { "runAsNonRoot": true },
                    "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/etcd" }]
                }
            ],
            "volumes": [{ "name": "data", "persistentVolumeClaim": { "claimName": "data-puls8-etcd-3" } }]
        }
    })
}

fn with(mut pod: Value, path: &str, value: Value) -> Value {
    let (parent, key) = path.rsplit_once('/').unwrap();
    pod.pointer_mut(parent).unwrap().as_object_mut().unwrap().insert(key.to_owned(), value);
    pod
}

fn made(pod: &Value, statefulset: &Value) -> Value {
    let mut made = pod.clone();
    json_patch::patch(&mut made, &patch(pod, statefulset, &puls8(), OURS).unwrap()).unwrap();
    made
}

fn refused(pod: &Value) -> String {
    patch(pod, &live(), &puls8(), OURS).unwrap_err()
}

#[test]
fn a_member_names_only_itself() {
    let patch = patch(&pod(2), &live(), &puls8(), OURS).unwrap();
    insta::assert_snapshot!(format!("{patch:#}"), @r#"
    [
      {
        "op": "add",
        "path": "/spec/containers/1/env/2/value",
        "value": "puls8-etcd-2=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380"
      },
      {
        "op": "add",
        "path": "/spec/containers/1/env/3/value",
        "value": "existing"
      }
    ]
    "#);
}

#[test]
fn a_joiner_is_held() {
    let patch = patch(&pod(4), &live(), &puls8(), OURS).unwrap();
    insta::assert_snapshot!(format!("{patch:#}"), @r#"
    [
      {
        "op": "add",
        "path": "/spec/containers/1/env/2/value",
        "value": "puls8-etcd-0=http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-1=http://puls8-etcd-1.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-2=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-3=http://puls8-etcd-3.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-4=http://puls8-etcd-4.puls8-etcd-headless.puls8.svc.cluster.local:2380"
      },
      {
        "op": "add",
        "path": "/spec/containers/1/env/3/value",
        "value": "existing"
      },
      {
        "op": "remove",
        "path": "/spec/containers/1/livenessProbe"
      },
      {
        "op": "remove",
        "path": "/spec/containers/1/startupProbe"
      },
      {
        "op": "add",
        "path": "/spec/initContainers/-",
        "value": {
          "command": [
            "/usr/local/bin/etcd",
            "--version"
          ],
          "image": "registry.k8s.io/etcd:3.6.14",
          "imagePullPolicy": "IfNotPresent",
          "name": "etcd-version",
          "resources": {
            "requests": {
              "cpu": "10m",
              "memory": "16Mi"
            }
          },
          "securityContext": {
            "runAsNonRoot": true
          }
        }
      },
      {
        "op": "add",
        "path": "/spec/initContainers/-",
        "value": {
          "command": [
            "/hook",
            "admit",
            "--data-dir=/var/lib/etcd/data",
            "--permission-file=/etc/etcd-scaler/permission",
            "--uid-file=/etc/etcd-scaler/uid",
            "--cluster=0000000000000001",
            "--other=0000000000000010",
            "--other=0000000000000011",
            "--other=0000000000000012",
            "--other=0000000000000013"
          ],
          "image": "etcd-scaler:1",
          "imagePullPolicy": "IfNotPresent",
          "name": "admit",
          "resources": {
            "requests": {
              "cpu": "10m",
              "memory": "16Mi"
            }
          },
          "securityContext": {
            "runAsNonRoot": true
          },
          "terminationMessagePolicy": "FallbackToLogsOnError",
          "volumeMounts": [
            {
              "mountPath": "/var/lib/etcd",
              "name": "data"
            },
            {
              "mountPath": "/etc/etcd-scaler",
              "name": "etcd-scaler-permission",
              "readOnly": true
            }
          ]
        }
      },
      {
        "op": "add",
        "path": "/spec/volumes/-",
        "value": {
          "downwardAPI": {
            "items": [
              {
                "fieldRef": {
                  "fieldPath": "metadata.annotations['etcd-scaler.io/permission']"
                },
                "path": "permission"
              },
              {
                "fieldRef": {
                  "fieldPath": "metadata.uid"
                },
                "path": "uid"
              }
            ]
          },
          "name": "etcd-scaler-permission"
        }
      },
      {
        "op": "add",
        "path": "/spec/schedulingGates",
        "value": [
          {
            "name": "etcd-scaler.io/turn"
          }
        ]
      },
      {
        "op": "add",
        "path": "/metadata/annotations",
        "value": {
          "etcd-scaler.io/joiner": "true"
        }
      },
      {
        "op": "add",
        "path": "/metadata/annotations/etcd-scaler.io~1waits-for",
        "value": "init container admit waits until the etcd-scaler Job has added puls8-etcd-4 to etcd; the Job: kubectl logs -l etcd-scaler.io/target=puls8-etcd"
      }
    ]
    "#);
}

#[test]
fn only_the_next_newcomer_is_scheduled_at_once() {
    let record = (0..3).fold(Record::new(Id(1)), |record, o| record.with(o, Id(0x10 + u64::from(o)), State::Member));
    let live = statefulset(Some(&record.annotation()));
    let gates = |ordinal| made(&pod(ordinal), &live)["spec"]["schedulingGates"].clone();
    assert_eq!(gates(3), Value::Null);
    assert_eq!(gates(4), json!([{ "name": "etcd-scaler.io/turn" }]));
    // Somebody else's gate stays, and a second call adds nothing.
    let other = with(pod(4), "/spec/schedulingGates", json!([{ "name": "example.com/quota" }]));
    let once = made(&other, &live);
    assert_eq!(once["spec"]["schedulingGates"].as_array().unwrap().len(), 2);
    assert_eq!(made(&once, &live)["spec"]["schedulingGates"], once["spec"]["schedulingGates"]);
}

#[test]
fn an_ordinal_that_is_joining_is_held_again() {
    let made = made(&pod(3), &live());
    assert_eq!(annotation(&made, JOINER), Some("true"));
    let names: Vec<_> =
        list(&made, &["spec", "initContainers"]).iter().filter_map(|init| text(init, &["name"])).collect();
    assert_eq!(names, ["owner", "etcd-version", "admit"], "appended last");
}

/// The member list and itself: who is above the gap is in it.
#[test]
fn who_joins_in_a_gap_names_those_above_it_too() {
    let record = Record::new(Id(1)).with(0, Id(0x10), State::Member).with(2, Id(0x12), State::Member);
    let made = made(&pod(1), &statefulset(Some(&record.annotation())));
    assert_eq!(made["metadata"]["annotations"][JOINER], "true");
    assert_eq!(made["spec"]["containers"][1]["env"][2]["value"], puls8().initial_cluster(0..3));
}

#[test]
fn what_is_not_ours_or_not_known_is_untouched() {
    let untouched = |pod: &Value, statefulset: &Value| assert_eq!(made(pod, statefulset), *pod);
    untouched(&pod(1), &live());
    untouched(&pod(0), &statefulset(None));
    untouched(&pod(0), &statefulset(Some("not a record")));
    untouched(&with(pod(3), "/metadata/name", json!("puls8-etcd-backup")), &live());
    untouched(&with(pod(3), "/metadata/ownerReferences", json!([])), &live());
    let other = json!([{ "kind": "StatefulSet", "name": "puls8-etcd", "uid": "an earlier one" }]);
    untouched(&with(pod(3), "/metadata/ownerReferences", other), &live());
}

#[test]
fn a_second_call_for_the_same_pod_adds_nothing() {
    for ordinal in 0..6 {
        let once = made(&pod(ordinal), &live());
        assert!(patch(&once, &live(), &puls8(), OURS).unwrap().is_empty(), "{ordinal}");
    }
}

#[test]
fn what_is_only_ours_is_taken_off_pods_that_do_not_wait_to_join() {
    let ours = json!({
        JOINER: "true", PERMISSION: "{}", WAITS_FOR: "x", "etcd-scaler.io/woken": "x",
        "etcd-scaler.io/initial-cluster": "a=b", "etcd-scaler.io/initial-cluster-state": "new", "other.io/joiner": "true"
    });
    let kept = json!({
        "etcd-scaler.io/initial-cluster": "a=b", "etcd-scaler.io/initial-cluster-state": "new", "other.io/joiner": "true"
    });
    let annotated = |ordinal| with(pod(ordinal), "/metadata/annotations", ours.clone());
    for (ordinal, statefulset) in [(2, live()), (1, live()), (0, statefulset(None)), (0, statefulset(Some("none")))] {
        let made = made(&annotated(ordinal), &statefulset);
        assert_eq!(made["metadata"]["annotations"], kept, "{ordinal}");
        assert!(patch(&made, &statefulset, &puls8(), OURS).unwrap().is_empty(), "{ordinal}");
    }
    let joiner = made(&annotated(3), &live());
    let keys: Vec<_> = joiner["metadata"]["annotations"].as_object().unwrap().keys().collect();
    assert!(!keys.iter().any(|key| [PERMISSION, "etcd-scaler.io/woken"].contains(&key.as_str())), "{keys:?}");
    assert!(annotation(&joiner, WAITS_FOR).unwrap().starts_with("init container admit"), "ours, not the template's");
}

#[test]
fn a_permission_does_not_come_from_a_template() {
    let with_permission = with(pod(3), "/metadata/annotations", json!({ PERMISSION: "{}" }));
    assert_eq!(annotation(&made(&with_permission, &live()), PERMISSION), None);
}

#[test]
fn a_members_pod_is_never_refused() {
    let bare = with(pod(2), "/spec/containers", json!([]));
    assert_eq!(made(&bare, &live()), bare);
}

#[test]
fn bitnamis_members_stay_and_its_joiners_start_plain_etcd() {
    let bitnami = |ordinal| {
        let mut etcd = template::bitnamis("bitnami/etcd:3.5.6-debian-11-r10");
        etcd["args"] = json!(null);
        with(pod(ordinal), "/spec/containers", json!([{ "name": "exporter", "image": "exporter:1" }, etcd]))
    };
    assert_eq!(made(&bitnami(2), &live()), bitnami(2));
    let joiner = made(&bitnami(3), &live());
    assert_eq!(joiner["spec"]["containers"][1]["command"], json!(["/opt/bitnami/scripts/etcd/run.sh"]));
    assert_eq!(joiner["spec"]["initContainers"][1]["command"], json!(["/opt/bitnami/etcd/bin/etcd", "--version"]));
}

/// A mirror's path is no start script.
#[test]
fn who_starts_etcd_is_not_told_by_the_images_name() {
    let mirrored = with(pod(2), "/spec/containers/1/image", json!("r.example.com/bitnami-mirror/etcd:3.6.16"));
    assert_ne!(made(&mirrored, &live()), mirrored, "a member of plain etcd");
    let joiner = with(pod(3), "/spec/containers/1/image", json!("r.example.com/bitnami-mirror/etcd:3.6.16"));
    assert_eq!(made(&joiner, &live())["spec"]["containers"][1]["command"], json!(["/usr/local/bin/etcd"]));
}

/// Each way to start etcd that is not understood has its sentence in `start`.
#[test]
fn what_is_not_understood_is_left_to_its_chart_and_no_newcomer() {
    let flags = json!(["--initial-cluster=a=http://a:2380"]);
    let member = with(pod(2), "/spec/containers/1/args", flags.clone());
    assert_eq!(made(&member, &live()), member);
    let refusal = refused(&with(pod(3), "/spec/containers/1/args", flags));
    assert!(
        refusal.contains("cannot be held until it may join: its etcd is started with the flag --initial-cluster. "),
        "{refusal}"
    );
    insta::assert_snapshot!(refused(&with(pod(3), "/spec/initContainers", json!([{ "name": "admit", "image": "theirs" }]))), @r#"pod puls8-etcd-3 is not yet a member of the etcd cluster and cannot be held until it may join: it has an init container "admit" of its own; rename it"#);
}
