//! Both replicas of the webhook are down: members come back by themselves, and what needs a decision
//! is refused and says so.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;
use tests::load::Load;
use tests::process::{Ended, until};
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

type Result = anyhow::Result<()>;

/// A member stops, its pod is made again, it starts and is Ready.
pub const BACK: Duration = Duration::from_secs(90);

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn members_come_back_and_a_scale_is_refused() -> Result {
    scenario::run("alone", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.upgrade(4, &[]).await?;
        let held = release.held().await?;
        let mut during = from_now();
        release.stop_webhook().await?;
        // One that was there at the install, and one that joined.
        for ordinal in [1, 3] {
            comes_back(release, ordinal, async |pod| {
                release.kubectl(&["delete", "pod", pod, "--wait=false"]).await.map(drop)
            })
            .await?;
        }
        for ordinal in [0, 3] {
            comes_back(release, ordinal, async |pod| fail(release, pod).await).await?;
        }
        ensure!(release.held().await? == held, "members had {held:?} and have {:?}", release.held().await?);
        a_scale_is_refused(release).await?;
        during.to = now();
        let counts = load.lost_nothing(4, &during).await?;
        release.say(&format!("without a webhook: {}", counts["window"]));
        release.start_webhook().await?;
        release.upgrade(5, &[]).await?;
        release.is_settled(5).await?;
        load.lost_nothing(5, &during).await.map(drop)
    })
    .await
}

/// Every way to ask for another count, and each answer names the webhook.
async fn a_scale_is_refused(release: &Release) -> Result {
    let before = release.json(&["get", "statefulset", &release.statefulset()]).await?["spec"].clone();
    let set = release.statefulset();
    let patch = json!({ "spec": { "replicas": 5 } }).to_string();
    let upgrade = release.try_upgrade(5, &[]).await?.refused()?;
    release.say(upgrade.trim());
    for part in ["etcd-scaler's webhook does not answer", "app.kubernetes.io/component=webhook", "nothing was changed"]
    {
        ensure!(upgrade.contains(part), "{part:?} is not in {upgrade:?}");
    }
    for asked in [
        release.kubectl(&["scale", "statefulset", &set, "--replicas=5"]).await,
        release.kubectl(&["patch", "statefulset", &set, "--type=merge", "-p", &patch]).await,
    ] {
        a_scale_is_refused_by(&asked)?;
    }
    let bare = release.try_upgrade(5, &["--no-hooks"]).await?.refused()?;
    ensure!(bare.contains("etcd-scaler.io"), "{bare}");
    let after = release.json(&["get", "statefulset", &set]).await?["spec"].clone();
    ensure!(before == after, "a refused request changed {after}");
    Ok(())
}

pub fn a_scale_is_refused_by(asked: &anyhow::Result<String>) -> Result {
    let Err(refused) = asked else { anyhow::bail!("it was admitted: {asked:?}") };
    let refused = format!("{refused:#}");
    println!("{refused}");
    ensure!(refused.contains("failed calling webhook") && refused.contains("etcd-scaler.io"), "{refused}");
    Ok(())
}

/// Something is done to a member's pod; another one of its name serves again, the others go on.
async fn comes_back(
    release: &Release,
    ordinal: usize,
    something: impl AsyncFnOnce(&str) -> anyhow::Result<()>,
) -> Result {
    let pod = release.pod(ordinal);
    let before = release.pods().await?;
    let began = now();
    something(&pod).await?;
    until("the member serves again", BACK, async || {
        let now = release.json(&["get", "pod", &pod]).await?;
        ensure!(before.get(&pod).is_some_and(|old| now["metadata"]["uid"] != old.uid.as_str()), "still the old one");
        let conditions = now["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.clone().any(|c| c["type"] == "Ready" && c["status"] == "True");
        ensure!(ready, "{}", now["status"]);
        Ok(())
    })
    .await?;
    release.say(&format!("{pod} is back after {:.1} s", (now() - began) as f64 / 1000.0));
    let others = before.iter().filter(|(name, _)| **name != pod);
    let others = others.map(|(name, pod)| (name.clone(), pod.clone())).collect();
    release.kept(&others).await
}

/// A span of time that begins now.
pub fn from_now() -> Ran {
    let ended = Ended { command: String::new(), success: true, stdout: String::new(), stderr: String::new() };
    Ran { ended, from: now(), to: now() }
}

/// Makes a pod Failed, as an eviction by its kubelet does: its object stays, its containers end.
async fn fail(release: &Release, pod: &str) -> Result {
    let soon = json!({ "spec": { "activeDeadlineSeconds": 1 } }).to_string();
    release.kubectl(&["patch", "pod", pod, "--type=merge", "-p", &soon]).await.map(drop)
}
