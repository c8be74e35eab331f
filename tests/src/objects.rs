//! Objects as `kubectl get -o json` prints them, read by a client in this process. A test looks a few
//! times a second, and a start of kubectl for each look took a third of a small machine.

use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::{ControllerRevision, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Service};
use k8s_openapi::api::{core, events};
use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::{Api, Client, Config};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

/// For one answer.
const ANSWER: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, PartialEq)]
pub struct Asked {
    kind: ApiResource,
    /// `None`: the object is the cluster's.
    namespace: Option<String>,
    /// `None`: all, as a list.
    name: Option<String>,
    labels: Option<String>,
    fields: Option<String>,
}

impl Asked {
    /// `[-n NAMESPACE] get KIND [NAME] [-l LABELS] [--field-selector FIELDS]`; `None`: it is more than
    /// that, and kubectl's.
    #[must_use]
    pub fn parse(words: &[&str]) -> Option<Self> {
        let (namespace, words) = match words {
            ["-n", namespace, rest @ ..] => (*namespace, rest),
            _ => ("default", words),
        };
        let ["get", kind, rest @ ..] = words else { return None };
        let (kind, namespaced) = resource(kind)?;
        let namespace = namespaced.then(|| namespace.to_owned());
        let mut asked = Self { kind, namespace, name: None, labels: None, fields: None };
        let mut rest = rest.iter();
        while let Some(word) = rest.next() {
            let (place, value) = match (*word, word.strip_prefix("--field-selector=")) {
                (_, Some(fields)) => (&mut asked.fields, fields),
                ("--field-selector", _) => (&mut asked.fields, *rest.next()?),
                ("-l", _) => (&mut asked.labels, *rest.next()?),
                (name, _) if !name.starts_with('-') => (&mut asked.name, name),
                _ => return None,
            };
            if place.replace(value.to_owned()).is_some() {
                return None;
            }
        }
        Some(asked)
    }

    /// Reads it.
    ///
    /// # Errors
    /// When it is not there, or the API server does not answer.
    pub async fn read(&self) -> anyhow::Result<Value> {
        /// The file is read once; a connection ends with its test.
        static CONFIG: OnceCell<Config> = OnceCell::const_new();
        let config = CONFIG.get_or_try_init(async || {
            // Whoever came first has set the same.
            let _ = rustls::crypto::ring::default_provider().install_default();
            let mut config = Config::infer().await.context("KUBECONFIG names no cluster")?;
            config.connect_timeout = Some(ANSWER);
            config.read_timeout = Some(ANSWER);
            anyhow::Ok(config)
        });
        let client = Client::try_from(config.await?.clone())?;
        let Self { kind, namespace, name, labels, fields } = self;
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(client, namespace, kind),
            None => Api::all_with(client, kind),
        };
        let Some(name) = name else {
            let which =
                ListParams { label_selector: labels.clone(), field_selector: fields.clone(), ..Default::default() };
            let list = api.list(&which).await.with_context(|| format!("failed to list {self:?}"))?;
            let items = list.items.into_iter().map(plain).collect::<Result<Vec<_>, _>>()?;
            return Ok(json!({ "apiVersion": "v1", "kind": "List", "items": items }));
        };
        let object = api.get(name).await.with_context(|| format!("failed to read {} {name}", kind.kind))?;
        Ok(plain(object)?)
    }
}

/// kubectl does not show who wrote which field.
fn plain(mut object: DynamicObject) -> serde_json::Result<Value> {
    object.metadata.managed_fields = None;
    serde_json::to_value(object)
}

/// A kind by the name that kubectl knows it by, and whether its objects are in a namespace.
fn resource(kind: &str) -> Option<(ApiResource, bool)> {
    fn of<K: kube::Resource<DynamicType = ()>>(namespaced: bool) -> Option<(ApiResource, bool)> {
        Some((ApiResource::erase::<K>(&()), namespaced))
    }
    match kind {
        "controllerrevisions" => of::<ControllerRevision>(true),
        "cronjob" => of::<CronJob>(true),
        "deployment" => of::<Deployment>(true),
        "events" => of::<core::v1::Event>(true),
        "events.events.k8s.io" => of::<events::v1::Event>(true),
        "job" | "jobs" => of::<Job>(true),
        "lease" => of::<Lease>(true),
        "node" | "nodes" => of::<Node>(false),
        "pod" | "pods" => of::<Pod>(true),
        "pv" => of::<PersistentVolume>(false),
        "pvc" => of::<PersistentVolumeClaim>(true),
        "service" => of::<Service>(true),
        "statefulset" => of::<StatefulSet>(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_here_and_what_is_kubectls() {
        let pods = Asked::parse(&["-n", "test", "get", "pods", "-l", "app=etcd", "--field-selector=a!=b"]).unwrap();
        assert_eq!((pods.kind.plural.as_str(), pods.namespace.as_deref()), ("pods", Some("test")));
        assert_eq!((pods.name, pods.labels.as_deref(), pods.fields.as_deref()), (None, Some("app=etcd"), Some("a!=b")));
        let volume = Asked::parse(&["get", "pv", "etcd-volume-3"]).unwrap();
        assert_eq!((volume.kind.kind.as_str(), volume.namespace), ("PersistentVolume", None));
        assert_eq!(volume.name.as_deref(), Some("etcd-volume-3"));
        for kubectls in [
            &["get", "pod", "a", "b"][..],
            &["get", "pod", "a", "--ignore-not-found"],
            &["get", "pods,services"],
            &["get", "pods", "--sort-by=.metadata.creationTimestamp"],
            &["create", "job", "a"],
        ] {
            assert_eq!(Asked::parse(kubectls), None, "{kubectls:?}");
        }
    }
}
