//! What else a person or Helm asks for.

pub mod leave;
