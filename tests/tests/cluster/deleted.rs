//! An upgrade that would delete the etcd of its release is refused with both names. On purpose it goes, and comes back.

use anyhow::ensure;
use tests::load::Load;
use tests::release::{Helm, Release, now};
use tests::scenario;

use crate::said::{error, said};
use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn no_upgrade_deletes_the_etcd_in_passing() -> Result {
    scenario::run("renamed", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        let (before, members) = (release.pods().await?, release.members().await?);
        let target = format!("target.statefulset={}", release.statefulset());
        let renamed = ["--set", "etcd.fullnameOverride=foo"];
        let without = ["--set", "etcd.enabled=false", "--set", &target];
        for (name, values) in [("renamed", &renamed[..]), ("without-etcd", &without[..])] {
            let told = release.try_upgrade(3, values).await?.refused()?;
            said(release, &format!("refused-upgrade-{name}"), &error(&told));
            // Where nothing can be looked up, the Job says it.
            let checked = release.check_rendered(3, values).await?;
            ensure!(checked.exit_code == 1, "the check passed: {checked:?}");
            said(release, &format!("refused-upgrade-{name}-by-the-check"), &checked.message);
        }
        release.kept(&before).await?;
        // The way out by which it stays.
        let keep = format!("etcd.enabled=true,etcd.fullnameOverride={}", release.statefulset());
        ensure!(renamed_refusal(release).await?.contains(&format!("Keep it: --set {keep}.")), "another way out");
        release.upgrade(3, &[&renamed[..], &["--set", &keep]].concat()).await?;
        release.kept(&before).await?;
        ensure!(release.members().await? == members, "the member list changed");
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

async fn renamed_refusal(release: &Release) -> anyhow::Result<String> {
    release.try_upgrade(3, &["--set", "etcd.fullnameOverride=foo"]).await?.refused()
}
