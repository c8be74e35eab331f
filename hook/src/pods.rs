//! A pod of the StatefulSet, as the planner wants to know it.

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod};
use membership::names::{ADMIT, JOINER, PERMISSION};
use membership::observed::{self, Trouble};
use membership::record::Permission;

/// Reasons of a waiting container that no waiting will mend. The kubelet calls it
/// ImagePullBackOff only after a second failed pull.
const FATAL: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
    "RunContainerError",
];

/// Reasons of a container that is only on its way.
const ON_ITS_WAY: [&str; 2] = ["PodInitializing", "ContainerCreating"];

/// What is known of a pod.
#[must_use]
pub fn observe(pod: &Pod, container: &str) -> observed::Pod {
    let metadata = &pod.metadata;
    let annotation = |name: &str| metadata.annotations.as_ref().and_then(|all| all.get(name));
    let status = pod.status.as_ref();
    let spec = pod.spec.as_ref();
    let initial_cluster = spec
        .and_then(|spec| spec.containers.iter().find(|c| c.name == container))
        .and_then(|container| container.env.as_ref()?.iter().rfind(|env| env.name == "ETCD_INITIAL_CLUSTER"))
        .and_then(|env| env.value.clone());
    let ready = status
        .and_then(|status| status.conditions.as_ref())
        .is_some_and(|all| all.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
    let waits_in_admit = statuses(pod)
        .any(|status| status.name == ADMIT && status.state.as_ref().is_some_and(|state| state.running.is_some()));
    observed::Pod {
        uid: metadata.uid.clone().unwrap_or_default(),
        node: spec.and_then(|spec| spec.node_name.clone()),
        joiner: annotation(JOINER).is_some_and(|value| value == "true"),
        initial_cluster,
        waits_in_admit,
        permitted: annotation(PERMISSION)
            .and_then(|text| serde_json::from_str::<Permission>(text).ok())
            .map(|permission| permission.member),
        older: false,
        terminating: metadata.deletion_timestamp.is_some(),
        ready,
        trouble: trouble(pod),
    }
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// Why the pod does not get on, if anybody says so.
fn trouble(pod: &Pod) -> Option<Trouble> {
    statuses(pod).find_map(stuck).or_else(|| unscheduled(pod))
}

fn stuck(status: &ContainerStatus) -> Option<Trouble> {
    let state = status.state.as_ref()?;
    let name = &status.name;
    // What it said when it ended tells more than "back-off 10s restarting failed container".
    let ended = ended(state).or_else(|| ended(status.last_state.as_ref()?));
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.as_deref().unwrap_or_default();
        if ON_ITS_WAY.contains(&reason) && ended.is_none() {
            return None;
        }
        let image = if reason.contains("Image") { format!(" of image {}", status.image) } else { String::new() };
        let message = ended.or_else(|| waiting.message.clone()).unwrap_or_default();
        let what = format!("container {name}{image}: {reason}: {}", message.trim());
        return Some(Trouble { what, fatal: FATAL.contains(&reason) });
    }
    ended
        .filter(|_| state.terminated.is_some())
        .map(|message| Trouble { what: format!("container {name} failed: {}", message.trim()), fatal: false })
}

/// The last word of a container that failed.
fn ended(state: &ContainerState) -> Option<String> {
    let terminated = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let message = terminated.message.clone().unwrap_or_default();
    let last = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Some(if last.is_empty() { format!("exit code {}", terminated.exit_code) } else { last.to_owned() })
}

fn unscheduled(pod: &Pod) -> Option<Trouble> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let scheduled =
        conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    let message = scheduled.message.clone().or_else(|| scheduled.reason.clone())?;
    Some(Trouble { what: format!("not scheduled: {message}"), fatal: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> observed::Pod {
        observe(&serde_json::from_value(value).unwrap(), "etcd")
    }

    #[test]
    fn a_joiner_that_waits_is_in_no_trouble() {
        let seen = pod(json!({
            "metadata": { "uid": "u", "annotations": { "etcd-scaler.io/joiner": "true" } },
            "spec": { "nodeName": "node-3", "containers": [ { "name": "etcd", "env": [
                { "name": "ETCD_INITIAL_CLUSTER", "value": "a=b" } ] } ] },
            "status": {
                "initContainerStatuses": [
                    { "name": "etcd-version", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
                      "state": { "terminated": { "exitCode": 0 } } },
                    { "name": "admit", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                      "state": { "running": {} } } ],
                "containerStatuses": [ { "name": "etcd", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                      "state": { "waiting": { "reason": "PodInitializing" } } } ] } }));
        assert!(seen.waits_in_admit && seen.joiner && !seen.ready);
        assert_eq!(seen.trouble, None);
        assert_eq!(seen.initial_cluster.as_deref(), Some("a=b"));
    }

    #[test]
    fn an_image_that_cannot_be_pulled_is_fatal_and_named() {
        let seen = pod(json!({ "metadata": {}, "status": { "initContainerStatuses": [
            { "name": "etcd-version", "image": "localhost/etcd:9", "imageID": "", "ready": false, "restartCount": 0,
              "state": { "waiting": { "reason": "ImagePullBackOff", "message": "Back-off pulling image" } } } ] } }));
        let trouble = seen.trouble.unwrap();
        assert!(trouble.fatal);
        assert_eq!(
            trouble.what,
            "container etcd-version of image localhost/etcd:9: ImagePullBackOff: Back-off pulling image"
        );
    }

    #[test]
    fn a_crash_loop_is_told_by_the_containers_own_last_line() {
        let seen = pod(json!({ "metadata": {}, "status": { "initContainerStatuses": [
            { "name": "admit", "image": "i", "imageID": "", "ready": false, "restartCount": 3,
              "state": { "waiting": { "reason": "CrashLoopBackOff", "message": "back-off 40s" } },
              "lastState": { "terminated": { "exitCode": 1, "message": "first\nERROR it holds data\n" } } } ] } }));
        assert_eq!(seen.trouble.unwrap().what, "container admit: CrashLoopBackOff: ERROR it holds data");
    }

    #[test]
    fn the_scheduler_is_quoted() {
        let seen = pod(json!({ "metadata": {}, "status": { "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available" } ] } }));
        assert_eq!(seen.trouble.unwrap().what, "not scheduled: 0/3 nodes are available");
    }
}
