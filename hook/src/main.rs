//! The hook: the Job that brings etcd to the desired number of members, and the init container
//! in which a joining pod waits for it.

mod admit;
mod apply;
mod args;
mod failpoint;
mod immutable;
mod lease;
mod leave;
mod objects;
mod observe;
mod pods;
mod preflight;
mod report;
mod scale;
mod serving;
mod snapshot;
mod unused;
mod volumes;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // One crypto provider for every connection; kube and etcd-client pick it up.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return report::failed("another crypto provider was installed before ring");
    }
    match args::Args::parse().run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report::failed(&format!("{error:#}")),
    }
}
