//! What speaks against a change of the count though every member is healthy, each made on the real etcd: refused on both
//! ways with the sentence that a person gets, with nothing changed; and admitted in the nearest form that is safe.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::{is_bed, nodes};
use tests::places::{label, unlabel, with_places};
use tests::process::{self, Ended, run, until};
use tests::release::{Helm, Release, Storage};
use tests::scenario;

use super::commands::{SEEN, admitted, refused, replace, validate};
use crate::said::{error, said};

type Result = anyhow::Result<()>;

/// A Job, with the launcher's pauses before it.
const JOB: Duration = Duration::from_secs(180);
/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const FILL: &str = "traffic/901/";
/// So much fills a quota of 32 MiB to more than 80 %, and not whole.
const OF_THE_QUOTA: usize = 24;
/// So much fills a volume of 150 MiB beside the log.
const OF_THE_VOLUME: usize = 28;
const OVERRIDE: &str = "etcd-scaler.io/override";
const RECORD: &str = "etcd-scaler.io/record";
/// Its bytes are all ones that sed takes as they are.
const REVISION: i64 = 0x61;
/// In the database a revision is eight bytes, an underscore and eight more (etcd server/storage/mvcc/revision.go): these
/// are what is around the two that are edited.
const ZEROS: &str = "\\x00\\x00\\x00\\x00\\x00\\x00";

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn alarms_refuse_and_only_the_one_may_be_lifted() -> Result {
    scenario::run("guard-alarms", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        for kind in ["CORRUPT", "NOSPACE"] {
            let name = format!("guard-{}", kind.to_lowercase());
            alarm(release, "ACTIVATE", kind).await?;
            is_refused(release, 4, &format!("alarm {kind}"), &name, &[]).await?;
            is_refused(release, 2, &format!("alarm {kind}"), &format!("{name}-down"), &[]).await?;
            // An update that changes no count is none of the guard's.
            release
                .kubectl(&["label", "--overwrite", "statefulset", &release.statefulset(), &format!("looked-at={kind}")])
                .await?;
            lift(release, "4: the disk is being made larger").await?;
            if kind == "CORRUPT" {
                is_refused(release, 4, "alarm CORRUPT", &format!("{name}-lifted"), &[]).await?;
                alarm(release, "DEACTIVATE", kind).await?;
                release.kubectl(&["annotate", "statefulset", &release.statefulset(), &format!("{OVERRIDE}-")]).await?;
            }
        }
        is_refused(release, 5, &format!("{OVERRIDE} is for 4"), "guard-nospace-lifted-for-another", &[]).await?;
        let told = scale(release, 4).await?;
        ensure!(told.success, "{}", told.printed());
        said(release, "guard-nospace-lifted", &told.printed());
        said(release, "guard-nospace-lifted-event", &event(release, "RefusalLifted").await?);
        until("the fourth has joined", JOB, async || release.is_settled(4).await).await?;
        // The release has that count, too, so that Helm's next one is not refused for another reason.
        release.upgrade(4, &[]).await?;
        lift(release, "just do it").await?;
        is_refused(release, 5, "it has to be '<count>: <reason>'", "guard-override-wrong", &[]).await?;
        alarm(release, "DEACTIVATE", "NOSPACE").await?;
        admitted(release, 5).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_database_near_its_quota_refuses_a_newcomer_and_lets_one_leave() -> Result {
    scenario::run("guard-quota", Helm::V3, async |release| {
        let quota = ["--set", "etcd.quotaBackendBytes=33554432"];
        release.install(3, &quota).await?;
        fill(release, OF_THE_QUOTA).await?;
        is_refused(release, 4, "% of its quota", "guard-quota", &quota).await?;
        // Down is none of the quota's business.
        admitted(release, 2).await?;
        // Less in it, and it is admitted.
        empty(release, OF_THE_QUOTA).await?;
        admitted(release, 4).await?;
        release.upgrade(4, &quota).await?;
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_database_that_a_newcomers_volume_does_not_hold_refuses_it() -> Result {
    scenario::run("guard-volume", Helm::V4, async |release| {
        let small = ["--set", "etcd.persistence.size=150Mi"];
        release.install(3, &small).await?;
        fill(release, OF_THE_VOLUME).await?;
        is_refused(release, 4, "a newcomer's volume of", "guard-volume", &small).await?;
        empty(release, OF_THE_VOLUME).await?;
        admitted(release, 4).await?;
        // A volume that its claim could never be bound to: Helm's check says so, and nothing is made.
        let before = release.pods().await?;
        let tiny = [&small[..], &["--set", "pv.capacity=100Mi"]].concat();
        let refused = release.try_upgrade(4, &tiny).await?.refused()?;
        said(release, "guard-capacity", &error(&refused));
        said(release, "guard-capacity-by-the-check", &release.job_pod("preflight").await?.message);
        ensure!(release.pods().await?.len() == 3, "a fourth pod was made");
        release.kept(&before).await?;
        release.upgrade(4, &small).await?;
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn members_of_different_versions_refuse() -> Result {
    let release = Release::of("guard-versions", Helm::V4).with_etcd("3.5.35");
    scenario::run_alone(release, async |release| {
        release.install(3, &[]).await?;
        let newer = release.images.etcd_of("3.6.16");
        // Only this pod, not the template: no roll-out is under way, and the versions differ all the same.
        let image = format!("etcd={newer}");
        release.kubectl(&["set", "image", &format!("pod/{}", release.pod(2)), &image]).await?;
        refused(release, 4, "different versions").await?;
        until("the kubelet has told of the restart", SEEN, async || {
            let restarts = release.pods().await?[&release.pod(2)].restarts;
            ensure!(restarts == 1, "{restarts} restarts");
            Ok(())
        })
        .await?;
        is_refused(release, 4, "different versions", "guard-versions", &[]).await?;
        let older = format!("etcd={}", release.images.etcd);
        release.kubectl(&["set", "image", &format!("pod/{}", release.pod(2)), &older]).await?;
        admitted(release, 4).await?;
        let four = release.upgrade(4, &[]).await;
        four.map(drop)?;
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_person_is_warned_and_goes_on() -> Result {
    let release = Release::of("guard-warned", Helm::V4).with_etcd("3.5.16");
    scenario::run_alone(release, async |release| {
        release.install(1, &[]).await?;
        fill(release, 80).await?;
        compact(release, 80).await?;
        until("it is told", SEEN, async || {
            let all = admitted(release, 2).await?["warnings"].to_string();
            ensure!(all.contains("defrag") && all.contains("3.5.20"), "{all}");
            Ok(())
        })
        .await?;
        release.upgrade(2, &[]).await?;
        let event = event(release, "ScaleWarning").await?;
        said(release, "guard-warned-single", &event);
        // It was compacted at its last revision: etcd's hashes are comparable again once there is another.
        put(release, 1, "y").await?;
        release.is_settled(2).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn members_that_are_numbered_otherwise_or_recorded_unreadably_refuse() -> Result {
    scenario::run("guard-record", Helm::V3, async |release| {
        release.install(3, &[]).await?;
        let set = release.statefulset();
        // Neither `kubectl scale` nor the chart has it.
        let numbered = async |start: u32, more: &[&str]| {
            let patch = json!({ "spec": { "ordinals": { "start": start } } }).to_string();
            kubectl(release, &[&["patch", "statefulset", &set, "--type=merge", "-p", &patch], more].concat()).await
        };
        let before = release.json(&["get", "statefulset", &set]).await?;
        let refused = numbered(1, &[]).await?;
        ensure!(!refused.success, "{}", refused.printed());
        said(release, "guard-ordinals", &refused.printed());
        let after = release.json(&["get", "statefulset", &set]).await?;
        ensure!(after["spec"] == before["spec"], "a refused request changed {}", after["spec"]);
        numbered(0, &["--dry-run=server"]).await?.ok()?;
        // A record of a later release of ours. Nobody else may write one: as our Job does.
        let own = before["metadata"]["annotations"][RECORD].as_str().context("no record")?;
        let mut later: Value = serde_json::from_str(own)?;
        later["v"] = json!(2);
        record(release, &later.to_string()).await?;
        is_refused(release, 4, "has version 2", "guard-record", &[]).await?;
        is_refused(release, 2, "has version 2", "guard-record-down", &[]).await?;
        record(release, own).await?;
        admitted(release, 4).await?;
        release.upgrade(4, &[]).await?;
        release.is_settled(4).await
    })
    .await
}

/// A member that answers, has applied what the others have, and is at another revision all the same.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_at_another_revision_than_it_can_be_at_refuses() -> Result {
    if !is_bed() {
        println!("not the test bed: no database can be edited");
        return Ok(());
    }
    scenario::run("guard-apart", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        put_until(release, REVISION).await?;
        let apart = async |from: &str, to: &str| {
            let stored = |revision: &str| format!("{ZEROS}{revision}_{ZEROS}");
            release.edit_database(1, &[(stored(from), stored(to))]).await
        };
        // By 7 936 revisions the status of a busy etcd can be off.
        apart("\\x00\\x61", "\\x1f\\x61").await?;
        admitted(release, 4).await?;
        // Not by 32 512.
        apart("\\x1f\\x61", "\\x7f\\x61").await?;
        is_refused(release, 4, "revisions more than", "guard-apart", &[]).await?;
        is_refused(release, 2, "revisions more than", "guard-apart-down", &[]).await?;
        lift(release, "4: it is known").await?;
        is_refused(release, 4, "revisions more than", "guard-apart", &[]).await?;
        release.kubectl(&["annotate", "statefulset", &release.statefulset(), &format!("{OVERRIDE}-")]).await?;
        // As the refusal says.
        let found = validate(release, &["--keys", "-o", "json"]).await?;
        ensure!(found.exit_code == 3 && found.json()?["replace"] == release.pod(1), "{found:?}");
        let replaced = replace(release, 1, ",\"--even-if-it-serves\",\"--yes\"", "replace").await?;
        ensure!(replaced.exit_code == 0, "{replaced:?}");
        admitted(release, 4).await?;
        release.upgrade(4, &[]).await?;
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn while_a_lower_ordinal_has_no_member_no_other_joins() -> Result {
    scenario::run("guard-gap", Helm::V3, async |release| {
        with_places(release, async |place| {
            for node in nodes().await? {
                label(&node, place).await?;
            }
            let selector = format!("etcd.nodeSelector.{place}=here");
            let options = ["--set-string", &selector, "--set", "hook.deadlineSeconds=60,hook.joinDeadlineSeconds=40"];
            release.install(3, &options).await?;
            let name = release.pod(1);
            let node = release.pods().await?[&name].node.clone();
            // Its volume is on that node, so its pod, made again, has no other.
            unlabel(&node, place).await?;
            let second = release.members().await?.into_iter().find(|member| member.name == name);
            release.remove_member(&second.context("no second member")?.id).await?;
            let (drifted, _) = refused(release, 4, "it was removed by hand").await?;
            let dropped = release.run_named(&drifted, "reconcile", true).await?;
            ensure!(dropped.exit_code == 0, "{dropped:?}");
            // The launcher works on it meanwhile, and the StatefulSet says so; who is a member, and how many are wanted,
            // stays.
            let state = async || -> anyhow::Result<_> {
                let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
                Ok((release.members().await?, set["spec"]["replicas"].clone()))
            };
            let before = state().await?;
            refused_each_way(release, 4, "and members above it have", "guard-gap", &options).await?;
            ensure!(state().await? == before, "a refused request changed something");
            label(&node, place).await?;
            until("it has joined again", JOB, async || release.is_settled(3).await).await?;
            admitted(release, 4).await?;
            release.upgrade(4, &options).await?;
            release.is_settled(4).await
        })
        .await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn without_a_class_no_member_joins_and_without_a_node_it_is_said() -> Result {
    if !is_bed() {
        println!("not the test bed: which class is the default is everybody's");
        return Ok(());
    }
    let release = Release::of("guard-room", Helm::V4).on(Storage::Provisioned);
    scenario::run_alone(release, async |release| {
        let looked = with_places(release, async |place| without_room(release, place).await).await;
        default_class(false).await?;
        looked
    })
    .await
}

async fn without_room(release: &Release, place: &str) -> Result {
    let all = nodes().await?;
    for node in &all[..3] {
        label(node, place).await?;
    }
    let selector = format!("etcd.nodeSelector.{place}=here");
    let options = ["--set-string", &selector, "--set", "etcd.persistence.storageClass="];
    default_class(true).await?;
    release.install(3, &options).await?;
    let before = release.pods().await?;
    default_class(false).await?;
    let refused = release.try_upgrade(4, &options).await?.refused()?;
    said(release, "guard-class", &error(&refused));
    said(release, "guard-class-by-the-check", &release.job_pod("preflight").await?.message);
    ensure!(release.pods().await?.len() == 3, "a fourth pod was made");
    release.kept(&before).await?;
    default_class(true).await?;
    // It is tried all the same: a node may come.
    let (upgraded, warned) = tokio::join!(release.try_upgrade(4, &options), async {
        let warned = event(release, "ScaleWarning").await;
        label(&all[3], place).await?;
        warned
    });
    said(release, "guard-nodes", &warned?);
    upgraded?.ended.ok()?;
    release.is_settled(4).await?;
    release.kept(&before).await
}

/// Has the bed's class be the default, or not.
async fn default_class(is: bool) -> Result {
    let key = "storageclass.kubernetes.io/is-default-class";
    let word = if is { format!("{key}=true") } else { format!("{key}-") };
    process::kubectl(["annotate", "--overwrite", "storageclass", "bed-local", &word]).await.map(drop)
}

/// Writes the record as our Job does.
async fn record(release: &Release, record: &str) -> Result {
    let job = format!("--as=system:serviceaccount:{}:{}-etcd-scaler-hook", release.namespace, release.name);
    let record = format!("{RECORD}={record}");
    let write = ["annotate", "--overwrite", "statefulset", &release.statefulset(), &record, &job];
    kubectl(release, &write).await?.ok().map(drop)
}

/// Writes until the last revision is this one.
async fn put_until(release: &Release, revision: i64) -> Result {
    loop {
        let status: Value = serde_json::from_str(&release.etcdctl(&["endpoint", "status", "-w", "json"]).await?)?;
        let now = status[0]["Status"]["header"]["revision"].as_i64().context("no revision")?;
        ensure!(now <= revision, "the revision is {now} already");
        if now == revision {
            return Ok(());
        }
        put(release, usize::try_from(revision - now)?, "x").await?;
    }
}

/// [`refused_each_way`], and nothing changed.
async fn is_refused(release: &Release, count: usize, says: &str, name: &str, values: &[&str]) -> Result {
    let set = release.statefulset();
    let state = async || -> anyhow::Result<_> {
        let live = release.json(&["get", "statefulset", &set]).await?;
        Ok((
            release.members().await?,
            release.pods().await?,
            live["spec"].clone(),
            live["metadata"]["annotations"].clone(),
        ))
    };
    let before = state().await?;
    refused_each_way(release, count, says, name, values).await?;
    ensure!(state().await? == before, "a refused request changed something");
    Ok(())
}

/// Refused by the plan, by `kubectl scale`, by a patch of the StatefulSet and by Helm, each with the same sentence.
async fn refused_each_way(release: &Release, count: usize, says: &str, name: &str, values: &[&str]) -> Result {
    let set = release.statefulset();
    // Asked first, so that what is not yet known changes nothing.
    let (_, printed) = refused(release, count, says).await?;
    said(release, name, &printed);
    let real = scale(release, count).await?;
    ensure!(!real.success && real.printed().contains(says), "{}", real.printed());
    let patch = json!({ "spec": { "replicas": count } }).to_string();
    let patched = kubectl(release, &["patch", "statefulset", &set, "--type=merge", "-p", &patch]).await?;
    ensure!(!patched.success && patched.printed().contains(says), "{}", patched.printed());
    let upgraded = release.try_upgrade(count, values).await?.refused()?;
    ensure!(upgraded.contains(says), "Helm does not say {says:?}: {upgraded}");
    Ok(())
}

async fn scale(release: &Release, count: usize) -> anyhow::Result<Ended> {
    kubectl(release, &["scale", "statefulset", &release.statefulset(), &format!("--replicas={count}")]).await
}

async fn kubectl(release: &Release, arguments: &[&str]) -> anyhow::Result<Ended> {
    run("kubectl", [&["-n", &release.namespace], arguments].concat(), "", Duration::from_secs(30)).await
}

/// A person's word that a count is wanted all the same.
async fn lift(release: &Release, word: &str) -> anyhow::Result<String> {
    let word = format!("{OVERRIDE}={word}");
    release.kubectl(&["annotate", "--overwrite", "statefulset", &release.statefulset(), &word]).await
}

/// Raises an alarm of the first member, or takes it back, as etcd itself does: etcdctl can only take back.
async fn alarm(release: &Release, action: &str, kind: &str) -> Result {
    let id = release.members().await?.into_iter().find(|it| it.name == release.pod(0)).context("no member 0")?.id;
    let id = u64::from_str_radix(&id, 16)?.to_string();
    let body = json!({ "action": action, "memberID": id, "alarm": kind }).to_string();
    let path =
        format!("/api/v1/namespaces/{}/pods/{}:2379/proxy/v3/maintenance/alarm", release.namespace, release.pod(0));
    run("kubectl", ["create", "--raw", &path, "-f", "-"], &body, Duration::from_secs(30)).await?.ok().map(drop)
}

/// Writes so many MiB of keys.
async fn fill(release: &Release, mib: usize) -> Result {
    put(release, 2 * mib, &"x".repeat(1 << 19)).await
}

/// Has so many MiB of keys be small, without their history; the database stays as large as it was.
async fn compact(release: &Release, mib: usize) -> Result {
    put(release, 2 * mib, "x").await?;
    let status: Value = serde_json::from_str(&release.etcdctl(&["endpoint", "status", "-w", "json"]).await?)?;
    let revision = status[0]["Status"]["header"]["revision"].as_i64().context("no revision")?;
    release.etcdctl(&["compact", "--physical", &revision.to_string()]).await.map(drop)
}

/// The same, and the database small again: one member at a time. Written to once more: where the last revision is the
/// compacted one, etcd's own hashes of members that restarted since are others.
async fn empty(release: &Release, mib: usize) -> Result {
    compact(release, mib).await?;
    for ordinal in 0..3 {
        release.etcdctl_in(ordinal, &["defrag"]).await?;
    }
    put(release, 1, "y").await
}

async fn put(release: &Release, keys: usize, value: &str) -> Result {
    for key in 0..keys {
        let (pod, key) = (release.pod(0), format!("{FILL}{key:010}"));
        let put = ["-n", &release.namespace, "exec", "-i", &pod, "-c", "etcd", "--", "etcdctl", "put", &key];
        run("kubectl", put, value, Duration::from_secs(30)).await?.ok()?;
    }
    Ok(())
}

/// The note of the newest Event with this reason.
async fn event(release: &Release, reason: &str) -> anyhow::Result<String> {
    until(&format!("there is an Event {reason}"), SEEN, async || {
        let events = release.events_since(0).await?;
        let event = events.into_iter().rev().find(|event| event.reason == reason);
        event.map(|event| event.note).with_context(|| format!("no Event {reason}"))
    })
    .await
}
