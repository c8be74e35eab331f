//! Lets a roll-out that was held up because a member is sick go on when that member is well.
//!
//! The StatefulSet controller tries again after longer and longer pauses, up to 1000 s, so it is woken.

use std::sync::Arc;
use std::time::Duration;

use membership::decide::guard::disruption::{Going, Leave, Pod};
use membership::know::names::Ordinal;
use membership::know::statefulset;
use tokio::sync::watch;

use crate::health::Health;
use crate::health::cluster::{Cluster, Live};

/// The pause between two looks whether it may go on: as often as members are asked.
const LOOK: Duration = Duration::from_secs(2);

/// The ordinal whose pod the controller was last kept from deleting for a roll-out. Cheap to clone.
#[derive(Clone)]
pub struct Held(Arc<watch::Sender<Option<Ordinal>>>);

impl Held {
    /// None is held.
    pub fn nobody() -> Self {
        Self(Arc::new(watch::channel(None).0))
    }

    /// Notes the ordinal; `None`: the delete was let through.
    pub fn set(&self, ordinal: Option<Ordinal>) {
        self.0.send_replace(ordinal);
    }

    /// Wakes the controller when the pod may go, for ever.
    pub async fn wake(self, cluster: Cluster, live: watch::Receiver<Live>, health: Health) {
        let mut held = self.0.subscribe();
        loop {
            // No error comes: the sender belongs to this value.
            let Some(ordinal) = held.wait_for(Option::is_some).await.ok().and_then(|held| *held) else { return };
            let object = live.borrow().object();
            let behind = object.as_ref().and_then(|object| statefulset::behind(object));
            let on = match (&object, behind) {
                (Some(object), Some(how)) if may_go(object, &cluster, &health, ordinal) => cluster.wake(&how).await,
                (Some(_), Some(_)) => false,
                // The pod was made again for another reason, or the change was taken back.
                _ => true,
            };
            // Only if no other pod was held since.
            if on {
                self.0.send_if_modified(|held| held.take_if(|held| *held == ordinal).is_some());
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Whether the pod may go, by the latest answers. A member that does not answer is not known to be down (its pod counts
/// as Ready), so the roll-out waits on.
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
