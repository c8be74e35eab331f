//! The ConfigMap with the cluster's token is deleted while the cluster serves: a pod as its chart made it cannot start
//! without, and a member's pod is never held for long.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::load::Load;
use tests::members::Member;
use tests::process::until;
use tests::release::{Helm, Release, now};
use tests::scenario;

use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// A Job of the launcher's; the kubelet is woken by it.
const BACK: Duration = Duration::from_secs(60);
/// Of the first bootstrap, and joined.
const MADE_AGAIN: [usize; 2] = [0, 4];

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn while_the_token_is_gone_no_members_pod_stays_away() -> Result {
    scenario::run("lost-token", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        release.upgrade(5, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        let members = release.members().await?;
        let text = token(release).await?;
        // Ours is there.
        release.kubectl(&["delete", "configmap", &name(release)]).await?;
        let began = Instant::now();
        let pods = delete_two(release).await?;
        are_back(release, &pods, &members).await?;
        release.say(&format!("with ours there both were back after {:.1} s", began.elapsed().as_secs_f64()));
        ensure!(token(release).await? == text, "the token is another one");
        // And away: what the webhook makes of a pod is missing, and nobody writes the token.
        release.stop_webhook().await?;
        release.kubectl(&["delete", "configmap", &name(release)]).await?;
        let pods = delete_two(release).await?;
        let first = release.pod(0);
        until("the first waits for the token", BACK, async || {
            let pod = release.json(&["get", "pod", &first]).await?;
            let why = &pod["status"]["containerStatuses"][0]["state"]["waiting"]["message"];
            ensure!(why.as_str().is_some_and(|why| why.contains(&name(release))), "it says {why}");
            Ok(())
        })
        .await?;
        let began = Instant::now();
        release.start_webhook().await?;
        are_back(release, &pods, &members).await?;
        release.say(&format!("ours started, both were back after {:.1} s", began.elapsed().as_secs_f64()));
        ensure!(token(release).await? == text, "the token is another one");
        during.to = now();
        load.lost_nothing(5, &during).await.map(drop)
    })
    .await
}

fn name(release: &Release) -> String {
    format!("{}-bootstrap", release.statefulset())
}

async fn token(release: &Release) -> anyhow::Result<String> {
    let map = release.json(&["get", "configmap", &name(release)]).await?;
    map["data"]["token"].as_str().map(str::to_owned).context("the ConfigMap has no token")
}

/// Two of five members' pods; their UIDs before.
async fn delete_two(release: &Release) -> anyhow::Result<Vec<(String, String)>> {
    let pods = release.pods().await?;
    let pods: Vec<_> =
        MADE_AGAIN.map(|o| release.pod(o)).into_iter().map(|pod| (pod.clone(), pods[&pod].uid.clone())).collect();
    release.kubectl(&["delete", "pod", &pods[0].0, &pods[1].0]).await?;
    Ok(pods)
}

/// Others are in their place, Ready, the same members.
async fn are_back(release: &Release, deleted: &[(String, String)], members: &[Member]) -> Result {
    until("both are back", BACK, async || {
        let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
        for (name, uid) in deleted {
            let mut items = pods["items"].as_array().into_iter().flatten();
            let pod = items.find(|pod| pod["metadata"]["name"] == **name).with_context(|| format!("no pod {name}"))?;
            let ready = pod["status"]["conditions"].as_array().into_iter().flatten();
            let ready = ready.filter(|it| it["type"] == "Ready").any(|it| it["status"] == "True");
            ensure!(pod["metadata"]["uid"] != **uid && ready, "{name}: {}", pod["status"]["containerStatuses"]);
        }
        release.go_on(&[0, 1, 2, 3, 4], members).await
    })
    .await
}
