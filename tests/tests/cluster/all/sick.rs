//! Who may leave while a member is sick, asked of the webhook on a cluster where one really is.

use std::time::Duration;

use anyhow::ensure;
use tests::cluster::is_bed;
use tests::disk::Start;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

use crate::failures::refused_while_sick;
use crate::said::said;
use crate::ways::{ends_with, scale};

type Result = anyhow::Result<()>;

/// A Job's start, a member that leaves, and its pod that ends.
const GONE: Duration = Duration::from_secs(120);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_sick_member_may_leave_and_no_healthy_one_before_it() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    scenario::run("sick", Helm::V4, async |release| {
        release.install(4, &[]).await?;
        let load = Load::start(release).await?;
        let last = release.lose_disk(3, Start::Container).await?;
        release.refuses_to_start(&last, Some(0)).await?;
        refused_while_sick(release, 1, 4).await?;
        // Three of four have to agree that a member leaves.
        refused(release, 2, "sick-too-few-stay").await?;
        let mut staying = release.pods().await?;
        staying.remove(&release.pod(3));
        let left = release.upgrade(3, &[]).await?;
        until("it has left", GONE, async || ends_with(release, 3).await).await?;
        release.kept(&staying).await?;
        load.lost_nothing(3, &left).await?;

        let middle = release.lose_disk(1, Start::Container).await?;
        release.refuses_to_start(&middle, Some(0)).await?;
        refused_while_sick(release, 1, 3).await?;
        let before = (release.record().await?, release.members().await?);
        refused(release, 2, "sick-stays").await?;
        release.try_upgrade(2, &[]).await?.refused()?;
        said(release, "sick-stays-by-the-check", &release.job_pod("preflight").await?.message);
        ensure!(before == (release.record().await?, release.members().await?), "a refusal changed something");
        let wanted = ["get", "statefulset", &release.statefulset(), "-o", "jsonpath={.spec.replicas}"];
        ensure!(release.kubectl(&wanted).await? == "3", "a refusal changed the replicas");
        release.give_disk_back(middle).await?;
        release.is_settled(3).await?;
        load.lost_nothing(3, &left).await.map(drop)
    })
    .await
}

async fn refused(release: &Release, to: usize, name: &str) -> Result {
    let asked = scale(release, to).await?;
    ensure!(!asked.success, "{} was admitted", asked.command);
    said(release, name, asked.stderr.trim());
    Ok(())
}
