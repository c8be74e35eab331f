//! The domain of etcd-scaler, pure: nothing here has a client, a clock, an environment or a runtime. Time and
//! observations are arguments.
//!
//! [`know`] is what there is: names, the record, what was observed, how an etcd is started. [`decide`] is what may
//! be done and what is done next. [`write`] is what is written into the objects. Deciding and writing rest on
//! knowing, and not on each other.

pub mod decide;
pub mod know;
#[cfg(any(test, feature = "world"))]
pub mod world;
pub mod write;
