//! An etcd that is not the release's: a StatefulSet, its Services and volumes, applied with kubectl
//! as another chart would have them, and adopted by our chart with `etcd.enabled=false`.

mod others;

use anyhow::ensure;
use serde_json::{Value, json};

use crate::cluster::nodes;
use crate::process::apply;
use crate::release::{Ran, Release, Storage};

/// The partition that this StatefulSet's owner chose: not the default, so that it is seen whether
/// it comes back.
pub const PARTITION: u32 = 2;

/// How a foreign StatefulSet starts its etcd: the ways of facts-charts.md, B.2, and others that are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Starts {
    /// By variables, on a claim of each pod's own: what is looked after.
    Variables,
    /// By flags, each one word (CloudPirates).
    Flags,
    /// By a command with flags and values as words of their own (Karmada).
    Words,
    /// By a configuration file (Bitnami's `configuration`).
    File,
    /// By a shell script (openstack-helm).
    Script,
    /// By variables of a ConfigMap (groundhog2k).
    Elsewhere,
    /// By variables, on an emptyDir.
    EmptyDir,
    /// By variables, with peer URLs that only their namespace understands.
    ShortUrls,
    /// By variables, in a container of another name.
    Container,
    /// By variables, each member named otherwise than its pod.
    Name,
    /// By a service that names the first members. They must have begun before.
    Discovery,
    /// One member, alone again at each start.
    ForceNewCluster,
    /// By variables, the data directory in another object.
    DataDirectory,
    /// By variables, the write-ahead log beside the data directory.
    LogElsewhere,
    /// By variables, in a directory of the node.
    HostPath,
    /// By variables, all in one claim (CloudPirates' `existingClaim`).
    OneClaim,
    /// By what stands in for Bitnami's scripts, with variables.
    Scripts,
    /// By the same, with `ETCD_CFG_*`.
    ScriptsFile,
    /// By the same, with a configuration file that is mounted.
    ScriptsMounted,
}

impl Release {
    /// The foreign StatefulSet with this many replicas; its environment names three members for
    /// ever, as literals.
    #[must_use]
    pub fn foreign_statefulset(&self, replicas: usize) -> Value {
        let (set, labels) = (self.statefulset(), json!({ "app": "etcd", "owner": self.name }));
        let host = format!("$(POD_NAME).{set}-headless.{}.svc.cluster.local", self.namespace);
        let data = json!([{ "name": "data", "mountPath": "/var/lib/etcd" }]);
        let same_node = json!({ "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": labels } });
        let confined = json!({
            "allowPrivilegeEscalation": false,
            "readOnlyRootFilesystem": true,
            "capabilities": { "drop": ["ALL"] },
        });
        json!({
            "apiVersion": "apps/v1",
            "kind": "StatefulSet",
            "metadata": { "name": set, "namespace": self.namespace, "labels": labels },
            "spec": {
                "replicas": replicas,
                "serviceName": format!("{set}-headless"),
                "podManagementPolicy": "Parallel",
                "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "partition": PARTITION } },
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "automountServiceAccountToken": false,
                        "enableServiceLinks": false,
                        "terminationGracePeriodSeconds": 10,
                        "securityContext": {
                            "runAsNonRoot": true, "runAsUser": 1001, "runAsGroup": 1001, "fsGroup": 1001,
                            "seccompProfile": { "type": "RuntimeDefault" },
                        },
                        "affinity": { "podAntiAffinity": {
                            "requiredDuringSchedulingIgnoredDuringExecution": [same_node]
                        } },
                        "initContainers": [{
                            "name": "own",
                            "image": self.images.busybox,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["chown", "-R", "1001:1001", "/var/lib/etcd"],
                            "securityContext": {
                                "runAsNonRoot": false, "runAsUser": 0,
                                "capabilities": { "drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"] },
                            },
                            "volumeMounts": data,
                        }],
                        "containers": [{
                            "name": "etcd",
                            "image": self.images.etcd,
                            "imagePullPolicy": "IfNotPresent",
                            "command": ["/usr/local/bin/etcd"],
                            "env": [
                                { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                                { "name": "ETCD_NAME", "value": "$(POD_NAME)" },
                                { "name": "ETCD_DATA_DIR", "value": "/var/lib/etcd/data" },
                                { "name": "ETCD_LISTEN_PEER_URLS", "value": "http://0.0.0.0:2380" },
                                { "name": "ETCD_LISTEN_CLIENT_URLS", "value": "http://0.0.0.0:2379" },
                                { "name": "ETCD_LISTEN_METRICS_URLS", "value": "http://0.0.0.0:2381" },
                                { "name": "ETCD_INITIAL_ADVERTISE_PEER_URLS", "value": format!("http://{host}:2380") },
                                { "name": "ETCD_ADVERTISE_CLIENT_URLS", "value": format!("http://{host}:2379") },
                                { "name": "ETCD_INITIAL_CLUSTER_TOKEN", "value": "foreign" },
                                { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "new" },
                                { "name": "ETCD_INITIAL_CLUSTER", "value": self.initial_cluster(3) },
                            ],
                            "ports": [
                                { "name": "client", "containerPort": 2379 },
                                { "name": "peer", "containerPort": 2380 },
                                { "name": "metrics", "containerPort": 2381 },
                            ],
                            "readinessProbe": {
                                "httpGet": { "path": "/readyz", "port": "metrics" },
                                "periodSeconds": 2, "timeoutSeconds": 3,
                            },
                            "securityContext": confined,
                            "terminationMessagePolicy": "FallbackToLogsOnError",
                            "volumeMounts": data,
                        }],
                    },
                },
                "volumeClaimTemplates": [{
                    "metadata": { "name": "data" },
                    "spec": {
                        "accessModes": ["ReadWriteOnce"],
                        "storageClassName": self.storage.class(),
                        "resources": { "requests": { "storage": "2Gi" } },
                    },
                }],
            },
        })
    }

    /// The same, started in another way, and what it needs beside; one that is tied to nodes is to these.
    #[must_use]
    pub fn foreign_started(&self, starts: Starts, nodes: &[String]) -> Vec<Value> {
        let mut object = self.foreign_statefulset(3);
        if starts != Starts::Variables {
            // These roll as a whole.
            object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
        }
        let mut more = others::change(self, starts, &mut object, nodes);
        let template = &mut object["spec"]["template"]["spec"];
        let settings = self.settings(starts);
        let config = |data: Value| {
            let metadata = json!({ "name": self.statefulset(), "namespace": self.namespace });
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data })
        };
        let pod_name = json!([{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }]);
        let etcd = &mut template["containers"][0];
        match starts {
            Starts::Flags => {
                etcd["env"] = pod_name;
                etcd["args"] = settings.iter().map(|(flag, value)| json!(format!("--{flag}={value}"))).collect();
            }
            Starts::Words => {
                etcd["env"] = pod_name;
                let words = settings.iter().flat_map(|(flag, value)| [json!(format!("--{flag}")), json!(value)]);
                etcd["command"] = std::iter::once(json!("/usr/local/bin/etcd")).chain(words).collect();
            }
            Starts::File => {
                etcd["env"] = pod_name;
                etcd["args"] = json!(["--config-file=/etc/etcd/$(POD_NAME).yaml"]);
                let file = |pod: &str| -> String {
                    settings
                        .iter()
                        .map(|(key, value)| format!("{key}: {}\n", value.replace("$(POD_NAME)", pod)))
                        .collect()
                };
                let pods = (0..3).map(|ordinal| self.pod(ordinal));
                more.push(config(pods.map(|pod| (format!("{pod}.yaml"), json!(file(&pod)))).collect()));
                mount_config(template, &self.statefulset(), "/etc/etcd");
            }
            Starts::Script => {
                etcd["env"] = pod_name;
                etcd["command"] = json!(["/shell/sh", "/etc/etcd/start"]);
                let flags: String = settings.iter().map(|(flag, value)| format!(" --{flag}={value}")).collect();
                let script = format!("exec /usr/local/bin/etcd{}\n", flags.replace("$(POD_NAME)", "$POD_NAME"));
                more.push(config(json!({ "start": script })));
                mount_config(template, &self.statefulset(), "/etc/etcd");
                // etcd's own image has no shell.
                let shell = json!([{ "name": "shell", "mountPath": "/shell" }]);
                let copy = json!({
                    "name": "shell", "image": self.images.busybox, "imagePullPolicy": "IfNotPresent",
                    "command": ["cp", "/bin/busybox", "/shell/sh"], "volumeMounts": shell,
                });
                push(&mut template["initContainers"], copy);
                push(&mut template["volumes"], json!({ "name": "shell", "emptyDir": {} }));
                push(&mut template["containers"][0]["volumeMounts"], shell[0].clone());
            }
            Starts::Elsewhere => {
                let is_elsewhere = |name: &str| !name.ends_with("NAME") && !name.contains("ADVERTISE");
                let env = etcd["env"].as_array().cloned().unwrap_or_default();
                let (elsewhere, own): (Vec<_>, Vec<_>) =
                    env.into_iter().partition(|entry| entry["name"].as_str().is_some_and(is_elsewhere));
                let data = elsewhere.iter().map(|entry| (crate::members::text(&entry["name"]), entry["value"].clone()));
                more.push(config(data.collect()));
                etcd["env"] = own.into();
                etcd["envFrom"] = json!([{ "configMapRef": { "name": self.statefulset() } }]);
            }
            Starts::EmptyDir => {
                template["volumes"] = json!([{ "name": "data", "emptyDir": {} }]);
                object["spec"]["volumeClaimTemplates"] = json!([]);
            }
            Starts::ShortUrls => {
                for (variable, flag) in [
                    ("ETCD_INITIAL_ADVERTISE_PEER_URLS", "initial-advertise-peer-urls"),
                    ("ETCD_INITIAL_CLUSTER", "initial-cluster"),
                ] {
                    let value = settings.iter().find(|(name, _)| *name == flag).map(|(_, value)| json!(value));
                    let env = etcd["env"].as_array_mut().into_iter().flatten();
                    if let Some(entry) = env.into_iter().find(|entry| entry["name"] == variable) {
                        entry["value"] = value.unwrap_or_default();
                    }
                }
            }
            _ => {}
        }
        more.push(object);
        more
    }

    /// What its etcd is given, by the flag's name.
    fn settings(&self, starts: Starts) -> Vec<(&'static str, String)> {
        let headless = format!("{}-headless", self.statefulset());
        let domain = match starts {
            Starts::ShortUrls => headless,
            _ => format!("{headless}.{}.svc.cluster.local", self.namespace),
        };
        let peer = |pod: &str| format!("http://{pod}.{domain}:2380");
        let peers = (0..3).map(|ordinal| self.pod(ordinal)).map(|pod| format!("{pod}={}", peer(&pod)));
        vec![
            ("name", "$(POD_NAME)".into()),
            ("data-dir", "/var/lib/etcd/data".into()),
            ("listen-peer-urls", "http://0.0.0.0:2380".into()),
            ("listen-client-urls", "http://0.0.0.0:2379".into()),
            ("listen-metrics-urls", "http://0.0.0.0:2381".into()),
            ("initial-advertise-peer-urls", peer("$(POD_NAME)")),
            ("advertise-client-urls", format!("http://$(POD_NAME).{domain}:2379")),
            ("initial-cluster-token", "foreign".into()),
            ("initial-cluster-state", "new".into()),
            ("initial-cluster", peers.collect::<Vec<_>>().join(",")),
        ]
    }

    /// Applies the foreign StatefulSet with three members, its Services and the volumes that its
    /// owner made for it.
    ///
    /// # Errors
    /// When the API server refuses something of it.
    pub async fn apply_foreign(&self) -> anyhow::Result<()> {
        self.apply_foreign_started(Starts::Variables).await
    }

    /// The same, started in this way.
    ///
    /// # Errors
    /// When the API server refuses something of it.
    pub async fn apply_foreign_started(&self, starts: Starts) -> anyhow::Result<()> {
        let (set, selector) = (self.statefulset(), json!({ "app": "etcd", "owner": self.name }));
        let ports = json!([{ "name": "client", "port": 2379 }, { "name": "peer", "port": 2380 }]);
        let service = |name: &str, spec: Value| {
            json!({
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": { "name": name, "namespace": self.namespace },
                "spec": spec,
            })
        };
        let headless = json!({
            "clusterIP": "None", "publishNotReadyAddresses": true, "selector": selector, "ports": ports,
        });
        let mut items = vec![
            service(&set, json!({ "selector": selector, "ports": ports })),
            service(&format!("{set}-headless"), headless),
        ];
        items.extend(self.foreign_started(starts, &nodes().await?.into_iter().take(3).collect::<Vec<_>>()));
        let made_by_hand = if self.storage == Storage::Manual { 0..3 } else { 0..0 };
        items.extend(made_by_hand.map(|ordinal| {
            let claim = format!("data-{}", self.pod(ordinal));
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": { "name": self.volume(ordinal) },
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "capacity": { "storage": "2Gi" },
                    "claimRef": { "namespace": self.namespace, "name": claim },
                    "hostPath": { "path": self.directory(ordinal) },
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": "manual",
                },
            })
        }));
        apply(&json!({ "apiVersion": "v1", "kind": "List", "items": items })).await.map(drop)
    }

    /// That each pod's etcd is what the StatefulSet's own template makes of it: nobody else wrote into it.
    ///
    /// # Errors
    /// What differs.
    pub async fn foreign_pods_are_as_made(&self) -> anyhow::Result<()> {
        let set = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        let pods = self.json(&["get", "pods", "-l", "app=etcd"]).await?;
        let template = &set["spec"]["template"]["spec"];
        for pod in pods["items"].as_array().into_iter().flatten() {
            for field in ["/containers/0/command", "/containers/0/args", "/containers/0/env", "/containers/0/envFrom"] {
                let (made, asked) = (pod["spec"].pointer(field), template.pointer(field));
                ensure!(made == asked, "{field} of {} is {made:?}, its template's {asked:?}", pod["metadata"]["name"]);
            }
            let inits = |spec: &Value| spec["initContainers"].as_array().map_or(0, Vec::len);
            ensure!(inits(&pod["spec"]) == inits(template), "{} has other init containers", pod["metadata"]["name"]);
        }
        Ok(())
    }

    /// Installs our chart without an etcd, to look after the foreign StatefulSet.
    ///
    /// # Errors
    /// When Helm fails.
    pub async fn adopt_foreign(&self) -> anyhow::Result<Ran> {
        self.install(3, &["--set", &self.foreign_values()]).await
    }

    /// What names the foreign StatefulSet in our chart's values.
    #[must_use]
    pub fn foreign_values(&self) -> String {
        format!("etcd.enabled=false,target.statefulset={},target.podLabels.app=etcd", self.statefulset())
    }

    /// Sets the replicas as a person does.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn patch_replicas(&self, replicas: usize) -> anyhow::Result<String> {
        let patch = json!({ "spec": { "replicas": replicas } }).to_string();
        self.kubectl(&["patch", "statefulset", &self.statefulset(), "--type=merge", "-p", &patch]).await
    }
}

/// Mounts a ConfigMap into the first container of a template.
fn mount_config(template: &mut Value, name: &str, path: &str) {
    push(&mut template["volumes"], json!({ "name": "config", "configMap": { "name": name } }));
    push(&mut template["containers"][0]["volumeMounts"], json!({ "name": "config", "mountPath": path }));
}

/// Appends to a list, which is made where it is missing.
fn push(list: &mut Value, entry: Value) {
    match list {
        Value::Array(list) => list.push(entry),
        other => *other = json!([entry]),
    }
}
