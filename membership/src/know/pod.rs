//! Reading a pod.

use serde_json::Value;

use super::object::{list, text};

/// Whether this very StatefulSet owns a pod, by its UID: not an earlier one of the same name. A pod that a person made
/// has no such owner.
#[must_use]
pub fn owned_by(pod: &Value, statefulset: &Value) -> bool {
    let uid = text(statefulset, &["metadata", "uid"]);
    list(pod, &["metadata", "ownerReferences"])
        .iter()
        .any(|owner| text(owner, &["kind"]) == Some("StatefulSet") && text(owner, &["uid"]) == uid)
}

/// Whether the kubelet says that it is Ready.
#[must_use]
pub fn is_ready(pod: &Value) -> bool {
    let is = |condition: &Value, field: &str, value: &str| text(condition, &[field]) == Some(value);
    list(pod, &["status", "conditions"]).iter().any(|it| is(it, "type", "Ready") && is(it, "status", "True"))
}
