//! What only etcd-scaler writes into a pod: its annotations, and the containers and the volume of a joining pod.
//! Anybody who may write a pod template could put them there, and then every member's pod would have them. So they are
//! refused in templates, and the annotations are taken off pods that do not wait to join.

use serde_json::Value;

use super::Edit;
use crate::know::names::{ADMIT, ETCD_VERSION, INITIAL_CLUSTER, INITIAL_CLUSTER_STATE, JOINER, PREFIX, WAITS_FOR};
use crate::know::object::{get, list, named};

/// The name of the volume in which `admit` reads the permission.
pub(super) const PERMISSION_VOLUME: &str = "etcd-scaler-permission";
/// Those of our annotations that a chart may have in its template: etcd's environment may come from them.
const OF_CHARTS: [&str; 2] = [INITIAL_CLUSTER, INITIAL_CLUSTER_STATE];
/// Those that a joining pod has when it is made. A permission is not among them: it is written later, into one pod; in
/// a template it would be for every pod.
const OF_JOINERS: [&str; 2] = [JOINER, WAITS_FOR];

/// Takes our annotations off a pod that is being created, except those of a chart, and those of a joiner if it is one.
pub(super) fn take_off(edit: &mut Edit, is_joiner: bool) {
    let stays = |key: &str| OF_CHARTS.contains(&key) || (is_joiner && OF_JOINERS.contains(&key));
    for key in annotations(&edit.object).filter(|key| !stays(key)).map(str::to_owned).collect::<Vec<_>>() {
        edit.remove(&["metadata", "annotations", &key]);
    }
}

/// What of ours the new template has and the one before it has not. What was there already is let pass, so that it does
/// not keep a person from repairing the StatefulSet.
pub(super) fn added(template: &Value, before: Option<&Value>) -> Option<String> {
    let before = before.unwrap_or(&Value::Null);
    let had = |key: &str| annotations(before).any(|other| other == key);
    if let Some(key) = annotations(template).find(|key| !OF_CHARTS.contains(key) && !had(key)) {
        return Some(format!("the annotation {key}"));
    }
    for (place, names, what) in [
        (["spec", "initContainers"], &[ADMIT, ETCD_VERSION][..], "the init container"),
        (["spec", "volumes"], &[PERMISSION_VOLUME][..], "the volume"),
    ] {
        let has = |template: &Value, name: &str| named(list(template, &place), name).is_some();
        if let Some(name) = names.iter().find(|name| has(template, name) && !has(before, name)) {
            return Some(format!("{what} {name}"));
        }
    }
    None
}

/// Why a template is refused that has `what`.
pub(super) fn refusal(target: &impl std::fmt::Display, what: &str) -> String {
    format!(
        "this pod template of {target} is refused: it has {what}, which only etcd-scaler writes, and only into a pod that waits to join. In a template it would be in every member's pod. Leave it out."
    )
}

/// The keys of our annotations on a pod or a template.
fn annotations(object: &Value) -> impl Iterator<Item = &str> {
    let all = get(object, &["metadata", "annotations"]).and_then(Value::as_object);
    all.into_iter().flat_map(|all| all.keys()).map(String::as_str).filter(|key| key.starts_with(PREFIX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_only_ours_is_told_where_a_template_gets_it() {
        let bare = json!({ "metadata": { "annotations": { "a": "b", INITIAL_CLUSTER: "x" } }, "spec": {} });
        assert_eq!(added(&bare, None), None);
        let with = |place: &str, value: Value| {
            let mut template = bare.clone();
            template.pointer_mut(place).unwrap().as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
            template
        };
        let cases = [
            (with("/metadata/annotations", json!({ JOINER: "true" })), "the annotation etcd-scaler.io/joiner"),
            (with("/metadata/annotations", json!({ "etcd-scaler.io/new": "" })), "the annotation etcd-scaler.io/new"),
            (
                with("/spec", json!({ "initContainers": [{ "name": "a" }, { "name": "admit" }] })),
                "the init container admit",
            ),
            (
                with("/spec", json!({ "initContainers": [{ "name": "etcd-version" }] })),
                "the init container etcd-version",
            ),
            (with("/spec", json!({ "volumes": [{ "name": PERMISSION_VOLUME }] })), "the volume etcd-scaler-permission"),
        ];
        for (template, what) in cases {
            assert_eq!(added(&template, None).as_deref(), Some(what));
            assert_eq!(added(&template, Some(&bare)).as_deref(), Some(what));
            assert_eq!(added(&template, Some(&template)), None, "{what} was there before");
        }
    }
}
