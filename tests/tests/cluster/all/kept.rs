//! The pairwise set of what an earlier installation can leave, and three more rows by chance.

use tests::kept::rows::{by_chance, pairwise};
use tests::seed::Seed;

use crate::kept::runs;

type Result = anyhow::Result<()>;

/// Every row is run, whatever became of those before it.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn each_pair_of_what_is_left_and_three_rows_by_chance() -> Result {
    let mut seed = Seed::from_environment();
    println!("three rows by chance: {}", seed.again());
    let chance = by_chance(&mut seed, 3);
    let only: Option<usize> = std::env::var("ROW").ok().and_then(|row| row.parse().ok());
    let mut failed = Vec::new();
    for (at, row) in pairwise().into_iter().chain(chance).enumerate() {
        if only.is_none_or(|only| only == at)
            && let Err(error) = runs(&format!("kept-{at}"), row).await
        {
            println!("ROW {at} failed: {row}: {error:#}");
            failed.push(at);
        }
    }
    anyhow::ensure!(failed.is_empty(), "rows {failed:?} did not end as they must (ROW=N has one again)");
    Ok(())
}
