//! The PersistentVolume of an ordinal: the object of DataCore's page, with three safer deviations, each a value
//! (docs/decisions/0013-persistent-volumes.md).

use serde_json::{Value, json};

use crate::know::names::{Ordinal, Target};
use crate::know::volume::VolumePlan;

impl VolumePlan {
    /// The volume for a claim. It is not tied to a node yet: the pod has not been scheduled.
    ///
    /// Its Helm labels are there because without them a parent chart that makes volumes itself
    /// fails with "invalid ownership metadata" (facts-etcd 1.2).
    #[must_use]
    pub fn object(&self, target: &Target, claim: &str, class: &str, ordinal: Ordinal) -> Value {
        let mut annotations = json!({
            "meta.helm.sh/release-name": self.release,
            "meta.helm.sh/release-namespace": self.release_namespace,
        });
        if self.bound_by_controller {
            annotations["pv.kubernetes.io/bound-by-controller"] = json!("yes");
        }
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "name": self.name(ordinal),
                "annotations": annotations,
                "finalizers": ["kubernetes.io/pv-protection"],
                "labels": {
                    "app.kubernetes.io/managed-by": "Helm",
                    "statefulset.kubernetes.io/pod-name": target.pod(ordinal),
                },
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": { "storage": self.capacity },
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": claim,
                    "namespace": target.namespace,
                },
                "hostPath": { "path": self.path(ordinal), "type": "" },
                "persistentVolumeReclaimPolicy": self.reclaim_policy,
                "storageClassName": class,
                "volumeMode": "Filesystem",
            },
        })
    }

    /// What is written into a claim so that the volume controller looks at it at once. Else it looks at its next
    /// resync, 8–12 s later (measured).
    #[must_use]
    pub fn touch(&self, ordinal: Ordinal) -> Value {
        json!({ "metadata": { "annotations": { "etcd-scaler.io/volume": self.name(ordinal) } } })
    }

    /// The sentence that the volume was made.
    #[must_use]
    pub fn made(&self, claim: &str, ordinal: Ordinal) -> String {
        format!("volume {} is made for claim {claim} ({})", self.name(ordinal), self.path(ordinal))
    }
}

/// The node affinity that ties a volume to a node, by the node's `kubernetes.io/hostname` label.
#[must_use]
pub fn pinned_to(hostname: &str) -> Value {
    json!({ "required": { "nodeSelectorTerms": [ { "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [hostname] }
    ] } ] } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;
    use crate::know::volume::is_stale;
    use crate::world::plan;

    /// The page's YAML, as JSON.
    fn page() -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {
                "annotations": {
                    "meta.helm.sh/release-name": "puls8",
                    "meta.helm.sh/release-namespace": "puls8",
                    "pv.kubernetes.io/bound-by-controller": "yes",
                },
                "finalizers": ["kubernetes.io/pv-protection"],
                "labels": {
                    "app.kubernetes.io/managed-by": "Helm",
                    "statefulset.kubernetes.io/pod-name": "puls8-etcd-3",
                },
                "name": "etcd-volume-3",
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "capacity": { "storage": "2Gi" },
                "claimRef": {
                    "apiVersion": "v1",
                    "kind": "PersistentVolumeClaim",
                    "name": "data-puls8-etcd-3",
                    "namespace": "puls8",
                },
                "hostPath": { "path": "/var/local/puls8/etcd/pod-3", "type": "" },
                "persistentVolumeReclaimPolicy": "Delete",
                "storageClassName": "manual",
                "volumeMode": "Filesystem",
            },
        })
    }

    #[test]
    fn three_values_give_the_pages_object() {
        let plan = VolumePlan { reclaim_policy: "Delete".into(), bound_by_controller: true, pin: false, ..plan() };
        assert_eq!(plan.object(&puls8(), "data-puls8-etcd-3", "manual", 3), page());
    }

    #[test]
    fn with_the_defaults_only_the_named_deviations_remain() {
        let ours = plan().object(&puls8(), "data-puls8-etcd-3", "manual", 3);
        let mut expected = page();
        expected["spec"]["persistentVolumeReclaimPolicy"] = json!("Retain");
        if let Some(annotations) = expected["metadata"]["annotations"].as_object_mut() {
            annotations.remove("pv.kubernetes.io/bound-by-controller");
        }
        assert_eq!(ours, expected);
    }

    #[test]
    fn a_volume_is_stale_when_it_is_kept_for_another_claim_of_that_name() {
        let mut volume = page();
        assert!(!is_stale(&volume, "new"), "not yet bound");
        volume["spec"]["claimRef"]["uid"] = json!("old");
        assert!(is_stale(&volume, "new") && !is_stale(&volume, "old"));
    }

    #[test]
    fn a_volume_of_somebody_else_is_refused_with_the_difference() {
        let fits = |volume: &Value| plan().misfit(volume, &puls8(), "data-puls8-etcd-3", "manual");
        assert_eq!(fits(&page()), None);
        let mut other = page();
        other["spec"]["claimRef"]["name"] = json!("data-puls8-etcd-4");
        insta::assert_snapshot!(fits(&other).unwrap(), @"it is reserved for claim puls8/data-puls8-etcd-4, needed is puls8/data-puls8-etcd-3");
        let mut other = page();
        other["spec"]["storageClassName"] = json!("fast");
        insta::assert_snapshot!(fits(&other).unwrap(), @r#"its storage class is "fast", the claim's is "manual""#);
    }
}
