//! What there is: what things are called, what was verified, what was seen just now, and how an object of
//! Kubernetes is read.

pub mod annotations;
pub mod capacity;
pub(crate) mod environment;
pub mod limits;
pub mod names;
pub mod object;
pub mod observed;
pub mod pod;
pub mod pools;
pub mod quorum;
pub mod record;
pub mod size;
pub mod start;
pub mod statefulset;
pub mod summary;
pub mod version;
pub mod volume;
