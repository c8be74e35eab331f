//! What our Jobs left behind: how their pods ended, and their Events.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use crate::members::text;
use crate::process::{run, until};
use crate::release::Release;

/// For a Job to be scheduled, to do its work and to end; a member on a node that died is given up after a minute.
const JOB: Duration = Duration::from_secs(300);

/// How a Job's pod ended.
#[derive(Debug)]
pub struct JobPod {
    /// Its name.
    pub name: String,
    /// Its exit code.
    pub exit_code: i64,
    /// Its termination message.
    pub message: String,
    /// From its container's start to its end, in seconds, as exact as the kubelet tells: to 1 s.
    pub seconds: i64,
}

/// An Event of the StatefulSet.
#[derive(Debug)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// `Normal` or `Warning`.
    pub kind: String,
    /// Its reason.
    pub reason: String,
    /// What it says.
    pub note: String,
}

impl Release {
    /// The pod of the last Job of this kind (`post`, `preflight`) that ended.
    ///
    /// # Errors
    /// When there is none.
    pub async fn job_pod(&self, kind: &str) -> anyhow::Result<JobPod> {
        self.ended_pod(&format!("{}-etcd-scaler-{kind}", self.name)).await
    }

    /// Runs the command line that a refusal names for `hook reconcile` or `hook forget`, to the letter,
    /// and with `yes` as the refusal says; how its pod ended.
    ///
    /// # Errors
    /// When the refusal names none, or it does not end.
    pub async fn run_named(&self, refusal: &str, subcommand: &str, yes: bool) -> anyhow::Result<JobPod> {
        let begin = format!("kubectl -n {} create job {subcommand} ", self.namespace);
        let mut line = named(refusal, &begin, "create -f -")?.to_owned();
        let mut job = subcommand.to_owned();
        if yes {
            job.push_str("-yes");
            line = line.replace(&format!("create job {subcommand} "), &format!("create job {job} "));
            line = line.replace(&format!("\"{subcommand}\"]"), &format!("\"{subcommand}\",\"--yes\"]"));
        }
        self.run_line(&line, &job).await
    }

    /// Runs the check before an upgrade with these values as a program makes it that only renders; how its pod ended.
    ///
    /// # Errors
    /// When it cannot be rendered or made, or does not end.
    pub async fn check_rendered(&self, members: usize, more: &[&str]) -> anyhow::Result<JobPod> {
        let check = self.rendered_template("templates/hook/preflight.yaml", members, more).await?;
        let apply = |verb| run("kubectl", ["-n", &self.namespace, verb, "-f", "-"], &check, JOB);
        apply("apply").await?.ok()?;
        let job = format!("{}-etcd-scaler-preflight", self.name);
        let ended = until("the check has ended", JOB, async || self.ended_pod(&job).await).await;
        apply("delete").await?.ok()?;
        ended
    }

    /// Runs a command line that makes a Job of this name; how its pod ended.
    ///
    /// # Errors
    /// When the line fails, or the Job does not end.
    pub async fn run_line(&self, line: &str, job: &str) -> anyhow::Result<JobPod> {
        self.kubectl(&["delete", "job", job, "--ignore-not-found"]).await?;
        run("sh", ["-c", line], "", JOB).await?.ok()?;
        until("the Job has ended", JOB, async || self.ended_pod(job).await).await
    }

    /// Runs the `etcdctl member remove` that a refusal names, to the letter.
    ///
    /// # Errors
    /// When it names none, or that fails.
    pub async fn remove_named(&self, refusal: &str) -> anyhow::Result<String> {
        let line = named(refusal, &format!("kubectl -n {} exec ", self.namespace), ")")?;
        run("sh", ["-c", line.trim_end_matches(')')], "", JOB).await?.ok()
    }

    /// How the last pod of this Job ended.
    pub(crate) async fn ended_pod(&self, job: &str) -> anyhow::Result<JobPod> {
        let label = format!("batch.kubernetes.io/job-name={job}");
        let list = self.json(&["get", "pods", "-l", &label]).await?;
        let pods = list["items"].as_array().into_iter().flatten();
        // RFC 3339 of one zone is in the order of time.
        let last = pods.max_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]));
        let pod = last.context("the Job has no pod")?;
        let ended = &pod["status"]["containerStatuses"][0]["state"]["terminated"];
        let second = |field: &str| text(&ended[field]).parse::<Timestamp>().map(Timestamp::as_second);
        Ok(JobPod {
            name: text(&pod["metadata"]["name"]),
            exit_code: ended["exitCode"].as_i64().context("it has not ended")?,
            message: text(&ended["message"]),
            seconds: second("finishedAt")? - second("startedAt")?,
        })
    }

    /// What the last Job of this kind logged, with the time of each line.
    ///
    /// # Errors
    /// When there is none.
    pub async fn job_log(&self, kind: &str) -> anyhow::Result<Vec<(i64, String)>> {
        let pod = self.job_pod(kind).await?;
        let log = self.kubectl(&["logs", &pod.name]).await?;
        let lines = log.lines().filter_map(|line| {
            let (at, said) = line.split_once(' ')?;
            Some((at.parse::<Timestamp>().ok()?.as_millisecond(), said.trim_start().to_owned()))
        });
        Ok(lines.collect())
    }

    /// Our Events of the StatefulSet since then, in their order.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn events_since(&self, from: i64) -> anyhow::Result<Vec<Event>> {
        let field = format!("regarding.name={}", self.statefulset());
        let list = self.json(&["get", "events.events.k8s.io", "--field-selector", &field]).await?;
        let items = list["items"].as_array().into_iter().flatten();
        // The StatefulSet controller's own are of the old kind, without this time.
        let events = items.filter_map(|event| Some((text(&event["eventTime"]).parse::<Timestamp>().ok()?, event)));
        let mut events: Vec<Event> =
            events.map(|(at, event)| Event::of(at.as_millisecond(), event)).filter(|event| event.at >= from).collect();
        events.sort_by_key(|event| event.at);
        Ok(events)
    }
}

/// The part of a sentence from `begin` to `end`, both with it.
fn named<'a>(sentence: &'a str, begin: &str, end: &str) -> anyhow::Result<&'a str> {
    let from = sentence.find(begin).with_context(|| format!("{begin:?} is not in: {sentence}"))?;
    let length =
        sentence[from..].find(end).with_context(|| format!("{end:?} is not behind {begin:?} in: {sentence}"))?;
    Ok(&sentence[from..from + length + end.len()])
}

impl Event {
    fn of(at: i64, event: &Value) -> Self {
        Self { at, kind: text(&event["type"]), reason: text(&event["reason"]), note: text(&event["note"]) }
    }
}
