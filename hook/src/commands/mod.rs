//! What else a person or Helm asks for: the flags of each command, and those that are no run.

pub mod leave;
pub mod plan;
pub mod preflight;
pub mod snapshot;
pub mod status;
pub mod validate;
