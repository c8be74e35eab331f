//! As which user the StatefulSet controller works: only the deletes of users that are named in our rule can be held back.
//!
//! Told by who writes the status, so also of pods that were made before this program. Noted in an annotation, where the
//! other replica and a later process find it.

use std::time::Duration;

use membership::know::names::CONTROLLER;
use membership::know::statefulset;
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::health::cluster::{Cluster, Live};

/// How often the controller is asked for a sign while it was never seen.
const ASK: Duration = Duration::from_secs(5);

/// Writes it down.
pub async fn note(cluster: Cluster, user: String) {
    match cluster.annotate(CONTROLLER, &user).await {
        Ok(()) => info!(user, "the StatefulSet controller was seen"),
        Err(error) => warn!(%error, user, "cannot note the user of the StatefulSet controller"),
    }
}

/// Has the controller write the status of a verified StatefulSet as long as it was never seen, for ever.
///
/// It writes a status that is behind what it observes: an observed generation that is one too low.
pub async fn ask(cluster: Cluster, mut live: watch::Receiver<Live>) {
    loop {
        let object = live.borrow_and_update().object();
        let unknown = object.filter(|object| {
            statefulset::record(object).is_some() && statefulset::controller(object).is_none() && !cluster.left(object)
        });
        let Some(object) = unknown else {
            if live.changed().await.is_err() {
                return;
            }
            continue;
        };
        if let Some(observed) = object["status"]["observedGeneration"].as_u64().filter(|&observed| observed > 0) {
            let status = json!({ "status": { "observedGeneration": observed - 1 } });
            if let Err(error) = cluster.patch_status(&object, status).await {
                warn!(%error, "cannot ask the StatefulSet controller for a sign");
            }
        }
        tokio::time::sleep(ASK).await;
    }
}
