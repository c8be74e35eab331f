//! Changes of the membership, which is all that is ever changed in etcd, and of the leader; and a log entry that
//! changes nothing ([`Member::write_down`]).

use etcd_client::{AlarmAction, AlarmType, MemberAddOptions};
use membership::know::record::Id;
use membership::know::version::JoinAs;

use crate::member::Member;
use crate::refusal::CallError;

impl Member {
    /// `member add`, as a learner or as a voter; the new member's ID.
    ///
    /// # Errors
    /// What the server refused it with. After [`crate::Refusal::Unknown`] list again: it may have
    /// been applied.
    pub async fn add(&self, peer_url: &str, join: JoinAs) -> Result<Id, CallError> {
        let mut client = self.client.clone();
        let options = match join {
            JoinAs::Learner => MemberAddOptions::new().with_is_learner(),
            JoinAs::Voter => MemberAddOptions::new(),
        };
        let added = self.bounded("member add", client.member_add([peer_url], Some(options))).await?;
        // A response without the member has never been seen. Its ID would be 0, which is no member's.
        Ok(Id(added.member().map_or(0, etcd_client::Member::id)))
    }

    /// `member promote`. To be sent to the leader: a follower may refuse it if auth is enabled (facts-etcd 5.2: 3.5.28,
    /// 3.6.6).
    ///
    /// # Errors
    /// What the server refused it with.
    pub async fn promote(&self, id: Id) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.bounded("member promote", client.member_promote(id.0)).await.map(drop)
    }

    /// `member remove`.
    ///
    /// # Errors
    /// What the server refused it with.
    pub async fn remove(&self, id: Id) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.bounded("member remove", client.member_remove(id.0)).await.map(drop)
    }

    /// Has etcd write a log entry that changes nothing and makes no revision, by listing the alarms.
    ///
    /// If one voter is left after a removal, that removal is on its disk only with the next entry: etcd writes what is
    /// committed to its log together with an entry, never alone. Killed before, the voter starts with two voters and
    /// waits for ever for the vote of the removed one (run: 3.4.23, 3.5.35, 3.6.16). If more voters are left, they are
    /// a quorum of the voters before, too, so they do not wait for it.
    ///
    /// It also helps a newcomer of 3.6 that waits for an entry while no client writes
    /// ([`membership::know::observed::Observed::may_wait_for_entry`]).
    ///
    /// # Errors
    /// What the server refused it with.
    pub async fn write_down(&self) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.bounded("alarm list", client.alarm(AlarmAction::Get, AlarmType::None, None)).await.map(drop)
    }

    /// `move-leader`. To be sent to the leader.
    ///
    /// # Errors
    /// What the server refused it with.
    pub async fn move_leader(&self, to: Id) -> Result<(), CallError> {
        let mut client = self.client.clone();
        self.bounded("move-leader", client.move_leader(to.0)).await.map(drop)
    }
}
