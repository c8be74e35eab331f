//! Jobs that stop where a test wants them: by failpoints, which only the image for tests has.

#[path = "../../hook/src/failpoint/names.rs"]
mod names;

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

pub use self::names::Failpoint;
use self::names::{ANNOTATION, VARIABLE};
use crate::cluster::is_bed;
use crate::faults::{Running, freeze_container, kill_container, thaw_container};
use crate::jobs::JobPod;
use crate::members::text;
use crate::process::{run, until};
use crate::release::Release;

/// How long a Job may take to a failpoint: another run's Lease runs out after 15 s, a member joins.
const REACHED: Duration = Duration::from_secs(90);
/// How long a Job may take to its end: as above, its own work, and a member that comes back.
const ENDED: Duration = Duration::from_secs(240);
/// How long until a signal has had its effect.
const SOON: Duration = Duration::from_secs(30);
/// The Job's container.
const CONTAINER: &str = "hook";

/// A Job that a test started.
#[derive(Debug)]
pub struct Job<'a> {
    release: &'a Release,
    /// Its name.
    pub name: String,
}

/// How a Job ended.
#[derive(Debug)]
pub struct End {
    /// Well.
    pub complete: bool,
    /// All it logged, as far as its pod is left.
    pub log: String,
}

impl Release {
    /// Starts a Job from the release's CronJob, as a person would.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn job(&self, name: &str) -> anyhow::Result<Job<'_>> {
        self.stopping_job(name, &[]).await
    }

    /// Starts one that stops at these failpoints, each once.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn stopping_job(&self, name: &str, at: &[Failpoint]) -> anyhow::Result<Job<'_>> {
        self.stopping_job_on(None, name, at).await
    }

    /// Starts it on this node: the scheduler may choose the one that is to be lost.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn stopping_job_on(&self, node: Option<&str>, name: &str, at: &[Failpoint]) -> anyhow::Result<Job<'_>> {
        let from = format!("--from=cronjob/{}-etcd-scaler", self.name);
        let mut job = self.json(&["create", "job", name, &from, "--dry-run=client"]).await?;
        let env = job["spec"]["template"]["spec"]["containers"][0]["env"].as_array_mut().context("no environment")?;
        let names: Vec<&str> = at.iter().map(|point| point.name()).collect();
        env.push(json!({ "name": VARIABLE, "value": names.join(",") }));
        if let Some(node) = node {
            job["spec"]["template"]["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": node });
        }
        let create = ["-n", &self.namespace, "create", "-f", "-"];
        run("kubectl", create, &job.to_string(), SOON).await?.ok()?;
        Ok(Job { release: self, name: name.to_owned() })
    }

    fn lease(&self) -> String {
        format!("{}-scaler", self.statefulset())
    }

    /// The Lease that lets one run work at a time.
    ///
    /// # Errors
    /// When there is none.
    pub async fn the_lease(&self) -> anyhow::Result<Value> {
        self.json(&["get", "lease", &self.lease()]).await
    }
}

impl Job<'_> {
    /// Its pod.
    ///
    /// # Errors
    /// When it has none.
    pub async fn pod(&self) -> anyhow::Result<Value> {
        let label = format!("batch.kubernetes.io/job-name={}", self.name);
        let pods = self.release.json(&["get", "pods", "-l", &label]).await?;
        let pod = pods["items"].as_array().and_then(|pods| pods.first().cloned());
        pod.with_context(|| format!("Job {} has no pod", self.name))
    }

    async fn pod_name(&self) -> anyhow::Result<String> {
        Ok(text(&self.pod().await?["metadata"]["name"]))
    }

    /// Waits until it has stopped at a failpoint.
    ///
    /// # Errors
    /// When it does not get there.
    pub async fn reached(&self, point: Failpoint) -> anyhow::Result<()> {
        until("the Job stops at its failpoint", REACHED, async || {
            let said = format!("{} {}", point.name(), self.pod_name().await?);
            let lease = self.release.the_lease().await?;
            let now = &lease["metadata"]["annotations"][ANNOTATION];
            ensure!(*now == said.as_str(), "{said} is awaited, the Lease says {now}");
            Ok(())
        })
        .await
        .with_context(|| format!("Job {} is to stop at {}", self.name, point.name()))
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn go_on(&self) -> anyhow::Result<()> {
        let go = format!("{ANNOTATION}=go");
        self.release.kubectl(&["annotate", "lease", &self.release.lease(), "--overwrite", &go]).await.map(drop)
    }

    /// Ends it as a lack of memory would, without a word: SIGKILL. Elsewhere than on the bed its
    /// pod is deleted by force.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn kill(&self) -> anyhow::Result<()> {
        let pod = self.pod_name().await?;
        if !is_bed() {
            let delete = ["delete", "pod", &pod, "--force", "--grace-period=0"];
            return self.release.kubectl(&delete).await.map(drop);
        }
        let running = self.release.running(&pod, CONTAINER).await?;
        kill_container(&running.node, &running.id).await?;
        until("the killed Job has failed", SOON, async || {
            let (condition, _) = self.condition().await?;
            ensure!(condition.is_some_and(|condition| condition != "Complete"), "Job {} is alive", self.name);
            Ok(())
        })
        .await
    }

    /// Stops its process where it is; only on the bed.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn freeze(&self) -> anyhow::Result<()> {
        let process = self.process().await?;
        freeze_container(&process.node, &process.id).await
    }

    /// Lets its process run again.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn thaw(&self) -> anyhow::Result<()> {
        let process = self.process().await?;
        thaw_container(&process.node, &process.id).await
    }

    async fn process(&self) -> anyhow::Result<Running> {
        self.release.running(&self.pod_name().await?, CONTAINER).await
    }

    /// The condition that ends it, if it has one, and why.
    async fn condition(&self) -> anyhow::Result<(Option<String>, String)> {
        let job = self.release.json(&["get", "job", &self.name]).await?;
        let conditions = job["status"]["conditions"].as_array().into_iter().flatten();
        let ended =
            conditions.filter(|c| c["status"] == "True").find(|c| c["type"] == "Complete" || c["type"] == "Failed");
        Ok(ended.map_or((None, String::new()), |c| (Some(text(&c["type"])), text(&c["message"]))))
    }

    /// Waits until it has ended, however.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ended(&self) -> anyhow::Result<End> {
        let complete = until("the Job has ended", ENDED, async || match self.condition().await?.0 {
            Some(condition) => Ok(condition == "Complete"),
            None => bail!("Job {} is at work", self.name),
        });
        let complete = complete.await?;
        let job = format!("job/{}", self.name);
        let log = self.release.kubectl(&["logs", &job]).await.unwrap_or_else(|error| format!("{error:#}"));
        Ok(End { complete, log })
    }

    /// Waits until it has done its work.
    ///
    /// # Errors
    /// What it logged, when it failed.
    pub async fn done(&self) -> anyhow::Result<()> {
        let End { complete, log } = self.ended().await?;
        ensure!(complete, "Job {} failed:\n{log}", self.name);
        Ok(())
    }

    /// Waits until it has failed; how its pod ended.
    ///
    /// # Errors
    /// When it does not fail.
    pub async fn fails(&self) -> anyhow::Result<JobPod> {
        let End { complete, log } = self.ended().await?;
        ensure!(!complete, "Job {} did what it was not to do:\n{log}", self.name);
        self.release.ended_pod(&self.name).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failpoint_is_in_one_list() {
        let up = [&Failpoint::JOIN[..], &Failpoint::UNDO].concat();
        let down: Vec<_> = Failpoint::LEAVE.into_iter().filter(|point| !up.contains(point)).collect();
        let all = [&up[..], &down, &Failpoint::RENEW].concat();
        for (number, point) in all.iter().enumerate() {
            assert_eq!(*point as usize, number, "{} is not where it is declared", point.name());
        }
        assert_eq!(all.last(), Some(&Failpoint::PodRenewed), "the last one that is declared");
        let mut names: Vec<&str> = all.iter().map(|point| point.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
