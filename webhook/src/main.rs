//! The admission server of one etcd StatefulSet, and the launcher that starts the scaling Job when
//! no Helm hook will.

mod admission;
mod args;
mod bundle;
mod certificate;
mod cluster;
mod controller;
mod events;
#[cfg(test)]
mod fake_api;
mod health;
mod held;
mod launcher;
mod lost_claim;
mod lost_disk;
mod owner;
mod readiness;
mod server;

use clap::Parser;

// One thread: what is done here is little, and the idle process should be small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    args::Args::parse().run().await
}
