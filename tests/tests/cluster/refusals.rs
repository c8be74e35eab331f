//! What is never begun: each unsafe request is refused with what, why, the numbers and the way out,
//! and nothing changes.

use anyhow::ensure;
use serde_json::json;
use tests::release::{Helm, Release};
use tests::scenario;

use crate::said::{error, said};

type Result = anyhow::Result<()>;

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn unsafe_requests_are_refused_with_the_way_out() -> Result {
    scenario::run("refusals", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let set = release.statefulset();
        let before = release.json(&["get", "statefulset", &set]).await?;
        for (replicas, says) in [(0, "0 members are no cluster"), (8, "the most is 7")] {
            let patch = json!({ "spec": { "replicas": replicas } }).to_string();
            let patched = refused(release, &["patch", "statefulset", &set, "--type=merge", "-p", &patch]).await?;
            ensure!(patched.contains(says), "{patched}");
            said(release, &format!("refused-patch-to-{replicas}"), &patched);
            let asked = format!("--replicas={replicas}");
            let scaled = refused(release, &["scale", "statefulset", &set, &asked]).await?;
            ensure!(scaled.contains(says), "{scaled}");
            said(release, &format!("refused-scale-to-{replicas}"), &scaled);
        }
        let both = json!({ "spec": { "replicas": 4, "template": { "spec": { "containers": [
            { "name": "etcd", "image": "localhost/etcd:other" }
        ] } } } });
        let both = refused(release, &["patch", "statefulset", &set, "-p", &both.to_string()]).await?;
        ensure!(both.contains("pod template as well"), "{both}");
        said(release, "refused-count-and-template", &both);
        let claims = json!({ "spec": { "replicas": 2,
            "persistentVolumeClaimRetentionPolicy": { "whenScaled": "Delete" } } });
        let claims = refused(release, &["patch", "statefulset", &set, "-p", &claims.to_string()]).await?;
        ensure!(claims.contains("whenScaled is Delete"), "{claims}");
        said(release, "refused-claims-deleted", &claims);
        // Helm's own: told by the Job before anything is changed.
        let two = ["--set", "etcd.terminationGracePeriodSeconds=31"];
        let told = release.try_upgrade(4, &two).await?.refused()?;
        ensure!(told.contains("pod template as well") && told.contains("nothing was changed"), "{told}");
        said(release, "refused-count-and-template-by-helm-4", &error(&told));
        said(release, "refused-count-and-template-by-the-check", &release.job_pod("preflight").await?.message);
        // Nobody but the Job writes the record.
        let forged =
            refused(release, &["annotate", "statefulset", &set, "etcd-scaler.io/record={}", "--overwrite"]).await?;
        said(release, "refused-record", &forged);
        let after = release.json(&["get", "statefulset", &set]).await?;
        ensure!(after["spec"] == before["spec"], "a refused request changed {}", after["spec"]);
        ensure!(after["metadata"]["annotations"] == before["metadata"]["annotations"], "annotations changed");
        release.is_settled(3).await
    })
    .await
}

/// What kubectl printed of a refusal.
async fn refused(release: &Release, arguments: &[&str]) -> anyhow::Result<String> {
    match release.kubectl(arguments).await {
        Ok(printed) => anyhow::bail!("kubectl {arguments:?} was admitted: {printed}"),
        Err(error) => Ok(format!("{error:#}")),
    }
}
