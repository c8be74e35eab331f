//! What is deleted on purpose, and comes back: the etcd of a release, and the namespace with all that is ours.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use tests::load::Load;
use tests::process::{kubectl, kubectl_json, run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Release, Storage, now};
use tests::scenario;

use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// All pods end, and what is in a namespace with them.
const GONE: Duration = Duration::from_secs(130);
/// What is the cluster's, behind the namespace.
const SECONDS: Duration = Duration::from_secs(20);

/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEYS: &str = "traffic/903/";

/// An etcd of another name is another cluster, and has a Service of its own.
const ANOTHER: (Rule, &str) = (Rule::OneCluster, "an etcd of another name takes its place on purpose");

/// The refusal's other way out: nothing but the pods goes, and under the old name it is the same cluster.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn an_etcd_that_is_to_go_goes_and_comes_back_under_its_name() -> Result {
    for (helm, name) in [(Helm::V4, "deletes-4"), (Helm::V3, "deletes-3")] {
        let release = Release::of(name, helm).on(Storage::Provisioned);
        scenario::run_excused(release, &[ANOTHER], async |release| {
            release.install(3, &[]).await?;
            let members = release.members().await?;
            for key in 0..9 {
                release.etcdctl(&["put", &format!("{KEYS}{key:010}"), "old"]).await?;
            }
            let told = release.try_upgrade(3, &["--set", "etcd.fullnameOverride=foo"]).await?.refused()?;
            let on_purpose = format!("--set etcd.deletes={}", release.statefulset());
            ensure!(told.contains(&on_purpose), "{told}");
            let on_purpose: Vec<&str> = on_purpose.split(' ').collect();
            release.upgrade(3, &[&["--set", "etcd.fullnameOverride=foo"], &on_purpose[..]].concat()).await?;
            // The one in its place is refused to go in passing as well.
            let told = release.try_upgrade(3, &[]).await?.refused()?;
            ensure!(told.contains("--set etcd.deletes=foo"), "{told}");
            release.upgrade(3, &["--set", "etcd.deletes=foo"]).await?;
            until("it is the same cluster", GONE, async || release.is_settled(3).await).await?;
            ensure!(release.members().await? == members, "the member list changed");
            for ordinal in 0..3 {
                let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
                let found = release.etcdctl_in(ordinal, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
                let found = found.lines().filter(|line| !line.is_empty()).count();
                ensure!(found == 9, "{} has {found} of 9 keys", release.pod(ordinal));
            }
            // Not before: a client that goes on by a name's last address may reach the etcd in between.
            let during = from_now();
            Load::start(release).await?.lost_nothing(3, &during).await.map(drop)
        })
        .await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_deleted_namespace_takes_all_of_ours_with_it() -> Result {
    nameless("nameless", Helm::V4, true).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_deleted_namespace_takes_all_of_ours_with_it_while_no_webhook_runs() -> Result {
    nameless("nameless-away", Helm::V3, false).await
}

async fn nameless(name: &str, helm: Helm, webhook: bool) -> Result {
    let release = Release::of(name, helm).on(Storage::Provisioned);
    scenario::run_excused(release, &[ANOTHER], async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        until("the webhook has seen to it", SECONDS, async || are_owned(release).await).await?;
        release.upgrade(3, &[]).await?;
        are_owned(release).await?;
        during.to = now();
        load.lost_nothing(3, &during).await?;
        if !webhook {
            release.stop_webhook().await?;
        }
        run("kubectl", ["delete", "namespace", &release.namespace, "--timeout=120s"], "", GONE).await?.ok()?;
        let from = now();
        until("nothing of ours is left in the cluster", SECONDS, async || {
            let left = release.cluster_objects().await?;
            ensure!(left.is_empty(), "left: {left:?}");
            Ok(())
        })
        .await?;
        release.say(&format!("gone {} ms after the namespace", now() - from));
        // Another installation of the same name, and an etcd of another: of the same one its cluster would have the same
        // ID, and pass for the one that is gone.
        release.make_namespace().await?;
        release.install(3, &["--set", "etcd.fullnameOverride=another"]).await?;
        until("the webhook has seen to it", SECONDS, async || are_owned(release).await).await?;
        release.kubectl(&["scale", "statefulset", "another", "--replicas=4"]).await?;
        until("four members are Ready", GONE, async || {
            let set = release.json(&["get", "statefulset", "another"]).await?;
            ensure!(set["status"]["readyReplicas"] == 4, "its status is {}", set["status"]);
            let record = set["metadata"]["annotations"]["etcd-scaler.io/record"].as_str().unwrap_or_default();
            ensure!(record.matches(r#""state":"member""#).count() == 4, "its record is {record}");
            Ok(())
        })
        .await
    })
    .await
}

/// That each object of the cluster that is ours has the namespace as its owner.
async fn are_owned(release: &Release) -> Result {
    let uid = kubectl(["get", "namespace", &release.namespace, "-o", "jsonpath={.metadata.uid}"]).await?;
    let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,\
                 validatingadmissionpolicybindings,clusterroles,clusterrolebindings";
    let all = kubectl_json(["get", kinds]).await?;
    let ours = |object: &&Value| {
        object["metadata"]["name"].as_str().is_some_and(|it| it.starts_with(&format!("{}-", release.name)))
    };
    let ours: Vec<_> = all["items"].as_array().into_iter().flatten().filter(ours).collect();
    ensure!(ours.len() >= 8, "there are only {} objects", ours.len());
    for object in ours {
        let owner = &object["metadata"]["ownerReferences"][0]["uid"];
        ensure!(*owner == uid, "{} {} has owner {owner}", object["kind"], object["metadata"]["name"]);
    }
    Ok(())
}
