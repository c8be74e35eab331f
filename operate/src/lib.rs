//! The answers of `hook status`, `hook plan` and `hook validate`. They only read: nothing is written to etcd or
//! Kubernetes.

#[cfg(test)]
mod documented;
pub mod output;
pub mod plan;
pub mod status;
pub mod table;
pub mod validate;
