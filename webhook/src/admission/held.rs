//! A roll-out that was held up because a member is sick goes on when it is well.
//!
//! The StatefulSet controller tries again after longer and longer pauses, 1000 s at most, so it is woken.

use std::sync::Arc;
use std::time::Duration;

use membership::decide::guard::disruption::{Going, Leave, Pod};
use membership::know::names::Ordinal;
use membership::know::statefulset;
use tokio::sync::watch;

use crate::health::Health;
use crate::health::cluster::{Cluster, Live};

/// How often is looked whether it may go on: as often as members are asked.
const LOOK: Duration = Duration::from_secs(2);

/// Whose pod the controller was last kept from deleting for a roll-out. Cheap to clone.
#[derive(Clone)]
pub struct Held(Arc<watch::Sender<Option<Ordinal>>>);

impl Held {
    /// Nobody's.
    pub fn nobody() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    /// Notes whose pod it was; `None`: it was let go.
    pub fn set(&self, ordinal: Option<Ordinal>) {
        self.0.send_replace(ordinal);
    }

    /// Wakes the controller when the pod may go, for ever.
    pub async fn wake(self, cluster: Cluster, live: watch::Receiver<Live>, health: Health) {
        let mut held = self.0.subscribe();
        loop {
            // Never an error: the sender is ours.
            let Some(ordinal) = held.wait_for(Option::is_some).await.ok().and_then(|held| *held) else { return };
            let object = live.borrow().object();
            let behind = object.as_ref().and_then(|object| statefulset::behind(object));
            let on = match (&object, behind) {
                (Some(object), Some(how)) if may_go(object, &cluster, &health, ordinal) => cluster.wake(&how).await,
                (Some(_), Some(_)) => false,
                // It was made again otherwise, or the change taken back.
                _ => true,
            };
            // Only if nothing was held since.
            if on {
                self.0.send_if_modified(|held| held.take_if(|held| *held == ordinal).is_some());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// By what was heard last. Whoever is not heard is not known to be down: then it waits on.
fn may_go(object: &serde_json::Value, cluster: &Cluster, health: &Health, ordinal: Ordinal) -> bool {
    let record = statefulset::record(object).and_then(Result::ok);
    let (target, wanted) = (cluster.target(object), statefulset::replicas(object));
    health.with_seen(|seen| {
        let Some(seen) = seen else { return false };
        let pods = seen.answers.keys().map(|&ordinal| (ordinal, Pod { ready: true, terminating: false })).collect();
        let going = Going::RollOut;
        let leave = Leave {
            target: &target,
            ordinal,
            going,
            wanted,
            record: record.as_ref(),
            answers: seen.answers,
            pods: &pods,
        };
        leave.decide().is_ok()
    })
}
