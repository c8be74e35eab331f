//! What there is: members, record, the run that works now, how the last run ended. Only reads, with the rights of the
//! webhook's pod, because it is run there (`kubectl exec`).

mod answer;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use answer::{Answer, Last, Running, Seen};
use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::Api;
use kube::api::ListParams;
use kubernetes::lease::held_by;
use kubernetes::objects::{Objects, patiently};
use kubernetes::statefulset::{adopt, record, replicas};
use membership::know::names::{MOST_MEMBERS, Ordinal, TARGET, Target};
use membership::know::observed::agreed;
use tokio::time::{Instant, timeout_at};

use crate::output::Output;

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// Looks once and answers. What could not be read is named in the answer; without the StatefulSet there is no answer.
pub async fn run(target: Target, lease: &str, deadline: Duration, output: Output) -> ExitCode {
    let end = Instant::now() + deadline;
    let seen = match timeout_at(end, look(target, lease, end)).await {
        Ok(seen) => seen,
        Err(_) => Err(anyhow::anyhow!("the API server did not answer within {} s; try again", deadline.as_secs())),
    };
    match seen {
        Ok(seen) => {
            let answer = Answer::of(seen);
            match output {
                Output::Table => print!("{}", answer.text()),
                // A struct of strings and numbers always serialises.
                Output::Json => println!("{}", serde_json::to_string(&answer).unwrap_or_default()),
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            // Not written as the pod's termination message, because this runs in the webhook's pod.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn look(mut target: Target, lease: &str, end: Instant) -> anyhow::Result<Seen> {
    let objects = Objects::connect(&target.namespace).await?;
    let statefulset = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&statefulset, &mut target)?;
    let mut unknown = Vec::new();
    let record = record(&statefulset).unwrap_or_else(|error| {
        unknown.push(format!("{error:#}"));
        None
    });
    let desired = replicas(&statefulset);
    let recorded = record.as_ref().and_then(|record| record.members.keys().max().copied());
    let count = desired.max(recorded.map_or(0, |last| last + 1)).min(MOST_MEMBERS);
    let answers = etcd::observe(&target, 0..count, ANSWER);
    let statuses = etcd::statuses(&target, 0..count, ANSWER);
    let (answers, statuses) = tokio::join!(answers, statuses);
    let mut pods = BTreeMap::new();
    for ordinal in 0..count {
        match pod(&objects, &target, ordinal).await {
            Ok(pod) => {
                pods.extend(pod.map(|ready| (ordinal, ready)));
            }
            Err(error) => unknown.push(format!("{error:#}")),
        }
    }
    let now = Timestamp::now();
    let running = objects.leases.get_opt(lease).await.with_context(|| format!("failed to read Lease {lease}"));
    let running = running.unwrap_or_else(|error| {
        unknown.push(format!("{error:#}"));
        None
    });
    let last = match jobs(&objects, &target).await {
        Ok(jobs) => jobs.iter().filter_map(ended).max_by_key(|last| last.at),
        Err(error) => {
            unknown.push(format!("{error:#}"));
            None
        }
    };
    Ok(Seen {
        agreed: agreed(&target, &answers, record.as_ref()),
        running: running.and_then(|lease| holder(lease, now)),
        target,
        desired,
        record,
        statuses,
        pods,
        last,
        unknown,
    })
}

/// Whether the pod of an ordinal is Ready; `None`: there is none.
async fn pod(objects: &Objects, target: &Target, ordinal: Ordinal) -> anyhow::Result<Option<bool>> {
    let name = target.pod(ordinal);
    // By name: the webhook may not list pods.
    let pod = objects.pods.get_opt(&name).await.with_context(|| format!("failed to read pod {name}"))?;
    let is_ready = |pod: Pod| {
        let conditions = pod.status.and_then(|status| status.conditions).unwrap_or_default();
        conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
    };
    Ok(pod.map(is_ready))
}

async fn jobs(objects: &Objects, target: &Target) -> anyhow::Result<Vec<Job>> {
    let jobs: Api<Job> = Api::namespaced(objects.client.clone(), &target.namespace);
    let ours = ListParams::default().labels(&format!("{TARGET}={}", target.statefulset));
    Ok(jobs.list(&ours).await.with_context(|| format!("failed to list the Jobs of {target}"))?.items)
}

/// How a Job ended, if it did.
fn ended(job: &Job) -> Option<Last> {
    let conditions = job.status.as_ref()?.conditions.as_deref()?;
    let end = conditions.iter().find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"))?;
    let at = end.last_transition_time.as_ref()?.0;
    Some(Last { job: job.metadata.name.clone()?, result: end.type_.clone(), at })
}

/// Who holds the Lease, unless it has run out.
fn holder(lease: Lease, now: Timestamp) -> Option<Running> {
    let spec = lease.spec?;
    let holder = held_by(&spec, now)?.to_owned();
    let since = spec.acquire_time.map(|MicroTime(time)| time);
    Some(Running { holder, since })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_has_a_result_once_it_has_ended() {
        let job = |conditions: serde_json::Value| {
            let job = json!({ "metadata": { "name": "j" }, "status": { "conditions": conditions } });
            ended(&serde_json::from_value(job).unwrap()).map(|last| last.result)
        };
        let at = "2026-11-25T10:00:00Z";
        assert_eq!(job(json!([])), None);
        assert_eq!(job(json!([{ "type": "FailureTarget", "status": "True", "lastTransitionTime": at }])), None);
        assert_eq!(job(json!([{ "type": "Complete", "status": "False", "lastTransitionTime": at }])), None);
        let failed = json!([{ "type": "Failed", "status": "True", "lastTransitionTime": at }]);
        assert_eq!(job(failed).as_deref(), Some("Failed"));
    }
}
