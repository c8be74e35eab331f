//! What a person runs, by the command lines of docs/commands.md, to the letter.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::top;
use tests::jobs::JobPod;
use tests::process::{Ended, run, until};
use tests::release::{Release, now};

/// For a Job to be scheduled, to compare and to end.
pub const ENDS: Duration = Duration::from_secs(120);
/// What the webhook saw counts for so long (`membership::decide::guard::MAX_AGE`).
pub const COUNTS: Duration = Duration::from_secs(10);
/// For each replica to see what is so; on a busy machine the next answer takes a while.
pub const SEEN: Duration = Duration::from_secs(90);
/// What answers at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// A command line of docs/commands.md that has these words, for this release.
pub fn documented(release: &Release, words: &str) -> anyhow::Result<String> {
    let document = std::fs::read_to_string(top().join("docs/commands.md")).context("no docs/commands.md")?;
    let line = document.lines().find(|line| line.starts_with("kubectl ") && line.contains(words));
    let line = line.with_context(|| format!("docs/commands.md has no command with {words:?}"))?;
    let line = line.replace("R-etcd-scaler", &format!("{}-etcd-scaler", release.name));
    Ok(line.replace("-n N ", &format!("-n {} ", release.namespace)))
}

/// What `hook plan` answers; it looks for itself, beside a replica of the webhook.
async fn plan(release: &Release, count: usize) -> anyhow::Result<Value> {
    let webhook = format!("deploy/{}", release.webhook());
    let asked = format!("--replicas={count}");
    let exec = ["-n", &release.namespace, "exec", &webhook, "--", "/hook", "plan", &asked, "-o", "json"];
    let told = run("kubectl", exec, "", PATIENCE).await?;
    let line = told.stdout.lines().last().with_context(|| told.printed())?;
    serde_json::from_str(line).with_context(|| told.printed())
}

/// What `kubectl scale` would be answered, by one of the webhook's replicas.
pub async fn ask(release: &Release, count: usize) -> anyhow::Result<Ended> {
    let (set, count) = (release.statefulset(), format!("--replicas={count}"));
    let scale = ["-n", &release.namespace, "scale", "statefulset", &set, &count, "--dry-run=server"];
    run("kubectl", scale, "", PATIENCE).await
}

/// Waits until the plan and every replica of the webhook refuse this count with these words: the plan's refusal, and what
/// kubectl prints.
pub async fn refused(release: &Release, count: usize, says: &str) -> anyhow::Result<(String, String)> {
    until("it is refused", SEEN, async || {
        let told = plan(release, count).await?;
        let why = told["refusal"].as_str().unwrap_or_default();
        ensure!(why.contains(says), "hook plan: {told}");
        let asked = each_replica_answers(release, count, |it| !it.success && it.printed().contains(says)).await?;
        Ok((why.to_owned(), asked.printed()))
    })
    .await
}

/// Waits until the plan and every replica of the webhook admit this count; the plan.
pub async fn admitted(release: &Release, count: usize) -> anyhow::Result<Value> {
    until("it is admitted", SEEN, async || {
        let told = plan(release, count).await?;
        ensure!(told["admitted"] == true, "hook plan: {told}");
        each_replica_answers(release, count, |it| it.success).await?;
        Ok(told)
    })
    .await
}

/// Each looks at etcd for itself, and what it saw counts for so long: whoever is asked after that has seen what the
/// others have, or refuses as unknown.
async fn each_replica_answers(release: &Release, count: usize, so: impl Fn(&Ended) -> bool) -> anyhow::Result<Ended> {
    let began = Instant::now();
    loop {
        let asked = ask(release, count).await?;
        ensure!(so(&asked), "{}", asked.printed());
        if began.elapsed() > COUNTS {
            return Ok(asked);
        }
    }
}

/// How a Job that validates ended.
#[derive(Debug)]
pub struct Validated {
    pub exit_code: i64,
    pub log: String,
    pub message: String,
}

impl Validated {
    pub fn json(&self) -> anyhow::Result<Value> {
        let last = self.log.lines().last().unwrap_or_default();
        serde_json::from_str(last).with_context(|| format!("no JSON: {}", self.log))
    }
}

/// Validates with these arguments in place of the document's, and leaves no Job.
pub async fn validate(release: &Release, arguments: &[&str]) -> anyhow::Result<Validated> {
    let line = documented(release, "create job validate")?;
    let with = line.replace(r#""value":["--keys"]"#, &format!(r#""value":{}"#, json!(arguments)));
    ensure!(arguments == ["--keys"] || with != line, "the document's arguments are not where they were: {line}");
    let began = now();
    run("bash", ["-c", &format!("set -o pipefail; {with}")], "", PATIENCE).await?.ok()?;
    let pod = until("the Job has ended", ENDS, async || {
        let pods = release.json(&["get", "pods", "-l", "job-name=validate"]).await?;
        let ended = &pods["items"][0]["status"]["containerStatuses"][0]["state"]["terminated"];
        ensure!(ended.is_object(), "its pod is {}", pods["items"][0]["status"]);
        Ok(ended.clone())
    })
    .await?;
    let log = release.kubectl(&["logs", "job/validate"]).await?;
    let code = run("bash", ["-c", &documented(release, "exitCode")?], "", PATIENCE).await?.ok()?;
    // With its pod: the next Job has the same name, and its log would be taken from either pod.
    release.kubectl(&["delete", "job", "validate", "--cascade=foreground"]).await?;
    release.say(&format!("validate {arguments:?}: exit code {code} after {} ms", now() - began));
    let exit_code = pod["exitCode"].as_i64().context("no exit code")?;
    ensure!(code == exit_code.to_string(), "the documented command prints {code}, the pod has {exit_code}");
    Ok(Validated { exit_code, log, message: pod["message"].as_str().unwrap_or_default().to_owned() })
}

/// docs/commands.md's command line, for this release; how its Job ended.
pub async fn replace(release: &Release, ordinal: usize, options: &str, job: &str) -> anyhow::Result<JobPod> {
    let words = "\"--ordinal=1\"";
    let line = documented(release, words)?.replace(words, &format!("\"--ordinal={ordinal}\"{options}"));
    release.run_line(&line.replace("create job replace ", &format!("create job {job} ")), job).await
}
