//! Installed again over what an earlier installation left: one cluster, no old log in it, or a question whose ways
//! out each end well. Four rows; the set is in `all::kept`.

use tests::kept::{By, Row, Share, run};
use tests::release::{Release, Storage};
use tests::scenario;

type Result = anyhow::Result<()>;

/// What is lost in each of them is said; the rest stays.
pub const KEPT: Row = Row {
    counts: (3, 3),
    storage: Storage::Manual,
    by: By::Helm4,
    namespace: true,
    statefulset: false,
    claims: true,
    volumes: true,
    directories: Share::All,
    lease: true,
};

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn one_of_three_directories_is_left() -> Result {
    runs("kept-dir", Row { claims: false, directories: Share::One, ..KEPT }).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn the_claims_are_left() -> Result {
    runs("kept-all", KEPT).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn three_become_four_without_the_lease() -> Result {
    runs("kept-four", Row { counts: (3, 4), lease: false, ..KEPT }).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn one_of_three_directories_is_left_under_a_statefulset_that_is_kept() -> Result {
    runs("kept-set", Row { statefulset: true, directories: Share::One, ..KEPT }).await
}

/// A release of the row's own kind.
pub async fn runs(name: &str, row: Row) -> Result {
    let release = Release::of(name, row.by.helm()).on(row.storage);
    scenario::run_on(release, async |release| run::row(release, &row).await).await
}
