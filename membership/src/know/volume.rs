//! The PersistentVolume of an ordinal: its name, who owns it, and whether it can serve a claim.

use serde_json::{Value, json};

use super::names::{Ordinal, Target};

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
    /// `Retain`, or `Delete` as DataCore's page has it; with `Delete` a hostPath volume outside /tmp ends in phase
    /// Failed (facts-kubernetes F).
    pub reclaim_policy: String,
    /// Tie the volume to the node that the pod was scheduled to.
    pub pin: bool,
    /// Set `pv.kubernetes.io/bound-by-controller` by hand, as DataCore's page does. When the claim is deleted, the
    /// whole claimRef is then dropped.
    pub bound_by_controller: bool,
    /// What becomes of it when its member has left.
    pub on_scale_down: OnScaleDown,
    /// The Helm release that is named as the owner of the volume, so that a parent chart that makes volumes takes it
    /// for its own.
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

    /// Why an existing volume cannot serve a claim, in a sentence; `None`: it can.
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

/// The sentence that a volume of that name exists and cannot serve the pod; `misfit`: why.
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

/// Whether a volume is still reserved for an earlier claim of that name, by the UID in its claimRef. It is never bound
/// to the new claim before that UID is cleared (facts-kubernetes F).
#[must_use]
pub fn is_stale(volume: &Value, claim_uid: &str) -> bool {
    volume["spec"]["claimRef"]["uid"].as_str().is_some_and(|uid| !uid.is_empty() && uid != claim_uid)
}

/// The hostname that a volume (JSON) is tied to, if [`pinned_to`](crate::write::volume::pinned_to) or somebody in the
/// same way has tied it; `None`: it is not tied, or otherwise.
#[must_use]
pub fn is_pinned_to(volume: &Value) -> Option<&str> {
    let hosts = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0")?;
    let hosts = Some(hosts).filter(|hosts| hosts["key"] == "kubernetes.io/hostname")?;
    hosts["values"].as_array().filter(|values| values.len() == 1)?.first()?.as_str()
}
