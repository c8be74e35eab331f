//! The Job that the launcher makes, and what it reads of the Jobs that there are.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1::EnvVar;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::ObjectMeta;
use membership::know::names::TARGET;

use crate::events::hash;

/// The label that says for which state a Job was made.
const RUN: &str = "etcd-scaler.io/run";
/// The label that numbers the attempts at that state.
const ATTEMPT: &str = "etcd-scaler.io/attempt";
/// The variable that tells the program who started it.
const TRIGGER: &str = "ETCD_SCALER_TRIGGER";

/// A Job as far as the launcher cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The state for which the launcher made it; `None`: Helm or a person made it.
    pub run: Option<String>,
    /// The number of the attempt, from 0.
    pub attempt: u32,
    /// When it ended; `None`: it is active.
    pub ended: Option<Timestamp>,
    /// It ended without success.
    pub failed: bool,
}

impl Seen {
    /// Reads a Job.
    pub fn of(job: &Job) -> Self {
        let label = |name: &str| job.metadata.labels.as_ref()?.get(name).cloned();
        let conditions = job.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let ended = conditions.iter().find(|c| c.status == "True" && (c.type_ == "Complete" || c.type_ == "Failed"));
        Self {
            run: label(RUN),
            attempt: label(ATTEMPT).and_then(|number| number.parse().ok()).unwrap_or(0),
            ended: ended.map(|c| c.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)),
            failed: ended.is_some_and(|c| c.type_ == "Failed"),
        }
    }
}

/// The Job of one attempt, as `kubectl create job --from=cronjob/…` makes it, except for its name. The name follows
/// from state and attempt, so that of two replicas the second is told that the Job exists.
pub fn from_template(cronjob: &CronJob, target: &str, run: &str, attempt: u32) -> Job {
    let name = cronjob.metadata.name.clone().unwrap_or_default();
    let template = cronjob.spec.as_ref().map(|spec| spec.job_template.clone()).unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.extend([(TARGET, target), (RUN, run)].map(|(key, value)| (key.to_owned(), value.to_owned())));
    labels.insert(ATTEMPT.to_owned(), attempt.to_string());
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert("cronjob.kubernetes.io/instantiate".to_owned(), "manual".to_owned());
    let mut spec = template.spec.unwrap_or_default();
    let pod = spec.template.metadata.get_or_insert_default();
    pod.labels.get_or_insert_with(BTreeMap::new).insert(TARGET.to_owned(), target.to_owned());
    for container in spec.template.spec.iter_mut().flat_map(|pod| &mut pod.containers) {
        let env = container.env.get_or_insert_default();
        env.retain(|entry| entry.name != TRIGGER);
        env.push(EnvVar { name: TRIGGER.into(), value: Some("launcher".into()), ..EnvVar::default() });
    }
    Job {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{}", hash(&[run, &attempt.to_string()]))),
            namespace: cronjob.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations),
            // With the CronJob as the controlling owner, its history limits remove old Jobs, also while it is
            // suspended.
            owner_references: Some(vec![OwnerReference {
                api_version: "batch/v1".into(),
                kind: "CronJob".into(),
                name,
                uid: cronjob.metadata.uid.clone().unwrap_or_default(),
                controller: Some(true),
                block_owner_deletion: None,
            }]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_job_is_made_as_kubectl_would_and_says_who_started_it() {
        let cronjob: CronJob = serde_json::from_value(json!({
            "metadata": { "name": "puls8-etcd-scaler", "namespace": "puls8", "uid": "cron-uid" },
            "spec": { "schedule": "0 0 1 1 *", "suspend": true, "jobTemplate": {
                "metadata": { "labels": { "app": "x" } },
                "spec": { "backoffLimit": 0, "template": { "spec": { "restartPolicy": "Never", "containers": [
                    { "name": "scale", "env": [{ "name": "ETCD_SCALER_TRIGGER", "value": "manual" }, { "name": "POD_NAME", "value": "x" }] }
                ] } } }
            } }
        }))
        .unwrap();
        let job = serde_json::to_value(from_template(&cronjob, "puls8-etcd", "abc", 1)).unwrap();
        insta::assert_json_snapshot!(job, @r#"
        {
          "apiVersion": "batch/v1",
          "kind": "Job",
          "metadata": {
            "annotations": {
              "cronjob.kubernetes.io/instantiate": "manual"
            },
            "labels": {
              "app": "x",
              "etcd-scaler.io/attempt": "1",
              "etcd-scaler.io/run": "abc",
              "etcd-scaler.io/target": "puls8-etcd"
            },
            "name": "puls8-etcd-scaler-8a30812618",
            "namespace": "puls8",
            "ownerReferences": [
              {
                "apiVersion": "batch/v1",
                "controller": true,
                "kind": "CronJob",
                "name": "puls8-etcd-scaler",
                "uid": "cron-uid"
              }
            ]
          },
          "spec": {
            "backoffLimit": 0,
            "template": {
              "metadata": {
                "labels": {
                  "etcd-scaler.io/target": "puls8-etcd"
                }
              },
              "spec": {
                "containers": [
                  {
                    "env": [
                      {
                        "name": "POD_NAME",
                        "value": "x"
                      },
                      {
                        "name": "ETCD_SCALER_TRIGGER",
                        "value": "launcher"
                      }
                    ],
                    "name": "scale"
                  }
                ],
                "restartPolicy": "Never"
              }
            }
          }
        }
        "#);
        assert_eq!(from_template(&cronjob, "puls8-etcd", "abc", 1).metadata.name.unwrap(), job["metadata"]["name"]);
        assert_ne!(from_template(&cronjob, "puls8-etcd", "abc", 2).metadata.name.unwrap(), job["metadata"]["name"]);
    }

    #[test]
    fn a_job_has_ended_when_a_condition_says_so() {
        let job = |conditions: serde_json::Value| {
            Seen::of(
                &serde_json::from_value(json!({ "metadata": {}, "status": { "conditions": conditions } })).unwrap(),
            )
        };
        assert_eq!(job(json!([])).ended, None);
        assert_eq!(
            job(json!([{ "type": "FailureTarget", "status": "True" }, { "type": "Suspended", "status": "False" }]))
                .ended,
            None
        );
        let failed = job(json!([{ "type": "Failed", "status": "True", "lastTransitionTime": "2026-11-23T10:00:00Z" }]));
        assert_eq!((failed.ended, failed.failed), (Some("2026-11-23T10:00:00Z".parse().unwrap()), true));
        assert!(!job(json!([{ "type": "Complete", "status": "True" }])).failed);
    }
}
