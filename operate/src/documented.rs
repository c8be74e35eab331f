//! A test helper that holds docs/commands.md to the fields of the answers.

use std::collections::BTreeSet;

/// Asserts that a section of docs/commands.md explains each field of this answer, and no other.
#[track_caller]
pub fn documented(section: &str, answer: &serde_json::Value) {
    fn fields(path: &str, value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(object) => object.iter().for_each(|(name, value)| {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                found.insert(path.clone());
                fields(&path, value, found);
            }),
            serde_json::Value::Array(items) => items.iter().for_each(|item| fields(path, item, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    fields("", answer, &mut found);
    assert_eq!(explained(section), found, "left: docs/commands.md, right: the answer");
}

/// The names in the first column of a section's tables.
fn explained(section: &str) -> BTreeSet<String> {
    let document = include_str!("../../docs/commands.md");
    let section = document.split_once(&format!("{section}\n")).map(|(_, rest)| rest).unwrap_or_default();
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    rows.map(|(name, _)| name.to_owned()).collect()
}
