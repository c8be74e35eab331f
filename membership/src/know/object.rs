//! Reading an object of the API server: its own JSON, untyped, so that a field which this program does not know is
//! never lost.

use serde_json::Value;

/// The value at a path of an object; `null` counts as absent.
pub(crate) fn get<'a>(object: &'a Value, path: &[&str]) -> Option<&'a Value> {
    let found = path.iter().try_fold(object, |value, key| match value {
        Value::Array(list) => list.get(key.parse::<usize>().ok()?),
        other => other.get(key),
    });
    found.filter(|value| !value.is_null())
}

/// A text at a path of an object.
pub(crate) fn text<'a>(object: &'a Value, path: &[&str]) -> Option<&'a str> {
    get(object, path)?.as_str()
}

/// The list at a path of an object, empty where it is absent.
pub(crate) fn list<'a>(object: &'a Value, path: &[&str]) -> &'a [Value] {
    get(object, path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The index of the entry of that name in a list of named things.
pub(crate) fn named(list: &[Value], name: &str) -> Option<usize> {
    list.iter().position(|entry| text(entry, &["name"]) == Some(name))
}

/// The value of an annotation.
#[must_use]
pub fn annotation<'a>(object: &'a Value, key: &str) -> Option<&'a str> {
    text(object, &["metadata", "annotations", key])
}
