//! Our certificate authority in our own webhook configurations.
//!
//! The chart does not render a caBundle. It is written here, and checked at every change of a configuration: one that
//! was deleted and made again has none, and with failurePolicy Fail every change of the StatefulSet is then refused.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, ValidatingWebhookConfiguration};
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::ApiResource;
use kube::runtime::watcher;
use kube::{Api, Client};
use kubernetes::watch::follow;
use serde_json::{Value, json};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::health::cluster::FIELD_MANAGER;
use crate::server::readiness::Readiness;

/// The pause before a written caBundle is read back.
const READ_BACK: Duration = Duration::from_millis(500);
/// The pause after a configuration could not be read or written.
const AFTER_ERROR: Duration = Duration::from_secs(2);

/// The two configurations, by name.
pub struct Bundles {
    /// Access to the cluster.
    pub client: Client,
    /// The MutatingWebhookConfiguration.
    pub mutating: String,
    /// The ValidatingWebhookConfiguration.
    pub validating: String,
    /// The Secret of the serving certificate.
    pub secret: String,
    /// The Secret's namespace.
    pub namespace: String,
}

impl Bundles {
    /// Keeps the authority in every webhook of both configurations, for ever.
    pub async fn keep(self, mut authority: watch::Receiver<Vec<u8>>, readiness: Arc<Readiness>) {
        let kinds = [
            (ApiResource::erase::<MutatingWebhookConfiguration>(&()), &self.mutating),
            (ApiResource::erase::<ValidatingWebhookConfiguration>(&()), &self.validating),
        ];
        let configurations =
            kinds.map(|(kind, name)| (Api::<DynamicObject>::all_with(self.client.clone(), &kind), name));
        let (tell, mut told) = watch::channel(());
        for (api, name) in &configurations {
            let (config, tell) = (watcher::Config::default().fields(&format!("metadata.name={name}")), tell.clone());
            tokio::spawn(follow(api.clone(), config, "a webhook configuration", move |_| tell.send_replace(())));
        }
        loop {
            let bundle = authority.borrow_and_update().clone();
            told.mark_unchanged();
            let (mut verified, mut failed) = (true, false);
            for (api, name) in &configurations {
                match check(api, name, &bundle).await {
                    Ok(held) => verified &= held,
                    Err(error) => {
                        warn!("the webhook configuration {name} may not call us: {error:#}");
                        (verified, failed) = (false, true);
                    }
                }
            }
            if readiness.bundles(verified) && verified {
                info!("both webhook configurations have our caBundle");
                if let Err(error) = self.own_secret(&configurations[0].0).await {
                    warn!("Secret {} will stay behind at uninstall: {error:#}", self.secret);
                }
            }
            // A written caBundle is read back before it counts.
            let again = async {
                match (failed, verified) {
                    (true, _) => tokio::time::sleep(AFTER_ERROR).await,
                    (false, true) => std::future::pending().await,
                    (false, false) => tokio::time::sleep(READ_BACK).await,
                }
            };
            // Both channels have senders as long as this process serves.
            tokio::select! {
                () = again => {}
                _ = authority.changed() => {}
                _ = told.changed() => {}
            }
        }
    }
}

impl Bundles {
    /// Makes the MutatingWebhookConfiguration the owner of the Secret, so that it is deleted with the release: Helm
    /// does not know a Secret that was made at run time, and a private key should not be left behind.
    async fn own_secret(&self, configurations: &Api<DynamicObject>) -> anyhow::Result<()> {
        let owner = configurations.get(&self.mutating).await?.metadata;
        let owner = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": "MutatingWebhookConfiguration",
            "name": owner.name,
            "uid": owner.uid,
        });
        let patch = Patch::Merge(json!({ "metadata": { "ownerReferences": [owner] } }));
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        secrets.patch(&self.secret, &params, &patch).await?;
        Ok(())
    }
}

/// Whether every webhook of the configuration has the authority; writes it into those that have not.
async fn check(api: &Api<DynamicObject>, name: &str, authority: &[u8]) -> anyhow::Result<bool> {
    let object = api.get(name).await.context("cannot read it")?;
    let patch = patch(&object.data, authority);
    if patch.is_empty() {
        return Ok(true);
    }
    let params = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
    let patch = Patch::<()>::Json(json_patch::Patch(patch));
    api.patch(name, &params, &patch).await.context("cannot write our caBundle into it")?;
    info!(configuration = name, "caBundle written");
    Ok(false)
}

/// The operations that write the authority into each webhook that lacks it: by index, with a test that the name there
/// is still the one that was read.
fn patch(configuration: &Value, authority: &[u8]) -> Vec<PatchOperation> {
    let wanted = serde_json::to_value(ByteString(authority.to_vec())).unwrap_or_default();
    let webhooks = configuration["webhooks"].as_array().map_or(&[][..], Vec::as_slice);
    let lacking = webhooks.iter().enumerate().filter(|(_, webhook)| webhook["clientConfig"]["caBundle"] != wanted);
    lacking
        .flat_map(|(index, webhook)| {
            let path =
                |rest: &[&str]| PointerBuf::from_tokens(["webhooks", &index.to_string()].iter().chain(rest).copied());
            [
                PatchOperation::Test(TestOperation { path: path(&["name"]), value: webhook["name"].clone() }),
                PatchOperation::Add(AddOperation { path: path(&["clientConfig", "caBundle"]), value: wanted.clone() }),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lacks_the_authority_is_patched_and_only_where_it_was_read() {
        let configuration = json!({ "webhooks": [
            { "name": "a", "clientConfig": { "service": { "name": "s" }, "caBundle": "Y2E=" } },
            { "name": "b", "clientConfig": { "service": { "name": "s" } } },
            { "name": "c", "clientConfig": { "caBundle": "Cg==" } }
        ] });
        let operations = patch(&configuration, b"ca");
        assert_eq!(operations.len(), 4);
        let mut patched = configuration.clone();
        json_patch::patch(&mut patched, &operations).unwrap();
        assert!(patch(&patched, b"ca").is_empty());
        // Another order meanwhile: refused as a whole, read again.
        let mut other = json!({ "webhooks": [{ "name": "b", "clientConfig": {} }, { "name": "a", "clientConfig": {} }, { "name": "c", "clientConfig": {} }] });
        assert!(json_patch::patch(&mut other, &operations).is_err());
    }

    #[test]
    fn a_configuration_without_webhooks_needs_nothing() {
        assert!(patch(&json!({}), b"ca").is_empty());
    }
}
