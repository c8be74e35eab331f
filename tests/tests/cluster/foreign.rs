//! Another chart's etcd that is started in a way which is not understood: ours beside it makes nothing worse, and says
//! so at once.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::names;
use tests::foreign::Starts;
use tests::members::Member;
use tests::process::until;
use tests::release::{Helm, Release, Storage};
use tests::rolls::{Watch, most_down};
use tests::scenario;

use crate::all::commands;
use crate::said::said;

type Result = anyhow::Result<()>;

/// A pod that is made again, or a node that starts.
pub const BACK: Duration = Duration::from_secs(120);
/// A Job that looks at the StatefulSet and ends.
const AT_ONCE: i64 = 5;
const ALL: [usize; 3] = [0, 1, 2];

/// Seen before: each member's pod that was made again crash-looped, a roll-out took the quorum, and uninstalling did not
/// heal it.
#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn started_with_flags_it_is_left_as_it_is() -> Result {
    scenario::run_on(lasting("beside-flags", Helm::V4), async |release| {
        let members = beside(release, Starts::Flags, FLAGS).await?;
        pods_are_made_again(release, &members).await?;
        rolls(release, &members).await?;
        left_alone(release).await?;
        release.uninstall().await?;
        made_again(release, 1, &members).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn under_short_peer_urls_it_is_left_as_it_is() -> Result {
    scenario::run_on(lasting("beside-short", Helm::V3), async |release| {
        let members = beside(release, Starts::ShortUrls, SHORT_URLS).await?;
        made_again(release, 2, &members).await?;
        left_alone(release).await
    })
    .await
}

/// On volumes that stay with their node: on others a pod that is made again may find an empty directory, with us and
/// without us.
pub fn lasting(name: &str, helm: Helm) -> Release {
    Release::of(name, helm).on(Storage::Provisioned)
}

/// What is said of each.
pub const FLAGS: &str = "its etcd is started with the flag --initial-cluster.";
pub const SHORT_URLS: &str = "its etcd gives the other members the URL http://";

/// Three members with data, and ours installed beside them: it says at once what it does not understand, everywhere the
/// same, and changes nothing. The members.
pub async fn beside(release: &Release, starts: Starts, says: &str) -> anyhow::Result<Vec<Member>> {
    release.apply_foreign_started(starts).await?;
    serve(release).await?;
    let members = release.members().await?;
    release.go_on(&ALL, &members).await?;
    let (before, pods) = (written(release).await?, release.pods().await?);
    refuses(release, says).await?;
    ensure!(release.pods().await? == pods, "pods were {pods:?} and are {:?}", release.pods().await?);
    ensure!(written(release).await? == before, "the StatefulSet was written to");
    release.go_on(&ALL, &members).await?;
    Ok(members)
}

/// Ours is installed: that fails with what it does not understand, and so does everything that asks for another count. The
/// sentence.
pub async fn refuses(release: &Release, says: &str) -> anyhow::Result<String> {
    let installed = release.try_install(3, &["--set", &release.foreign_values()]).await?;
    let seconds = installed.seconds();
    // Helm quotes what the Job logged.
    let printed = installed.refused()?.replace("\\\"", "\"");
    let job = release.job_pod("post").await?;
    ensure!(job.message.contains(says) && printed.contains(&job.message), "{}\n{printed}", job.message);
    ensure!(job.seconds <= AT_ONCE, "the Job took {} s to say so", job.seconds);
    release.say(&format!("helm install failed after {seconds:.1} s: {}", job.message));
    said(release, release.name.trim_end_matches("-r"), &job.message);
    let why = job.message.split_once("is left as it is: ").context("no sentence")?.1;
    commands::refused(release, 4, why).await?;
    until("the launcher has said so", BACK, async || {
        let events = release.events_since(0).await?;
        let told = events.iter().filter(|it| it.reason == "NotUnderstood" && it.note.contains(says)).count();
        ensure!(told >= 2, "told {told} times: {events:?}");
        Ok(())
    })
    .await?;
    Ok(job.message)
}

/// What a person or a chart wrote, and what we would have written.
async fn written(release: &Release) -> anyhow::Result<Value> {
    let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
    let metadata = &set["metadata"];
    Ok(json!([set["spec"], metadata["annotations"], metadata["generation"]]))
}

/// That no Job was started but Helm's own, and nothing was recorded.
pub async fn left_alone(release: &Release) -> Result {
    let jobs = format!("etcd-scaler.io/target={}", release.statefulset());
    let jobs = names(&release.json(&["get", "jobs", "-l", &jobs]).await?);
    ensure!(jobs == [format!("{}-etcd-scaler-post", release.name)], "there are the Jobs {jobs:?}");
    ensure!(release.record().await.is_err(), "there is a record");
    release.foreign_pods_are_as_made().await
}

/// Each member's pod is deleted, one after the other, and comes back.
pub async fn pods_are_made_again(release: &Release, members: &[Member]) -> Result {
    for ordinal in ALL {
        made_again(release, ordinal, members).await?;
    }
    Ok(())
}

/// A member's pod is deleted and comes back, as its chart has it.
pub async fn made_again(release: &Release, ordinal: usize, members: &[Member]) -> Result {
    let name = release.pod(ordinal);
    let uid = release.pods().await?[&name].uid.clone();
    release.kubectl(&["delete", "pod", &name]).await?;
    until("its pod is made again", BACK, async || {
        let pod = release.pods().await?.remove(&name).with_context(|| format!("no pod {name}"))?;
        ensure!(pod.uid != uid, "{name} is still the same");
        Ok(())
    })
    .await?;
    serve(release).await?;
    release.foreign_pods_are_as_made().await?;
    until("its member goes on", BACK, async || release.go_on(&ALL, members).await).await
}

/// A roll-out as a person starts it: one after the other is made again, and never two are away.
pub async fn rolls(release: &Release, members: &[Member]) -> Result {
    let watch = Watch::start(release, 3).await?;
    release.kubectl(&["rollout", "restart", "statefulset", &release.statefulset()]).await?;
    serve(release).await?;
    let looks = watch.stop().await?;
    ensure!(tests::rolls::made_again(&looks).len() == 3, "made again: {:?}", tests::rolls::made_again(&looks));
    ensure!(most_down(&looks).len() == 1, "down at the same time: {:?}", most_down(&looks));
    until("the members go on", BACK, async || release.go_on(&ALL, members).await).await
}

/// Until all are Ready and what is rolled is rolled.
pub async fn serve(release: &Release) -> Result {
    let status = ["rollout", "status", "statefulset", &release.statefulset(), "--timeout=25s"];
    until("three members serve", BACK, async || release.kubectl(&status).await).await.map(drop)
}
