//! What a person runs, by the command lines of docs/commands.md, to the letter.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::top;
use tests::jobs::JobPod;
use tests::process::{run, until};
use tests::release::{Release, now};

/// For a Job to be scheduled, to compare and to end.
pub const ENDS: Duration = Duration::from_secs(120);
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

/// What `hook plan` answers, beside the webhook.
pub async fn plan(release: &Release, count: usize) -> anyhow::Result<Value> {
    let webhook = format!("deploy/{}", release.webhook());
    let asked = format!("--replicas={count}");
    let exec = ["-n", &release.namespace, "exec", &webhook, "--", "/hook", "plan", &asked, "-o", "json"];
    let told = run("kubectl", exec, "", PATIENCE).await?;
    let line = told.stdout.lines().last().with_context(|| told.printed())?;
    serde_json::from_str(line).with_context(|| told.printed())
}

/// That this plan would be admitted.
pub fn goes(plan: &Value) -> anyhow::Result<()> {
    ensure!(plan["admitted"] == true, "{plan}");
    Ok(())
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
