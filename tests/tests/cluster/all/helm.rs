//! Under Helm's own rules: its waits, its undo, a time-out too short, rollbacks, an upgrade that was
//! killed, an uninstall half-way, and a GitOps controller beside it. Each ends with healthy members.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::json;
use tests::cluster::nodes;
use tests::failpoints::Failpoint;
use tests::faults::own_name;
use tests::load::Load;
use tests::process::{Ended, run, until};
use tests::release::{Helm, Ran, Release};
use tests::scenario;

use crate::kills::nobody_is_held;
use crate::rollout::{has_images, with_image};
use crate::said::{by, error, said};
use crate::ways::{Way, change, only_these, scale};

type Result = anyhow::Result<()>;

/// The launcher's pause, a Job's start, and 20 s for each of three members on a busy machine.
const BY_ITSELF: Duration = Duration::from_secs(240);
/// Helm has checked and applied: it deletes and makes a dozen objects around its check, one after the other.
const APPLIED: Duration = Duration::from_secs(240);
/// Enough for the check before an upgrade, and not for three members to join.
const SHORT: [&str; 2] = ["--timeout", "15s"];

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn waited_for_and_undone_by_itself_with_helm_4() -> Result {
    waited_for_and_undone(Release::of("undo", Helm::V4), "--rollback-on-failure").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn waited_for_and_undone_by_itself_with_helm_3() -> Result {
    waited_for_and_undone(Release::of("undo-3", Helm::V3), "--atomic").await
}

/// `--wait`, and Helm's undo: up and down in time; and when the time is too short, back.
async fn waited_for_and_undone(mut release: Release, undo: &str) -> Result {
    release.images.scaler = release.images.failpoints.clone();
    scenario::run_on(release, async |release| {
        let soft = room_for_six().await?;
        release.install(3, &soft).await?;
        let load = Load::start(release).await?;
        let three = release.pods().await?;
        for (members, how) in [(4, "--wait"), (3, "--wait"), (4, undo), (3, undo)] {
            let ran = release.upgrade(members, &[&soft[..], &[how]].concat()).await?;
            // Helm has waited: it is so, and not only soon.
            ends_with(release, members).await.with_context(|| format!("to {members} with {how}"))?;
            release.kept(&three).await?;
            deployed(release).await?;
            load.lost_nothing(members, &ran).await?;
            release.say(&format!("to {members} with {how} in {:.1} s", ran.seconds()));
        }
        let failed = undone_in_the_middle_of_a_join(release, &[&soft[..], &[undo]].concat()).await?;
        release.kept(&three).await?;
        load.lost_nothing(3, &failed).await?;
        undone_among_three_joins(release, &[&soft[..], &[undo]].concat()).await?;
        release.kept(&three).await?;
        // The release is not stuck.
        let ran = release.upgrade(4, &[&soft[..], &[undo]].concat()).await?;
        ends_with(release, 4).await?;
        load.lost_nothing(4, &ran).await?;
        deployed(release).await
    })
    .await
}

/// The fourth is in etcd's list and does not get on; Helm's time runs out, and three are as before.
async fn undone_in_the_middle_of_a_join(release: &Release, options: &[&str]) -> anyhow::Result<Ran> {
    let members = release.members().await?;
    let job = release.stopping_job("held", &[Failpoint::LeaseTaken, Failpoint::JoiningRecorded]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    let stops = async {
        until("Helm has applied", APPLIED, async || has_count(release, 4).await).await?;
        job.go_on().await?;
        job.reached(Failpoint::JoiningRecorded).await
    };
    let options = [options, &["--timeout", "40s"]].concat();
    let (failed, stopped) = tokio::join!(release.try_upgrade(4, &options), stops);
    stopped?;
    let failed = failed?;
    let told = error(&failed.refused()?);
    is_an_undo(release, &told)?;
    release.say(&format!("undone in the middle of a join, after {:.1} s: {told}", failed.seconds()));
    job.go_on().await?;
    until("three members are back", BY_ITSELF, async || ends_with(release, 3).await).await?;
    ensure!(release.members().await? == members, "other members than before");
    Ok(failed)
}

/// Three are to join and the time is too short: who has joined by then leaves again.
async fn undone_among_three_joins(release: &Release, options: &[&str]) -> Result {
    let failed = release.try_upgrade(6, &[options, &SHORT].concat()).await?;
    let told = error(&failed.refused()?);
    is_an_undo(release, &told)?;
    has_count(release, 3).await.with_context(|| told.clone())?;
    until("the members follow the count", BY_ITSELF, async || ends_with(release, 3).await).await?;
    release.say(&format!("undone among three joins, after {:.1} s: {told}", failed.seconds()));
    Ok(())
}

/// Whether its own undo ended in time as well is chance on a busy machine, and what kept it then; that it was begun is not.
fn is_an_undo(release: &Release, told: &str) -> Result {
    let by = by(release.helm);
    if told.contains("has been rolled back") {
        said(release, &format!("undone-{by}"), told);
        return Ok(());
    }
    ensure!(told.contains("an error occurred while rolling back the release"), "{told}");
    // Helm 3 waits for less, and was not seen to be late.
    if let (Helm::V4, Some((told, _))) = (release.helm, told.split_once(&format!(": release {} failed", release.name)))
    {
        said(release, &format!("undo-too-late-{by}"), told);
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_time_out_too_short_with_helm_4() -> Result {
    scenario::run("short", Helm::V4, too_short).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_time_out_too_short_with_helm_3() -> Result {
    scenario::run("short-3", Helm::V3, too_short).await
}

/// Helm gives up on its Job, the Job does not: the scale ends by itself, or by the same upgrade once
/// more, however soon it comes.
async fn too_short(release: &Release) -> Result {
    let soft = room_for_six().await?;
    release.install(3, &soft).await?;
    let load = Load::start(release).await?;
    let three = release.pods().await?;
    let short = [&soft[..], &SHORT].concat();
    let failed = release.try_upgrade(6, &short).await?;
    let told = error(&failed.refused()?);
    said(release, &format!("timeout-too-short-{}", by(release.helm)), &told);
    release.say(&format!("after {:.1} s: {told}", failed.seconds()));
    ensure!(release.last_revision().await?.1 == "failed", "{:?}", release.revisions().await?);
    until("the Job goes on without Helm", BY_ITSELF, async || ends_with(release, 6).await).await?;
    release.upgrade(6, &soft).await?;
    deployed(release).await?;
    release.upgrade(3, &soft).await?;
    ends_with(release, 3).await?;
    let failed = release.try_upgrade(6, &short).await?;
    failed.refused()?;
    let ran = release.upgrade(6, &soft).await?;
    ends_with(release, 6).await?;
    deployed(release).await?;
    release.kept(&three).await?;
    load.lost_nothing(6, &Ran { from: failed.from, ..ran }).await.map(drop)
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn rolled_back_up_and_down_and_across_an_image_with_helm_4() -> Result {
    scenario::run("back", Helm::V4, rolled_back).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn rolled_back_up_and_down_and_across_an_image_with_helm_3() -> Result {
    scenario::run("back-3", Helm::V3, rolled_back).await
}

/// `helm rollback`: of a scale-up, of a scale-down; and of both count and image, which are two things
/// to do.
async fn rolled_back(release: &Release) -> Result {
    let (first, next) = (release.images.etcd.clone(), own_name(&release.images.etcd, &release.name).await?);
    release.install(3, &[]).await?;
    let load = Load::start(release).await?;
    let three = release.pods().await?;
    release.upgrade(4, &[]).await?;
    for (revision, members) in [(1, 3), (2, 4)] {
        let ran = release.rollback(revision).await?;
        until("the rollback is done", BY_ITSELF, async || ends_with(release, members).await).await?;
        release.names_peers(members).await?;
        release.kept(&three).await?;
        load.lost_nothing(members, &ran).await?;
        release.say(&format!("rolled back to revision {revision}, {members} members, in {:.1} s", ran.seconds()));
    }
    let (with_four, _) = release.last_revision().await?;
    release.upgrade(4, &["--set", &with_image(&next)]).await?;
    until("all run the next image", BY_ITSELF, async || all_run(release, &next, 4).await).await?;
    let before = (release.pods().await?, release.members().await?);
    let told = error(&release.try_rollback(1, &[]).await?.refused()?);
    ensure!(told.contains("pod template as well"), "{told}");
    said(release, &format!("rollback-of-count-and-image-{}", by(release.helm)), &told);
    ensure!((release.pods().await?, release.members().await?) == before, "the refused rollback changed something");
    // As it was told: one, then the other.
    release.rollback(with_four).await?;
    until("all run the first image", BY_ITSELF, async || all_run(release, &first, 4).await).await?;
    let four = release.pods().await?;
    let ran = release.rollback(1).await?;
    until("the rollback is done", BY_ITSELF, async || ends_with(release, 3).await).await?;
    release.kept(&four.into_iter().take(3).collect()).await?;
    load.lost_nothing(3, &ran).await?;
    deployed(release).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn killed_it_leaves_pending_upgrade_and_two_ways_out_with_helm_4() -> Result {
    scenario::run("pending", Helm::V4, killed_and_pending).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn killed_it_leaves_pending_upgrade_and_two_ways_out_with_helm_3() -> Result {
    scenario::run("pending-3", Helm::V3, killed_and_pending).await
}

/// SIGKILL of Helm: before anything was changed, in the middle of a scale-up and of a scale-down.
async fn killed_and_pending(release: &Release) -> Result {
    release.install(3, &[]).await?;
    let load = Load::start(release).await?;
    let three = release.pods().await?;
    // While its check runs: nothing was changed, and nothing is.
    let spec =
        async || anyhow::Ok(release.json(&["get", "statefulset", &release.statefulset()]).await?["spec"].clone());
    let before = spec().await?;
    let check = format!("{}-etcd-scaler-preflight", release.name);
    killed(release, 5, async || release.kubectl(&["get", "job", &check]).await.map(drop)).await?;
    let told = error(&release.try_upgrade(5, &[]).await?.refused()?);
    ensure!(told.contains("another operation"), "{told}");
    said(release, &format!("pending-upgrade-{}", by(release.helm)), &told);
    ensure!(spec().await? == before, "the killed upgrade changed {}", spec().await?);
    release.rollback(1).await?;
    ends_with(release, 3).await?;
    deployed(release).await?;
    // With the change applied the scale needs no Helm. Its Secret gone, the same upgrade has only to see
    // that all is done.
    killed(release, 5, async || has_count(release, 5).await).await?;
    until("five members without Helm", BY_ITSELF, async || ends_with(release, 5).await).await?;
    release.try_upgrade(5, &[]).await?.refused()?;
    let (pending, status) = release.last_revision().await?;
    ensure!(status == "pending-upgrade", "revision {pending} is {status}");
    let secret = format!("sh.helm.release.v1.{}.v{pending}", release.name);
    release.kubectl(&["delete", "secret", &secret]).await?;
    let with_five = release.upgrade(5, &[]).await?;
    deployed(release).await?;
    release.kept(&three).await?;
    load.lost_nothing(5, &with_five).await?;
    // Back to the revision before: a change of mind in the middle of a scale-down.
    let (with_five, _) = release.last_revision().await?;
    killed(release, 4, async || has_count(release, 4).await).await?;
    let back = release.rollback(with_five).await?;
    until("five members again", BY_ITSELF, async || ends_with(release, 5).await).await?;
    deployed(release).await?;
    release.kept(&three).await?;
    load.lost_nothing(5, &back).await?;
    release.upgrade(4, &[]).await?;
    ends_with(release, 4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn values_are_reused_with_helm_4() -> Result {
    scenario::run("reuse", Helm::V4, values_reused).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn values_are_reused_with_helm_3() -> Result {
    scenario::run("reuse-3", Helm::V3, values_reused).await
}

/// `--reuse-values`: the count alone is said, everything else stays; and without a word nothing changes.
async fn values_reused(release: &Release) -> Result {
    release.install(3, &["--set", "etcd.terminationGracePeriodSeconds=31"]).await?;
    let load = Load::start(release).await?;
    let three = release.pods().await?;
    for members in [4, 3, 5] {
        let ran = release.try_upgrade_reusing(&[&format!("etcd.replicaCount={members}")]).await?;
        ran.ended.clone().ok()?;
        ends_with(release, members).await?;
        release.names_peers(members).await?;
        release.kept(&three).await?;
        load.lost_nothing(members, &ran).await?;
    }
    let live = async || release.json(&["get", "statefulset", &release.statefulset()]).await;
    let before = live().await?;
    ensure!(before["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 31, "a value was lost");
    release.try_upgrade_reusing(&[]).await?.ended.ok()?;
    let after = live().await?;
    ensure!(before["spec"] == after["spec"], "an upgrade without a word changed {}", after["spec"]);
    // The release says five by itself then; what was scaled since is not set back.
    scale(release, 4).await?.ok()?;
    until("four members", BY_ITSELF, async || ends_with(release, 4).await).await?;
    let told = release.try_upgrade_reusing(&[]).await?.refused()?;
    ensure!(told.contains("from 4 to 5 is refused"), "{told}");
    ends_with(release, 4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn uninstalled_in_the_middle_of_an_up_and_of_a_down_with_helm_4() -> Result {
    uninstalled_in_the_middle("leave-mid", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn uninstalled_in_the_middle_of_an_up_and_of_a_down_with_helm_3() -> Result {
    uninstalled_in_the_middle("leave-mid-3", Helm::V3).await
}

/// Only the volumes stay; installed again over them it is the same cluster, with nobody half in it.
async fn uninstalled_in_the_middle(name: &str, helm: Helm) -> Result {
    let mut release = Release::of(name, helm);
    release.images.scaler = release.images.failpoints.clone();
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        release.etcdctl(&["put", "traffic/904/0000000000", "kept"]).await?;
        let members = release.members().await?;
        for (to, point) in [(4, Failpoint::MemberAdded), (4, Failpoint::Permitted), (3, Failpoint::MemberRemoved)] {
            if to == 3 {
                release.upgrade(4, &[]).await?;
            }
            let ended = async {
                let job = release.stopping_job(point.name(), &[Failpoint::LeaseTaken, point]).await?;
                job.reached(Failpoint::LeaseTaken).await?;
                release.upgrade(to, &["--no-hooks"]).await?;
                job.go_on().await?;
                job.reached(point).await?;
                let uninstalled = release.try_uninstall(&[]).await?.ended.ok()?;
                said(release, &format!("uninstalled-during-a-scale-{}", by(release.helm)), uninstalled.trim());
                let left = release.cluster_objects().await?;
                ensure!(left.is_empty(), "left in the cluster: {left:?}");
                until("no member is left", BY_ITSELF, async || only_these(release, 0).await).await?;
                release.install(3, &[]).await?;
                until("the same cluster", BY_ITSELF, async || ends_with(release, 3).await).await?;
                ensure!(release.members().await? == members, "the members are {:?}", release.members().await?);
                let value = release.etcdctl(&["get", "traffic/904/0000000000", "--print-value-only"]).await?;
                ensure!(value.trim() == "kept", "the key is {value:?}");
                Ok(())
            };
            ended.await.with_context(|| format!("to {to}, uninstalled at {}", point.name()))?;
            release.say(&format!("to {to}, uninstalled at {}: installed again, the same three", point.name()));
        }
        // What a member that did not come to be has left on its volume is in nobody's way.
        release.upgrade(4, &[]).await?;
        ends_with(release, 4).await
    })
    .await
}

/// A controller that applies what is in Git, without hooks: it sets back what was scaled by hand, and
/// the cluster follows, however soon it comes.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_gitops_controller_sets_a_scaled_count_back() -> Result {
    scenario::run("heal", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let three = release.pods().await?;
        // It owns the count from now on.
        applied(release, 3, true).await?.ok()?;
        change(release, Way::Scale, 4, &[]).await?;
        // One that does not force is told who owns the count now, and changes nothing.
        let told = applied(release, 3, false).await?;
        ensure!(!told.success && told.stderr.contains("conflict"), "{}", told.printed());
        said(release, "apply-without-force-after-scale", told.stderr.trim());
        ends_with(release, 4).await?;
        let ran = change(release, Way::Apply, 3, &[]).await?;
        release.kept(&three).await?;
        load.lost_nothing(3, &ran).await?;
        // And before the newcomer is a member.
        scale(release, 4).await?.ok()?;
        until("a newcomer is there", APPLIED, async || {
            release.kubectl(&["get", "pod", &release.pod(3)]).await.map(drop)
        })
        .await?;
        let ran = change(release, Way::Apply, 3, &[]).await?;
        until("nobody is half-way", BY_ITSELF, async || ends_with(release, 3).await).await?;
        release.kept(&three).await?;
        load.lost_nothing(3, &ran).await?;
        // What Git says is what is scaled to.
        change(release, Way::Apply, 5, &[]).await?;
        release.kept(&three).await
    })
    .await
}

/// Server-side apply of the count by another manager than Helm, however it ends.
async fn applied(release: &Release, count: usize, force: bool) -> anyhow::Result<Ended> {
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": { "name": release.statefulset(), "namespace": release.namespace },
        "spec": { "replicas": count },
    });
    let force = format!("--force-conflicts={force}");
    let apply = ["apply", "--server-side", "--field-manager=gitops", &force, "-f", "-"];
    run("kubectl", apply, &set.to_string(), Duration::from_secs(30)).await
}

/// An upgrade that is killed (SIGKILL) as soon as this is so.
async fn killed(release: &Release, to: usize, when: impl AsyncFn() -> Result) -> Result {
    // Whose future is dropped, that program is killed: `tests::process::run`.
    tokio::select! {
        ended = release.try_upgrade(to, &[]) => bail!("Helm ended before it was killed:\n{}", ended?.ended.printed()),
        seen = until("Helm is at work", APPLIED, when) => seen,
    }
}

async fn has_count(release: &Release, count: usize) -> Result {
    let replicas = ["get", "statefulset", &release.statefulset(), "-o", "jsonpath={.spec.replicas}"];
    let replicas = release.kubectl(&replicas).await?;
    ensure!(replicas == count.to_string(), "{replicas} are wanted");
    Ok(())
}

/// Members and pods are these, all healthy, none of them held.
async fn ends_with(release: &Release, count: usize) -> Result {
    only_these(release, count).await?;
    release.is_settled(count).await?;
    nobody_is_held(release, count).await
}

async fn deployed(release: &Release) -> Result {
    let (revision, status) = release.last_revision().await?;
    ensure!(status == "deployed", "revision {revision} is {status}");
    Ok(())
}

/// Every member's pod has this image, and serves.
async fn all_run(release: &Release, image: &str, count: usize) -> Result {
    has_images(release, &[(image, count)]).await?;
    ends_with(release, count).await
}

/// Six members on as many nodes; where there are fewer, they share.
async fn room_for_six() -> anyhow::Result<Vec<&'static str>> {
    Ok(if nodes().await?.len() < 6 { vec!["--set", "etcd.podAntiAffinityPreset=soft"] } else { Vec::new() })
}
