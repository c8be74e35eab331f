//! The Job is killed while a member joins, after each of its steps; run again, it ends the same.

use std::time::Duration;

use anyhow::ensure;
use tests::cluster::names;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

type Result = anyhow::Result<()>;

/// A silent holder keeps the Lease for 15 s; then a step, and the Event that tells of it.
const STEP: Duration = Duration::from_secs(60);

/// What the Job says of itself when the step before a kill is done, in the order of the steps.
const STEPS: [&str; 5] = ["VolumePinned", "MemberAdded", "StartPermitted", "JoiningPodSwapped", "MemberPromoted"];

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn killed_after_each_step_of_a_join_it_ends_the_same() -> Result {
    scenario::run("kills", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        // Helm only changes the StatefulSet; the launcher and the Jobs made here do the work.
        let mut upgrade = release.upgrade(4, &["--no-hooks"]).await?;
        for (attempt, step) in STEPS.into_iter().enumerate() {
            start_job(release, &format!("attempt-{attempt}")).await?;
            until(step, STEP, async || {
                let events = release.events_since(upgrade.from).await?;
                ensure!(events.iter().any(|event| event.reason == step), "no Event {step}");
                Ok(())
            })
            .await?;
            kill_jobs(release).await?;
        }
        start_job(release, "last").await?;
        release.kubectl(&["wait", "--for=condition=Complete", "job/last", "--timeout=90s"]).await?;
        release.is_settled(4).await?;
        release.names_peers(4).await?;
        release.kept(&before).await?;
        upgrade.to = tests::release::now();
        let counts = load.lost_nothing(4, &upgrade).await?;
        release.say(&format!(
            "3 → 4 with {} kills in {:.1} s, longest stall {} ms",
            STEPS.len(),
            upgrade.seconds(),
            counts["window"]["longest_stall_ms"]
        ));
        Ok(())
    })
    .await
}

async fn start_job(release: &Release, name: &str) -> Result {
    let from = format!("--from=cronjob/{}-etcd-scaler", release.name);
    release.kubectl(&["create", "job", name, &from]).await.map(drop)
}

/// Ends whatever works on the StatefulSet now, as a lost node would: without a word.
async fn kill_jobs(release: &Release) -> Result {
    let label = format!("etcd-scaler.io/target={}", release.statefulset());
    let running = release.json(&["get", "pods", "-l", &label, "--field-selector=status.phase!=Succeeded"]).await?;
    for pod in names(&running) {
        release.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--ignore-not-found"]).await?;
    }
    Ok(())
}
