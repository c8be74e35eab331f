//! Programs, run to their end or to a deadline.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::objects::Asked;

/// How a program ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The command line.
    pub command: String,
    /// Exit code 0.
    pub success: bool,
    /// What it printed to standard output.
    pub stdout: String,
    /// What it printed to standard error.
    pub stderr: String,
}

impl Ended {
    /// Standard output, if it succeeded.
    ///
    /// # Errors
    /// The command and all it printed, if not.
    pub fn ok(self) -> anyhow::Result<String> {
        if self.success { Ok(self.stdout) } else { bail!("{} failed:\n{}", self.command, self.printed()) }
    }

    /// Everything it printed.
    #[must_use]
    pub fn printed(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

/// Runs a program; it is killed at the deadline.
///
/// # Errors
/// When it cannot be started or does not end in time. A failure of its own is not an error here.
pub async fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
    input: &str,
    deadline: Duration,
) -> anyhow::Result<Ended> {
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let words = command.as_std().get_args().map(|word| word.to_string_lossy().into_owned());
    let line = format!("{program} {}", words.collect::<Vec<_>>().join(" "));
    let mut child = command.spawn().with_context(|| format!("failed to start {program}: is it on PATH?"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read its input says itself why.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    match timeout(deadline, child.wait_with_output()).await {
        Ok(output) => {
            let output = output.with_context(|| format!("failed to wait for {line}"))?;
            Ok(Ended {
                command: line,
                success: output.status.success(),
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        }
        Err(_) => bail!("{line} did not end within {} s", deadline.as_secs()),
    }
}

/// How long one kubectl command may take that waits for nothing.
const KUBECTL: Duration = Duration::from_secs(30);

/// Runs kubectl; what it printed.
///
/// # Errors
/// When it fails, with all it printed.
pub async fn kubectl<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<String> {
    run("kubectl", arguments, "", KUBECTL).await?.ok()
}

/// Makes or replaces objects.
///
/// # Errors
/// When kubectl fails.
pub async fn apply(objects: &Value) -> anyhow::Result<String> {
    run("kubectl", ["apply", "-f", "-"], &objects.to_string(), KUBECTL).await?.ok()
}

/// What kubectl prints with `-o json`; what it only reads is read without it ([`Asked`]).
///
/// # Errors
/// When it fails or prints something else.
pub async fn kubectl_json<S: AsRef<str>>(arguments: impl IntoIterator<Item = S>) -> anyhow::Result<Value> {
    let arguments: Vec<S> = arguments.into_iter().collect();
    let words: Vec<&str> = arguments.iter().map(AsRef::as_ref).collect();
    if let Some(asked) = Asked::parse(&words) {
        return asked.read().await;
    }
    let printed = kubectl(words.into_iter().chain(["-o", "json"])).await?;
    serde_json::from_str(&printed).with_context(|| format!("kubectl printed no JSON: {printed}"))
}

/// Looks again and again until there is what is looked for; the last look's reason is the error's.
///
/// # Errors
/// When it is not there at the deadline.
pub async fn until<T>(what: &str, deadline: Duration, look: impl AsyncFn() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut looks = interval(Duration::from_millis(200));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reason = None;
    let found = timeout(deadline, async {
        loop {
            looks.tick().await;
            match look().await {
                Ok(found) => break found,
                Err(error) => reason = Some(error),
            }
        }
    });
    match (found.await, reason) {
        (Ok(found), _) => Ok(found),
        (Err(_), Some(reason)) => Err(reason.context(format!("not within {} s: {what}", deadline.as_secs()))),
        (Err(_), None) => bail!("not within {} s: {what}", deadline.as_secs()),
    }
}
