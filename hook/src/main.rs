//! The hook: the Job that brings etcd to the desired number of members, the init container in which
//! a joining pod waits for it, and what a person asks (docs/commands.md).

mod admit;
mod apply;
mod args;
mod before;
mod bootstrap;
mod budget;
mod deleted;
#[cfg(test)]
mod documented;
mod drift;
mod failpoint;
mod immutable;
mod lease;
mod leave;
mod objects;
mod observe;
mod plan;
mod pods;
mod pools;
mod preflight;
mod replace;
mod report;
mod scale;
mod serving;
mod snapshot;
mod status;
mod table;
mod unused;
mod validate;
mod volumes;
mod waiting;

use std::process::ExitCode;

use clap::Parser;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    // One crypto provider for every connection; kube and etcd-client pick it up.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        return report::failed("another crypto provider was installed before ring");
    }
    match args::Args::parse().run().await {
        Ok(code) => code,
        Err(error) => report::failed(&format!("{error:#}")),
    }
}
