//! What a member says of itself, for a person.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::join_all;
use membership::know::names::{Ordinal, Target};
use membership::know::observed::Database;
use membership::know::record::Id;

use crate::member::{Member, database};
use crate::refusal::CallError;

/// One member's `endpoint status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Its ID.
    pub member: Id,
    /// The leader that it knows; `None`: no leader.
    pub leader: Option<Id>,
    /// Whether it is a learner, by its own word.
    pub learner: bool,
    /// The server's version.
    pub version: String,
    /// Its database file.
    pub db: Database,
    /// The revision it has applied.
    pub revision: i64,
    /// The raft index it knows to be committed.
    pub raft_index: u64,
    /// The raft index it has applied.
    pub applied_index: u64,
    /// Its alarms and errors, in its own words.
    pub errors: Vec<String>,
}

impl Member {
    /// Its status. A learner answers too, and it needs no quorum.
    ///
    /// # Errors
    /// When it did not answer.
    pub async fn status(&self) -> Result<Status, CallError> {
        let mut client = self.client.clone();
        let status = self.bounded("endpoint status", client.status()).await?;
        let header = status.header();
        Ok(Status {
            // An answer without a header has never been seen. Its ID would be 0, which is no member's.
            member: Id(header.map_or(0, etcd_client::ResponseHeader::member_id)),
            leader: (status.leader() != 0).then(|| Id(status.leader())),
            learner: status.is_learner(),
            version: status.version().to_owned(),
            db: database(&status),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            raft_index: status.raft_index(),
            applied_index: status.raft_applied_index(),
            errors: status.errors().iter().map(|error| error.trim().to_owned()).collect(),
        })
    }
}

/// The status of the members of these ordinals, all asked at once, each within `deadline`. An error does not name the
/// member; its ordinal does.
pub async fn statuses(
    target: &Target,
    ordinals: impl IntoIterator<Item = Ordinal>,
    deadline: Duration,
) -> BTreeMap<Ordinal, Result<Status, String>> {
    let asked = ordinals.into_iter().map(|ordinal| async move {
        let url = target.client_url(ordinal);
        let status = async { Member::at(&url, deadline).await?.status().await };
        let status = match tokio::time::timeout(deadline, status).await {
            Ok(status) => status.map_err(|error| error.brief()),
            Err(_) => Err(format!("no answer within {:.1} s", deadline.as_secs_f64())),
        };
        (ordinal, status)
    });
    join_all(asked).await.into_iter().collect()
}
