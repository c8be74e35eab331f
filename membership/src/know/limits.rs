//! The limits that a StatefulSet sets to the data of its members.

/// etcd's own quota where none is set (etcd, "Storage size limit").
pub const DEFAULT_QUOTA: u64 = 2 << 30;

/// The limits that the StatefulSet sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The backend quota in bytes, for servers that do not tell it themselves.
    pub quota: u64,
    /// What a newcomer's volume holds in bytes, where its claim says so.
    pub volume: Option<u64>,
}

impl Default for Room {
    fn default() -> Self {
        Self { quota: DEFAULT_QUOTA, volume: None }
    }
}
