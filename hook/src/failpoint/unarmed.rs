//! What the shipped program has: nothing.

use std::future::{Ready, ready};

use kubernetes::lease::Lease;
use membership::know::record::Record;

use super::Failpoint;

/// Stops here if a test asked for it.
pub fn at(_: Failpoint, _: &Lease) -> Ready<()> {
    ready(())
}

/// The same where a record was copied to the Lease.
pub fn copied(_: Option<&Record>, _: &Record, _: &Lease) -> Ready<()> {
    ready(())
}

/// The same where a record was written.
pub fn recorded(_: Option<&Record>, _: &Record, _: &Lease) -> Ready<()> {
    ready(())
}
