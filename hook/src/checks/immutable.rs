//! The fields of a StatefulSet that Kubernetes does not let anybody change, and the way to change them all the same.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PersistentVolumeClaimSpec;
use membership::know::names::Target;

/// The fields for which the chart has another value than the live object, each in words.
#[must_use]
pub fn differences(live: &StatefulSet, rendered: &StatefulSet) -> Vec<String> {
    let (Some(live), Some(rendered)) = (&live.spec, &rendered.spec) else { return Vec::new() };
    let mut found = Vec::new();
    let mut compare = |field: &str, live: Option<&str>, rendered: Option<&str>| {
        if live != rendered {
            let [live, rendered] = [live, rendered].map(|value| value.unwrap_or("not set"));
            found.push(format!("{field} is {live} and {rendered} in the chart"));
        }
    };
    compare("serviceName", live.service_name.as_deref(), rendered.service_name.as_deref());
    let policy = |policy: &Option<String>| policy.clone().unwrap_or_else(|| "OrderedReady".into());
    let (of_live, of_rendered) = (policy(&live.pod_management_policy), policy(&rendered.pod_management_policy));
    compare("podManagementPolicy", Some(&of_live), Some(&of_rendered));
    let templates =
        |spec: &k8s_openapi::api::apps::v1::StatefulSetSpec| -> BTreeMap<String, PersistentVolumeClaimSpec> {
            let all = spec.volume_claim_templates.iter().flatten();
            all.map(|claim| (claim.metadata.name.clone().unwrap_or_default(), claim.spec.clone().unwrap_or_default()))
                .collect()
        };
    let (of_live, of_rendered) = (templates(live), templates(rendered));
    for (name, rendered) in &of_rendered {
        let Some(live) = of_live.get(name) else {
            compare(&format!("volumeClaimTemplates {name}"), None, Some("there"));
            continue;
        };
        let size = |claim: &PersistentVolumeClaimSpec| {
            let requests = claim.resources.as_ref().and_then(|resources| resources.requests.as_ref());
            requests.and_then(|requests| requests.get("storage")).map(|size| size.0.clone())
        };
        let field = |field: &str| format!("volumeClaimTemplates {name}: {field}");
        compare(&field("storageClassName"), live.storage_class_name.as_deref(), rendered.storage_class_name.as_deref());
        compare(&field("storage"), size(live).as_deref(), size(rendered).as_deref());
    }
    found
}

/// The sentence: what differs, and the commands. `unbound`: claims to which no volume is bound.
#[must_use]
pub fn way_out(target: &Target, differences: &[String], unbound: &[String]) -> String {
    let Target { namespace, statefulset, .. } = target;
    let claims = if unbound.is_empty() {
        String::new()
    } else {
        format!(" kubectl -n {namespace} delete pvc {}; (no volume was ever bound to them)", unbound.join(" "))
    };
    let differences = if differences.is_empty() { "a field".to_owned() } else { differences.join(", ") };
    format!(
        "{target}: {differences}, which Kubernetes lets nobody change in a StatefulSet. Keep the live value, or have it made again around its pods, which run on meanwhile: kubectl -n {namespace} delete statefulset {statefulset} --cascade=orphan;{claims} then upgrade again. Claims that have a volume keep it"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set(class: serde_json::Value, policy: &str, size: &str) -> StatefulSet {
        serde_json::from_value(json!({
            "metadata": { "name": "puls8-etcd" },
            "spec": {
                "serviceName": "puls8-etcd-headless",
                "podManagementPolicy": policy,
                "selector": {},
                "template": {},
                "volumeClaimTemplates": [{
                    "metadata": { "name": "data" },
                    "spec": { "storageClassName": class, "resources": { "requests": { "storage": size } } },
                }],
            },
        }))
        .unwrap()
    }

    #[test]
    fn what_differs_is_named_with_both_values() {
        let live = set(json!("typo"), "OrderedReady", "2Gi");
        assert!(differences(&live, &live).is_empty());
        let found = differences(&live, &set(json!("manual"), "Parallel", "2Gi"));
        assert_eq!(
            found,
            [
                "podManagementPolicy is OrderedReady and Parallel in the chart",
                "volumeClaimTemplates data: storageClassName is typo and manual in the chart",
            ]
        );
        let found = differences(&live, &set(json!(null), "OrderedReady", "3Gi"));
        assert_eq!(
            found,
            [
                "volumeClaimTemplates data: storageClassName is typo and not set in the chart",
                "volumeClaimTemplates data: storage is 2Gi and 3Gi in the chart",
            ]
        );
    }

    #[test]
    fn the_way_out_is_commands() {
        let target = membership::world::puls8();
        let told = way_out(&target, &["serviceName is a and b in the chart".into()], &["data-puls8-etcd-0".into()]);
        assert!(told.contains("kubectl -n puls8 delete statefulset puls8-etcd --cascade=orphan;"), "{told}");
        assert!(told.contains("kubectl -n puls8 delete pvc data-puls8-etcd-0;"), "{told}");
        assert!(!way_out(&target, &[], &[]).contains("delete pvc"));
    }
}
