//! Who set `spec.replicas` last, by its managedFields, and giving up the ownership that `kubectl scale` took.
//!
//! A write to `statefulsets/scale` takes the ownership of the field. From then on Helm 4, which applies on the server,
//! fails at every change of the count (facts-kubernetes K3). Helm 3 does not look, and silently sets its own count
//! again.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, Patch, PatchOperation, RemoveOperation, TestOperation};
use serde_json::Value;

use crate::know::names::SCALED_TO;
use crate::know::object::{annotation, list, text};
use crate::know::statefulset::replicas;

/// Field managers whose writes repeat a manifest, so that its count is not what a person asks for just now: Helm 3 and
/// 4, and `kubectl apply` on the client.
const DECLARED: [&str; 2] = ["helm", "kubectl-client-side-apply"];

/// The index of the managedFields entry by which `statefulsets/scale` owns the count.
fn scale_entry(object: &Value) -> Option<usize> {
    let entries = list(object, &["metadata", "managedFields"]);
    entries.iter().position(|entry| text(entry, &["subresource"]) == Some("scale") && owns_replicas(entry))
}

fn owns_replicas(entry: &Value) -> bool {
    entry["fieldsV1"]["f:spec"]["f:replicas"].is_object()
}

/// Whether the live count was set through `statefulsets/scale`, and no release has set it since.
#[must_use]
pub fn is_scaled(object: &Value) -> bool {
    let kept = annotation(object, SCALED_TO).and_then(|kept| kept.parse().ok());
    scale_entry(object).is_some() || kept == Some(replicas(object))
}

/// Whether a write by this field manager repeats a manifest ([`DECLARED`]).
#[must_use]
pub fn is_declared(manager: &str) -> bool {
    DECLARED.contains(&manager)
}

/// Whether another manager owns the count too, with the same value. Then nothing is lost if the scale's ownership is
/// given up.
#[must_use]
pub fn is_shared(object: &Value) -> bool {
    let others = list(object, &["metadata", "managedFields"]).iter();
    let mut others = others.filter(|entry| text(entry, &["subresource"]).is_none_or(str::is_empty));
    scale_entry(object).is_some() && others.any(owns_replicas)
}

/// The patch that removes the ownership of the count from `statefulsets/scale`, in exactly this version of the object.
/// With `keep` it also notes in an annotation that the live count is to stay. `None`: there is nothing to remove.
#[must_use]
pub fn release(object: &Value, keep: bool) -> Option<Patch> {
    let pointer = |path: String| PointerBuf::parse(path).ok();
    let entry = scale_entry(object)?;
    let mut operations = vec![
        PatchOperation::Test(TestOperation {
            path: pointer("/metadata/resourceVersion".into())?,
            value: object["metadata"]["resourceVersion"].clone(),
        }),
        PatchOperation::Remove(RemoveOperation { path: pointer(format!("/metadata/managedFields/{entry}"))? }),
    ];
    if keep {
        operations.push(PatchOperation::Add(AddOperation {
            path: pointer(format!("/metadata/annotations/{}", SCALED_TO.replace('/', "~1")))?,
            value: replicas(object).to_string().into(),
        }));
    }
    Some(Patch(operations))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owned_by(entries: &[(&str, &str)]) -> Value {
        let entries = entries.iter().map(|(manager, subresource)| {
            json!({ "manager": manager, "subresource": subresource, "fieldsV1": { "f:spec": { "f:replicas": {} } } })
        });
        json!({ "metadata": { "resourceVersion": "7", "annotations": {}, "managedFields": entries.collect::<Vec<_>>() },
                "spec": { "replicas": 5 } })
    }

    #[test]
    fn a_count_is_scaled_until_a_release_has_it() {
        let (helms, scaled) = (owned_by(&[("helm", "")]), owned_by(&[("other", ""), ("kubectl", "scale")]));
        assert!(!is_scaled(&helms) && release(&helms, false).is_none());
        assert!(is_scaled(&scaled) && is_shared(&scaled));
        assert!(!is_shared(&owned_by(&[("kubectl", "scale")])));
        let mut noted = helms;
        noted["metadata"]["annotations"][SCALED_TO] = json!("5");
        assert!(is_scaled(&noted));
        noted["spec"]["replicas"] = json!(4);
        assert!(!is_scaled(&noted), "somebody else has set it since");
    }

    #[test]
    fn only_the_scales_entry_goes_and_only_in_this_version() {
        let mut object = owned_by(&[("helm", ""), ("kubectl", "scale")]);
        let patch = release(&object, true).unwrap();
        json_patch::patch(&mut object, &patch).unwrap();
        assert_eq!(object["metadata"]["managedFields"].as_array().unwrap().len(), 1);
        assert_eq!(object["metadata"]["annotations"][SCALED_TO], "5");
        let mut newer = owned_by(&[("helm", ""), ("kubectl", "scale")]);
        newer["metadata"]["resourceVersion"] = json!("8");
        assert!(json_patch::patch(&mut newer, &patch).is_err());
    }
}
