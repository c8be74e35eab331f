//! What the last comparison of the members' keys found, in an annotation of the StatefulSet, in the form of Kubernetes'
//! conditions. The format is a contract.

use serde::{Deserialize, Serialize};

/// The version of the format.
const VERSION: u32 = 1;
/// Whether all voting members hold the same keys.
const DATA_EQUAL: &str = "DataEqual";

/// What the last comparison of the members' keys found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Status {
    /// They are the same.
    True,
    /// They differ, confirmed key by key.
    False,
    /// It could not be told.
    Unknown,
}

/// One condition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// What it is about.
    #[serde(rename = "type")]
    pub kind: String,
    /// How it is.
    pub status: Status,
    /// Since when, RFC 3339.
    pub last_transition_time: String,
    /// For people: what was found, and what to do.
    pub message: String,
}

/// The annotation's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    v: u32,
    /// At most one of a type.
    pub conditions: Vec<Condition>,
}

impl Summary {
    /// Reads the annotation; one that cannot be read, or is of another version, is none.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|summary| summary.v == VERSION)
    }

    /// The annotation's value.
    #[must_use]
    pub fn annotation(&self) -> String {
        // A struct of strings and numbers always serialises.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The summary with what a comparison has found now; `None`: there is nothing to write, because it is no news. An
    /// earlier result stays if it could not be told this time.
    #[must_use]
    pub fn with_data(before: Option<&Self>, status: Status, message: &str, now: &str) -> Option<Self> {
        let mut conditions = before.map_or_else(Vec::new, |before| before.conditions.clone());
        let told = |it: &Condition| it.status == status || status == Status::Unknown;
        if conditions.iter().any(|it| it.kind == DATA_EQUAL && told(it)) {
            return None;
        }
        conditions.retain(|condition| condition.kind != DATA_EQUAL);
        conditions.push(Condition {
            kind: DATA_EQUAL.to_owned(),
            status,
            last_transition_time: now.to_owned(),
            message: message.to_owned(),
        });
        Some(Self { v: VERSION, conditions })
    }

    /// The condition that says that members hold different keys, if the last comparison confirmed that.
    #[must_use]
    pub fn diverged(&self) -> Option<&Condition> {
        self.conditions.iter().find(|it| it.kind == DATA_EQUAL && it.status == Status::False)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_is_kubernetes_conditions() {
        let differ = Summary::with_data(None, Status::False, "3 keys differ", "2026-11-26T03:00:00Z").unwrap();
        insta::assert_snapshot!(differ.annotation(), @r#"{"v":1,"conditions":[{"type":"DataEqual","status":"False","lastTransitionTime":"2026-11-26T03:00:00Z","message":"3 keys differ"}]}"#);
        assert_eq!(Summary::parse(&differ.annotation()), Some(differ.clone()));
        assert_eq!(differ.diverged().unwrap().message, "3 keys differ");
        assert_eq!(Summary::with_data(Some(&differ), Status::False, "4 keys differ", "later"), None);
        let equal = Summary::with_data(Some(&differ), Status::True, "the same", "later").unwrap();
        assert_eq!((equal.conditions.len(), equal.diverged()), (1, None));
        // What could not be told does not make it good again.
        assert_eq!(Summary::with_data(Some(&differ), Status::Unknown, "no answer", "later"), None);
        assert_eq!(Summary::parse(r#"{"v":2,"conditions":[]}"#), None);
    }
}
