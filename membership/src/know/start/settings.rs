//! The settings of one etcd container: its flags and its variables, as the kubelet expands them.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::know::names::{Ordinal, Target};
use crate::know::object::{list, text};

/// The value of a setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It is not given.
    Absent,
    /// It is given, and its value is not in the pod: it refers to another object, or to a variable that is not known.
    Unknown,
    /// This value.
    Is(String),
}

impl Told {
    fn given(value: Option<String>) -> Self {
        value.map_or(Self::Unknown, Self::Is)
    }
}

/// Flags and variables of a container.
pub(super) struct Settings<'a> {
    flags: Vec<(&'a str, Option<&'a str>)>,
    /// By name; `None`: its value is not in the pod.
    variables: BTreeMap<&'a str, Option<String>>,
}

impl<'a> Settings<'a> {
    /// Those of the etcd container in the pod of this ordinal.
    pub(super) fn of(etcd: &'a Value, target: &Target, ordinal: Ordinal) -> Self {
        let line: Vec<&str> = command_line(etcd).skip(1).collect();
        let mut flags = Vec::new();
        let mut rest = &line[..];
        while let Some((&word, behind)) = rest.split_first() {
            rest = behind;
            let Some(flag) = flag(word) else { continue };
            flags.push(match (flag.split_once('='), behind.split_first()) {
                (Some((name, value)), _) => (name, Some(value)),
                (None, Some((&value, behind))) if !value.starts_with('-') => {
                    rest = behind;
                    (flag, Some(value))
                }
                (None, _) => (flag, None),
            });
        }
        let mut variables = BTreeMap::new();
        for entry in list(etcd, &["env"]) {
            let Some(name) = text(entry, &["name"]) else { continue };
            let value = match (text(entry, &["valueFrom", "fieldRef", "fieldPath"]), entry.get("valueFrom")) {
                (Some("metadata.name"), _) => Some(target.pod(ordinal)),
                (Some("metadata.namespace"), _) => Some(target.namespace.clone()),
                (_, Some(from)) if !from.is_null() => None,
                _ => expand(text(entry, &["value"]).unwrap_or_default(), &variables),
            };
            variables.insert(name, value);
        }
        Self { flags, variables }
    }

    /// Whether it is on the command line.
    pub(super) fn has_flag(&self, name: &str) -> bool {
        self.flags.iter().any(|(flag, _)| *flag == name)
    }

    /// Whether it is among the variables. An empty variable counts as none, as it does for etcd.
    pub(super) fn has_variable(&self, name: &str) -> bool {
        self.variables.get(variable(name).as_str()).is_some_and(|value| value.as_deref() != Some(""))
    }

    /// The value that etcd takes: of the flag if there is one, else of the variable; of several, the last.
    pub(super) fn of_either(&self, name: &str) -> Told {
        if let Some((_, value)) = self.flags.iter().rfind(|(flag, _)| *flag == name) {
            // A flag without a value is a switch.
            return Told::given(expand(value.unwrap_or("true"), &self.variables));
        }
        if !self.has_variable(name) {
            return Told::Absent;
        }
        Told::given(self.variables.get(variable(name).as_str()).cloned().flatten())
    }
}

/// The variable that etcd reads if this flag is not given.
fn variable(flag: &str) -> String {
    format!("ETCD_{}", flag.to_uppercase().replace('-', "_"))
}

/// A container's command and arguments, word by word as they are given.
pub(super) fn command_line(container: &Value) -> impl Iterator<Item = &str> {
    ["command", "args"].into_iter().flat_map(|key| list(container, &[key])).filter_map(Value::as_str)
}

/// A flag without its dashes, one or two: its name, and what stands behind `=`, if anything.
fn flag(word: &str) -> Option<&str> {
    let name = word.strip_prefix("--").or_else(|| word.strip_prefix('-'))?;
    (!name.is_empty()).then_some(name)
}

/// Whether all of these are flags, each with at most one value. If not, they are a subcommand of etcd (`gateway`) or a
/// text for a shell.
pub(super) fn are_flags(arguments: &[&str]) -> bool {
    let mut takes_value = false;
    arguments.iter().all(|word| {
        let is_flag = flag(word).is_some();
        let fits = is_flag || takes_value;
        takes_value = is_flag && !word.contains('=');
        fits
    })
}

/// A text with each `$(NAME)` replaced by the variable of that name, as the kubelet does it with the variables that are
/// declared before it; `None`: one of them is not known. `$$` stands for one `$`.
fn expand(value: &str, variables: &BTreeMap<&str, Option<String>>) -> Option<String> {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, behind)) = rest.split_once('$') {
        expanded += before;
        rest = if let Some(behind) = behind.strip_prefix('$') {
            expanded.push('$');
            behind
        } else if let Some((name, behind)) = behind.strip_prefix('(').and_then(|name| name.split_once(')')) {
            expanded += variables.get(name)?.as_deref()?;
            behind
        } else {
            expanded.push('$');
            behind
        };
    }
    Some(expanded + rest)
}
