//! What is checked before anything is changed: what Helm would change, the members, disk pools, room for newcomers; and
//! the snapshot.

pub mod before;
pub mod deleted;
pub mod immutable;
pub mod pools;
pub mod preflight;
pub mod snapshot;
pub mod unused;
