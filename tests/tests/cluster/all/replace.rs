//! A member that is lost is replaced, by docs/commands.md's command line run to the letter.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::cluster::is_bed;
use tests::disk::Start;
use tests::faults::{kill_node, start_node};
use tests::fill::fill;
use tests::load::Load;
use tests::process::{kubectl_json, until};
use tests::release::{Helm, Ran, Release, Storage, now};
use tests::scenario;

use super::commands::{replace, validate};
use crate::said::said;
use crate::ways::{Way, change};

type Result = anyhow::Result<()>;

/// A Job, a join, and the time until Kubernetes gives a dead node's pod up, on a busy machine.
const REPLACED: Duration = Duration::from_secs(300);
/// A key of the load's kind, of a client that the load does not have: to the referee, a client's.
const HELD: &str = "traffic/902/0000000000";
/// Keys of that kind, too.
const MANY: &str = "traffic/906/";
const MILLION: u64 = 1_000_000;
/// The exit code of a plan that has something to do.
const TO_DO: i64 = 3;

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_on_an_emptied_disk_is_replaced() -> Result {
    if !is_bed() {
        println!("not the test bed: no disk can be emptied");
        return Ok(());
    }
    scenario::run("replace-disk", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let healthy = replace(release, 1, "", "replace-healthy").await?;
        ensure!(healthy.exit_code == 1, "a member that serves: {healthy:?}");
        said(release, "replace-healthy", &healthy.message);
        let lost = release.lose_disk(1, Start::Container).await?;
        release.refuses_to_start(&lost, Some(0)).await?;
        replaced(release, &load, 1, "").await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_whose_node_is_gone_comes_back_on_another_with_helm_3() -> Result {
    if !is_bed() {
        println!("not the test bed: no node can be killed");
        return Ok(());
    }
    let release = Release::of("replace-node", Helm::V3).on(Storage::Provisioned);
    scenario::run_alone(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let node = release.pods().await?[&release.pod(2)].node.clone();
        kill_node(&node).await?;
        // Before, the Job's own pod may be put there.
        until("the node is given up", REPLACED, async || {
            let node = kubectl_json(["get", "node", &node]).await?;
            let taints = node["spec"]["taints"].to_string();
            ensure!(taints.contains("unreachable"), "its taints are {taints}");
            Ok(())
        })
        .await?;
        let outcome = replaced(release, &load, 2, "").await;
        let after = release.pods().await?[&release.pod(2)].node.clone();
        start_node(&node).await?;
        outcome?;
        ensure!(after != node, "it is on {node} again, which is dead");
        release.is_settled(4).await
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_that_holds_other_keys_is_named_and_replaced() -> Result {
    if !is_bed() {
        println!("not the test bed: no database can be edited");
        return Ok(());
    }
    scenario::run("replace-diverged", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        release.etcdctl(&["put", HELD, "by all of them"]).await?;
        edit(release, 1, "by all of them", "by none of thm").await?;
        // Each member serves, and etcd itself says nothing.
        release.try_upgrade(3, &[]).await?.refused()?;
        let told = release.job_pod("post").await?.message;
        said(release, "diverged", &told);
        let pod = release.pod(1);
        ensure!(told.contains(&pod) && told.contains(HELD), "neither {pod} nor the key is named: {told}");
        let status = [
            "get",
            "statefulset",
            &release.statefulset(),
            "-o",
            "jsonpath={.metadata.annotations.etcd-scaler\\.io/summary}",
        ];
        let summary = release.kubectl(&status).await?;
        ensure!(summary.contains("DataEqual") && summary.contains("False"), "the summary is {summary}");
        let before = release.pods().await?;
        let refused = release.kubectl(&["scale", "statefulset", &release.statefulset(), "--replicas=4"]).await;
        let refused = format!("{:#}", refused.err().context("a scale was admitted though the keys differ")?);
        said(release, "diverged-scale", &refused);
        release.kept(&before).await?;
        replaced(release, &load, 1, ",\"--even-if-it-serves\"").await?;
        let summary = release.kubectl(&status).await?;
        ensure!(!summary.contains("False"), "the summary is {summary}");
        Ok(())
    })
    .await
}

/// Every kind of difference, each one of a million keys.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn a_member_that_differs_in_four_of_a_million_keys_is_found_named_and_replaced() -> Result {
    if !is_bed() {
        println!("not the test bed: no database can be edited");
        return Ok(());
    }
    scenario::run("replace-million", Helm::V3, async |release| {
        release.install(3, &[]).await?;
        let members: Vec<String> = (0..3).map(|ordinal| format!("http://{}:2379", release.host(ordinal))).collect();
        fill(&members, MANY, MILLION, |key| format!("value of {key}").into_bytes()).await?;
        let equal = validate(release, &["-o", "json"]).await?;
        ensure!(equal.exit_code == 0, "they differ before they are made to: {equal:?}");
        let key = |number: u64| format!("{MANY}{number:010}");
        let (value, version, renamed) = (key(7), key(MILLION / 2), key(MILLION - 7));
        let other = renamed.replace("/0", "/X");
        // In a stored key, in bytes: the name's length, the name, 0x10 and revisions, 0x20 and the version, 0x2a, the
        // value's length, the value.
        let (name, text) = (renamed.len(), version.len() + "value of ".len());
        release
            .edit_database(
                1,
                &[
                    (format!("value of {value}"), format!("other of {value}")),
                    (
                        format!("\\x20\\x01[*]\\x{text:02x}value of {version}"),
                        format!("\\x20\\x02*\\x{text:02x}value of {version}"),
                    ),
                    (format!("\\x{name:02x}{renamed}\\x10"), format!("\\x{name:02x}{other}\\x10")),
                ],
            )
            .await?;
        let differ = validate(release, &["-o", "json"]).await?;
        ensure!(differ.exit_code == 3, "{differ:?}");
        release.say(&differ.message);
        let told = differ.json()?;
        ensure!(
            told["hash_revision"].is_i64() && told["differing"] == 4 && told["replace"] == release.pod(1),
            "{told}"
        );
        let first = told["first"].as_array().context("no keys are named")?;
        let named: Vec<_> = first.iter().map(|key| (&key["key"], &key["held"][1]["differs"])).collect();
        let named = json!(named);
        let expected = json!([[value, "value"], [version, "metadata"], [renamed, "missing"], [other, "extra"]]);
        ensure!(named == expected, "named are {named}");
        let done = replace(release, 1, ",\"--even-if-it-serves\",\"--yes\"", "replace").await?;
        ensure!(done.exit_code == 0, "{done:?}");
        until("it has joined again", REPLACED, async || release.is_settled(3).await).await?;
        let keys = validate(release, &["--keys", "-o", "json"]).await?;
        let told = keys.json()?;
        ensure!(keys.exit_code == 0 && told["differing"] == 0, "{told}");
        for member in told["members"].as_array().context("no members")? {
            ensure!(member["keys"] == MILLION, "{member}");
        }
        release.say(&keys.message);
        Ok(())
    })
    .await
}

/// Has a member hold another value.
async fn edit(release: &Release, ordinal: usize, from: &str, to: &str) -> Result {
    ensure!(from.len() == to.len(), "{from:?} and {to:?} differ in length");
    release.edit_database(ordinal, &[(from.to_owned(), to.to_owned())]).await
}

/// The plan, which changes nothing, and then the replacement; the others are left alone.
async fn replaced(release: &Release, load: &Load<'_>, ordinal: usize, options: &str) -> Result {
    let (mut staying, name) = (release.pods().await?, release.pod(ordinal));
    let lost = staying.remove(&name).with_context(|| format!("{name} is not there"))?;
    let old = release.members_seen_by(0).await?.into_iter().find(|member| member.name == name);
    let old = old.with_context(|| format!("{name} is no member"))?.id;
    let before = (release.record().await?, release.members_seen_by(0).await?);
    let plan = replace(release, ordinal, options, "replace-plan").await?;
    ensure!(plan.exit_code == TO_DO && plan.message.contains(&old), "the plan is {plan:?}");
    said(release, &format!("replace-plan-{ordinal}"), &plan.message);
    ensure!(before == (release.record().await?, release.members_seen_by(0).await?), "the plan changed something");
    let from = now();
    let done = replace(release, ordinal, &format!("{options},\"--yes\""), "replace-yes").await?;
    ensure!(done.exit_code == 0, "it ended with {done:?}");
    until("it has joined again", REPLACED, async || release.is_settled(3).await).await?;
    release.say(&format!("{name} is replaced in {} s: {}", done.seconds, done.message));
    // The controller makes a claim with each pod: the newcomer's is left alone.
    let events = release.events_since(from).await?;
    let removed: Vec<_> = events.iter().filter(|event| event.reason == "ClaimRemoved").collect();
    ensure!(removed.len() == 1, "claims were removed: {removed:?}");
    let (pods, members) = (release.pods().await?, release.members().await?);
    ensure!(pods[&name].uid != lost.uid, "{name} was not made again");
    ensure!(members.iter().all(|member| member.id != old), "member {old} is back: {members:?}");
    release.kept(&staying).await?;
    let up = change(release, Way::Scale, 4, &[]).await?;
    release.kept(&staying).await?;
    load.lost_nothing(4, &Ran { from, ..up }).await.map(drop)
}
