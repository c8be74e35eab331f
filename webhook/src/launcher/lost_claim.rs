//! Reads the claim and the volume of a pod that waits for its volume; [`membership::decide::lost_claim`] judges them.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::{Api, Client};
use membership::decide::lost_claim::{Found, Seen, judge};
use membership::know::names::{Ordinal, Target};
use membership::know::statefulset::claims;
use membership::know::volume::VolumePlan;
use serde_json::Value;

/// The members' pods, their claims and volumes.
pub struct Claims {
    pods: Api<Pod>,
    claims: Api<PersistentVolumeClaim>,
    classes: Api<StorageClass>,
    volumes: Api<PersistentVolume>,
    plan: VolumePlan,
}

impl Claims {
    /// Those of this namespace, with volumes by this plan.
    pub fn new(client: &Client, namespace: &str, plan: VolumePlan) -> Self {
        Self {
            pods: Api::namespaced(client.clone(), namespace),
            claims: Api::namespaced(client.clone(), namespace),
            classes: Api::all(client.clone()),
            volumes: Api::all(client.clone()),
            plan,
        }
    }

    /// A pod, if it is there.
    ///
    /// # Errors
    /// When the API server did not tell.
    pub async fn pod(&self, name: &str) -> Result<Option<Pod>, kube::Error> {
        self.pods.get_opt(name).await
    }

    /// Judges the claim of a member that does not answer; `answered`: when it answered last.
    ///
    /// # Errors
    /// When the API server did not tell.
    pub async fn look(
        &self,
        statefulset: &Value,
        target: &Target,
        pod: &Pod,
        (ordinal, id): (Ordinal, &str),
        answered: Option<Timestamp>,
    ) -> Result<Found, kube::Error> {
        let Some(claim_name) = claims(statefulset, target, [ordinal].into_iter()).pop() else {
            return Ok(Found::Nothing);
        };
        let Some(found) = self.claims.get_opt(&claim_name).await? else { return Ok(Found::Nothing) };
        let made = found.metadata.creation_timestamp.as_ref();
        // Creation times are in whole seconds, so the claim may be up to a second younger.
        let since = |made: Timestamp| answered.is_some_and(|answered| made + SignedDuration::from_secs(1) > answered);
        let made_since = made.is_some_and(|made| since(made.0));
        let age = made.and_then(|made| Duration::try_from(Timestamp::now().duration_since(made.0)).ok());
        let class = found.spec.as_ref().and_then(|spec| spec.storage_class_name.clone());
        let class = match class.filter(|class| !class.is_empty()) {
            Some(class) => self.classes.get_opt(&class).await?,
            None => None,
        };
        let volume = match self.volumes.get_opt(&self.plan.name(ordinal)).await? {
            Some(volume) => Some(serde_json::to_value(volume).map_err(kube::Error::SerdeError)?),
            None => None,
        };
        let pod = serde_json::to_value(pod).map_err(kube::Error::SerdeError)?;
        let claim = serde_json::to_value(found).map_err(kube::Error::SerdeError)?;
        let provisioner = class.as_ref().map(|class| class.provisioner.as_str());
        let (claim, volume) = (Some(&claim), volume.as_ref());
        let seen =
            Seen { ordinal, id, pod: &pod, claim_name: &claim_name, claim, age, made_since, provisioner, volume };
        Ok(judge(&seen, target, &self.plan))
    }
}
