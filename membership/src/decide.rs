//! What may be done, and what is done next. Each decision is a function of what was observed.

pub mod bootstrap;
pub mod budget;
pub mod deleted;
pub mod drift;
pub mod guard;
pub mod lost_claim;
pub mod next_step;
pub mod outline;
pub mod replace;
pub mod snapshot_source;
