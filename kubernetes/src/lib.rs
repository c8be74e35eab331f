//! What both programs need of Kubernetes: the client and how its requests fail ([`objects`]); the StatefulSet, its pods
//! and volumes, read for `membership`; watches, the Lease, Events and the log, the flags.

pub mod flags;
pub mod lease;
pub mod objects;
pub mod pods;
pub mod report;
pub mod serving;
pub mod statefulset;
pub mod volumes;
pub mod waiting;
pub mod watch;
