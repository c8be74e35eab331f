//! Each way in which another chart may start its etcd that is not understood: with ours beside it its pods are made
//! again, rolled, rebooted, and live on without ours; and what the refusal offers is done to its end.

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::is_bed;
use tests::faults::{kill_node, start_node};
use tests::foreign::Starts;
use tests::members::Member;
use tests::process::{apply, run, until};
use tests::referee::judge::Rule;
use tests::release::{Helm, Release};
use tests::scenario::{self, Excused};

use super::commands;
use crate::foreign::{
    BACK, FLAGS, SHORT_URLS, beside, lasting, left_alone, made_again, pods_are_made_again, refuses, rolls, serve,
};
use crate::said::said;

type Result = anyhow::Result<()>;

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_flags_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    lives_on("foreign-flags", Helm::V3, Starts::Flags, FLAGS).await
}

/// As an earlier version of ours left it.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_variables_beside_its_flags_it_is_mended_by_the_sentence() -> Result {
    let excused: [Excused<'_>; 1] = [(Rule::RestartsNobody, "the variables were written and taken out by hand")];
    scenario::run_excused(lasting("foreign-both", Helm::V4), &excused, async |release| {
        release.apply_foreign_started(Starts::Flags).await?;
        serve(release).await?;
        let members = release.members().await?;
        release.go_on(&[0, 1, 2], &members).await?;
        let set = format!("statefulset/{}", release.statefulset());
        let cluster = format!("ETCD_INITIAL_CLUSTER={}", release.initial_cluster(3));
        release.kubectl(&["set", "env", &set, "-c", "etcd", &cluster, "ETCD_INITIAL_CLUSTER_STATE=existing"]).await?;
        let lost = release.pod(2);
        until("etcd ends at the pair", BACK, async || {
            let log = release.kubectl(&["logs", &lost, "-c", "etcd", "--tail=20"]).await?;
            ensure!(log.contains("is shadowed by corresponding command-line flag"), "{log}");
            Ok(())
        })
        .await?;
        let told = refuses(release, FLAGS).await?;
        let command = told.split_once("take the variables out (").and_then(|(_, behind)| behind.split_once(')'));
        let (command, _) = command.with_context(|| format!("no command in: {told}"))?;
        run("sh", ["-c", command], "", BACK).await?.ok()?;
        release.kubectl(&["delete", "pod", &lost]).await?;
        serve(release).await?;
        until("the members go on", BACK, async || release.go_on(&[0, 1, 2], &members).await).await?;
        left_alone(release).await
    })
    .await
}

/// A chart of variables, scaled by us, that goes over to flags: what it does not know of would keep its pods from starting.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn scaled_it_goes_over_to_flags_and_lives_on() -> Result {
    scenario::run_on(lasting("foreign-over", Helm::V4), async |release| {
        release.apply_foreign().await?;
        serve(release).await?;
        release.adopt_foreign().await?;
        is_scaled(release).await?;
        let (set, members) = (release.statefulset(), release.members().await?);
        let over = |env: Value| {
            let cluster = release.initial_cluster(3);
            let args = json!([format!("--initial-cluster={cluster}"), "--initial-cluster-state=new"]);
            let etcd = json!({ "name": "etcd", "args": args, "env": env });
            json!({ "spec": {
                "updateStrategy": { "rollingUpdate": { "partition": 0 } },
                "template": { "spec": { "containers": [etcd] } },
            } })
            .to_string()
        };
        // Its own variable beside its own flag.
        let both = over(json!([{ "name": "ETCD_INITIAL_CLUSTER", "value": release.initial_cluster(3) }]));
        let refused = release.kubectl(&["patch", "statefulset", &set, "-p", &both]).await;
        let refused = format!("{:#}", refused.err().context("flag and variable were admitted")?);
        ensure!(refused.contains("gives etcd the flag --initial-cluster and the variable of that name"), "{refused}");
        said(release, "foreign-both-refused", &refused);
        release.kubectl(&["patch", "statefulset", &set, "-p", &over(json!([]))]).await?;
        for name in ["ETCD_INITIAL_CLUSTER", "ETCD_INITIAL_CLUSTER_STATE"] {
            ensure!(release.env(name).await?.is_empty(), "{name} is there still");
        }
        serve(release).await?;
        until("the members go on", BACK, async || release.go_on(&[0, 1, 2, 3], &members).await).await?;
        commands::refused(release, 5, FLAGS).await?;
        release.uninstall().await?;
        release.kubectl(&["delete", "pod", &release.pod(3)]).await?;
        serve(release).await?;
        until("the members go on", BACK, async || release.go_on(&[0, 1, 2, 3], &members).await).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_flags_in_its_command_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    lives_on("foreign-words", Helm::V4, Starts::Words, FLAGS).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_a_configuration_file_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    lives_on("foreign-file", Helm::V4, Starts::File, "its etcd is given a configuration file (--config-file).").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn by_a_script_it_lives_on_and_with_variables_it_is_scaled() -> Result {
    lives_on("foreign-script", Helm::V4, Starts::Script, "its etcd is started by a program of its own (/shell/sh").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn with_variables_of_another_object_it_lives_on_and_with_its_own_it_is_scaled() -> Result {
    lives_on("foreign-env", Helm::V4, Starts::Elsewhere, "its etcd takes variables from another object (envFrom).")
        .await
}

async fn lives_on(name: &str, helm: Helm, starts: Starts, says: &str) -> Result {
    scenario::run_alone(lasting(name, helm), async |release| {
        let members = beside(release, starts, says).await?;
        without_harm(release, &members).await?;
        refuses(release, says).await?;
        // What the refusal offers: variables of its own.
        apply(&rolling(release)).await?;
        serve(release).await?;
        is_scaled(release).await
    })
    .await
}

/// Nothing in the pods has to change for etcd to go on, but its members are listed under what only their namespace
/// understands.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn under_short_peer_urls_it_lives_on_and_under_whole_ones_it_is_scaled() -> Result {
    scenario::run_alone(lasting("foreign-short", Helm::V4), async |release| {
        let members = beside(release, Starts::ShortUrls, SHORT_URLS).await?;
        without_harm(release, &members).await?;
        refuses(release, SHORT_URLS).await?;
        apply(&rolling(release)).await?;
        serve(release).await?;
        until("the members go on", BACK, async || release.go_on(&[0, 1, 2], &members).await).await?;
        // Its pods say so, and etcd's list not yet.
        let (_, told) = commands::refused(release, 4, "It stays a member: only the URL has to change.").await?;
        ensure!(!told.contains("member remove"), "{told}");
        said(release, "foreign-short-listed", &told);
        let commands: Vec<&str> = told.match_indices("kubectl -n ").map(|(at, _)| &told[at..]).collect();
        ensure!(commands.len() == 3, "{told}");
        for command in commands {
            let command = command.split(';').next().unwrap_or_default();
            run("sh", ["-c", command], "", BACK).await?.ok()?;
            until("the members go on", BACK, async || release.go_on(&[0, 1, 2], &members).await).await?;
        }
        is_scaled(release).await
    })
    .await
}

/// What is on an emptyDir goes with its pod, with us and without us.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn on_an_empty_dir_it_lives_on() -> Result {
    const SAYS: &str = "its data directory /var/lib/etcd/data is on an emptyDir, not on a claim of each pod's own.";
    scenario::run_alone(Release::of("foreign-dir", Helm::V4), async |release| {
        let members = beside(release, Starts::EmptyDir, SAYS).await?;
        for ordinal in 0..3 {
            release.restart_container(&release.pod(ordinal), "etcd").await?;
            until("its member goes on", BACK, async || release.go_on(&[0, 1, 2], &members).await).await?;
        }
        rebooted(release, 1, &members).await?;
        left_alone(release).await?;
        // etcd's own word, as without us: nothing of ours is in the pod.
        let lost = release.pod(2);
        release.kubectl(&["delete", "pod", &lost]).await?;
        until("etcd refuses the empty directory", BACK, async || {
            let log = release.kubectl(&["logs", &lost, "-c", "etcd", "--tail=50"]).await?;
            ensure!(log.contains("has already been bootstrapped"), "{log}");
            Ok(())
        })
        .await?;
        release.foreign_pods_are_as_made().await?;
        release.uninstall().await?;
        release.go_on(&[0, 1], &members).await
    })
    .await
}

/// As without us, and then without us.
async fn without_harm(release: &Release, members: &[Member]) -> Result {
    pods_are_made_again(release, members).await?;
    rolls(release, members).await?;
    rebooted(release, 1, members).await?;
    left_alone(release).await?;
    release.uninstall().await?;
    made_again(release, 2, members).await?;
    rebooted(release, 0, members).await
}

/// The node of a member's pod loses its power and comes back.
async fn rebooted(release: &Release, ordinal: usize, members: &[Member]) -> Result {
    if !is_bed() {
        release.say("not the test bed: no node is rebooted");
        return Ok(());
    }
    let pod = release.pods().await?.remove(&release.pod(ordinal)).context("no such pod")?;
    kill_node(&pod.node).await?;
    start_node(&pod.node).await?;
    until("its member goes on", BACK, async || release.go_on(&[0, 1, 2], members).await).await
}

/// The StatefulSet with variables, rolling all its pods.
fn rolling(release: &Release) -> Value {
    let mut object = release.foreign_statefulset(3);
    object["spec"]["updateStrategy"]["rollingUpdate"]["partition"] = json!(0);
    object
}

/// The launcher's Job records what it understands now, and a fourth member joins.
async fn is_scaled(release: &Release) -> Result {
    until("the members are recorded", BACK, async || release.is_settled(3).await).await?;
    let pods = release.pods().await?;
    release.kubectl(&["scale", "statefulset", &release.statefulset(), "--replicas=4"]).await?;
    until("the fourth is a member", BACK, async || release.is_settled(4).await).await?;
    release.kept(&pods).await
}
