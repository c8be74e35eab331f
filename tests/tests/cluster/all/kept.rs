//! The pairwise set of what an earlier installation can leave, and three more rows by chance.

use futures::StreamExt;
use tests::kept::Row;
use tests::kept::rows::{by_chance, pairwise};
use tests::seed::Seed;

use crate::kept::{KEPT, runs};

type Result = anyhow::Result<()>;

/// As many as run beside each other elsewhere.
const AT_ONCE: usize = 3;

/// Every row is run, whatever became of the others.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn each_pair_of_what_is_left_and_three_rows_by_chance() -> Result {
    let mut seed = Seed::from_environment();
    println!("three rows by chance: {}", seed.again());
    let chance = by_chance(&mut seed, 3);
    let only: Option<usize> = std::env::var("ROW").ok().and_then(|row| row.parse().ok());
    let rows = pairwise().into_iter().chain(chance).enumerate();
    let rows = rows.filter(|(at, _)| only.is_none_or(|only| only == *at));
    let failed = futures::stream::iter(rows).map(|(at, row)| async move {
        let error = runs(&format!("kept-{at}"), row).await.err()?;
        println!("ROW {at} failed: {row}: {error:#}");
        Some(at)
    });
    let failed: Vec<usize> = failed.buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await;
    anyhow::ensure!(failed.is_empty(), "rows {failed:?} did not end as they must (ROW=N has one again)");
    Ok(())
}

/// With each of the three ways out; an earlier version made two clusters of it.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn one_becomes_three_without_its_claim() -> Result {
    runs("kept-one", Row { counts: (1, 3), claims: false, ..KEPT }).await
}
