//! What the Job does: it observes, decides and acts until the members are as wanted. One file each for scaling, for
//! replacing a member, and for following what was changed by hand.

pub mod apply;
pub mod bootstrap;
pub mod budget;
pub mod drift;
pub mod observe;
pub mod replace;
pub mod scale;
pub mod waits;
