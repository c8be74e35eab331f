//! Every way to change the count, up and down: the same safe ending.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::fill::rewrite;
use tests::load::Load;
use tests::members::Pod;
use tests::process::{run, until};
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

use crate::said::said;

type Result = anyhow::Result<()>;

/// The launcher's pause, a Job's start, and 20 s for each of six members on a busy machine.
pub const SETTLED: Duration = Duration::from_secs(240);

/// How the count is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `helm upgrade`.
    Helm,
    /// `kubectl scale`.
    Scale,
    /// Server-side apply by another manager, as GitOps controllers do.
    Apply,
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn up_and_down_by_each_way_the_cluster_ends_well() -> Result {
    scenario::run("ways", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let rows = [(Way::Scale, 4), (Way::Helm, 3), (Way::Apply, 5), (Way::Scale, 3), (Way::Helm, 1), (Way::Scale, 2)];
        rows_of(release, &load, 3, &rows, &[]).await
    })
    .await
}

/// etcd 3.6 keeps fewer in its log, so a newcomer is sent a snapshot; and then waits for an entry that no client makes.
#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn an_etcd_that_no_client_writes_to_gets_its_members() -> Result {
    scenario::run("idle", Helm::V4, async |release| {
        release.install(1, &[]).await?;
        rewrite(&[format!("http://{}:2379", release.host(0))], "traffic/909/0000000000", 13_000).await?;
        let ran = change(release, Way::Scale, 3, &[]).await?;
        let events = release.events_since(ran.from).await?;
        let back: Vec<&str> =
            events.iter().filter(|event| event.reason == "MemberTakenBack").map(|event| event.note.as_str()).collect();
        ensure!(back.is_empty(), "{back:?}");
        release.say(&format!("idle, 1 → 3: {:.0} s", ran.seconds()));
        Ok(())
    })
    .await
}

/// One change after the other, on one release.
pub async fn rows_of(
    release: &Release,
    load: &Load<'_>,
    from: usize,
    rows: &[(Way, usize)],
    options: &[&str],
) -> Result {
    let (mut count, mut last) = (from, Way::Helm);
    for &(way, to) in rows {
        // The release has another count since somebody else has changed it: its own is to win.
        let mut options = [options, &["--set", "onReset=follow"]].concat();
        if last == Way::Apply && release.helm == Helm::V4 {
            options.push("--force-conflicts");
        }
        row(release, load, way, count, to, &options).await.with_context(|| format!("{count} → {to} by {way:?}"))?;
        (count, last) = (to, way);
    }
    Ok(())
}

/// One change under load, and everything that is promised about it.
async fn row(release: &Release, load: &Load<'_>, way: Way, from: usize, to: usize, options: &[&str]) -> Result {
    let staying: BTreeMap<String, Pod> = release.pods().await?.into_iter().take(from.min(to)).collect();
    ensure!(staying.len() == from.min(to), "pods before: {staying:?}");
    let ran = change(release, way, to, options).await?;
    ends_with(release, to).await?;
    release.names_peers(to).await?;
    release.kept(&staying).await?;
    let counts = load.lost_nothing(to, &ran).await?;
    release.say(&format!(
        "ROW | {from} → {to} | {way:?} | {:?} | {:?} | {:.1} s | longest stall {} ms",
        release.helm,
        release.storage,
        ran.seconds(),
        counts["window"]["longest_stall_ms"]
    ));
    Ok(())
}

/// Asks for a count, and waits until the cluster has it.
///
/// # Errors
/// When it is refused, or does not come.
pub async fn change(release: &Release, way: Way, to: usize, options: &[&str]) -> anyhow::Result<Ran> {
    let from = now();
    let ended = match way {
        Way::Helm => return release.upgrade(to, options).await,
        Way::Scale => scale(release, to).await?,
        Way::Apply => {
            let set = json!({
                "apiVersion": "apps/v1", "kind": "StatefulSet",
                "metadata": { "name": release.statefulset(), "namespace": release.namespace },
                "spec": { "replicas": to },
            });
            let apply = ["apply", "--server-side", "--force-conflicts", "--field-manager=gitops", "-f", "-"];
            run("kubectl", apply, &set.to_string(), Duration::from_secs(30)).await?
        }
    };
    let ended = ended.clone().ok().map(|_| ended)?;
    until("the cluster has the new count", SETTLED, async || ends_with(release, to).await).await?;
    Ok(Ran { ended, from, to: now() })
}

/// `kubectl scale`, however it ends.
pub async fn scale(release: &Release, to: usize) -> anyhow::Result<tests::process::Ended> {
    let (set, replicas) = (format!("statefulset/{}", release.statefulset()), format!("--replicas={to}"));
    let scale = ["-n", &release.namespace, "scale", &set, &replicas];
    run("kubectl", scale, "", Duration::from_secs(30)).await
}

/// That the cluster has this many members, with a pod for each and no other.
pub async fn ends_with(release: &Release, count: usize) -> Result {
    only_these(release, count).await?;
    release.is_settled(count).await
}

/// That there are the pods of these ordinals and no other.
pub async fn only_these(release: &Release, count: usize) -> Result {
    let pods: Vec<String> = release.pods().await?.into_keys().collect();
    let expected: Vec<String> = (0..count).map(|ordinal| release.pod(ordinal)).collect();
    ensure!(pods == expected, "the pods are {pods:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn stopped_and_started_it_is_the_same_cluster() -> Result {
    scenario::run("stop", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let (record, members) = (release.record().await?, release.members().await?);
        release.etcdctl(&["put", "traffic/903/0000000000", "kept"]).await?;
        let refused = scale(release, 0).await?;
        ensure!(!refused.success && refused.stderr.contains("etcd-scaler.io/stop=true"), "{}", refused.printed());
        said(release, "stop-refused", refused.stderr.trim());
        let set = release.statefulset();
        release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop=true"]).await?;
        scale(release, 0).await?.ok()?;
        until("all pods are gone", SETTLED, async || only_these(release, 0).await).await?;
        ensure!(release.record().await? == record, "the record changed");
        let two = scale(release, 2).await?;
        ensure!(!two.success && two.stderr.contains("stopped with 3 members"), "{}", two.printed());
        said(release, "stopped-part-of-it-refused", two.stderr.trim());
        scale(release, 3).await?.ok()?;
        until("it is back", SETTLED, async || release.is_settled(3).await).await?;
        ensure!(release.members().await? == members && release.record().await? == record, "other members");
        let value = release.etcdctl(&["get", "traffic/903/0000000000", "--print-value-only"]).await?;
        ensure!(value.trim() == "kept", "the key is {value:?}");
        // Once more, by the release; its template is then another one than that of a start by kubectl.
        scale(release, 0).await?.ok()?;
        until("all pods are gone again", SETTLED, async || only_these(release, 0).await).await?;
        let part = release.try_upgrade(2, &["--force-conflicts"]).await?.refused()?;
        ensure!(part.contains("stopped with 3 members"), "{part}");
        release.upgrade(3, &["--force-conflicts"]).await?;
        until("it is back again", SETTLED, async || release.is_settled(3).await).await?;
        ensure!(release.members().await? == members, "other members");
        Ok(())
    })
    .await
}
