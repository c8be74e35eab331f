//! What a person asks, on a cluster that works: `hook status` and `hook validate` by the command lines
//! of docs/commands.md, to the letter, under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::load::Load;
use tests::memory;
use tests::process::{run, until};
use tests::release::{Helm, Release};
use tests::scenario;

use super::commands::{ENDS, documented, validate};

type Result = anyhow::Result<()>;

/// What key by key may take, in MiB: of 1 M keys, here are some thousand.
const MEMORY: u64 = 64;

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn status_and_validate_say_what_is_so_and_change_nothing() -> Result {
    scenario::run("validation", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        let status = until("a run has ended and no other works", ENDS, async || {
            let status: Value = serde_json::from_str(&status(release, " -o json").await?)?;
            ensure!(status["running"].is_null(), "{status}");
            Ok(status)
        })
        .await?;
        let untouched = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        let jobs = release.kubectl(&["get", "jobs", "-o", "name"]).await?;
        as_installed(release, &status).await?;
        let text = self::status(release, "").await?;
        ensure!(text.contains(": 3 members wanted, 3 recorded, cluster "), "{text}");
        ensure!(text.lines().filter(|line| line.starts_with(&release.statefulset())).count() == 3, "{text}");

        let hashes = validate(release, &["-o", "json"]).await?;
        ensure!(hashes.exit_code == 0, "{hashes:?}");
        let told = hashes.json()?;
        ensure!(told["verdict"] == "equal" && told["members"].as_array().map(Vec::len) == Some(3), "{told}");
        ensure!(told["hash_revision"].as_i64() > Some(100) && told["differing"].is_null(), "{told}");

        let (keys, peak) =
            memory::peak_during(&["/hook", "validate", "--keys"], validate(release, &["--keys", "-o", "json"])).await;
        let keys = keys?;
        ensure!(keys.exit_code == 0, "{keys:?}");
        let told = keys.json()?;
        ensure!(told["verdict"] == "equal" && told["differing"] == 0 && told["replace"].is_null(), "{told}");
        ensure!(told["key_revision"].as_i64() > Some(100) && told["first"] == json!([]), "{told}");
        for member in told["members"].as_array().context("no members")? {
            ensure!(member["keys"].as_u64() > Some(100) && member["missing"] == 0, "{member}");
        }
        // The last line is the sentence, and the pod's last word.
        ensure!(told["reason"].as_str() == Some(&keys.message), "{told} and {}", keys.message);
        release.say(&format!("{} | peak {:?} KiB", keys.message, peak));
        ensure!(peak.is_none_or(|kib| kib <= MEMORY << 10), "the peak is {peak:?} KiB");

        let table = validate(release, &[]).await?;
        ensure!(table.exit_code == 0 && table.log.starts_with("MEMBER "), "{table:?}");
        let late = validate(release, &["--deadline=1ms"]).await?;
        ensure!(late.exit_code == 1 && late.message.contains("could not be told"), "{late:?}");

        // Not even the launcher took notice.
        let after = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        ensure!(after["metadata"]["resourceVersion"] == untouched["metadata"]["resourceVersion"], "it was written");
        ensure!(release.kubectl(&["get", "jobs", "-o", "name"]).await? == jobs, "a Job was started");
        release.kept(&before).await?;
        let four = release.upgrade(4, &[]).await?;
        load.lost_nothing(4, &four).await.map(drop)
    })
    .await
}

/// That the status is that of three members as they were installed.
async fn as_installed(release: &Release, status: &Value) -> Result {
    ensure!(status["desired"] == 3 && status["recorded"] == 3, "{status}");
    // The webhook's rights are enough for all of it.
    ensure!(status["unknown"] == json!([]) && status["strangers"] == json!([]), "{status}");
    let members = status["members"].as_array().context("no members")?;
    let live = release.members().await?;
    ensure!(members.len() == 3 && live.len() == 3, "{status}, and etcd has {live:?}");
    let leaders = members.iter().filter(|member| member["role"] == "leader").count();
    let voters = members.iter().filter(|member| member["role"] == "voter").count();
    ensure!((leaders, voters) == (1, 2), "{status}");
    for (member, live) in members.iter().zip(&live) {
        ensure!(member["pod"] == live.name && member["member"] == live.id, "{member} is not {live:?}");
        ensure!(member["recorded_member"] == member["member"] && member["state"] == "member", "{member}");
        ensure!(member["ready"] == true && member["error"].is_null() && member["alarms"] == json!([]), "{member}");
        let size = |field: &str| member[field].as_u64().unwrap_or(0);
        ensure!(0 < size("db_in_use") && size("db_in_use") <= size("db_size"), "{member}");
        ensure!(size("revision") > 0 && size("raft_lag") <= size("raft_index"), "{member}");
    }
    Ok(())
}

async fn status(release: &Release, more: &str) -> anyhow::Result<String> {
    let line = documented(release, "/hook status")? + more;
    run("bash", ["-c", &line], "", Duration::from_secs(40)).await?.ok()
}
