//! What is said of a cluster to somebody who asks. Only reads: nothing is written, to etcd or to Kubernetes.

#[cfg(test)]
mod documented;
pub mod output;
pub mod plan;
pub mod status;
pub mod table;
pub mod validate;
