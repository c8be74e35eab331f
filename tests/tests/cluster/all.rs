//! The scenarios that only `make test-all` runs: each of them is minutes, together they are hours.

mod bad_install;
mod by_hand;
mod commands;
mod drift;
mod failed_joins;
mod guard;
mod helm;
mod image_gone;
mod kept;
mod kills;
mod leaving;
mod lost_disk;
mod minds;
mod outages;
mod pools;
mod recreated;
mod replace;
mod rollout;
mod sick;
mod snapshot;
mod stale;
mod validation;
mod versions;
mod ways;
mod webhook_down;
