//! How the page's etcd is started: its container and its claims.

use serde_json::{Value, json};

use super::puls8;

/// The etcd container of a chart that sets etcd's variables, in a StatefulSet or in a pod of it.
#[must_use]
pub fn etcd() -> Value {
    let host = format!("http://$(ETCD_NAME).{}.{}.svc.{}", puls8().service, puls8().namespace, puls8().cluster_domain);
    json!({
        "name": "etcd", "image": "registry.k8s.io/etcd:3.6.14", "command": ["/usr/local/bin/etcd"],
        "env": [
            { "name": "ETCD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
            { "name": "ETCD_INITIAL_CLUSTER", "value": "puls8-etcd-0=http://chart:2380" },
            { "name": "ETCD_INITIAL_CLUSTER_STATE", "value": "new" },
            { "name": "ETCD_DATA_DIR", "value": "/var/lib/etcd/data" },
            { "name": "ETCD_INITIAL_ADVERTISE_PEER_URLS", "value": format!("{host}:2380") },
        ],
        "volumeMounts": [{ "name": "data", "mountPath": "/var/lib/etcd" }],
    })
}

/// The same in Bitnami's chart: their scripts start etcd.
#[must_use]
pub fn bitnamis(image: &str) -> Value {
    let mut etcd = etcd();
    etcd["image"] = image.into();
    etcd["command"] = Value::Null;
    if let Some(env) = etcd["env"].as_array_mut() {
        env.push(json!({ "name": "MY_STS_NAME", "value": "puls8-etcd" }));
    }
    etcd
}

/// The claims that each pod has of its own.
#[must_use]
pub fn claims() -> Value {
    json!([{ "metadata": { "name": "data" }, "spec": { "storageClassName": "manual" } }])
}
