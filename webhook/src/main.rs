//! The webhook of one etcd StatefulSet: the admission server, and the launcher that starts the scaling Job where no
//! Helm hook does.

mod admission;
mod cli;
mod events;
mod health;
mod launcher;
mod server;

use clap::Parser;

// One thread is enough for what is done here, and keeps the idle process small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    cli::Args::parse().run().await
}
