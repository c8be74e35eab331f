//! What holds the record is lost: the StatefulSet, the annotation, the Lease, the release, and at
//! last the data. The cluster stays the same one for as long as its data is there.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::faults::{freeze_container, thaw_container};
use tests::kept::run::{question, word};
use tests::load::Load;
use tests::members::Member;
use tests::process::{kubectl, run, until};
use tests::release::{Helm, Release, Storage};
use tests::scenario;
use tests::set::RECORD;

use crate::recreated::{is_theirs_again, with_replicas, without_record};

type Result = anyhow::Result<()>;

/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEYS: &str = "traffic/901/";
/// Until something that the webhook or the Job mends is mended.
const MENDED: Duration = Duration::from_secs(60);
/// Until several members have joined or left.
const GROWN: Duration = Duration::from_secs(300);

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn deleted_and_created_again_in_each_way_with_the_webhook_up_and_down() -> Result {
    orphaned("orphaned", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn deleted_and_created_again_in_each_way_with_the_webhook_up_and_down_with_helm_3() -> Result {
    orphaned("orphaned-3", Helm::V3).await
}

async fn orphaned(name: &str, helm: Helm) -> Result {
    scenario::run(name, helm, async |release| {
        release.install(3, &[]).await?;
        release.upgrade(4, &[]).await?;
        let load = Load::start(release).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        let saved = release.saved().await?;
        for webhook in [true, false] {
            for way in ["kubectl create with the record", "kubectl create without the record", "helm upgrade"] {
                release.say(&format!("{way}, the webhook is {}", if webhook { "up" } else { "down" }));
                match way {
                    // It comes back with the upgrade, after the StatefulSet.
                    "helm upgrade" if !webhook => release.remove_webhook().await?,
                    _ if !webhook => release.stop_webhook().await?,
                    _ => {}
                }
                release.orphan().await?;
                match way {
                    "helm upgrade" if webhook => release.upgrade(4, &[]).await.map(drop)?,
                    // The Job after the upgrade would need the webhook for the record.
                    "helm upgrade" => release.try_upgrade(4, &["--no-hooks"]).await?.ended.ok().map(drop)?,
                    "kubectl create with the record" => release.try_create(&saved).await?.ok().map(drop)?,
                    _ => release.try_create(&without_record(&saved)).await?.ok().map(drop)?,
                }
                if !webhook {
                    release.start_webhook().await?;
                    release.webhook_is_whole().await?;
                }
                is_theirs_again(release, &before, &members).await?;
            }
        }
        // A forged record is no record.
        release.orphan().await?;
        let mut forged = saved.clone();
        let record = saved["metadata"]["annotations"][RECORD].as_str().context("saved without a record")?;
        forged["metadata"]["annotations"][RECORD] = record.replace(&members[0].id, "0123456789abcdef").into();
        let created = release.try_create(&forged).await?;
        release.say(&format!("created again with a forged record: {}", created.printed().trim()));
        if !created.success {
            release.try_create(&saved).await?.ok()?;
        }
        is_theirs_again(release, &before, &members).await?;
        // Another count while they live.
        release.orphan().await?;
        for count in [3, 5] {
            let refused = release.try_create(&with_replicas(&saved, count)).await?;
            ensure!(!refused.success, "{count} replicas over four living members were admitted");
            release.say(&format!("with {count} replicas: {}", refused.printed().trim()));
        }
        let refused = release.try_upgrade(5, &[]).await?.refused()?;
        release.say(&format!("helm upgrade to 5: {}", refused.trim()));
        release.try_create(&saved).await?.ok()?;
        is_theirs_again(release, &before, &members).await?;
        let all = tests::release::Ran { ended: release.try_create(&saved).await?, from: 0, to: tests::release::now() };
        load.lost_nothing(4, &all).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn created_again_with_another_count_while_no_webhook_runs() -> Result {
    made_again_unseen(Release::of("unseen", Helm::V4)).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn created_again_with_another_count_while_no_webhook_runs_on_provisioned_volumes() -> Result {
    made_again_unseen(Release::of("unseen-3", Helm::V3).on(Storage::Provisioned)).await
}

/// Nobody refuses the other count, and the template says that all of them are new: four of seven would
/// be a cluster of their own.
async fn made_again_unseen(release: Release) -> Result {
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        let charts = release.rendered(7).await?;
        release.stop_webhook().await?;
        release.orphan().await?;
        release.say("created again with 7 while no webhook runs");
        run("kubectl", ["create", "-f", "-"], &charts, MENDED).await?.ok()?;
        let set = release.statefulset();
        let events = ["get", "events", "--field-selector", &format!("involvedObject.name={set},reason=FailedCreate")];
        let denied = until("the newcomers are denied", MENDED, async || {
            let events = release.json(&events).await?;
            let said = events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
            let last = release.pod(6);
            let said: Vec<&str> = said.filter(|said| said.contains("is not that of a member")).collect();
            said.iter().find(|said| said.contains(&last)).map(|said| (*said).to_owned()).context("not yet")
        })
        .await?;
        release.say(&denied);
        // A member's own pod is never held.
        release.kubectl(&["delete", "pod", &release.pod(1)]).await?;
        let mut others = before.clone();
        others.remove(&release.pod(1));
        until("the deleted member is back", MENDED, async || {
            let pods = release.pods().await?;
            ensure!(pods.len() == 3, "the pods are {pods:?}");
            ensure!(release.members_seen_by(1).await? == members, "the member list changed");
            Ok(())
        })
        .await?;
        release.start_webhook().await?;
        until("all seven are members", GROWN, async || release.is_settled(7).await).await?;
        release.kept(&others).await?;
        // Fewer, too: what the count says is done when there is somebody to do it.
        release.stop_webhook().await?;
        release.orphan().await?;
        let from = tests::release::now();
        let ended = run("kubectl", ["create", "-f", "-"], &release.rendered(5).await?, MENDED).await?;
        ended.clone().ok()?;
        release.start_webhook().await?;
        until("five are left", GROWN, async || release.is_settled(5).await).await?;
        release.kept(&others).await?;
        let all = tests::release::Ran { ended, from, to: tests::release::now() };
        load.lost_nothing(5, &all).await.map(drop)
    })
    .await
}

/// Nobody makes an orphaned pod again: two that go cost the quorum, and no more is heard than one that knows no leader.
/// Whoever is left is never told to go; what is printed brings the others back.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn created_again_while_no_quorum_is_heard_it_has_its_record_and_its_members_back() -> Result {
    scenario::run("unheard", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        release.go_on(&[0, 1, 2], &members).await?;
        let saved = release.saved().await?;
        release.orphan().await?;
        release.kubectl(&["delete", "pod", &release.pod(1), &release.pod(2)]).await?;
        for count in [2, 5] {
            refused_unheard(release, &with_replicas(&without_record(&saved), count)).await?;
        }
        // Its own command: helm upgrade --set etcd.replicaCount=3.
        release.upgrade(3, &[]).await?;
        is_settled_again(release, &members).await?;
        let now = release.pods().await?;
        ensure!(now[&release.pod(0)] == before[&release.pod(0)], "the one that ran on is not as it was: {now:?}");
        // All run, and two of them stand still: they are not heard, and may come to life at any moment.
        let before = now;
        release.orphan().await?;
        let mut still = Vec::new();
        for ordinal in [1, 2] {
            let running = release.running(&release.pod(ordinal), "etcd").await?;
            freeze_container(&running.node, &running.id).await?;
            still.push(running);
        }
        let refused = refused_unheard(release, &with_replicas(&without_record(&saved), 5)).await;
        let created = release.try_create(&without_record(&saved)).await;
        for running in still {
            thaw_container(&running.node, &running.id).await?;
        }
        refused?;
        created?.ok()?;
        ensure!(release.record().await.is_ok(), "it came back without its record");
        is_theirs_again(release, &before, &members).await?;
        release.go_on(&[0, 1, 2], &members).await
    })
    .await
}

/// That it is not created with another count over members that run and are not heard, and nobody is to be deleted for it.
async fn refused_unheard(release: &Release, manifest: &serde_json::Value) -> Result {
    let refused = release.try_create(manifest).await?;
    let told = refused.printed();
    release.say(&format!("created again over members that are not heard: {}", told.trim()));
    ensure!(!refused.success, "it was created");
    ensure!(told.contains("and were not heard as one cluster (") && !told.contains("delete them"), "{told}");
    ensure!(told.contains("Create it with 3: helm upgrade --set etcd.replicaCount=3"), "{told}");
    Ok(())
}

/// That the members are the same ones and serve.
async fn is_settled_again(release: &Release, members: &[Member]) -> Result {
    until("they are settled again", MENDED, async || release.is_settled(members.len()).await).await?;
    until("they go on", MENDED, async || release.go_on(&[0, 1, 2], members).await).await
}

/// One at a time, each mended before the next is taken.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_lease_is_deleted_the_annotation_dropped_and_edited() -> Result {
    record("record", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_lease_is_deleted_the_annotation_dropped_and_edited_with_helm_3() -> Result {
    record("record-3", Helm::V3).await
}

async fn record(name: &str, helm: Helm) -> Result {
    scenario::run(name, helm, async |release| {
        release.install(3, &[]).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        let (set, record) = (release.statefulset(), release.record().await?);
        // Dropped: put back in the same request.
        release.kubectl(&["annotate", "statefulset", &set, &format!("{RECORD}-")]).await?;
        ensure!(release.record().await? == record, "the dropped record is not put back");
        // Replaced by a manifest that never had it.
        let replaced = without_record(&release.saved().await?);
        run("kubectl", ["replace", "-f", "-"], &replaced.to_string(), MENDED).await?.ok()?;
        ensure!(release.record().await? == record, "the record is not put back into a replaced manifest");
        // Edited: refused.
        let edit = format!("{RECORD}={}", record.to_string().replace(&members[2].id, "0123456789abcdef"));
        let edited = release.kubectl(&["annotate", "statefulset", &set, &edit, "--overwrite"]).await;
        let Err(refused) = edited else { anyhow::bail!("a record edited by hand was admitted") };
        release.say(&format!("edited by hand: {refused:#}"));
        ensure!(release.record().await? == record, "the refused edit changed the record");
        // The same without a webhook: nobody can say yes.
        release.stop_webhook().await?;
        for edit in [format!("{RECORD}-"), edit] {
            let edited = release.kubectl(&["annotate", "statefulset", &set, &edit, "--overwrite"]).await;
            let Err(refused) = edited else { anyhow::bail!("{edit} was admitted without a webhook") };
            release.say(&format!("without a webhook: {refused:#}"));
        }
        release.start_webhook().await?;
        release.webhook_is_whole().await?;
        ensure!(release.record().await? == record, "the record changed while the webhook was away");
        // The Lease: its copy is written again by the next run.
        release.kubectl(&["delete", "lease", &release.lease_name()]).await?;
        release.upgrade(3, &[]).await?;
        ensure!(release.lease_record().await? == record, "the Lease's copy is not the record");
        // Both at once, as after a restore of the namespace without Leases: read from the members.
        let saved = without_record(&release.saved().await?);
        release.stop_webhook().await?;
        release.kubectl(&["delete", "lease", &release.lease_name()]).await?;
        release.orphan().await?;
        release.try_create(&saved).await?.ok()?;
        release.start_webhook().await?;
        release.webhook_is_whole().await?;
        is_theirs_again(release, &before, &members).await?;
        // And still it scales. The fields are kubectl's now: Helm 4 asks to be told to take them back.
        let force: &[&str] = if helm == Helm::V4 { &["--force-conflicts"] } else { &[] };
        release.upgrade(4, force).await?;
        release.is_settled(4).await?;
        release.kept(&before).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn installed_again_over_kept_volumes_it_is_the_same_cluster() -> Result {
    kept_volumes("reinstalled", Helm::V4).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn installed_again_over_kept_volumes_it_is_the_same_cluster_with_helm_3() -> Result {
    kept_volumes("reinstalled-3", Helm::V3).await
}

async fn kept_volumes(name: &str, helm: Helm) -> Result {
    scenario::run(name, helm, async |release| {
        let (cluster, members) = four_with_keys(release).await?;
        release.uninstall().await?;
        // The others would begin a cluster of their own: a person is asked.
        let from = tests::release::now();
        release.try_install(7, &[]).await?.refused()?;
        release.say(&format!("with 7 over the volumes of 4: {}", question(release, from).await?));
        release.uninstall().await?;
        release.install(4, &[]).await?;
        release.is_settled(4).await?;
        ensure!(release.members().await? == members, "the members are others than before");
        ensure!(release.record().await?["cluster"] == cluster, "the cluster is another one than before");
        keys_are(release, 100, 4).await?;
        release.say(&format!("installed again over kept volumes: cluster {cluster}, the same members, all keys"));
        release.upgrade(5, &[]).await?;
        release.is_settled(5).await?;
        // The same where only the StatefulSet was deleted, by the launcher's Job.
        let set = release.statefulset();
        let delete = ["delete", "statefulset", &set, "--cascade=foreground"];
        let create = async |count| run("kubectl", ["create", "-f", "-"], &release.rendered(count).await?, MENDED).await;
        release.kubectl(&delete).await?;
        let from = tests::release::now();
        create(7).await?.ok()?;
        let asked = until("a person is asked", MENDED, async || question(release, from).await).await?;
        release.say(&format!("created with 7 over the volumes of 5: {asked}"));
        release.kubectl(&delete).await?;
        create(5).await?.ok()?;
        until("all five are back", MENDED, async || release.is_settled(5).await).await
    })
    .await
}

/// The names of the objects are the same, and so are the IDs that etcd makes of them: only the Lease
/// of the earlier installation knows a fourth member.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn installed_again_over_wiped_volumes_it_is_a_new_cluster() -> Result {
    wiped_volumes("wiped", Helm::V4, 3).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn installed_again_over_wiped_volumes_it_is_a_new_cluster_with_helm_3() -> Result {
    wiped_volumes("wiped-3", Helm::V3, 5).await
}

/// Four before, `count` after.
async fn wiped_volumes(name: &str, helm: Helm, count: usize) -> Result {
    scenario::run(name, helm, async |release| {
        four_with_keys(release).await?;
        release.uninstall().await?;
        let before = release.lease_record().await?;
        release.kubectl(&["delete", "pvc", "--all", "--timeout=25s"]).await?;
        let volumes: Vec<String> = (0..4).map(|ordinal| release.volume(ordinal)).collect();
        let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
        kubectl([&["delete", "pv", "--timeout=25s"], &*volumes].concat()).await?;
        release.remove_directories().await?;
        // The Lease is left, and whose data it speaks of may be elsewhere: begun anew only by a person's word.
        let from = tests::release::now();
        release.try_install(count, &[]).await?.refused()?;
        let anew = format!("etcd.bootstrap={}", word(&question(release, from).await?, "anew")?);
        release.upgrade(count, &["--set", &anew]).await?;
        until("the new cluster is verified", MENDED, async || release.is_settled(count).await).await?;
        keys_are(release, 0, count).await?;
        let now = release.record().await?;
        release.say(&format!("before the wipe {before}, after it {now}"));
        ensure!(release.lease_record().await? == now, "the Lease still has another record");
        release.upgrade(count + 1, &[]).await?;
        release.is_settled(count + 1).await
    })
    .await
}

/// Four members that hold a hundred keys; the cluster's ID and the members.
async fn four_with_keys(release: &Release) -> anyhow::Result<(serde_json::Value, Vec<Member>)> {
    release.install(3, &[]).await?;
    release.upgrade(4, &[]).await?;
    for key in 0..100 {
        release.etcdctl(&["put", &format!("{KEYS}{key:010}"), "value"]).await?;
    }
    Ok((release.record().await?["cluster"].clone(), release.members().await?))
}

/// Each member itself has as many of the keys.
async fn keys_are(release: &Release, count: usize, members: usize) -> Result {
    for ordinal in 0..members {
        let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
        let keys = release.etcdctl_in(ordinal, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
        let keys = keys.lines().filter(|line| !line.is_empty()).count();
        ensure!(keys == count, "{} has {keys} of {count} keys", release.pod(ordinal));
    }
    Ok(())
}
