//! The steps that a scale would take, in sentences, for `hook plan`.

use crate::know::names::{Ordinal, Target};
use crate::know::version::{JoinAs, Version, join_as};
use crate::know::volume::OnScaleDown;

/// From so many members to so many.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// The members that are verified now.
    pub from: u32,
    /// The count that is asked about.
    pub to: u32,
    /// The members' etcd version; `None`: it is not known.
    pub version: Option<Version>,
    /// The ordinal that leads; `None`: it is not known.
    pub leader: Option<Ordinal>,
    /// What becomes of the claims of those that leave.
    pub on_scale_down: OnScaleDown,
}

/// The steps in their order, each a sentence.
#[must_use]
pub fn steps(target: &Target, scale: Scale) -> Vec<String> {
    let Scale { from, to, version, leader, on_scale_down } = scale;
    let mut steps = Vec::new();
    if to == 0 {
        steps.push("every pod is deleted by the StatefulSet controller; no member leaves etcd".to_owned());
        return steps;
    }
    for ordinal in from..to {
        let pod = target.pod(ordinal);
        let role = match version.map(|version| join_as(version, ordinal as usize)) {
            Some(JoinAs::Voter) => "a voting member",
            Some(JoinAs::Learner) => "a learner",
            None => "a learner, or a voting member where its version asks for that",
        };
        steps.push(format!("{pod}: its pod is made and waits, with its volume mounted and its image pulled"));
        steps.push(format!(
            "{pod}: member add of {} as {role}; its etcd starts and catches up",
            target.peer_url(ordinal)
        ));
        let promoted = if role == "a voting member" { "" } else { ", member promote" };
        steps.push(format!("{pod}: its ordinary pod takes over{promoted}: {}", voters(ordinal + 1)));
    }
    let mut leads = leader;
    for ordinal in (to..from).rev() {
        let pod = target.pod(ordinal);
        if leads.is_none_or(|leads| leads == ordinal) {
            let sure = if leads.is_some() { "" } else { ", if it leads then" };
            steps.push(format!("{pod}: another member is made the leader{sure}"));
            // The new leader is one of the members that stay.
            leads = leads.map(|_| 0);
        }
        let are_left = if ordinal == 1 { "is left" } else { "are left" };
        steps.push(format!("{pod}: member remove, {} {are_left}; its pod is deleted", voters(ordinal)));
        steps.push(match on_scale_down {
            OnScaleDown::Keep => format!("{pod}: its claim and its volume are kept"),
            OnScaleDown::Delete => format!("{pod}: its claim and the volume made for it are deleted"),
        });
    }
    match to {
        _ if from == to => {}
        1 => steps.push("the keys of the one member are counted".to_owned()),
        _ => steps.push(format!("the keys of all {to} members are compared")),
    }
    steps
}

fn voters(count: u32) -> String {
    format!("{count} voting {}", if count == 1 { "member" } else { "members" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::know::names::tests::puls8;

    fn told(from: u32, to: u32, version: Option<&str>, leader: Option<Ordinal>, on_scale_down: OnScaleDown) -> String {
        let version = version.map(|version| version.parse().unwrap());
        steps(&puls8(), Scale { from, to, version, leader, on_scale_down }).join("\n")
    }

    #[test]
    fn each_way_in_its_order() {
        insta::assert_snapshot!(told(3, 4, Some("3.6.16"), Some(0), OnScaleDown::Keep), @"
        puls8-etcd-3: its pod is made and waits, with its volume mounted and its image pulled
        puls8-etcd-3: member add of http://puls8-etcd-3.puls8-etcd-headless.puls8.svc.cluster.local:2380 as a learner; its etcd starts and catches up
        puls8-etcd-3: its ordinary pod takes over, member promote: 4 voting members
        the keys of all 4 members are compared
        ");
        insta::assert_snapshot!(told(2, 4, Some("3.5.16"), Some(0), OnScaleDown::Keep), @"
        puls8-etcd-2: its pod is made and waits, with its volume mounted and its image pulled
        puls8-etcd-2: member add of http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380 as a learner; its etcd starts and catches up
        puls8-etcd-2: its ordinary pod takes over, member promote: 3 voting members
        puls8-etcd-3: its pod is made and waits, with its volume mounted and its image pulled
        puls8-etcd-3: member add of http://puls8-etcd-3.puls8-etcd-headless.puls8.svc.cluster.local:2380 as a voting member; its etcd starts and catches up
        puls8-etcd-3: its ordinary pod takes over: 4 voting members
        the keys of all 4 members are compared
        ");
        insta::assert_snapshot!(told(5, 3, Some("3.6.16"), Some(4), OnScaleDown::Delete), @"
        puls8-etcd-4: another member is made the leader
        puls8-etcd-4: member remove, 4 voting members are left; its pod is deleted
        puls8-etcd-4: its claim and the volume made for it are deleted
        puls8-etcd-3: member remove, 3 voting members are left; its pod is deleted
        puls8-etcd-3: its claim and the volume made for it are deleted
        the keys of all 3 members are compared
        ");
        insta::assert_snapshot!(told(2, 1, None, None, OnScaleDown::Keep), @"
        puls8-etcd-1: another member is made the leader, if it leads then
        puls8-etcd-1: member remove, 1 voting member is left; its pod is deleted
        puls8-etcd-1: its claim and its volume are kept
        the keys of the one member are counted
        ");
        insta::assert_snapshot!(told(3, 0, None, None, OnScaleDown::Keep), @"every pod is deleted by the StatefulSet controller; no member leaves etcd");
        assert_eq!(told(3, 3, None, None, OnScaleDown::Keep), "");
    }
}
