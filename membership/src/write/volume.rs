//! The PersistentVolume of an ordinal: the page's object, with three safe deviations.

use serde_json::{Value, json};

use crate::know::names::{Ordinal, Target};

/// What becomes of the claim, and of the volume made for it, when a member has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnScaleDown {
    /// They stay, with the data.
    Keep,
    /// The claim is deleted, and the volume that we made for it; a directory on a node stays.
    Delete,
}

/// How volumes are made; every field is a value of the chart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// Volumes are `<prefix>-<ordinal>` (`etcd-volume`).
    pub name_prefix: String,
    /// The directory on the node without the ordinal (`/var/local/puls8/etcd/pod-`).
    pub host_path: String,
    /// A Kubernetes quantity (`2Gi`).
    pub capacity: String,
    /// `Retain`, or the page's `Delete`, which ends in phase Failed outside /tmp (facts-kubernetes F).
    pub reclaim_policy: String,
    /// Tie the volume to the node that the pod was scheduled to.
    pub pin: bool,
    /// Set `pv.kubernetes.io/bound-by-controller` by hand as the page does: an unbind then drops
    /// the whole claimRef.
    pub bound_by_controller: bool,
    /// What becomes of it when its member has left.
    pub on_scale_down: OnScaleDown,
    /// The Helm release that a parent chart would own the volume under.
    pub release: String,
    /// That release's namespace.
    pub release_namespace: String,
}

impl VolumePlan {
    /// The volume's name.
    #[must_use]
    pub fn name(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.name_prefix)
    }

    /// The directory on the node.
    #[must_use]
    pub fn path(&self, ordinal: Ordinal) -> String {
        format!("{}{ordinal}", self.host_path)
    }

    /// The volume for a claim, not yet pinned: the pod has not been scheduled.
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

    /// What is written into a claim so that the volume controller looks at it at once, not at its next resync:
    /// 8–12 s (measured).
    #[must_use]
    pub fn touch(&self, ordinal: Ordinal) -> Value {
        json!({ "metadata": { "annotations": { "etcd-scaler.io/volume": self.name(ordinal) } } })
    }

    /// That the volume was made, in a sentence.
    #[must_use]
    pub fn made(&self, claim: &str, ordinal: Ordinal) -> String {
        format!("volume {} is made for claim {claim} ({})", self.name(ordinal), self.path(ordinal))
    }

    /// What keeps an existing volume from serving a claim, in a sentence; `None`: it fits.
    #[must_use]
    pub fn misfit(&self, existing: &Value, target: &Target, claim: &str, class: &str) -> Option<String> {
        let spec = &existing["spec"];
        let owner = &spec["claimRef"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let reserved = (text(&owner["namespace"]), text(&owner["name"]));
        if !owner.is_null() && reserved != (target.namespace.clone(), claim.to_owned()) {
            return Some(format!(
                "it is reserved for claim {}/{}, needed is {}/{claim}",
                reserved.0, reserved.1, target.namespace
            ));
        }
        let its_class = text(&spec["storageClassName"]);
        if its_class != class {
            return Some(format!("its storage class is {its_class:?}, the claim's is {class:?}"));
        }
        let modes = spec["accessModes"].as_array().is_some_and(|modes| modes.contains(&json!("ReadWriteOnce")));
        if !modes {
            return Some(format!("its access modes are {}, needed is ReadWriteOnce", spec["accessModes"]));
        }
        None
    }
}

/// That a volume of another's keeps a pod from its own, in a sentence; `misfit`: what differs.
#[must_use]
pub fn does_not_fit(pod: &str, misfit: &str) -> String {
    format!(
        "the volume for {pod} exists and does not fit: {misfit}. It is left as it is: what is on it may be the only copy. Name volumes of your own for this etcd (pv.namePrefix, and pv.hostPath for their directories), then upgrade again"
    )
}

/// Whether a class has a provisioner, given what its StorageClass names (`None`: there is no such object).
#[must_use]
pub fn is_provisioned(provisioner: Option<&str>) -> bool {
    provisioner.is_some_and(|provisioner| provisioner != "kubernetes.io/no-provisioner")
}

/// Whether a volume is kept for an earlier claim of that name, by the UID: it is never bound to this
/// one before that is cleared (facts-kubernetes F).
#[must_use]
pub fn is_stale(volume: &Value, claim_uid: &str) -> bool {
    volume["spec"]["claimRef"]["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid != claim_uid)
}

/// The node affinity that ties a volume to a node, by the node's `kubernetes.io/hostname` label.
#[must_use]
pub fn pinned_to(hostname: &str) -> Value {
    json!({ "required": { "nodeSelectorTerms": [ { "matchExpressions": [
        { "key": "kubernetes.io/hostname", "operator": "In", "values": [hostname] }
    ] } ] } })
}

/// The hostname that a volume (JSON) is tied to as [`pinned_to`] does it; `None`: it is not, or not so.
#[must_use]
pub fn is_pinned_to(volume: &Value) -> Option<&str> {
    let hosts = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0")?;
    let hosts = Some(hosts).filter(|hosts| hosts["key"] == "kubernetes.io/hostname")?;
    hosts["values"].as_array().filter(|values| values.len() == 1)?.first()?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;
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
