//! The commands that a person or Helm runs, apart from the runs in [`crate::run`]: the flags of each, and what it
//! calls.

pub mod leave;
pub mod plan;
pub mod preflight;
pub mod snapshot;
pub mod status;
pub mod validate;
