//! Makes the volume of the next newcomer while the Job starts, so that its pod is scheduled and its first containers
//! run meanwhile. That saves a second of every scale if no provisioner makes volumes. It is only a head start: the Job
//! makes what is not made here, and looks at what there is before it uses it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use membership::know::names::{Ordinal, Target};
use membership::know::record::State;
use membership::know::statefulset;
use membership::know::volume::{VolumePlan, is_provisioned};
use serde_json::Value;
use tokio::time::Instant;

/// How long it is waited for the volume's phase and for the claim. Both come within tens of milliseconds.
const WAKES: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Makes volumes.
pub struct Volumes {
    claims: Api<PersistentVolumeClaim>,
    classes: Api<StorageClass>,
    volumes: Api<PersistentVolume>,
    plan: VolumePlan,
}

impl Volumes {
    /// Volumes by this plan, for claims of this namespace.
    pub fn new(client: &Client, namespace: &str, plan: VolumePlan) -> Self {
        Self {
            claims: Api::namespaced(client.clone(), namespace),
            classes: Api::all(client.clone()),
            volumes: Api::all(client.clone()),
            plan,
        }
    }

    /// Makes the volume of the newcomer that joins next, if one is to be made; returns the sentence that says so.
    ///
    /// # Errors
    /// When the API server refused it, or did not tell what there is.
    pub async fn make_next(&self, object: &Value, target: &Target) -> Result<Option<String>, kube::Error> {
        let Some(ordinal) = next(object) else { return Ok(None) };
        let Some((claim, class)) = claim_of(object, target, ordinal) else { return Ok(None) };
        // A kept claim with a volume is left for the Job to judge.
        if self.claims.get_opt(&claim).await?.is_some_and(|kept| kept.spec.is_some_and(|it| it.volume_name.is_some())) {
            return Ok(None);
        }
        let known = self.classes.get_opt(class).await?;
        if is_provisioned(known.as_ref().map(|class| class.provisioner.as_str())) {
            return Ok(None);
        }
        let volume = serde_json::from_value(self.plan.object(target, &claim, class, ordinal));
        let volume = volume.map_err(kube::Error::SerdeError)?;
        let told = self.plan.made(&claim, ordinal);
        match self.volumes.create(&PostParams::default(), &volume).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 409 => return Ok(None),
            Err(error) => return Err(error),
        }
        self.wake(&claim, ordinal).await.map(|()| Some(told))
    }

    /// Touches the claim, so that the volume controller binds it now; but only after the controller has written the new
    /// volume's phase. If both happen at once, one write makes the other fail, and the controller does not try the
    /// claim again until it changes (seen; it cost half a second of the scale). The Job waits for a claim or a phase
    /// that does not come.
    async fn wake(&self, claim: &str, ordinal: Ordinal) -> Result<(), kube::Error> {
        let end = Instant::now() + WAKES;
        while !self.is_available(&self.plan.name(ordinal)).await? && Instant::now() < end {
            tokio::time::sleep(LOOK).await;
        }
        let touch = Patch::Merge(self.plan.touch(ordinal));
        loop {
            match self.claims.patch(claim, &PatchParams::default(), &touch).await {
                Err(kube::Error::Api(status)) if status.code == 404 && Instant::now() < end => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(kube::Error::Api(status)) if status.code == 404 => return Ok(()),
                touched => return touched.map(drop),
            }
        }
    }

    async fn is_available(&self, volume: &str) -> Result<bool, kube::Error> {
        let found = self.volumes.get_opt(volume).await?;
        Ok(found.and_then(|volume| volume.status?.phase).is_some_and(|phase| phase != "Pending"))
    }
}

/// The claim of an ordinal and the class that it asks for.
fn claim_of<'a>(object: &'a Value, target: &Target, ordinal: Ordinal) -> Option<(String, &'a str)> {
    let template = &object["spec"]["volumeClaimTemplates"][0];
    let class = template["spec"]["storageClassName"].as_str().filter(|class| !class.is_empty())?;
    Some((target.claim(template["metadata"]["name"].as_str()?, ordinal), class))
}

/// The ordinal that joins next, if every recorded member has served and none is missing: the one after the last.
fn next(object: &Value) -> Option<Ordinal> {
    let record = statefulset::record(object)?.ok()?;
    let members = record.members.values().all(|recorded| recorded.state == State::Member);
    let next = record.count();
    (members && record.gap().is_none() && next > 0 && next < statefulset::replicas(object)).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::cluster::tests::target;
    use crate::health::fake_api::FakeApi;
    use membership::world::plan;
    use serde_json::json;

    const VOLUMES: &str = "/api/v1/persistentvolumes/";

    fn statefulset(replicas: u32, states: &[&str]) -> Value {
        let mut object = super::super::tests::statefulset(replicas, Some(&super::super::tests::record(states)));
        let template = json!({ "metadata": { "name": "data" }, "spec": { "storageClassName": "manual" } });
        object["spec"]["volumeClaimTemplates"] = json!([template]);
        object
    }

    async fn made(api: &FakeApi, object: &Value) -> Option<String> {
        let volumes = Volumes::new(&api.client(), "puls8", plan());
        volumes.make_next(object, &target()).await.unwrap()
    }

    #[tokio::test]
    async fn the_next_newcomers_volume_is_made_and_no_other() {
        let api = FakeApi::default();
        let three = ["member"; 3];
        assert_eq!(made(&api, &statefulset(3, &three)).await, None, "nobody joins");
        assert_eq!(made(&api, &statefulset(5, &["member", "member", "member", "joining"])).await, None, "under way");
        assert_eq!(made(&api, &statefulset(2, &three)).await, None, "down");
        assert!(api.under(VOLUMES).is_empty());
        let told = made(&api, &statefulset(5, &three)).await.unwrap();
        assert!(told.contains("etcd-volume-3") && told.contains("data-puls8-etcd-3"), "{told}");
        assert_eq!(api.under(VOLUMES).len(), 1);
        assert_eq!(made(&api, &statefulset(5, &three)).await, None, "the other replica was first");
    }

    #[tokio::test]
    async fn what_others_provide_is_left_to_them() {
        let api = FakeApi::default();
        let four = statefulset(4, &["member"; 3]);
        let class = "/apis/storage.k8s.io/v1/storageclasses/manual";
        api.put(class, json!({ "metadata": { "name": "manual" }, "provisioner": "io.openebs.csi-mayastor" }));
        assert_eq!(made(&api, &four).await, None, "a provisioner");
        api.put(class, json!({ "metadata": { "name": "manual" }, "provisioner": "kubernetes.io/no-provisioner" }));
        let claim = "/api/v1/namespaces/puls8/persistentvolumeclaims/data-puls8-etcd-3";
        api.put(claim, json!({ "metadata": { "name": "data-puls8-etcd-3" }, "spec": { "volumeName": "pvc-1" } }));
        assert_eq!(made(&api, &four).await, None, "a claim that was kept");
        let mut any = four;
        any["spec"]["volumeClaimTemplates"][0]["spec"] = json!({});
        assert_eq!(made(&api, &any).await, None, "the cluster's default class");
        assert!(api.under(VOLUMES).is_empty());
    }
}
