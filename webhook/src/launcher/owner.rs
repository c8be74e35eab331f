//! Makes the namespace the owner of our cluster-scoped objects, so that they are deleted with it. Else a deleted
//! namespace would take the webhook along and leave configurations and a policy behind, which refuse what is made there
//! next.
//!
//! Helm does not render the owner, so an upgrade leaves it. Volumes are not among these objects, because they have the
//! data.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding,
    ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Api, Client};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::health::cluster::FIELD_MANAGER;

/// The pause before it looks again: a person, or `helm upgrade --force`, may have made an object again.
const AGAIN: Duration = Duration::from_secs(600);
/// The pause after something that failed.
const AFTER_ERROR: Duration = Duration::from_secs(10);
/// The suffixes, after our name, of the ClusterRoles and of the bindings with the same names. The last exists during an
/// upgrade, and after one that failed.
const ROLES: [&str; 3] = ["webhook", "hook", "preflight"];

/// Our objects of the cluster.
pub struct Owned {
    client: Client,
    namespace: String,
    name: String,
}

impl Owned {
    /// The objects of this name, to be owned by this namespace.
    pub fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self { client: client.clone(), namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Gives them their owner, for ever.
    pub async fn run(self) {
        loop {
            let pause = match self.give().await {
                Ok(0) => AGAIN,
                Ok(given) => {
                    info!(given, namespace = self.namespace, "our objects of the cluster go with the namespace");
                    AGAIN
                }
                Err(error) => {
                    warn!(%error, namespace = self.namespace, "our objects of the cluster would outlive the namespace");
                    AFTER_ERROR
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Gives each object that is there the namespace as its owner; returns how many did not have it.
    ///
    /// # Errors
    /// When the API server refused it; the objects before that one have their owner.
    pub async fn give(&self) -> Result<usize, kube::Error> {
        let namespace = Api::<Namespace>::all(self.client.clone()).get(&self.namespace).await?;
        let uid = namespace.metadata.uid.unwrap_or_default();
        let mut given = 0;
        for (kind, name) in self.objects() {
            let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &kind);
            let Some(found) = api.get_metadata_opt(&name).await? else { continue };
            if found.metadata.owner_references.iter().flatten().any(|owner| owner.uid == uid) {
                continue;
            }
            let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
            api.patch_metadata(&name, &params, &Patch::Strategic(self.owner(&uid))).await?;
            given += 1;
        }
        Ok(given)
    }

    /// The patch. Other owners stay: entries are merged by UID.
    fn owner(&self, uid: &str) -> Value {
        let owner = json!({ "apiVersion": "v1", "kind": "Namespace", "name": self.namespace, "uid": uid });
        json!({ "metadata": { "ownerReferences": [owner] } })
    }

    fn objects(&self) -> Vec<(ApiResource, String)> {
        let own = |kind: ApiResource| (kind, self.name.clone());
        let roles = ROLES.map(|role| format!("{}-{role}", self.name));
        // The configurations come last, so that they show that all went well.
        roles
            .iter()
            .map(|role| (ApiResource::erase::<ClusterRole>(&()), role.clone()))
            .chain(roles.iter().map(|role| (ApiResource::erase::<ClusterRoleBinding>(&()), role.clone())))
            .chain([
                own(ApiResource::erase::<ValidatingAdmissionPolicy>(&())),
                own(ApiResource::erase::<ValidatingAdmissionPolicyBinding>(&())),
                own(ApiResource::erase::<ValidatingWebhookConfiguration>(&())),
                own(ApiResource::erase::<MutatingWebhookConfiguration>(&())),
            ])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::fake_api::FakeApi;

    const ROLE: &str = "/apis/rbac.authorization.k8s.io/v1/clusterroles/ours-webhook";
    const POLICY: &str = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies/ours";

    #[tokio::test]
    async fn each_that_is_there_gets_the_namespace_as_its_owner_once() {
        let api = FakeApi::default();
        let owned = Owned::new(&api.client(), "puls8", "ours");
        assert!(owned.give().await.is_err(), "the namespace was not read");
        api.put("/api/v1/namespaces/puls8", json!({ "metadata": { "name": "puls8", "uid": "this one" } }));
        assert_eq!(owned.give().await.unwrap(), 0, "nothing is there");
        for path in [ROLE, POLICY] {
            api.put(path, json!({ "metadata": { "name": "ours" } }));
        }
        assert_eq!(owned.give().await.unwrap(), 2);
        for path in [ROLE, POLICY] {
            let owner = &api.get(path).unwrap()["metadata"]["ownerReferences"][0];
            assert_eq!((&owner["kind"], &owner["uid"]), (&json!("Namespace"), &json!("this one")), "{path}");
        }
        assert_eq!(owned.give().await.unwrap(), 0, "they have it");
        // Made again under its name, it is another namespace.
        api.put("/api/v1/namespaces/puls8", json!({ "metadata": { "name": "puls8", "uid": "a later one" } }));
        assert_eq!(owned.give().await.unwrap(), 2);
    }
}
