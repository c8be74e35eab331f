//! Changes of the membership, the only thing that is ever written to etcd, and of who leads; and an entry of its log that
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
        // A response without the member has not been seen; 0 is no member's ID and matches none.
        Ok(Id(added.member().map_or(0, etcd_client::Member::id)))
    }

    /// `member promote`. To be sent to the leader: followers refuse it with auth on 3.5.28–.
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

    /// Has etcd write an entry of its log that changes nothing: the alarms are listed, which it does by an entry, without
    /// a revision.
    ///
    /// The last voter so writes down that another one's removal is decided. Until the next entry that is only in its
    /// memory: what is committed goes to the log on disk with an entry, never alone. Killed before, it waits for ever for
    /// the vote of the one that was removed (run: 3.4.23, 3.5.35, 3.6.16). With more than one voter left these are a
    /// quorum of those before, too.
    ///
    /// And a newcomer of 3.6 so gets on that waits for an entry where nobody writes
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
