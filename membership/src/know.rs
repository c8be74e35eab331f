//! What there is: what things are called, what was verified, what was seen just now, and how an object of
//! Kubernetes is read.

pub mod names;
pub mod observed;
pub mod pools;
pub mod quorum;
pub mod record;
pub mod room;
pub mod size;
pub mod start;
pub mod summary;
pub mod version;
