//! A member's pod that lacks its volume: its claim was deleted and made again, and the new one has none. Nothing in
//! Kubernetes mends that by itself where the volume is kept for the claim before, and nothing says so.

use std::time::Duration;

use serde_json::Value;

use crate::know::names::{Ordinal, Target};
use crate::know::object::text;
use crate::know::volume::{VolumePlan, is_provisioned, is_stale};

/// So long a new claim has for a volume, from whomever, before it is said that there is none.
const MOMENT: Duration = Duration::from_secs(3);

/// What was read of one member's pod. The objects are the API server's own.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The member's ordinal.
    pub ordinal: Ordinal,
    /// Its ID in the record, for a sentence.
    pub id: &'a str,
    /// Its pod.
    pub pod: &'a Value,
    /// The name of its claim.
    pub claim_name: &'a str,
    /// Its claim, if there is one.
    pub claim: Option<&'a Value>,
    /// How long that claim has been there, where that can be told.
    pub age: Option<Duration>,
    /// Whether the member answered before that claim was made: what it held was another one's. As far as is known.
    pub made_since: bool,
    /// The provisioner that its claim's class names, if there is such a class.
    pub provisioner: Option<&'a str>,
    /// The volume of the name that we give an ordinal's, if there is one.
    pub volume: Option<&'a Value>,
}

/// What is to be done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is wrong, or not yet.
    Nothing,
    /// Its volume is kept for the claim before: a Job frees it, with the data. The UID of the claim that waits.
    Kept(String),
    /// What it held is gone with its volume, or not to be found; in a sentence, with what to do.
    Lost(String),
}

/// Judges the pod of a recorded member that does not answer.
#[must_use]
pub fn judge(seen: &Seen<'_>, target: &Target, plan: &VolumePlan) -> Found {
    let scheduled = text(seen.pod, &["spec", "nodeName"]).is_some();
    let ends = |object: &Value| text(object, &["metadata", "deletionTimestamp"]).is_some();
    // The StatefulSet controller makes the claim of a pod that is Pending, once the one before it is gone.
    let Some(claim) = seen.claim.filter(|claim| !ends(seen.pod) && !ends(claim)) else {
        return Found::Nothing;
    };
    let uid = text(claim, &["metadata", "uid"]).unwrap_or_default();
    let class = text(claim, &["spec", "storageClassName"]).unwrap_or_default();
    let bound_to = text(claim, &["spec", "volumeName"]).unwrap_or_default();
    let (name, wants) = (plan.name(seen.ordinal), seen.claim_name);
    let provisioned = is_provisioned(seen.provisioner) || class.is_empty();
    // Its class gives it an empty one, if it has not yet.
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
