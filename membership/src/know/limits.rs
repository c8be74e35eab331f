//! The limits that a StatefulSet sets for its members' data.

/// etcd's own quota where none is set (etcd, "Storage size limit").
pub const DEFAULT_QUOTA: u64 = 2 << 30;

/// The limits that the StatefulSet sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The quota of the database in bytes; used for servers that do not tell theirs (before 3.6).
    pub quota: u64,
    /// The size of a newcomer's volume in bytes, if its claim names one.
    pub volume: Option<u64>,
}

impl Default for Room {
    fn default() -> Self {
        Self { quota: DEFAULT_QUOTA, volume: None }
    }
}
