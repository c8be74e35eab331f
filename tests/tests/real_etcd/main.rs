//! What needs etcd processes and no cluster. `ETCD` names the binary; `make test` sets it to each
//! version that the bed has.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod loopback;
mod members_log;
mod pods;
mod replay;
