//! Events on the StatefulSet, where `kubectl describe` shows them: what was refused, lifted, started, given up, or
//! lost.

use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client};
use membership::know::names::Target;
use sha2::{Digest, Sha256};
use tracing::warn;

/// The longest note that the API takes, in bytes.
const NOTE_LIMIT: usize = 1024;
/// An equal Event is written once in this time: an autoscaler asks every 15 s.
const ONCE_IN: Duration = Duration::from_secs(300);

/// Writes Events in the background, so the caller neither waits nor fails. Cheap to clone.
#[derive(Clone)]
pub struct Events {
    api: Api<Event>,
    namespace: String,
    statefulset: String,
    pod: String,
}

/// What an Event is about.
#[derive(Clone, Copy, Debug)]
pub enum Reason {
    /// A scale was refused.
    Refused,
    /// A scale was admitted by a person's override although a rule refused it.
    Lifted,
    /// The launcher started a Job.
    Started,
    /// The launcher made a newcomer's volume.
    VolumeMade,
    /// The launcher stopped trying.
    GivenUp,
    /// How its etcd is started is not understood.
    NotUnderstood,
    /// A member's data directory is empty where it has served before.
    DiskLost,
    /// A member lacks the volume that it served with.
    VolumeLost,
}

impl Events {
    /// Events on the target, written by this pod.
    pub fn new(client: &Client, target: &Target, pod: String) -> Self {
        let Target { namespace, statefulset, .. } = target;
        let api = Api::namespaced(client.clone(), namespace);
        Self { api, namespace: namespace.clone(), statefulset: statefulset.clone(), pod }
    }

    /// Writes one, in the background.
    pub fn tell(&self, uid: &str, reason: Reason, note: &str) {
        let event = self.event(uid, reason, note, jiff::Timestamp::now());
        let api = self.api.clone();
        tokio::spawn(async move {
            match api.create(&PostParams::default(), &event).await {
                Ok(_) => {}
                // The same Event is there already, from this or the other replica.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                Err(error) => warn!(%error, "cannot write an Event"),
            }
        });
    }

    fn event(&self, uid: &str, reason: Reason, note: &str, now: jiff::Timestamp) -> Event {
        let (type_, action, reason) = match reason {
            Reason::Refused => ("Warning", "Admission", "ScaleRefused"),
            Reason::Lifted => ("Warning", "Admission", "RefusalLifted"),
            Reason::Started => ("Normal", "Launch", "ScaleStarted"),
            Reason::VolumeMade => ("Normal", "Launch", "VolumeCreated"),
            Reason::GivenUp => ("Warning", "Launch", "ScaleGivenUp"),
            Reason::NotUnderstood => ("Warning", "Look", "NotUnderstood"),
            Reason::DiskLost => ("Warning", "Look", "DiskLost"),
            Reason::VolumeLost => ("Warning", "Look", "VolumeLost"),
        };
        let once = now.as_second().div_euclid(ONCE_IN.as_secs().cast_signed());
        let hash = hash(&[uid, reason, note, &once.to_string()]);
        let note = &note[..note.floor_char_boundary(NOTE_LIMIT)];
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{hash}", self.statefulset)),
                namespace: Some(self.namespace.clone()),
                ..ObjectMeta::default()
            },
            event_time: Some(MicroTime(now)),
            reporting_controller: Some("etcd-scaler.io/webhook".into()),
            reporting_instance: Some(self.pod.clone()),
            type_: Some(type_.into()),
            action: Some(action.into()),
            reason: Some(reason.into()),
            note: Some(note.into()),
            regarding: Some(ObjectReference {
                api_version: Some("apps/v1".into()),
                kind: Some("StatefulSet".into()),
                name: Some(self.statefulset.clone()),
                namespace: Some(self.namespace.clone()),
                uid: Some(uid.into()),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }
}

/// A short name for these parts: the same on every replica.
pub fn hash(parts: &[&str]) -> String {
    let digest = parts.iter().fold(Sha256::new(), |hash, part| hash.chain_update(part).chain_update([0]));
    digest.finalize().iter().take(5).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::fake_api::FakeApi;

    #[tokio::test]
    async fn the_same_event_has_the_same_name_for_five_minutes() {
        let target = crate::health::cluster::tests::target();
        let events = Events::new(&FakeApi::default().client(), &target, "pod".into());
        let at = |second| jiff::Timestamp::from_second(second).unwrap();
        let event = |note: &str, second| events.event("uid", Reason::Refused, note, at(second));
        assert_eq!(event("a", 600).metadata.name, event("a", 899).metadata.name);
        assert_ne!(event("a", 600).metadata.name, event("a", 900).metadata.name);
        assert_ne!(event("a", 600).metadata.name, event("b", 600).metadata.name);
        let long = event(&"é".repeat(2000), 0).note.unwrap();
        assert_eq!(long.len(), NOTE_LIMIT);
    }
}
