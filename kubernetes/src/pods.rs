//! A pod of the StatefulSet, read for the planner.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, Pod};
use kube::api::ListParams;
use membership::decide::bootstrap;
use membership::know::names::{
    ADMIT, ADMIT_COMMAND, INITIAL_CLUSTER, INITIAL_CLUSTER_STATE, LOOK, Ordinal, PERMISSION, PERMISSION_DIR, SET_ASIDE,
    TURN, Target,
};
use membership::know::observed::{self, Trouble};
use membership::know::record::Permission;

use crate::objects::Objects;
use crate::waiting;

/// Reasons of a waiting container for which more waiting does not help. The kubelet says ImagePullBackOff only after a
/// second failed pull.
const FATAL: [&str; 6] = [
    "ImagePullBackOff",
    "ErrImageNeverPull",
    "InvalidImageName",
    "CreateContainerConfigError",
    "CrashLoopBackOff",
    "RunContainerError",
];

/// Reasons of a waiting container that is about to start.
const ON_ITS_WAY: [&str; 2] = ["PodInitializing", "ContainerCreating"];

/// After this time beyond its grace period, the end of a pod is not waited for any more: its node is dead.
const OVERDUE: SignedDuration = SignedDuration::from_secs(10);

/// A pod that the webhook did not prepare is not made again for that until it is this old: the webhook may be
/// restarting.
const YOUNG: SignedDuration = SignedDuration::from_secs(3);

/// The revision from which the controller would make this pod now; `None`: not certain, because the controller has not
/// yet seen the StatefulSet as it is.
fn made_from(statefulset: &StatefulSet, ordinal: Ordinal) -> Option<&str> {
    let status = statefulset.status.as_ref()?;
    if status.observed_generation != statefulset.metadata.generation {
        return None;
    }
    let strategy = statefulset.spec.as_ref()?.update_strategy.as_ref();
    let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition).unwrap_or(0);
    let held_back = i64::from(ordinal) < i64::from(partition);
    if held_back { status.current_revision.as_deref() } else { status.update_revision.as_deref() }
}

/// The pods that its selector finds, by ordinal.
///
/// # Errors
/// When the API server did not answer.
pub async fn of(
    objects: &Objects,
    target: &Target,
    statefulset: &StatefulSet,
) -> anyhow::Result<BTreeMap<Ordinal, observed::Pod>> {
    let selector = statefulset.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let listed = objects.pods.list(&ListParams::default().labels(&labels.join(","))).await;
    let listed = listed.with_context(|| format!("failed to list the pods of {target}"))?;
    let mut seen = BTreeMap::new();
    for pod in &listed.items {
        let Some(ordinal) = pod.metadata.name.as_deref().and_then(|name| target.ordinal_of(name)) else { continue };
        let mut ours = observe(pod, target, ordinal, made_from(statefulset, ordinal), Timestamp::now());
        // The kubelet may report up to a second late, so the pod itself is asked too.
        let on_its_way = ours.joiner && ours.never_started && !ours.waits_in_admit && !ours.terminating;
        if on_its_way && let Some(address) = address(pod) {
            ours.waits_in_admit = waiting::is_told(address, &ours.uid).await;
        }
        seen.insert(ordinal, ours);
    }
    Ok(seen)
}

/// What is known about the pod of an ordinal; `made_from`: the revision that it would be made from now, if that is
/// certain.
#[must_use]
pub fn observe(pod: &Pod, target: &Target, ordinal: Ordinal, made_from: Option<&str>, now: Timestamp) -> observed::Pod {
    let container = target.container.as_str();
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
    let revision = metadata.labels.as_ref().and_then(|labels| labels.get("controller-revision-hash"));
    observed::Pod {
        started: started(pod, container),
        never_started: never_started(pod, container),
        unsettled: unsettled(pod, target, ordinal),
        outdated: made_from.zip(revision).is_some_and(|(now, then)| now != then),
        uid: metadata.uid.clone().unwrap_or_default(),
        node: spec.and_then(|spec| spec.node_name.clone()),
        joiner: is_joiner(pod),
        freed: false,
        initial_cluster,
        gated: spec
            .and_then(|spec| spec.scheduling_gates.as_ref())
            .is_some_and(|gates| gates.iter().any(|gate| gate.name == TURN)),
        waits_in_admit,
        permitted: annotation(PERMISSION)
            .and_then(|text| serde_json::from_str::<Permission>(text).ok())
            .map(|permission| permission.member),
        older: false,
        down: down(pod, container),
        terminating: metadata.deletion_timestamp.is_some(),
        overdue: metadata.deletion_timestamp.as_ref().is_some_and(|end| now.duration_since(end.0) > OVERDUE),
        ready,
        trouble: trouble(pod),
    }
}

/// The pod's IP address, if it has one.
#[must_use]
pub fn address(pod: &Pod) -> Option<IpAddr> {
    pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()
}

/// The annotations from which the start of a member's etcd comes once the member has served: `existing`, and an initial
/// cluster of itself alone. On an empty directory etcd then finds no peer to ask, and refuses to start.
#[must_use]
pub fn settled(target: &Target, ordinal: Ordinal) -> [(&'static str, String); 2] {
    [(INITIAL_CLUSTER_STATE, "existing".into()), (INITIAL_CLUSTER, target.initial_cluster([ordinal]))]
}

/// Whether the webhook made it a joiner: it has the init container that waits for a permission. An annotation does not
/// count: anybody can write one on a member's pod, or into a template.
fn is_joiner(pod: &Pod) -> bool {
    let waits = |container: &Container| {
        let begins =
            container.command.as_ref().is_some_and(|command| command.starts_with(&ADMIT_COMMAND.map(str::to_owned)));
        let mut mounts = container.volume_mounts.iter().flatten();
        container.name == ADMIT && begins && mounts.any(|mount| mount.mount_path == PERMISSION_DIR)
    };
    pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten()).any(waits)
}

/// Whether a variable of its etcd comes from an annotation that is not as [`settled`] has it.
fn unsettled(pod: &Pod, target: &Target, ordinal: Ordinal) -> bool {
    let says = |annotation: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(annotation));
    settled(target, ordinal)
        .iter()
        .any(|(annotation, value)| reads(pod, target, annotation) && says(annotation) != Some(value))
}

/// Whether both variables come from annotations, so that [`settled`] annotations keep its etcd from starting as new.
fn may_settle(pod: &Pod, target: &Target) -> bool {
    [INITIAL_CLUSTER_STATE, INITIAL_CLUSTER].iter().all(|annotation| reads(pod, target, annotation))
}

/// Whether a variable of its etcd comes from this annotation.
fn reads(pod: &Pod, target: &Target, annotation: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let env = containers.filter(|c| c.name == target.container).flat_map(|c| c.env.iter().flatten());
    let mut fields = env.filter_map(|env| Some(env.value_from.as_ref()?.field_ref.as_ref()?.field_path.as_str()));
    let path = format!("metadata.annotations['{annotation}']");
    fields.any(|field| field == path)
}

/// The pod, as far as it matters before etcd's first start ([`bootstrap`]).
#[must_use]
pub fn before_start(pod: &Pod, target: &Target, ordinal: Ordinal, now: Timestamp) -> bootstrap::Pod {
    let metadata = &pod.metadata;
    let made = metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |made| made.0);
    let init = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let ended = statuses(pod).find(|status| status.name == SET_ASIDE).and_then(|status| status.state.as_ref());
    bootstrap::Pod {
        uid: metadata.uid.clone().unwrap_or_default(),
        node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        terminating: metadata.deletion_timestamp.is_some(),
        cleared: ended.and_then(|state| state.terminated.as_ref()).is_some_and(|ended| ended.exit_code == 0),
        clears: init.into_iter().any(|container| container.name == SET_ASIDE),
        young: now.duration_since(made) < YOUNG,
        may_settle: may_settle(pod, target),
        settled: !unsettled(pod, target, ordinal),
    }
}

/// What the init container that looks into the data directory has said.
#[must_use]
pub fn looked_at(pod: &Pod) -> Option<&str> {
    let status = statuses(pod).find(|status| status.name == LOOK)?;
    status.state.as_ref()?.terminated.as_ref()?.message.as_deref()?.trim().strip_prefix("wal ")
}

/// Whether, by what the kubelet has reported, its etcd may be waiting for the token.
#[must_use]
pub fn may_wait_for_token(pod: &Pod, container: &str) -> bool {
    let waits = |status: &ContainerStatus| {
        let waiting = status.state.as_ref().and_then(|state| state.waiting.as_ref());
        let reason = waiting.and_then(|waiting| waiting.reason.as_deref());
        reason.is_some_and(|reason| reason == "CreateContainerConfigError" || ON_ITS_WAY.contains(&reason))
    };
    looked_at(pod).is_some() && statuses(pod).any(|status| status.name == container && waits(status))
}

/// Whether the kubelet says that this container runs or ran. If the pod of a container that never ran is deleted, the
/// kubelet says that the container has ended, for the reason `ContainerStatusUnknown` (Kubernetes pkg/kubelet/status,
/// `TerminatePod`); that does not count.
fn started(pod: &Pod, container: &str) -> bool {
    let ended = |ended: &ContainerStateTerminated| ended.reason.as_deref() != Some("ContainerStatusUnknown");
    statuses(pod).filter(|status| status.name == container).any(|status| {
        let state = |state: &ContainerState| state.running.is_some() || state.terminated.as_ref().is_some_and(ended);
        status.restart_count > 0 || [&status.state, &status.last_state].into_iter().flatten().any(state)
    })
}

/// Whether the kubelet says that this container has not run yet.
fn never_started(pod: &Pod, container: &str) -> bool {
    let status = statuses(pod).find(|status| status.name == container);
    match status {
        Some(status) => {
            let last = status.last_state.as_ref();
            status.restart_count == 0
                && status.state.as_ref().is_some_and(|state| state.waiting.is_some())
                && last.is_none_or(|last| last.terminated.is_none())
        }
        // The pod is not scheduled, so no kubelet has it.
        None => pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_none()),
    }
}

/// Whether the kubelet says that this container does not run now.
fn down(pod: &Pod, container: &str) -> bool {
    let status = statuses(pod).find(|status| status.name == container);
    let state = status.and_then(|status| status.state.as_ref());
    state.is_some_and(|state| state.waiting.is_some() || state.terminated.is_some())
}

fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    init.into_iter().flatten().chain(main.into_iter().flatten())
}

/// Why the pod does not start, if the kubelet or the scheduler says so.
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

/// The last line of a container that failed, or its exit code.
fn ended(state: &ContainerState) -> Option<String> {
    let terminated = state.terminated.as_ref().filter(|ended| ended.exit_code != 0)?;
    let message = terminated.message.clone().unwrap_or_default();
    let last = message.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Some(if last.is_empty() { format!("exit code {}", terminated.exit_code) } else { in_words(last) })
}

/// The message and the error of a JSON log line of etcd; any other line as it is.
fn in_words(line: &str) -> String {
    let logged: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
    match (logged["msg"].as_str(), logged["error"].as_str()) {
        (Some(msg), Some(error)) => format!("{msg}: {error}"),
        (Some(msg), None) => msg.to_owned(),
        (None, _) => line.to_owned(),
    }
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
    use membership::world::puls8;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> observed::Pod {
        observe(&serde_json::from_value(value).unwrap(), &puls8(), 0, Some("etcd-b"), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_container_that_the_kubelet_could_not_locate_has_not_started() {
        let ended = |reason: &str| {
            pod(json!({ "metadata": { "uid": "u" }, "spec": { "containers": [] }, "status": { "containerStatuses": [ {
                "name": "etcd", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
                "state": { "terminated": { "exitCode": 137, "reason": reason } },
            } ] } }))
        };
        let unknown = ended("ContainerStatusUnknown");
        assert!(!unknown.started && !unknown.never_started, "neither is known");
        assert!(ended("Error").started);
    }

    #[test]
    fn a_joiner_that_waits_is_in_no_trouble() {
        let seen = pod(json!({
            "metadata": { "uid": "u" },
            "spec": { "nodeName": "node-3", "initContainers": [
                { "name": "etcd-version", "command": ["etcd", "--version"] },
                { "name": "admit", "command": ["/hook", "admit", "--data-dir=/d"],
                  "volumeMounts": [{ "name": "etcd-scaler-permission", "mountPath": "/etc/etcd-scaler" }] }
            ], "containers": [ { "name": "etcd", "env": [
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
    fn what_anybody_can_write_on_a_pod_makes_no_joiner_of_it() {
        let with = |init: serde_json::Value| {
            let annotations = json!({ "etcd-scaler.io/joiner": "true", "etcd-scaler.io/waits-for": "me" });
            let spec = json!({ "initContainers": init, "containers": [] });
            pod(json!({ "metadata": { "annotations": annotations }, "spec": spec })).joiner
        };
        let mounts = json!([{ "name": "p", "mountPath": "/etc/etcd-scaler" }]);
        let admit = |command: serde_json::Value, mounts: &serde_json::Value| {
            with(json!([{ "name": "admit", "command": command, "volumeMounts": mounts }]))
        };
        assert!(admit(json!(["/hook", "admit", "--data-dir=/d"]), &mounts));
        assert!(!with(json!([])));
        assert!(!admit(json!(["sh", "-c", "true"]), &mounts), "another program");
        assert!(!admit(json!(["/hook", "admit"]), &json!([])), "it reads no permission");
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
    fn of_a_line_that_etcd_logged_what_it_says_and_why_is_told() {
        let line = r#"{"level":"fatal","ts":"2026-11-29T07:37:12.1Z","caller":"etcdmain/etcd.go:183","msg":"discovery failed","error":"cannot access data directory","stacktrace":"main.main"}"#;
        assert_eq!(in_words(line), "discovery failed: cannot access data directory");
        assert_eq!(in_words(r#"{"level":"fatal","msg":"failed to flock"}"#), "failed to flock");
        for other in [r#"{"error":"no msg"}"#, "panic: runtime error", "5"] {
            assert_eq!(in_words(other), other);
        }
    }

    #[test]
    fn a_pod_is_outdated_when_it_would_be_made_otherwise_and_never_started_when_the_kubelet_says_so() {
        let with = |revision: &str, node: Option<&str>, etcd: serde_json::Value| {
            pod(json!({
                "metadata": { "labels": { "controller-revision-hash": revision } },
                "spec": { "nodeName": node, "containers": [] },
                "status": { "containerStatuses": etcd } }))
        };
        let etcd = |restarts: u32, state: serde_json::Value| json!([{ "name": "etcd", "image": "i", "imageID": "", "ready": false, "restartCount": restarts, "state": state }]);
        let waiting = json!({ "waiting": { "reason": "ImagePullBackOff" } });
        assert!(with("etcd-a", None, json!(null)).outdated && !with("etcd-b", None, json!(null)).outdated);
        assert!(with("etcd-a", None, json!(null)).never_started, "not scheduled");
        let unsaid = with("etcd-a", Some("node-1"), json!(null));
        assert!(!unsaid.never_started && !unsaid.started, "the kubelet has not said anything");
        assert!(with("etcd-a", Some("node-1"), etcd(0, waiting.clone())).never_started);
        assert!(!with("etcd-a", Some("node-1"), etcd(1, waiting)).never_started);
        let runs = with("etcd-a", Some("node-1"), etcd(0, json!({ "running": {} })));
        assert!(runs.started && !runs.never_started);
    }

    #[test]
    fn a_pod_is_settled_when_its_annotations_say_existing_and_itself_alone() {
        let with = |state: &str, cluster: &str, from: &str| {
            pod(json!({
                "metadata": { "annotations": { INITIAL_CLUSTER_STATE: state, INITIAL_CLUSTER: cluster } },
                "spec": { "containers": [{ "name": "etcd", "env": [
                    { "name": "ETCD_INITIAL_CLUSTER_STATE", "valueFrom": { "fieldRef": { "fieldPath": format!("metadata.annotations['{from}']") } } }
                ] }] } }))
            .unsettled
        };
        let alone = puls8().initial_cluster([0]);
        assert!(with("new", &alone, INITIAL_CLUSTER_STATE));
        assert!(!with("existing", &alone, INITIAL_CLUSTER_STATE));
        assert!(!with("existing", "all", INITIAL_CLUSTER_STATE), "the cluster does not come from the annotation");
        assert!(!with("new", "all", "another"), "nothing that we could change");
    }

    #[test]
    fn a_pod_is_overdue_a_while_after_its_grace_period() {
        let ends_at = |time: i64| {
            let end = Timestamp::from_second(time).unwrap().to_string();
            pod(json!({ "metadata": { "deletionTimestamp": end } }))
        };
        assert!(ends_at(-11).overdue && !ends_at(-10).overdue && ends_at(20).terminating);
        assert!(!pod(json!({ "metadata": {} })).overdue);
    }

    #[test]
    fn the_scheduler_is_quoted() {
        let seen = pod(json!({ "metadata": {}, "status": { "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available" } ] } }));
        assert_eq!(seen.trouble.unwrap().what, "not scheduled: 0/3 nodes are available");
    }
}
