//! What a live StatefulSet of an earlier chart keeps when it is updated to the chart of today, so that no member is
//! restarted for it: settings that etcd reads on an empty directory only. Helm renders them from the live object
//! (`lookup`); a program that only renders, such as a GitOps controller, cannot, so the webhook does it.

use json_patch::Patch;
use serde_json::Value;

use super::Edit;
use crate::know::environment;
use crate::know::names::{LOOK, Target};
use crate::know::object::{get, list, named, text};

/// The update with what the live object keeps, and the patch for that; `None`: it keeps nothing.
#[must_use]
pub fn carried(old: &Value, new: &Value, target: &Target) -> Option<(Value, Patch)> {
    let mut edit = Edit::new(new);
    let spec = ["spec", "template", "spec"];
    token(&mut edit, get(old, &spec)?, get(new, &spec)?, target);
    look(&mut edit, get(old, &spec)?, get(new, &spec)?);
    (!edit.operations.is_empty()).then(|| (edit.object.clone(), edit.finish()))
}

/// If the live token is a literal, it stays instead of the reference to our ConfigMap.
fn token(edit: &mut Edit, old: &Value, new: &Value, target: &Target) -> Option<()> {
    let (before, now) =
        (environment::container(old, &target.container)?, environment::container(new, &target.container)?);
    let (before, container) = (&list(old, &["containers"])[before], &list(new, &["containers"])[now]);
    let entries = list(before, &["env"]);
    let literal = &entries[named(entries, environment::INITIAL_CLUSTER_TOKEN)?];
    text(literal, &["value"])?;
    if environment::token_is_from(container, &target.bootstrap()) {
        let at = named(list(container, &["env"]), environment::INITIAL_CLUSTER_TOKEN)?.to_string();
        let (now, env) = (now.to_string(), "env");
        let place = ["spec", "template", "spec", "containers", &now, env, &at];
        edit.remove(&place);
        edit.insert(&place, literal.clone());
    }
    Some(())
}

/// If the live init container does not look into the data directory, it stays: its cluster has begun already.
fn look(edit: &mut Edit, old: &Value, new: &Value) -> Option<()> {
    let (before, now) = (list(old, &["initContainers"]), list(new, &["initContainers"]));
    let before = get(&before[named(before, LOOK)?], &["command"])?;
    let at = named(now, LOOK)?;
    let looks = |command: &Value| command.to_string().contains("/dev/termination-log");
    let command = get(&now[at], &["command"])?;
    if looks(command) && !looks(before) && text(before, &["0"]) == Some("chown") {
        edit.set(&["spec", "template", "spec", "initContainers", &at.to_string(), "command"], before.clone());
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;
    use serde_json::json;

    fn statefulset(command: &Value, token: Value) -> Value {
        let mut entry = json!({ "name": "ETCD_INITIAL_CLUSTER_TOKEN" });
        entry.as_object_mut().unwrap().extend(token.as_object().unwrap().clone());
        json!({ "spec": { "template": { "spec": {
            "initContainers": [{ "name": "volume-permissions", "command": command }],
            "containers": [{ "name": "etcd", "env": [{ "name": "A", "value": "b" }, entry] }],
        } } } })
    }

    #[test]
    fn an_earlier_charts_statefulset_stays_as_it_is_and_a_new_one_too() {
        let chown = json!(["chown", "-R", "1001:1001", "/var/lib/etcd"]);
        let looks = json!(["sh", "-c", "chown -R 1001:1001 /var/lib/etcd; echo >/dev/termination-log"]);
        let map = json!({ "valueFrom": { "configMapKeyRef": { "name": "puls8-etcd-bootstrap", "key": "token" } } });
        let (old, new) = (statefulset(&chown, json!({ "value": "puls8-etcd.puls8" })), statefulset(&looks, map));
        let (kept, patch) = carried(&old, &new, &puls8()).unwrap();
        assert_eq!(kept, old);
        let mut patched = new.clone();
        json_patch::patch(&mut patched, &patch).unwrap();
        assert_eq!(patched, old);
        assert!(carried(&new, &new, &puls8()).is_none());
        assert!(carried(&old, &old, &puls8()).is_none());
        assert!(carried(&new, &old, &puls8()).is_none(), "the way back is a person's");
    }
}
