//! Says in an Event that a member's disk was lost. etcd then refuses to start on the empty directory, as it should, but
//! its own log line ("cannot fetch cluster info from peer urls") does not say why. Also looks for pods that wait for a
//! volume ([`crate::launcher::lost_claim`]).
//!
//! Looked for only while a recorded member does not answer: while all answer, nothing is asked of the API server
//! for it.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use membership::decide::lost_claim::Found;
use membership::know::names::Ordinal;
use membership::know::record::State;
use membership::know::statefulset;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::events::{Events, Reason};
use crate::health::Health;
use crate::health::cluster::{Cluster, Live};
use crate::launcher::lost_claim::Claims;

/// The pause between two looks at the pods of members that do not answer. With it a deleted claim is noticed within
/// 10 s.
const LOOK: Duration = Duration::from_secs(2);

/// What etcd says when it is started on an empty directory under an ID that has served: as an existing member whose
/// initial cluster is only itself; as a new one that the others know; and with an initial cluster that has one member
/// too many.
const REFUSALS: [&str; 3] =
    ["cannot fetch cluster info from peer urls", "has already been bootstrapped", "member count is unequal"];

/// Looks, for ever; sends to `kept` the UIDs of the claims whose volume is still reserved for an earlier claim.
pub async fn watch(
    cluster: Cluster,
    claims: Claims,
    live: watch::Receiver<Live>,
    mut health: Health,
    events: Events,
    kept: watch::Sender<BTreeSet<String>>,
) {
    // The UIDs of the pods about which something was said: once for each pod.
    let mut said = BTreeSet::new();
    loop {
        let object = live.borrow().object();
        let silent = object.as_ref().map(|object| silent(object, &health)).unwrap_or_default();
        if silent.is_empty() {
            kept.send_if_modified(|kept| !std::mem::take(kept).is_empty());
            health.changed().await;
            continue;
        }
        if let Some(object) = object {
            let mut waiting = BTreeSet::new();
            let target = cluster.target(&object);
            for (ordinal, id) in silent {
                let name = target.pod(ordinal);
                let pod = match claims.pod(&name).await {
                    Ok(Some(pod)) => pod,
                    Ok(None) => continue,
                    Err(error) => {
                        warn!(%error, pod = name, "cannot look at the pod of a member that does not answer");
                        continue;
                    }
                };
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                match claims.look(&object, &target, &pod, (ordinal, &id), health.answered(ordinal)).await {
                    Ok(Found::Nothing) => {}
                    Ok(Found::Kept(claim)) => drop(waiting.insert(claim)),
                    Ok(Found::Lost(note)) if !said.contains(&uid) => {
                        info!(pod = name, "a member's volume is lost");
                        events.tell(object["metadata"]["uid"].as_str().unwrap_or_default(), Reason::VolumeLost, &note);
                        said.insert(uid.clone());
                    }
                    Ok(Found::Lost(_)) => {}
                    Err(error) => {
                        warn!(%error, pod = name, "cannot look at the claim of a member that does not answer");
                    }
                }
                let Some(line) = lost(&pod, &target.container).filter(|_| !said.contains(&uid)) else { continue };
                let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
                let note = format!(
                    "{name} (member {id}) does not start: its data directory on {node} is empty, its disk was lost or is not mounted. etcd refuses ({line}), so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If the disk comes back with its data, so does the member; if it never will, replace the member (hook replace --ordinal {ordinal}, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)"
                );
                info!(pod = name, line, "a member's disk is lost");
                events.tell(object["metadata"]["uid"].as_str().unwrap_or_default(), Reason::DiskLost, &note);
                said.insert(uid);
            }
            kept.send_if_modified(|kept| {
                let news = *kept != waiting;
                *kept = waiting;
                news
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The recorded members that did not answer in the last round.
fn silent(object: &serde_json::Value, health: &Health) -> Vec<(Ordinal, String)> {
    let Some(Ok(record)) = statefulset::record(object) else { return Vec::new() };
    health.with_seen(|seen| {
        let Some(seen) = seen else { return Vec::new() };
        let members = record.members.iter().filter(|(_, recorded)| recorded.state == State::Member);
        members
            .filter(|(ordinal, _)| matches!(seen.answers.get(ordinal), Some(Err(_))))
            .map(|(&ordinal, recorded)| (ordinal, recorded.id.to_string()))
            .collect()
    })
}

/// The words with which the pod's etcd refused an empty directory, if that is how it ended last.
fn lost(pod: &Pod, container: &str) -> Option<&'static str> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    let status = statuses.iter().find(|status| status.name == container)?;
    let now = status.state.as_ref().and_then(|state| state.terminated.as_ref());
    let last = status.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    let message = now.or(last)?.message.as_ref()?;
    REFUSALS.into_iter().find(|refusal| message.contains(refusal))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(state: serde_json::Value, last: serde_json::Value) -> Pod {
        serde_json::from_value(json!({ "metadata": {}, "status": { "containerStatuses": [
            { "name": "etcd", "image": "i", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last }
        ] } }))
        .unwrap()
    }

    #[test]
    fn a_lost_disk_is_told_by_etcds_own_refusal() {
        let ended = |message: &str| json!({ "terminated": { "exitCode": 1, "message": message } });
        let waiting = json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let refused = ended(
            r#"{"level":"fatal","msg":"discovery failed","error":"cannot fetch cluster info from peer urls: could not"}"#,
        );
        assert_eq!(lost(&pod(waiting.clone(), refused.clone()), "etcd"), Some(REFUSALS[0]));
        assert_eq!(lost(&pod(refused, json!({})), "etcd"), Some(REFUSALS[0]));
        assert_eq!(lost(&pod(ended("member 1 has already been bootstrapped"), json!({})), "etcd"), Some(REFUSALS[1]));
        assert_eq!(lost(&pod(waiting.clone(), ended("panic: out of memory")), "etcd"), None);
        assert_eq!(lost(&pod(waiting, json!({})), "etcd"), None);
    }
}
