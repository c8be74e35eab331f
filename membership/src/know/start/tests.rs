//! Each way to start etcd by name: those that are understood, and the sentence for each that is not.

use serde_json::json;

use super::*;
use crate::know::names::tests::puls8;
use crate::world::template;

/// A StatefulSet with this etcd.
fn statefulset(etcd: &Value) -> Value {
    json!({ "spec": {
        "volumeClaimTemplates": template::claims(),
        "template": { "spec": { "containers": [{ "name": "sidecar", "image": "exporter:1" }, etcd] } },
    } })
}

fn started(etcd: &Value) -> Result<Start, NotUnderstood> {
    of_statefulset(&statefulset(etcd), &puls8())
}

/// The chart's container, bent.
fn etcd(bend: impl FnOnce(&mut Value)) -> Value {
    let mut etcd = template::etcd();
    bend(&mut etcd);
    etcd
}

/// With another value of a variable; none: without it.
fn variable(name: &str, value: Option<&str>) -> Value {
    etcd(|etcd| {
        let env = etcd["env"].as_array_mut().unwrap();
        env.retain(|entry| entry["name"] != name);
        env.extend(value.map(|value| json!({ "name": name, "value": value })));
    })
}

/// On a volume of the template.
fn on(volume: Value) -> NotUnderstood {
    let mut object = statefulset(&template::etcd());
    object["spec"]["volumeClaimTemplates"] = json!([]);
    object["spec"]["template"]["spec"]["volumes"] = json!([volume]);
    of_statefulset(&object, &puls8()).unwrap_err()
}

#[test]
fn variables_on_a_claim_are_understood() {
    let start = started(&template::etcd()).unwrap();
    let plain = Start {
        data_dir: "/var/lib/etcd/data".into(),
        scripts: false,
        program: "/usr/local/bin/etcd".into(),
        state_does_harm: false,
    };
    assert_eq!(start, plain);
    // As the pod of an ordinal has it.
    let pod = json!({ "spec": { "containers": [template::etcd()] } });
    assert_eq!(of_pod(&pod, &statefulset(&template::etcd()), &puls8(), 5), Ok(plain.clone()));
    // As flags, what nobody has to change; the flag is what etcd takes.
    let flags = etcd(|etcd| {
        etcd["args"] = json!([
            "--data-dir",
            "/var/lib/etcd/flag",
            "--auto-tls",
            "-name=$(ETCD_NAME)",
            "--quota-backend-bytes=1",
            "--initial-advertise-peer-urls=http://$(ETCD_NAME).puls8-etcd-headless.puls8.svc.cluster.local:2380",
        ]);
        etcd["env"].as_array_mut().unwrap().retain(|entry| entry["name"] != "ETCD_INITIAL_ADVERTISE_PEER_URLS");
    });
    assert_eq!(started(&flags).unwrap().data_dir, "/var/lib/etcd/flag");
    let path = etcd(|etcd| etcd["command"] = json!(["etcd"]));
    assert_eq!(started(&path).unwrap().program, "etcd");
    let by_pod = variable("ETCD_DATA_DIR", Some("/var/lib/etcd/$(ETCD_NAME)/"));
    assert_eq!(started(&by_pod).unwrap().data_dir, "/var/lib/etcd/puls8-etcd-0");
    assert!(started(&variable("ETCD_DISCOVERY", Some(""))).is_ok(), "etcd takes it for none");
    assert!(started(&variable("ETCD_FORCE_NEW_CLUSTER", Some("false"))).is_ok());
}

#[test]
fn bitnamis_scripts_are_known_by_command_and_variables() {
    for (image, harmed) in [
        ("bitnami/etcd:3.5.6-debian-11-r10", false),
        ("openebs/etcd:3.6.4-debian-12-r0", true),
        ("milvusdb/etcd", true),
    ] {
        let start = started(&template::bitnamis(image)).unwrap();
        assert!(start.scripts && start.state_does_harm == harmed, "{image}: {start:?}");
        assert_eq!(start.program, "/opt/bitnami/etcd/bin/etcd");
    }
    let bitnamis = |bend: &dyn Fn(&mut Value)| {
        let mut etcd = template::bitnamis("bitnami/etcd:3.5.6-debian-11-r10");
        bend(&mut etcd);
        started(&etcd)
    };
    for command in [json!([BITNAMI_RUN]), json!([BITNAMI_ENTRYPOINT, BITNAMI_RUN])] {
        assert!(bitnamis(&|etcd| etcd["command"] = command.clone()).unwrap().scripts, "{command}");
    }
    // By hand: without one of the two the scripts refuse to start.
    let by_hand = variable("ALLOW_NONE_AUTHENTICATION", Some("yes"));
    let by_hand = json!({ "name": "etcd", "env": by_hand["env"], "volumeMounts": by_hand["volumeMounts"] });
    assert!(started(&by_hand).unwrap().scripts);
    // A mirror of plain etcd under such a path, and their image with a command that skips the scripts.
    let mirror = etcd(|etcd| etcd["image"] = json!("r.example.com/bitnami-mirror/etcd:3.6.16"));
    assert!(!started(&mirror).unwrap().scripts);
    assert!(!bitnamis(&|etcd| etcd["command"] = json!([BITNAMI_ETCD])).unwrap().scripts);
    let own = bitnamis(&|etcd| etcd["command"] = json!(["/entrypoint.sh"]));
    assert_eq!(own, Err(NotUnderstood::Program(Some("/entrypoint.sh".into()))));
    // A configuration file is made of these, or mounted.
    let set = bitnamis(&|etcd| {
        etcd["env"].as_array_mut().unwrap().push(json!({ "name": "ETCD_CFG_LOG_LEVEL", "value": "x" }));
    });
    assert_eq!(set, Err(NotUnderstood::File("ETCD_CFG_LOG_LEVEL".into())));
    let conf = |volume: Value| {
        let mut etcd = template::bitnamis("bitnami/etcd:3.5.6-debian-11-r10");
        let mount = json!({ "name": "conf", "mountPath": "/opt/bitnami/etcd/conf/" });
        etcd["volumeMounts"].as_array_mut().unwrap().push(mount);
        let mut object = statefulset(&etcd);
        object["spec"]["template"]["spec"]["volumes"] = json!([volume]);
        of_statefulset(&object, &puls8())
    };
    assert!(conf(json!({ "name": "conf", "emptyDir": {} })).is_ok(), "chart 12");
    let mounted = conf(json!({ "name": "conf", "configMap": { "name": "conf" } }));
    assert_eq!(mounted, Err(NotUnderstood::File("/opt/bitnami/etcd/conf/".into())));
}

/// Flag and value in one word or in two, in the command or behind it.
#[test]
fn a_flag_in_place_of_a_managed_variable() {
    let flag = NotUnderstood::Flag { flag: "initial-cluster", beside: None };
    for bend in [
        json!({ "args": ["--initial-cluster=a=http://a:2380"] }),
        json!({ "args": ["--initial-cluster", "a=http://a:2380"] }),
        json!({ "command": ["etcd", "--name=a", "-initial-cluster", "a=http://a:2380", "--initial-cluster-state=new"] }),
    ] {
        let mut bent = variable("ETCD_INITIAL_CLUSTER", None);
        bent["env"].as_array_mut().unwrap().retain(|entry| entry["name"] != "ETCD_INITIAL_CLUSTER_STATE");
        bent.as_object_mut().unwrap().extend(bend.as_object().unwrap().clone());
        assert_eq!(started(&bent), Err(flag.clone()), "{bend}");
        assert_eq!(shadowed(&statefulset(&bent), &puls8()), None);
    }
    let state = etcd(|etcd| etcd["args"] = json!(["--initial-cluster-state", "new"]));
    let beside =
        "kubectl -n puls8 set env statefulset/puls8-etcd -c etcd ETCD_INITIAL_CLUSTER- ETCD_INITIAL_CLUSTER_STATE-";
    let beside = NotUnderstood::Flag { flag: "initial-cluster-state", beside: Some(beside.into()) };
    assert_eq!(started(&state), Err(beside));
    assert_eq!(shadowed(&statefulset(&state), &puls8()), Some("initial-cluster-state"));
}

#[test]
fn each_that_is_not_understood_has_a_sentence() {
    let command = |words: Value| started(&etcd(|etcd| etcd["command"] = words)).unwrap_err();
    let args = |words: Value| started(&etcd(|etcd| etcd["args"] = words)).unwrap_err();
    let without = |name: &str| started(&variable(name, None)).unwrap_err();
    let with = |name: &str, value: &str| started(&variable(name, Some(value))).unwrap_err();
    let mounts = |mounts: Value| started(&etcd(|etcd| etcd["volumeMounts"] = mounts)).unwrap_err();
    let elsewhere = json!({ "configMapKeyRef": { "name": "c", "key": "k" } });
    let told = [
        started(&etcd(|etcd| etcd["name"] = json!("db"))).unwrap_err(),
        command(json!([
            "/bin/sh",
            "-c",
            "exec etcd --name $HOSTNAME \\\n  --data-dir /var/lib/etcd --listen-peer-urls http://0.0.0.0:2380"
        ])),
        command(json!(null)),
        started(&etcd(|etcd| etcd["envFrom"] = json!([{ "configMapRef": { "name": "c" } }]))).unwrap_err(),
        started(&etcd(|etcd| {
            etcd["env"].as_array_mut().unwrap().retain(|entry| entry["name"] != "ETCD_INITIAL_CLUSTER");
            etcd["args"] = json!(["--initial-cluster=a=http://a:2380"]);
        }))
        .unwrap_err(),
        args(json!(["--initial-cluster=a=http://a:2380"])),
        args(json!(["--config-file=/etc/etcd.yaml"])),
        with("ETCD_CONFIG_FILE", "/etc/etcd.yaml"),
        with("ETCD_DISCOVERY_SRV", "example.com"),
        args(json!(["--force-new-cluster"])),
        with("ETCD_NAME", "one"),
        without("ETCD_NAME"),
        with("ETCD_INITIAL_ADVERTISE_PEER_URLS", "http://puls8-etcd-0.puls8-etcd-headless:2380"),
        without("ETCD_INITIAL_ADVERTISE_PEER_URLS"),
        without("ETCD_DATA_DIR"),
        with("ETCD_WAL_DIR", "/wal"),
        mounts(
            json!([{ "name": "data", "mountPath": "/var/lib/etcd" }, { "name": "data", "mountPath": "/var/lib/etcd/data/member/wal" }]),
        ),
        with("ETCD_DATA_DIR", "/var/lib/etcd2"),
        on(json!({ "name": "data", "emptyDir": {} })),
        on(json!({ "name": "data", "hostPath": { "path": "/etcd" } })),
        on(json!({ "name": "data", "persistentVolumeClaim": { "claimName": "one" } })),
        on(json!({ "name": "data", "ephemeral": {} })),
    ];
    insta::assert_snapshot!(told.map(|why| why.sentence(&puls8())).join("\n"));
    // What is told of none of them.
    for unknown in [
        json!({ "name": "ETCD_DATA_DIR", "valueFrom": elsewhere }),
        json!({ "name": "ETCD_DATA_DIR", "value": "$(BASE)/data" }),
        json!({ "name": "ETCD_DATA_DIR", "value": "default.etcd" }),
        json!({ "name": "ETCD_DATA_DIR", "value": "/var/lib/etcd/../x" }),
    ] {
        let mut etcd = variable("ETCD_DATA_DIR", None);
        etcd["env"].as_array_mut().unwrap().push(unknown.clone());
        assert_eq!(started(&etcd), Err(NotUnderstood::DataDirectory), "{unknown}");
    }
    for words in [
        json!(["etcd", "gateway", "start"]),
        json!(["etcd --name=a"]),
        json!(["sh"]),
        json!(["etcd", "--name", "a", "b"]),
    ] {
        assert!(matches!(command(words.clone()), NotUnderstood::Program(Some(_))), "{words}");
    }
    // Arguments alone are behind an entry point, or in place of a command.
    let alone = etcd(|etcd| (etcd["command"], etcd["args"]) = (json!(null), json!(["etcd"])));
    assert_eq!(started(&alone), Err(NotUnderstood::Program(None)));
}
