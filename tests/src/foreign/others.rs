//! Ways to start a foreign etcd that differ from variables on a claim of each pod's own in one thing.

use serde_json::{Value, json};

use super::{Starts, mount_config, push};
use crate::release::Release;

/// What stands in for Bitnami's image, which is not to be had any more: the two scripts that it starts, by the same
/// paths, as far as they matter here. Of `ETCD_CFG_*` the first makes a configuration file, and with one the second
/// starts etcd by that alone (facts-charts.md, B.2; bitnami/containers, setup.sh and run.sh). etcd itself is the official
/// image's. It joins nobody and wipes nothing, as theirs does.
const ENTRYPOINT: &str = r#"#!/opt/bitnami/bin/sh
PATH=/opt/bitnami/bin
conf=/opt/bitnami/etcd/conf/etcd.yaml
if env | grep -q '^ETCD_CFG_'; then
  env | sed -n 's/^ETCD_CFG_//p' | while IFS='=' read -r key value; do
    echo "$(echo "$key" | tr A-Z_ a-z-): $value"
  done > "$conf"
fi
exec "$@"
"#;
const RUN: &str = r#"#!/opt/bitnami/bin/sh
conf=/opt/bitnami/etcd/conf/etcd.yaml
if [ -f "$conf" ]; then exec /usr/local/bin/etcd --config-file "$conf"; fi
exec /usr/local/bin/etcd
"#;

/// Changes the StatefulSet of variables to one that starts so; what it needs beside.
pub(super) fn change(release: &Release, starts: Starts, object: &mut Value, nodes: &[String]) -> Vec<Value> {
    let settings = release.settings(starts);
    let config = |name: String, data: Value| {
        let metadata = json!({ "name": name, "namespace": release.namespace });
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data })
    };
    let set = release.statefulset();
    let mut more = Vec::new();
    let template = &mut object["spec"]["template"]["spec"];
    match starts {
        Starts::Container => template["containers"][0]["name"] = json!("server"),
        Starts::Name => {
            set_env(template, "ETCD_NAME", json!({ "value": "member-$(POD_NAME)" }));
            let members = (0..3).map(|o| format!("member-{}={}", release.pod(o), release.peer_url(o)));
            let members = members.collect::<Vec<_>>().join(",");
            set_env(template, "ETCD_INITIAL_CLUSTER", json!({ "value": members }));
        }
        Starts::Discovery => {
            let domain = format!("{set}-headless.{}.svc.cluster.local", release.namespace);
            remove_env(template, "ETCD_INITIAL_CLUSTER");
            set_env(template, "ETCD_DISCOVERY_SRV", json!({ "value": domain }));
        }
        Starts::ForceNewCluster => {
            object["spec"]["replicas"] = json!(1);
            let template = &mut object["spec"]["template"]["spec"];
            set_env(template, "ETCD_INITIAL_CLUSTER", json!({ "value": release.initial_cluster(1) }));
            set_env(template, "ETCD_FORCE_NEW_CLUSTER", json!({ "value": "true" }));
        }
        Starts::DataDirectory => {
            more.push(config(set.clone(), json!({ "dir": "/var/lib/etcd/data" })));
            let from = json!({ "valueFrom": { "configMapKeyRef": { "name": set, "key": "dir" } } });
            set_env(template, "ETCD_DATA_DIR", from);
        }
        Starts::LogElsewhere => set_env(template, "ETCD_WAL_DIR", json!({ "value": "/var/lib/etcd/wal" })),
        Starts::HostPath | Starts::OneClaim => {
            // Of its own in one place that all share.
            set_env(template, "ETCD_DATA_DIR", json!({ "value": "/var/lib/etcd/$(POD_NAME)" }));
            let here = if starts == Starts::HostPath { nodes } else { &nodes[..1] };
            let named = json!({ "key": "kubernetes.io/hostname", "operator": "In", "values": here });
            let terms = json!({ "nodeSelectorTerms": [{ "matchExpressions": [named] }] });
            template["affinity"]["nodeAffinity"] = json!({ "requiredDuringSchedulingIgnoredDuringExecution": terms });
            let source = if starts == Starts::HostPath {
                json!({ "name": "data", "hostPath": { "path": release.directory(0), "type": "DirectoryOrCreate" } })
            } else {
                // They share a node with it.
                template["affinity"]["podAntiAffinity"] = json!({});
                more.push(json!({
                    "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                    "metadata": { "name": set, "namespace": release.namespace },
                    "spec": {
                        "accessModes": ["ReadWriteOnce"], "storageClassName": release.storage.class(),
                        "resources": { "requests": { "storage": "2Gi" } },
                    },
                }));
                json!({ "name": "data", "persistentVolumeClaim": { "claimName": set } })
            };
            template["volumes"] = json!([source]);
            object["spec"]["volumeClaimTemplates"] = json!([]);
        }
        Starts::Scripts | Starts::ScriptsFile | Starts::ScriptsMounted => {
            scripts(release, template);
            more.push(config(format!("{set}-scripts"), json!({ "entrypoint.sh": ENTRYPOINT, "run.sh": RUN })));
            let env = &mut template["containers"][0]["env"];
            if starts != Starts::Scripts {
                *env = json!([{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
            }
            push(env, json!({ "name": "ALLOW_NONE_AUTHENTICATION", "value": "yes" }));
            push(env, json!({ "name": "MY_STS_NAME", "value": set }));
            if starts == Starts::ScriptsFile {
                for (flag, value) in &settings {
                    let name = format!("ETCD_CFG_{}", flag.to_uppercase().replace('-', "_"));
                    push(env, json!({ "name": name, "value": value }));
                }
            }
            if starts == Starts::ScriptsMounted {
                let file = |pod: &str| -> String {
                    let lines = settings.iter().map(|(key, value)| format!("{key}: {value}\n"));
                    lines.collect::<String>().replace("$(POD_NAME)", pod)
                };
                let pods = (0..3).map(|ordinal| release.pod(ordinal));
                more.push(config(set.clone(), pods.map(|pod| (pod.clone(), json!(file(&pod)))).collect()));
                mount_config(template, &set, "/opt/bitnami/etcd/conf/etcd.yaml");
                let mounts = template["containers"][0]["volumeMounts"].as_array_mut();
                if let Some(mount) = mounts.and_then(|mounts| mounts.last_mut()) {
                    mount["subPathExpr"] = json!("$(POD_NAME)");
                }
            } else {
                push(&mut template["volumes"], json!({ "name": "conf", "emptyDir": {} }));
                let mount = json!({ "name": "conf", "mountPath": "/opt/bitnami/etcd/conf" });
                push(&mut template["containers"][0]["volumeMounts"], mount);
            }
        }
        _ => {}
    }
    more
}

/// Bitnami's scripts by their paths, and the shell that they need.
fn scripts(release: &Release, template: &mut Value) {
    let tools = json!({ "name": "tools", "mountPath": "/opt/bitnami/bin" });
    push(&mut template["volumes"], json!({ "name": "tools", "emptyDir": {} }));
    let set = format!("{}-scripts", release.statefulset());
    push(&mut template["volumes"], json!({ "name": "scripts", "configMap": { "name": set, "defaultMode": 0o755 } }));
    let copy = "for tool in sh env grep sed tr; do cp /bin/busybox /opt/bitnami/bin/$tool; done";
    push(
        &mut template["initContainers"],
        json!({
            "name": "tools", "image": release.images.busybox, "imagePullPolicy": "IfNotPresent",
            "command": ["sh", "-ec", copy], "volumeMounts": [tools],
        }),
    );
    let etcd = &mut template["containers"][0];
    // As its image has it where the chart names no command.
    etcd["command"] = json!(["/opt/bitnami/scripts/etcd/entrypoint.sh", "/opt/bitnami/scripts/etcd/run.sh"]);
    push(&mut etcd["volumeMounts"], tools);
    push(&mut etcd["volumeMounts"], json!({ "name": "scripts", "mountPath": "/opt/bitnami/scripts/etcd" }));
}

/// Gives a variable of the first container another source.
fn set_env(template: &mut Value, name: &str, source: Value) {
    let mut entry = source;
    entry["name"] = json!(name);
    let env = &mut template["containers"][0]["env"];
    match env.as_array_mut().into_iter().flatten().find(|it| it["name"] == name) {
        Some(there) => *there = entry,
        None => push(env, entry),
    }
}

fn remove_env(template: &mut Value, name: &str) {
    if let Some(env) = template["containers"][0]["env"].as_array_mut() {
        env.retain(|it| it["name"] != name);
    }
}
