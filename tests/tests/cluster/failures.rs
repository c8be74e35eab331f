//! When it cannot be done: the release fails in time and with one clear line, the member list is as
//! before, going back is admitted, and once repaired the next upgrade finishes.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use membership::know::quorum::quorum;
use tests::cluster::{is_bed, nodes};
use tests::faults::{own_name, put_back, take_off};
use tests::members::Member;
use tests::process::until;
use tests::release::{Helm, Ran, Release};
use tests::scenario;

use crate::said::{error, said};

type Result = anyhow::Result<()>;

/// How long until the webhook has asked every member again.
const SEEN: Duration = Duration::from_secs(30);

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn a_scale_that_cannot_be_done_fails_with_one_line_and_leaves_the_members() -> Result {
    let mut release = Release::of("failures", Helm::V4);
    let image = release.images.etcd.clone();
    if is_bed() {
        release.images.etcd = own_name(&image, "failures").await?;
    }
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let members = release.members().await?;
        too_little_time(release, &members).await?;
        if is_bed() {
            image_absent_on_the_newcomers_node(release, &members, &image).await?;
        } else {
            release.say("not the test bed: the image is not taken off a node");
            release.upgrade(4, &[]).await?;
        }
        members_down(release, &[2], &members).await?;
        members_down(release, &[0, 1, 2], &members).await?;
        // Repaired, the next upgrade finishes.
        release.upgrade(4, &[]).await?;
        release.is_settled(4).await?;
        release.names_peers(4).await
    })
    .await
}

/// The Job sees at once that a join does not fit into its deadline, and does not begin it.
async fn too_little_time(release: &Release, members: &[Member]) -> Result {
    let short = ["--set", "hook.deadlineSeconds=30,hook.joinDeadlineSeconds=60"];
    let upgrade = release.try_upgrade(4, &short).await?;
    fails_with_one_line(
        release,
        &upgrade,
        "post",
        60.0,
        &["until the deadline", &release.pod(3), "hook.deadlineSeconds"],
    )
    .await?;
    held(release, "failed-too-little-time", "post", &upgrade).await?;
    ensure!(release.members().await? == members, "the member list changed");
    joining_pod_says_what_it_waits_for(release, 3).await?;
    goes_back(release, members).await
}

/// The newcomer's image is proven before etcd hears of it.
async fn image_absent_on_the_newcomers_node(release: &Release, members: &[Member], image: &str) -> Result {
    let taken: Vec<String> = release.pods().await?.into_values().map(|pod| pod.node).collect();
    let mut spare = nodes().await?;
    // On a small bed two members share a node; those that run do not need the image.
    if spare.len() > taken.len() {
        spare.retain(|node| !taken.contains(node));
    }
    take_off(&release.images.etcd, &spare).await?;
    let upgrade = release.try_upgrade(4, &[]).await?;
    let says = [&release.pod(3), "etcd-version", "Image", "not added to etcd"];
    fails_with_one_line(release, &upgrade, "post", 90.0, &says).await?;
    held(release, "failed-image-absent", "post", &upgrade).await?;
    ensure!(release.members().await? == members, "the member list changed");
    // Repaired, and upgraded again as it is told: the newcomer is tried again by itself.
    put_back(image, &release.images.etcd, &spare).await?;
    release.upgrade(4, &[]).await?;
    release.is_settled(4).await
}

/// Before Helm changes anything, the check finds who does not answer.
async fn members_down(release: &Release, ordinals: &[usize], members: &[Member]) -> Result {
    let count = release.members().await?.len();
    release.take_down(ordinals).await?;
    // What it says of them follows from what the webhook has seen. Without a quorum nobody is healthy.
    let down = ordinals.len();
    let sick = if count - down < quorum(count) { count } else { down };
    let refused = refused_while_sick(release, sick, count).await?;
    said(release, &format!("refused-scale-with-{down}-down"), &refused);
    let upgrade = release.try_upgrade(count + 1, &[]).await?;
    let pods: Vec<String> = ordinals.iter().map(|&ordinal| release.pod(ordinal)).collect();
    let says: Vec<&str> = pods.iter().map(String::as_str).collect();
    fails_with_one_line(release, &upgrade, "preflight", 60.0, &says[..1]).await?;
    held(release, &format!("failed-with-{down}-down"), "preflight", &upgrade).await?;
    let replicas = ["get", "statefulset", &release.statefulset(), "-o", "jsonpath={.spec.replicas}"];
    ensure!(release.kubectl(&replicas).await? == count.to_string(), "the refused upgrade changed the replicas");
    // A repair keeps the count: it is admitted, whoever is down.
    release.try_upgrade(count, &["--no-hooks"]).await?.ended.ok()?;
    release.bring_back().await?;
    let now = release.members().await?;
    ensure!(members.iter().all(|member| now.contains(member)), "the member list is {now:?}");
    Ok(())
}

/// What the webhook answers to a newcomer once it sees that so many of the members are sick. Asked as a dry run.
pub async fn refused_while_sick(release: &Release, sick: usize, members: usize) -> anyhow::Result<String> {
    let newcomer = format!("--replicas={}", members + 1);
    let ask = ["scale", "statefulset", &release.statefulset(), &newcomer, "--dry-run=server"];
    until("the webhook sees who is sick", SEEN, async || match release.kubectl(&ask).await {
        Ok(admitted) => bail!("it is admitted: {admitted}"),
        Err(error) => {
            let refused = format!("{error:#}");
            ensure!(refused.contains(&format!("{sick} of {members} members not healthy")), "{refused}");
            Ok(refused)
        }
    })
    .await
}

/// The same count as before the failed scale is admitted and ends well.
async fn goes_back(release: &Release, members: &[Member]) -> Result {
    release.upgrade(members.len(), &[]).await?;
    release.is_settled(members.len()).await?;
    ensure!(release.members().await? == members, "the member list changed");
    Ok(())
}

/// One line says what, which member and what to do: as termination message, as Event, in Helm's
/// output; and Helm fails in time.
async fn fails_with_one_line(release: &Release, ran: &Ran, job: &str, within: f64, says: &[&str]) -> Result {
    let printed = ran.refused()?;
    let pod = release.job_pod(job).await?;
    release.say(&format!("after {:.1} s: {}", ran.seconds(), pod.message));
    ensure!(ran.seconds() <= within, "Helm came back after {:.1} s", ran.seconds());
    ensure!(pod.exit_code == 1, "{pod:?}");
    ensure!(pod.message.lines().count() == 1, "not one line: {:?}", pod.message);
    for part in says {
        ensure!(pod.message.contains(part), "{part:?} is not in {:?}", pod.message);
    }
    // Helm 4 prints a hook's log as one quoted string.
    ensure!(printed.replace("\\\"", "\"").contains(&pod.message), "Helm did not print it:\n{printed}");
    let events = release.events_since(ran.from).await?;
    let told = events.iter().find(|event| event.kind == "Warning" && pod.message.contains(&event.note));
    told.with_context(|| format!("no Event says it: {events:?}"))?;
    Ok(())
}

/// The Job's one line and Helm's own words, to the letter.
async fn held(release: &Release, name: &str, job: &str, ran: &Ran) -> Result {
    said(release, name, &release.job_pod(job).await?.message);
    said(release, &format!("{name}-by-helm-4"), &error(&ran.refused()?));
    Ok(())
}

/// A pod that waits is no pod that fails: no restart, and get, describe and logs say what for.
async fn joining_pod_says_what_it_waits_for(release: &Release, ordinal: usize) -> Result {
    let name = release.pod(ordinal);
    let logs = ["logs", &name, "-c", "admit"];
    let logs = until("admit waits", Duration::from_secs(30), async || release.kubectl(&logs).await).await?;
    let pods = release.pods().await?;
    let pod = pods.get(&name).with_context(|| format!("{name} is not there"))?;
    ensure!(pod.restarts == 0, "{name} restarted {} times", pod.restarts);
    // As the chart's notes have it.
    let columns = r"custom-columns=POD:.metadata.name,WAITS FOR:.metadata.annotations.etcd-scaler\.io/waits-for";
    let get = release.kubectl(&["get", "pod", &name, "-o", columns]).await?;
    let describe = release.kubectl(&["describe", "pod", &name]).await?;
    release.say(&format!("it waits:\n{get}{logs}"));
    for said in [&get, &describe] {
        ensure!(said.contains("waits until the etcd-scaler Job has added"), "kubectl says\n{said}");
    }
    ensure!(logs.contains("waiting for"), "kubectl logs says\n{logs}");
    Ok(())
}
