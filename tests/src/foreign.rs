//! An etcd that is not the release's: a StatefulSet, its Services and volumes, applied with kubectl
//! as another chart would have them, and adopted by our chart with `etcd.enabled=false`.

use serde_json::{Value, json};

use crate::process::apply;
use crate::release::{Ran, Release};

/// The partition that this StatefulSet's owner chose: not the default, so that it is seen whether
/// it comes back.
pub const PARTITION: u32 = 2;

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
                        "storageClassName": "manual",
                        "resources": { "requests": { "storage": "2Gi" } },
                    },
                }],
            },
        })
    }

    /// Applies the foreign StatefulSet with three members, its Services and the volumes that its
    /// owner made for it.
    ///
    /// # Errors
    /// When the API server refuses something of it.
    pub async fn apply_foreign(&self) -> anyhow::Result<()> {
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
            self.foreign_statefulset(3),
        ];
        items.extend((0..3).map(|ordinal| {
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
