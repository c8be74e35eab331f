//! etcd is changed behind our back: recognised, refused with the way out, and the way out is run to the
//! letter.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::is_bed;
use tests::disk::{Restored, Start};
use tests::load::Load;
use tests::members::Member;
use tests::process::{run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Ran, Release};
use tests::scenario::{self, Excused};

use crate::said::said;
use crate::ways::{Way, change, scale};

type Result = anyhow::Result<()>;

/// Until the webhook has seen what was done, or etcd lets it be done: it waits 5 s after a member
/// became active.
const SEEN: Duration = Duration::from_secs(60);
/// The launcher's pauses, a Job, and a join or two on a busy machine.
const MENDED: Duration = Duration::from_secs(240);
/// The exit code of a plan that has something to do.
const TO_DO: i64 = 3;
/// A key of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEY: &str = "traffic/904/0000000000";

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_middle_member_removed_by_hand_joins_again() -> Result {
    scenario::run("drift-removed", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let (mut staying, name) = (release.pods().await?, release.pod(1));
        let removed = staying.remove(&name).context("no second pod")?;
        let old = release.members().await?.into_iter().find(|member| member.name == name).context("no second")?;
        release.remove_member(&old.id).await?;
        let gone = format!("{name} (member {}) is not listed any more: it was removed by hand", old.id);
        let refusal = refused(release, "drift-removed", &[&gone]).await?;
        planned_only(release, "drift-removed", &refusal, "reconcile", &gone).await?;
        decided(release, "drift-removed", &refusal, "reconcile").await?;
        until("it has joined again", MENDED, async || release.is_settled(3).await).await?;
        let (now, members) = (release.pods().await?, release.members().await?);
        ensure!(now[&name].uid != removed.uid, "{name} was not made again");
        ensure!(members.iter().all(|member| member.id != old.id), "{} is back: {members:?}", old.id);
        if is_bed() {
            let content = release.disk(1).await?.content().await?;
            let aside = content.iter().filter(|path| path.contains(&old.id)).any(|path| path.ends_with(".wal"));
            ensure!(aside, "its old data is not kept under {}: {content:?}", old.id);
        }
        let four = grown(release).await?;
        release.kept(&staying).await?;
        load.lost_nothing(4, &four).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_added_by_hand_is_taken_back_and_one_at_no_pod_can_only_be_removed() -> Result {
    scenario::run("drift-added", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let staying = release.pods().await?;
        let add = async |name: &str, options: &[&str]| {
            let command = [&["member", "add", name], options].concat();
            until("a member is added", SEEN, async || release.etcdctl(&command).await).await
        };
        // A voter at the next ordinal, which never starts.
        let url = format!("--peer-urls={}", release.peer_url(3));
        add(&release.pod(3), &[&url]).await?;
        let added = "is not recorded: it was added by hand and never started";
        let refusal = refused(release, "drift-added", &[&release.pod(3), added]).await?;
        planned_only(release, "drift-added", &refusal, "reconcile", added).await?;
        decided(release, "drift-added", &refusal, "reconcile").await?;
        until("it is taken back", MENDED, async || release.is_settled(3).await).await?;
        // One that no record can name.
        add("other", &["--peer-urls=http://other.invalid:2380", "--learner"]).await?;
        let refusal =
            refused(release, "drift-added-elsewhere", &["http://other.invalid:2380, which is no pod of"]).await?;
        release.remove_named(&refusal).await?;
        let four = grown(release).await?;
        release.is_settled(4).await?;
        release.kept(&staying).await?;
        load.lost_nothing(4, &four).await.map(drop)
    })
    .await
}

/// No load: what was acknowledged after the snapshot is lost by a restore.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_cluster_restored_from_a_snapshot_is_recorded_anew_when_the_old_one_is_forgotten() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be written");
        return Ok(());
    }
    let excused: [Excused<'_>; 1] = [(Rule::OneCluster, "restored by hand")];
    scenario::run_excused(Release::of("drift-restored", Helm::V4), &excused, async |release| {
        release.install(3, &[]).await?;
        release.etcdctl(&["put", KEY, "kept"]).await?;
        let directory = tempfile::tempdir()?;
        let from = Restored { snapshot: directory.path().join("snapshot.db"), members: vec![0, 1, 2] };
        release.snapshot(&from.snapshot).await?;
        let (record, mut disks) = (release.record().await?, Vec::new());
        for ordinal in 0..3 {
            disks.push(release.disk(ordinal).await?);
        }
        let set = release.statefulset();
        release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop=true"]).await?;
        scale(release, 0).await?.ok()?;
        until("all pods are gone", MENDED, async || {
            let pods = release.pods().await?;
            ensure!(pods.is_empty(), "there is {pods:?}");
            Ok(())
        })
        .await?;
        for (ordinal, disk) in disks.iter().enumerate() {
            release.restore(disk, ordinal, &from).await?;
        }
        scale(release, 3).await?.ok()?;
        release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop-"]).await?;
        let cluster = format!("names cluster {}", record["cluster"].as_str().context("no cluster ID")?);
        let refusal = refused(release, "drift-restored", &[&cluster, "restored from a snapshot"]).await?;
        ensure!(release.record().await? == record, "the record changed by itself");
        let before = release.pods().await?;
        planned_only(release, "drift-restored", &refusal, "forget", "are dropped").await?;
        decided(release, "drift-restored", &refusal, "forget").await?;
        until("the new cluster is recorded", MENDED, async || release.is_settled(3).await).await?;
        let now = release.record().await?;
        ensure!(now["cluster"] != record["cluster"], "the record still names {}", record["cluster"]);
        ensure!(release.lease_record().await? == now, "the Lease has another record");
        grown(release).await?;
        release.kept(&before).await?;
        let value = release.etcdctl_in(3, &["get", KEY, "--print-value-only"]).await?;
        ensure!(value.trim() == "kept", "the key is {value:?}");
        Ok(())
    })
    .await
}

/// No load: what clients write to the one, the others do not have.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_restored_alone_is_named_and_joins_anew_when_it_is_taken_out() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be written");
        return Ok(());
    }
    // To the referee the cluster that began last is the one that counts.
    let why = "one member is another cluster, by hand";
    let excused = [Rule::OneCluster, Rule::StartsOnTheLiveList, Rule::RestartsNobody, Rule::ServedIsNeverHeld];
    let excused = excused.map(|rule| (rule, why));
    scenario::run_excused(Release::of("drift-alone", Helm::V4), &excused, async |release| {
        release.install(3, &[]).await?;
        release.etcdctl(&["put", KEY, "kept"]).await?;
        let directory = tempfile::tempdir()?;
        let from = Restored { snapshot: directory.path().join("snapshot.db"), members: vec![2] };
        release.snapshot(&from.snapshot).await?;
        let (mut staying, name, disk) = (release.pods().await?, release.pod(2), release.disk(2).await?);
        staying.remove(&name);
        release.restore_running(2, &from).await?;
        let alone = format!("{name} answers as a cluster of its own");
        let refusal = refused(release, "drift-alone", &[&alone]).await?;
        // Not while the others list it: nobody guesses which of the two is meant.
        let plan = release.run_named(&refusal, "reconcile", true).await?;
        ensure!(plan.exit_code == 1 && plan.message.contains(&alone), "it ended with {plan:?}");
        said(release, "drift-alone-undecided", &plan.message);
        release.remove_named(&refusal).await?;
        planned_only(release, "drift-alone", &refusal, "reconcile", "it was removed by hand").await?;
        decided(release, "drift-alone", &refusal, "reconcile").await?;
        // Another cluster's data is never started on.
        until("its joining pod says so", MENDED, async || {
            let log = release.kubectl(&["logs", &name, "-c", "admit"]).await?;
            ensure!(log.contains("it holds data of another cluster"), "it says {log}");
            Ok(())
        })
        .await?;
        disk.lose().await?;
        release.kubectl(&["delete", "pod", &name]).await?;
        until("it has joined", MENDED, async || release.is_settled(3).await).await?;
        release.kept(&staying).await?;
        let value = release.etcdctl_in(2, &["get", KEY, "--print-value-only"]).await?;
        ensure!(value.trim() == "kept", "the key is {value:?}");
        Ok(())
    })
    .await
}

/// No load: without a quorum nothing can be written.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn two_disks_lost_the_third_forced_to_be_a_new_cluster_has_two_join_it_anew() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be written");
        return Ok(());
    }
    let forced = "two were removed by --force-new-cluster, not by a call of anybody";
    let excused = [
        (Rule::RestartsNobody, forced),
        (Rule::ServedIsNeverHeld, forced),
        (Rule::NothingIsLost, "the log of the one that was forced goes on in a copy"),
    ];
    scenario::run_excused(Release::of("drift-forced", Helm::V4), &excused, async |release| {
        release.install(3, &[]).await?;
        release.etcdctl(&["put", KEY, "kept"]).await?;
        let (pods, before) = (release.pods().await?, release.members().await?);
        for ordinal in [1, 2] {
            release.lose_disk(ordinal, Start::Container).await?;
        }
        release.force_new_cluster(0).await?;
        let id = |members: &[Member], ordinal| -> anyhow::Result<String> {
            let name = release.pod(ordinal);
            let member = members.iter().find(|member| member.name == name);
            Ok(member.with_context(|| format!("{name} is not listed: {members:?}"))?.id.clone())
        };
        let mut gone = Vec::new();
        for ordinal in [1, 2] {
            let (name, id) = (release.pod(ordinal), id(&before, ordinal)?);
            gone.push(format!("{name} (member {id}) is not listed any more"));
        }
        let refusal = refused(release, "drift-forced", &[&gone[0], &gone[1]]).await?;
        planned_only(release, "drift-forced", &refusal, "reconcile", &gone[1]).await?;
        decided(release, "drift-forced", &refusal, "reconcile").await?;
        until("both have joined anew", MENDED, async || release.is_settled(3).await).await?;
        let now = release.members().await?;
        ensure!(id(&now, 0)? == id(&before, 0)?, "the one that was left has another ID: {before:?}, {now:?}");
        for ordinal in [1, 2] {
            ensure!(id(&now, ordinal)? != id(&before, ordinal)?, "a lost member's ID is back: {before:?}, {now:?}");
        }
        grown(release).await?;
        let (first, now) = (release.pod(0), release.pods().await?);
        ensure!(now[&first].uid == pods[&first].uid, "{first} was made again");
        for ordinal in 0..4 {
            let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
            let value = release.etcdctl_in(ordinal, &[&own, "get", KEY, "--print-value-only"]).await?;
            ensure!(value.trim() == "kept", "{} has the key as {value:?}", release.pod(ordinal));
        }
        Ok(())
    })
    .await
}

/// 3 → 4, once the webhook has heard every member since the last one joined or left: what it was told is up
/// to two seconds old. Nothing but its admission is waited for.
async fn grown(release: &Release) -> anyhow::Result<Ran> {
    let would_scale = ["scale", "statefulset", &release.statefulset(), "--replicas=4", "--dry-run=server"];
    until("the webhook has heard every member", SEEN, async || release.kubectl(&would_scale).await).await?;
    change(release, Way::Scale, 4, &[]).await
}

/// That a fourth is refused with all of these words, once the webhook has seen what was done: what it
/// was told is up to two seconds old. The refusal is returned.
async fn refused(release: &Release, name: &str, words: &[&str]) -> anyhow::Result<String> {
    let set = format!("statefulset/{}", release.statefulset());
    let tried = ["-n", &release.namespace, "scale", &set, "--replicas=4", "--dry-run=server"];
    until("the webhook has seen it", SEEN, async || {
        let tried = run("kubectl", tried, "", Duration::from_secs(30)).await?;
        let missing = words.iter().find(|word| !tried.stderr.contains(**word));
        ensure!(!tried.success && missing.is_none(), "{missing:?} is not in: {}", tried.printed());
        Ok(())
    })
    .await?;
    let refused = scale(release, 4).await?;
    ensure!(!refused.success, "a fourth was admitted");
    said(release, &format!("{name}-refused"), refused.stderr.trim());
    Ok(refused.stderr)
}

/// That without `--yes` the plan is said, and nothing is changed.
async fn planned_only(release: &Release, name: &str, refusal: &str, subcommand: &str, says: &str) -> Result {
    let before = (release.record().await?, release.lease_record().await?, release.members().await?);
    let plan = release.run_named(refusal, subcommand, false).await?;
    ensure!(plan.exit_code == TO_DO && plan.message.contains(says), "the plan is {plan:?}");
    said(release, &format!("{name}-planned"), &plan.message);
    let after = (release.record().await?, release.lease_record().await?, release.members().await?);
    ensure!(before == after, "the plan changed {before:?} to {after:?}");
    Ok(())
}

/// That with `--yes` it is done.
async fn decided(release: &Release, name: &str, refusal: &str, subcommand: &str) -> Result {
    let done = release.run_named(refusal, subcommand, true).await?;
    ensure!(done.exit_code == 0 && done.message.starts_with("done: "), "it ended with {done:?}");
    said(release, &format!("{name}-done"), &done.message);
    Ok(())
}
