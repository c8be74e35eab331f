//! The PersistentVolume of an ordinal: how it is called, whose it is, and whether it serves a claim.

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

/// The hostname that a volume (JSON) is tied to as [`pinned_to`](crate::write::volume::pinned_to) does it; `None`: it is not, or not so.
#[must_use]
pub fn is_pinned_to(volume: &Value) -> Option<&str> {
    let hosts = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms/0/matchExpressions/0")?;
    let hosts = Some(hosts).filter(|hosts| hosts["key"] == "kubernetes.io/hostname")?;
    hosts["values"].as_array().filter(|values| values.len() == 1)?.first()?.as_str()
}
