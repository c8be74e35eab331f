//! The tests that need a cluster: `make test` runs them, tests/README.md tells how to run one.
//! One program, so that three scenarios run at a time: most of each is waiting.

mod all;
mod annotations;
mod deleted;
mod disruption;
mod failures;
mod foreign;
mod kept;
mod kills;
mod lost_claim;
mod lost_disk;
mod main_job;
mod recreated;
mod referee;
mod refusals;
mod rollout;
mod said;
mod ways;
mod webhook_down;
