//! A key as a member holds it, and how far a member's keys are known.

/// One key as a member holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The ID of its lease, 0 for none.
    pub lease: i64,
    /// How often it was written since it was made.
    pub version: i64,
    /// The revision that made it.
    pub created: i64,
    /// The revision that wrote it last.
    pub modified: i64,
}

/// How far a member's keys are read: all before a key, or all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Through {
    /// All keys below this one.
    Before(Vec<u8>),
    /// All keys.
    End,
}

impl Through {
    /// Before the first key: etcd has no empty key.
    pub fn start() -> Self {
        Self::Before(vec![0])
    }
}
