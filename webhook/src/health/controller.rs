//! As which user the StatefulSet controller works. The webhook is asked only about deletes of the users that its
//! configuration names.
//!
//! It is seen from who writes the status of the StatefulSet, so it is known also if its pods were made before this
//! program. It is noted in an annotation, where the other replica and a later process find it.

use std::time::Duration;

use membership::know::names::CONTROLLER;
use membership::know::statefulset;
use serde_json::json;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::health::cluster::{Cluster, Live};

/// The pause between two tries to have the controller write the status, while it was never seen.
const ASK: Duration = Duration::from_secs(5);

/// Notes the user in the annotation.
pub async fn note(cluster: Cluster, user: String) {
    match cluster.annotate(CONTROLLER, &user).await {
        Ok(()) => info!(user, "the StatefulSet controller was seen"),
        Err(error) => warn!(%error, user, "cannot note the user of the StatefulSet controller"),
    }
}

/// While the controller of a verified StatefulSet was never seen, has it write the status. Runs for ever.
///
/// For that it sets the observed generation one too low, which the controller then corrects.
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
