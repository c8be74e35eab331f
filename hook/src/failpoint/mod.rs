//! Places at which a test stops the run, to kill it there or to do harm behind its back.
//!
//! Compiled only with the feature `failpoints`, which the shipped image is built without: there,
//! each of these calls is nothing.

#[cfg(feature = "failpoints")]
mod armed;
#[allow(dead_code, reason = "some of it is for the tests, which include the file, some for a run that is armed")]
mod names;
#[cfg(not(feature = "failpoints"))]
mod unarmed;

#[cfg(feature = "failpoints")]
pub use armed::{at, copied, recorded};
pub use names::Failpoint;
#[cfg(not(feature = "failpoints"))]
pub use unarmed::{at, copied, recorded};
