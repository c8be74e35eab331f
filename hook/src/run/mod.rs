//! What the Job does: it observes, decides and acts until the members are as asked for. Scaling, replacing a member and
//! following what was changed by hand are each a file.

pub mod apply;
pub mod bootstrap;
pub mod budget;
pub mod drift;
pub mod observe;
pub mod replace;
pub mod scale;
pub mod waits;
