//! An upgrade that would set the release's own count again, although somebody has set another one with `kubectl scale`
//! since.
//!
//! Helm 3 compares only its own old and new manifest, so an upgrade of something else would remove members. Helm 4
//! fails with a field conflict and names no way out (facts-kubernetes K3).

use crate::know::names::Target;

/// The sentence with which it is refused.
#[must_use]
pub fn refusal(target: &Target, live: u32, asked: u32) -> String {
    format!(
        "setting {target} from {live} to {asked} is refused: its {live} replicas were set with kubectl scale, and the release still has {asked}. That would undo what somebody asked for. Give the release the live count: helm upgrade --set etcd.replicaCount={live}. Or decide with the value onReset: --set onReset=follow has the {asked} win, onReset=keep keeps the {live}."
    )
}

/// The warning where the live count is kept (`onReset=keep`).
#[must_use]
pub fn kept(live: u32, asked: u32) -> String {
    format!("the {live} replicas that were set with kubectl scale are kept, the release has {asked} (onReset=keep)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::annotations::OnReset;
    use crate::know::names::tests::puls8;

    #[test]
    fn both_numbers_and_the_way_out_are_named() {
        insta::assert_snapshot!(refusal(&puls8(), 5, 3), @"setting StatefulSet puls8/puls8-etcd from 5 to 3 is refused: its 5 replicas were set with kubectl scale, and the release still has 3. That would undo what somebody asked for. Give the release the live count: helm upgrade --set etcd.replicaCount=5. Or decide with the value onReset: --set onReset=follow has the 3 win, onReset=keep keeps the 5.");
        insta::assert_snapshot!("later".parse::<OnReset>().unwrap_err(), @r#""later" is none of refuse, keep and follow"#);
        assert_eq!("keep".parse(), Ok(OnReset::Keep));
    }
}
