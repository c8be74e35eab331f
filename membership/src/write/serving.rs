//! What the admission policy knows of the record: the names in a Role.
//!
//! A ValidatingAdmissionPolicy cannot call a program, and cannot have the StatefulSet as its parameter: once the last
//! policy with a parameter of a built-in kind is gone, the API server never watches that kind again for any later one,
//! and the policy then sees no object or an old one (kubernetes#130887; run). What a CEL expression can always ask is
//! the authorizer. So a Role is used as a set of names: it permits a ServiceAccount that does not exist a verb on a
//! resource that does not exist, for exactly the names of the set, and the policy asks `authorizer` whether a name is
//! in it.

use std::collections::BTreeSet;

use crate::know::names::Target;
use crate::know::record::{Record, State};

/// The API group of the verb.
pub const GROUP: &str = "etcd-scaler.io";
/// The resource of the verb; no such resource exists.
pub const RESOURCE: &str = "members";
/// The verb.
pub const VERB: &str = "serve";

/// The names that the Role permits: the pod of each recorded member that has not still to join, which the policy lets
/// be made as an ordinary pod; and the StatefulSet, whose name means that there is a record.
///
/// The names have no UID. A StatefulSet that is made again over its living members has another UID and the same
/// members: an ordinal without a member before has none afterwards, and its pod must still be held. If the StatefulSet
/// is deleted with its pods, the garbage collector deletes the Role with it.
#[must_use]
pub fn names(target: &Target, record: &Record) -> BTreeSet<String> {
    let serving = record.members.iter().filter(|(_, recorded)| recorded.state != State::Joining);
    let pods = serving.map(|(&ordinal, _)| target.pod(ordinal));
    pods.chain([target.statefulset.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;
    use crate::know::record::Id;

    #[test]
    fn a_joining_member_is_not_among_them() {
        let record = Record::new(Id(1));
        assert_eq!(names(&puls8(), &record), BTreeSet::from(["puls8-etcd".into()]));
        let record = record.with(0, Id(1), State::Member).with(1, Id(2), State::Bootstrapping);
        let record = record.with(2, Id(3), State::Leaving).with(3, Id(4), State::Joining);
        let names = names(&puls8(), &record);
        assert_eq!(Vec::from_iter(names), ["puls8-etcd", "puls8-etcd-0", "puls8-etcd-1", "puls8-etcd-2"]);
    }
}
