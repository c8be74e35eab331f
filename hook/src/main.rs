//! The hook: the Job that brings etcd to the desired number of members, the init container in which
//! a joining pod waits for it, and what a person asks (docs/commands.md).

mod admit;
mod checks;
mod cli;
mod commands;
mod failpoint;
mod run;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // One crypto provider for every connection; kube and etcd-client pick it up.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return kubernetes::report::failed("another crypto provider was installed before ring");
    }
    match cli::Args::parse().run().await {
        Ok(code) => code,
        Err(error) => kubernetes::report::failed(&format!("{error:#}")),
    }
}
