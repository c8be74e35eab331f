//! The admission server of one etcd StatefulSet, and the launcher that starts the scaling Job when
//! no Helm hook will.

mod admission;
mod cli;
mod events;
mod health;
mod launcher;
mod server;

use clap::Parser;

// One thread: what is done here is little, and the idle process should be small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    cli::Args::parse().run().await
}
