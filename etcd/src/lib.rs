//! etcd, as this product uses it: a connection leads to exactly one member, every call has a deadline, and only the
//! membership is ever changed.
//!
//! [`member`] asks one member, [`change`] changes the membership through one, [`validation`] compares the hashes of all
//! members, [`diff`] their keys, [`status`] is what a member says of itself, [`wal`] tells whose data a directory
//! holds, [`set_aside`] moves a removed member's data out of the way, [`snapshot`] saves a member's whole database into
//! a file, [`refusal`] lists the refusals of a server that matter here.

mod change;
mod diff;
mod member;
mod refusal;
mod set_aside;
mod snapshot;
mod status;
mod validation;
mod wal;

pub use diff::{Counts, Diff, Difference, Held, Kind, Limits, diff};
pub use member::{Member, observe};
pub use refusal::{CallError, Refusal};
pub use set_aside::{SetAsideError, cleared, is_cleared, keep_aside, set_aside};
pub use snapshot::{Damage, Partial, Revisions, Saved, Sha256, SnapshotError, sweep, verify};
pub use status::{Status, statuses};
pub use validation::{Hashed, Keys, Verdict, validate, validate_at};
pub use wal::{DataDir, Fields, Record, Records, WalError, identify, whose};
