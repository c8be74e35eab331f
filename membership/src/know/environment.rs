//! The environment of the etcd container, as it is read.

use serde_json::{Map, Value};

use super::object::{list, named, text};

/// Every member's name and peer URL. etcd reads it only when it first starts on a directory.
pub(crate) const INITIAL_CLUSTER: &str = "ETCD_INITIAL_CLUSTER";
/// `new` or `existing`. etcd reads it only when it first starts on a directory.
pub(crate) const INITIAL_CLUSTER_STATE: &str = "ETCD_INITIAL_CLUSTER_STATE";
/// The token: with another one, a cluster of the same member names gets another ID.
pub(crate) const INITIAL_CLUSTER_TOKEN: &str = "ETCD_INITIAL_CLUSTER_TOKEN";
/// The limit of the database, in bytes.
const QUOTA: &str = "ETCD_QUOTA_BACKEND_BYTES";
/// The same as an argument, which etcd prefers to the environment.
const QUOTA_FLAG: &str = "--quota-backend-bytes";
/// The variables that we write.
pub(crate) const MANAGED: [&str; 2] = [INITIAL_CLUSTER, INITIAL_CLUSTER_STATE];

/// The index of the etcd container in a pod spec.
pub(crate) fn container(pod_spec: &Value, name: &str) -> Option<usize> {
    named(list(pod_spec, &["containers"]), name)
}

/// Whether a container has its cluster's token from this ConfigMap.
pub(crate) fn token_is_from(container: &Value, map: &str) -> bool {
    let env = list(container, &["env"]);
    let entry = named(env, INITIAL_CLUSTER_TOKEN).map(|index| &env[index]);
    entry.and_then(|entry| text(entry, &["valueFrom", "configMapKeyRef", "name"])) == Some(map)
}

/// The quota of the database that a container sets, in bytes; `None`: it sets none, or not as a plain number.
pub(crate) fn quota(container: &Value) -> Option<u64> {
    let words: Vec<&str> =
        ["command", "args"].iter().flat_map(|key| list(container, &[key])).filter_map(Value::as_str).collect();
    let flag = words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix(QUOTA_FLAG)? {
        "" => words.get(at + 1).copied(),
        rest => rest.strip_prefix('='),
    });
    let env = list(container, &["env"]);
    let entry = || named(env, QUOTA).and_then(|index| text(&env[index], &["value"]));
    flag.or_else(entry)?.parse().ok()
}

/// The managed entries of a container's environment by name, `null` where there is none.
pub(crate) fn managed(container: &Value) -> Map<String, Value> {
    let env = list(container, &["env"]);
    let entry = |name: &str| named(env, name).map_or(Value::Null, |index| env[index].clone());
    MANAGED.iter().map(|name| ((*name).to_owned(), entry(name))).collect()
}
