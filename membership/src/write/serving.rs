//! What the admission policy knows of the record: the names in a Role.
//!
//! The policy may call no program, and cannot have the StatefulSet as its parameter: once the last
//! policy with a parameter of a built-in kind is gone, the API server never watches that kind again
//! for any later one, and the policy then sees no object or an old one (kubernetes#130887; run). What
//! an expression can always ask is the authorizer. So a Role permits a verb that nothing else knows
//! to a ServiceAccount that nobody is, and the policy asks for it by name.

use std::collections::BTreeSet;

use crate::know::names::Target;
use crate::know::record::{Record, State};

/// The API group of the verb.
pub const GROUP: &str = "etcd-scaler.io";
/// The resource of the verb; there is none such.
pub const RESOURCE: &str = "members";
/// The verb.
pub const VERB: &str = "serve";

/// The names that the Role permits: each pod of which the record says that its member is to be
/// served without our mark, and the StatefulSet itself, which says that there is a record. Without
/// a UID: a StatefulSet that is made again over its living members is another object, and who was
/// no member before is none then. The Role goes with a StatefulSet that is deleted with its pods.
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
