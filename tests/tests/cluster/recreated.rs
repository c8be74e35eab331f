//! The StatefulSet is deleted and created again over its living members: it is theirs again, with
//! its record, and nobody rolls.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tests::members::{Member, Pod};
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;
use tests::set::RECORD;

type Result = anyhow::Result<()>;

/// A Job of the launcher's, where the record did not come with the StatefulSet.
const HEALED: Duration = Duration::from_secs(90);

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn a_statefulset_created_again_over_living_members_has_its_record_back() -> Result {
    scenario::run("recreated", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let (before, members) = (release.pods().await?, release.members().await?);
        let saved = release.saved().await?;
        release.orphan().await?;
        // What a cluster cannot be created again with: another count than it has members.
        for count in [2, 5] {
            let refused = release.try_create(&with_replicas(&saved, count)).await?;
            ensure!(!refused.success, "{count} replicas over three living members were admitted");
            release.say(&format!("created again with {count} replicas: {}", refused.printed().trim()));
            ensure!(refused.printed().contains("3 etcd members answer in its place"), "{}", refused.printed());
        }
        release.try_create(&without_record(&saved)).await?.ok()?;
        ensure!(release.record().await.is_ok(), "it came back without its record while the webhook was there");
        is_theirs_again(release, &before, &members).await
    })
    .await
}

/// The same manifest with another count.
pub fn with_replicas(manifest: &Value, count: u32) -> Value {
    let mut manifest = manifest.clone();
    manifest["spec"]["replicas"] = count.into();
    manifest
}

/// The same manifest without the record, as a chart has it.
pub fn without_record(manifest: &Value) -> Value {
    let mut manifest = manifest.clone();
    if let Some(annotations) = manifest["metadata"]["annotations"].as_object_mut() {
        annotations.remove(RECORD);
    }
    manifest
}

/// The members, their pods and the record are as they were, and the StatefulSet owns the pods.
pub async fn is_theirs_again(release: &Release, before: &BTreeMap<String, Pod>, members: &[Member]) -> Result {
    until("the record is back", HEALED, async || release.is_settled(members.len()).await).await?;
    until("the StatefulSet has its pods", HEALED, async || {
        let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        let (status, uid) = (&set["status"], &set["metadata"]["uid"]);
        ensure!(status["observedGeneration"] == set["metadata"]["generation"], "its status is {status}");
        ensure!(status["readyReplicas"] == members.len(), "its status is {status}");
        let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let owner = &pod["metadata"]["ownerReferences"][0]["uid"];
            ensure!(owner == uid, "{} belongs to {owner}", pod["metadata"]["name"]);
        }
        Ok(())
    })
    .await?;
    release.kept(before).await?;
    ensure!(release.members().await? == members, "the member list changed");
    ensure!(release.lease_record().await? == release.record().await?, "the Lease has another record");
    Ok(())
}
