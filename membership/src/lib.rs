//! The domain of etcd-scaler, pure.
//!
//! What an etcd cluster in a StatefulSet is called ([`names`]), how its etcd is started ([`start`]), what was
//! verified about it ([`record`], [`serving`]), what was seen of it just now ([`observed`]), whether a change may start
//! ([`guard`], [`drift`]), whether a new cluster may begin ([`bootstrap`]), what to do next ([`next_step`]), whose
//! database is saved ([`snapshot`]), and
//! what is written into the objects ([`patch`], [`volume`]). Nothing here has a client, a clock, an
//! environment or a runtime:
//! time and observations are arguments.

pub mod bootstrap;
pub mod budget;
pub mod deleted;
pub mod drift;
pub mod guard;
pub mod lost_claim;
pub mod names;
pub mod next_step;
pub mod observed;
pub mod outline;
pub mod patch;
pub mod pools;
pub mod quorum;
pub mod record;
pub mod replace;
pub mod room;
pub mod serving;
pub mod size;
pub mod snapshot;
pub mod start;
pub mod summary;
pub mod version;
pub mod volume;
#[cfg(any(test, feature = "world"))]
pub mod world;
