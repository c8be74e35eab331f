//! What the cluster tests are written with: kubectl and Helm as a person runs them, each with a
//! deadline, on the cluster that KUBECONFIG names.
//!
//! A scenario ([`scenario::run`]) has a namespace, a release, volumes and directories of its own
//! ([`release::Release`]), and is cleaned up behind. [`load::Load`] is the writer that the main job
//! is done under, [`members`] what etcd and its pods look like, [`jobs`] what our Jobs left
//! behind, [`fill`] keys by the million, [`rolls`] what happened to pods while something rolled, [`faults`], [`disk`] and
//! [`webhook`] what goes wrong on purpose, [`dump`] what is printed when a scenario fails.
//! [`objects`] reads what Kubernetes has, [`places`] says which nodes members may be on. [`foreign`]
//! is an etcd that is not the release's, [`ways_out`] the commands in messages, [`set`] the StatefulSet as a manifest that is
//! deleted and created again, [`kept`] what an installation can leave behind, [`one_etcd`] a process without Kubernetes.

pub mod cluster;
pub mod disk;
pub mod dump;
pub mod failpoints;
pub mod faults;
pub mod fill;
pub mod foreign;
pub mod jobs;
pub mod journal;
pub mod kept;
pub mod load;
pub mod members;
pub mod memory;
pub mod objects;
pub mod one_etcd;
pub mod places;
pub mod process;
pub mod referee;
pub mod release;
pub mod rolls;
pub mod scenario;
pub mod seed;
pub mod set;
pub mod turns;
pub mod ways_out;
pub mod webhook;
