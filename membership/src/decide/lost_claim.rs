//! A member's pod that has no volume any more: its claim was deleted, and the claim that the StatefulSet controller
//! made again has none. If the volume is still reserved for the earlier claim, Kubernetes never binds it again, and
//! says nothing.

use std::time::Duration;

use serde_json::Value;

use crate::know::names::{Ordinal, Target};
use crate::know::object::text;
use crate::know::volume::{VolumePlan, is_provisioned, is_stale};

/// How long a new claim may be without a volume before that is said.
const MOMENT: Duration = Duration::from_secs(3);

/// What was read of one member's pod. The objects are the API server's own.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The member's ordinal.
    pub ordinal: Ordinal,
    /// The member's ID in the record, for the sentence.
    pub id: &'a str,
    /// Its pod.
    pub pod: &'a Value,
    /// The name of its claim.
    pub claim_name: &'a str,
    /// Its claim, if there is one.
    pub claim: Option<&'a Value>,
    /// The age of that claim, if it can be told.
    pub age: Option<Duration>,
    /// Whether the member is known to have answered before that claim was made, so that its data was on an earlier
    /// claim.
    pub made_since: bool,
    /// The provisioner of the claim's StorageClass, if there is that class.
    pub provisioner: Option<&'a str>,
    /// The volume with the name that we give to this ordinal's, if there is one.
    pub volume: Option<&'a Value>,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is wrong, or not yet.
    Nothing,
    /// Its volume is still reserved for the earlier claim: a Job frees it, with the data. Has the UID of the claim that
    /// waits.
    Kept(String),
    /// Its data went with the volume, or cannot be found; the sentence, with what to do.
    Lost(String),
}

/// Judges the pod of a recorded member that does not answer.
#[must_use]
pub fn judge(seen: &Seen<'_>, target: &Target, plan: &VolumePlan) -> Found {
    let scheduled = text(seen.pod, &["spec", "nodeName"]).is_some();
    let ends = |object: &Value| text(object, &["metadata", "deletionTimestamp"]).is_some();
    // Without a claim nothing is decided yet: the StatefulSet controller makes one for a Pending pod, once the earlier
    // one is gone.
    let Some(claim) = seen.claim.filter(|claim| !ends(seen.pod) && !ends(claim)) else {
        return Found::Nothing;
    };
    let uid = text(claim, &["metadata", "uid"]).unwrap_or_default();
    let class = text(claim, &["spec", "storageClassName"]).unwrap_or_default();
    let bound_to = text(claim, &["spec", "volumeName"]).unwrap_or_default();
    let (name, wants) = (plan.name(seen.ordinal), seen.claim_name);
    let provisioned = is_provisioned(seen.provisioner) || class.is_empty();
    // Its class has a provisioner, which makes an empty volume, if it has not yet.
    if provisioned && seen.made_since {
        return lost(
            seen,
            target,
            &format!(
                "its claim {wants} was deleted and made again (class {class:?}), and what the member held went with the volume of the claim before, or is kept in one that no claim has (kubectl get pv)"
            ),
        );
    }
    if scheduled {
        return Found::Nothing;
    }
    match text(claim, &["status", "phase"]) {
        Some("Lost") => {
            return lost(seen, target, &format!("{bound_to}, the volume that its claim {wants} was bound to, is gone"));
        }
        Some("Pending") => {}
        _ => return Found::Nothing,
    }
    let what = match seen.volume.filter(|_| !provisioned) {
        Some(volume) => match plan.misfit(volume, target, wants, class) {
            Some(misfit) => format!("{name}, the volume for its claim {wants}, does not fit: {misfit}"),
            None if is_stale(volume, uid) => return Found::Kept(uid.to_owned()),
            // It is being bound.
            None => return Found::Nothing,
        },
        None if provisioned => format!(
            "its claim {wants} is a new one and has no volume yet (class {class:?}), and what the claim before it had does not come back by itself"
        ),
        None => format!("its claim {wants} has none, and there is no volume {name}, which would be the one for it"),
    };
    if seen.age.is_some_and(|age| age >= MOMENT) { lost(seen, target, &what) } else { Found::Nothing }
}

fn lost(seen: &Seen<'_>, target: &Target, what: &str) -> Found {
    let Seen { ordinal, id, .. } = seen;
    Found::Lost(format!(
        "{} (member {id}) lacks its volume: {what}. On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal {ordinal}, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)",
        target.pod(*ordinal)
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::know::names::tests::puls8;
    use crate::world::plan;

    const CLAIM: &str = "data-puls8-etcd-1";

    fn claim() -> Value {
        json!({
            "metadata": { "uid": "new" },
            "spec": { "storageClassName": "manual" },
            "status": { "phase": "Pending" },
        })
    }

    fn volume() -> Value {
        let mut volume = plan().object(&puls8(), CLAIM, "manual", 1);
        volume["spec"]["claimRef"]["uid"] = json!("before");
        volume
    }

    fn with(mut object: Value, path: &str, value: Value) -> Value {
        *object.pointer_mut(path).unwrap() = value;
        object
    }

    fn judged(pod: &Value, claim: Option<&Value>, provisioner: Option<&str>, volume: Option<&Value>) -> Found {
        judged_after(3, pod, claim, provisioner, volume)
    }

    fn judged_after(
        seconds: u64,
        pod: &Value,
        claim: Option<&Value>,
        provisioner: Option<&str>,
        volume: Option<&Value>,
    ) -> Found {
        let age = Some(Duration::from_secs(seconds));
        let seen =
            Seen { ordinal: 1, id: "11", pod, claim_name: CLAIM, claim, age, made_since: false, provisioner, volume };
        judge(&seen, &puls8(), &plan())
    }

    fn sentence(found: Found) -> String {
        match found {
            Found::Lost(sentence) => sentence,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_volume_that_is_kept_for_the_claim_before_is_freed() {
        let waits = json!({ "spec": {} });
        let found = |claim: &Value, volume: &Value| judged(&waits, Some(claim), None, Some(volume));
        assert_eq!(found(&claim(), &volume()), Found::Kept("new".into()));
        assert_eq!(judged(&waits, None, None, Some(&volume())), Found::Nothing, "the controller makes it");
        assert_eq!(
            judged(&json!({ "spec": { "nodeName": "n" } }), Some(&claim()), None, Some(&volume())),
            Found::Nothing
        );
        let ends = json!({ "metadata": { "deletionTimestamp": "x" }, "spec": {} });
        assert_eq!(judged(&ends, Some(&claim()), None, Some(&volume())), Found::Nothing);
        assert_eq!(found(&with(claim(), "/status/phase", json!("Bound")), &volume()), Found::Nothing);
        assert_eq!(found(&with(claim(), "/metadata/uid", json!("before")), &volume()), Found::Nothing, "being bound");
    }

    #[test]
    fn what_does_not_come_back_is_named_with_the_way_out() {
        let waits = json!({ "spec": {} });
        insta::assert_snapshot!(sentence(judged(&waits, Some(&claim()), None, None)), @"puls8-etcd-1 (member 11) lacks its volume: its claim data-puls8-etcd-1 has none, and there is no volume etcd-volume-1, which would be the one for it. On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal 1, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)");
        let other = with(volume(), "/spec/claimRef/name", json!("another"));
        insta::assert_snapshot!(sentence(judged(&waits, Some(&claim()), None, Some(&other))), @"puls8-etcd-1 (member 11) lacks its volume: etcd-volume-1, the volume for its claim data-puls8-etcd-1, does not fit: it is reserved for claim puls8/another, needed is puls8/data-puls8-etcd-1. On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal 1, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)");
        let gone = with(claim(), "/status/phase", json!("Lost"));
        let gone = with(gone, "/spec", json!({ "storageClassName": "manual", "volumeName": "etcd-volume-1" }));
        insta::assert_snapshot!(sentence(judged(&waits, Some(&gone), None, None)), @"puls8-etcd-1 (member 11) lacks its volume: etcd-volume-1, the volume that its claim data-puls8-etcd-1 was bound to, is gone. On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal 1, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)");
        insta::assert_snapshot!(sentence(judged(&waits, Some(&claim()), Some("mayastor"), Some(&volume()))), @r#"puls8-etcd-1 (member 11) lacks its volume: its claim data-puls8-etcd-1 is a new one and has no volume yet (class "manual"), and what the claim before it had does not come back by itself. On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal 1, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)"#);
        let bound = with(claim(), "/status/phase", json!("Bound"));
        let runs = json!({ "spec": { "nodeName": "n" } });
        let since = |provisioner, made_since| {
            let (claim, age) = (Some(&bound), Some(Duration::ZERO));
            let seen = Seen {
                ordinal: 1,
                id: "11",
                pod: &runs,
                claim_name: CLAIM,
                claim,
                age,
                made_since,
                provisioner,
                volume: None,
            };
            judge(&seen, &puls8(), &plan())
        };
        insta::assert_snapshot!(sentence(since(Some("mayastor"), true)), @r#"puls8-etcd-1 (member 11) lacks its volume: its claim data-puls8-etcd-1 was deleted and made again (class "manual"), and what the member held went with the volume of the claim before, or is kept in one that no claim has (kubectl get pv). On an empty one its etcd would not start, so that the member does not come back empty under an ID whose votes count. The other members go on while they are a quorum. If its data is really gone, replace the member (hook replace --ordinal 1, docs/commands.md); where no quorum is left, restore from a snapshot (docs/restore.md)"#);
        assert_eq!(since(Some("mayastor"), false), Found::Nothing, "it is the one that it served with");
        assert_eq!(since(None, true), Found::Nothing, "the volume that is kept for the ordinal");
        for provisioner in [Some("mayastor"), None] {
            assert_eq!(judged_after(2, &waits, Some(&claim()), provisioner, None), Found::Nothing, "a moment for it");
        }
    }
}
