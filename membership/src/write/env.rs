//! The environment of the etcd container: what is written into it.

use serde_json::{Map, Value, json};

use super::Edit;
use crate::know::environment::{INITIAL_CLUSTER_TOKEN, MANAGED, container};
use crate::know::names;
use crate::know::object::{named, text};

/// A peer that does not exist, appended to `ETCD_INITIAL_CLUSTER` in a template (RFC 6761: `.invalid` never resolves).
/// With it the list has one member more than the live cluster, so etcd refuses to start on an empty directory ("member
/// count is unequal"). On a directory with data etcd does not read the list (run: `all::lost_disk`).
pub(super) const NO_START_WITHOUT_DATA: &str =
    "no-start-without-data=http://a-member-that-lost-its-disk-must-not-start-empty.invalid:2380";

/// A pod template without the managed environment and without the annotations that it may come from. Two such templates
/// differ only if something else was changed, which a roll-out is for.
pub(super) fn without_managed(template: &Value, name: &str) -> Value {
    let mut template = template.clone();
    if let Some(Value::Object(metadata)) = template.get_mut("metadata") {
        if let Some(Value::Object(annotations)) = metadata.get_mut("annotations") {
            annotations.retain(|key, _| key != names::INITIAL_CLUSTER && key != names::INITIAL_CLUSTER_STATE);
        }
        // An empty map and no map are the same annotations.
        if metadata.get("annotations").and_then(Value::as_object).is_none_or(Map::is_empty) {
            metadata.remove("annotations");
        }
    }
    let index = template.get("spec").and_then(|spec| container(spec, name));
    let env = index.and_then(|index| template.pointer_mut(&format!("/spec/containers/{index}")));
    if let Some(Value::Object(container)) = env {
        if let Some(Value::Array(env)) = container.get_mut("env") {
            env.retain(|entry| !MANAGED.iter().any(|name| text(entry, &["name"]) == Some(name)));
        }
        // An empty list and no list are the same environment.
        if container.get("env").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            container.remove("env");
        }
    }
    template
}

/// Sets an entry of a container's environment to a literal. Never leaves a second one of that
/// name: server-side apply refuses those (facts-kubernetes G).
pub(super) fn set(edit: &mut Edit, container: &[&str], name: &str, value: &str) {
    let env = [container, &["env"]].concat();
    let entries = edit.get(&env).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let found: Vec<String> = (0..entries.len())
        .filter(|&index| text(&entries[index], &["name"]) == Some(name))
        .map(|index| index.to_string())
        .collect();
    let literal = json!({ "name": name, "value": value });
    let Some((first, doubles)) = found.split_first() else {
        return edit.push(&env, literal);
    };
    // The last one first, so that the indices before it stay right.
    for double in doubles.iter().rev() {
        edit.remove(&[&env[..], &[double.as_str()]].concat());
    }
    // Only the value is set if the entry is a literal, because a chart that sets it owns the value alone. An entry with
    // valueFrom is replaced as a whole.
    let entry = [&env[..], &[first.as_str()]].concat();
    let plain = edit.get(&[&entry[..], &["valueFrom"]].concat()).is_none();
    if plain {
        edit.set(&[&entry[..], &["value"]].concat(), Value::from(value));
    } else {
        edit.remove(&entry);
        edit.insert(&entry, literal);
    }
}

/// Makes the reference to the token's ConfigMap optional, so that etcd starts also if that is gone: with data, or when
/// joining, etcd reads no token.
pub(super) fn start_without_token(edit: &mut Edit, container: &[&str], map: &str) {
    let env = [container, &["env"]].concat();
    let entries = edit.get(&env).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let Some(index) = named(entries, INITIAL_CLUSTER_TOKEN) else { return };
    if text(&entries[index], &["valueFrom", "configMapKeyRef", "name"]) == Some(map) {
        edit.set(&[&env[..], &[&index.to_string(), "valueFrom", "configMapKeyRef", "optional"]].concat(), true.into());
    }
}

/// The initial cluster for a template from which pods may be made while no webhook runs: these peers, and one that does
/// not exist.
pub(super) fn without_start_on_no_data(peers: &str) -> String {
    format!("{peers},{NO_START_WITHOUT_DATA}")
}

/// Puts the managed entries back as [`managed`](crate::know::environment::managed) read them.
pub(super) fn restore(edit: &mut Edit, container: &[&str], own: &Map<String, Value>) {
    let env = [container, &["env"]].concat();
    for name in MANAGED {
        let Some(entry) = own.get(name) else { continue };
        let entries = edit.get(&env).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        match (named(entries, name).map(|index| index.to_string()), entry) {
            (Some(index), Value::Null) => edit.remove(&[&env[..], &[&index]].concat()),
            (Some(index), entry) => {
                let place = [&env[..], &[&index]].concat();
                if edit.get(&place) != Some(entry) {
                    edit.remove(&place);
                    edit.insert(&place, entry.clone());
                }
            }
            (None, Value::Null) => {}
            (None, entry) => edit.push(&env, entry.clone()),
        }
    }
}

/// Removes the managed entries that are the same in both templates: they came from us.
pub(super) fn take_back(edit: &mut Edit, container: &[&str], before: &Map<String, Value>, now: &Map<String, Value>) {
    let same = MANAGED.iter().filter(|name| before.get(**name).is_some_and(|entry| now.get(**name) == Some(entry)));
    let taken: Map<String, Value> = same.map(|name| ((*name).to_owned(), Value::Null)).collect();
    restore(edit, container, &taken);
}
