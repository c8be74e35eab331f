//! One member, asked by its own URL. A client with several endpoints would ask any of them.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use etcd_client::{Client, ConnectOptions, GetOptions};
use futures::future::join_all;
use membership::know::names::{Ordinal, Target};
use membership::know::observed::{Alarm, Answer, Answered, Database, ListedMember};
use membership::know::record::Id;

use crate::refusal::{CallError, Refusal};

/// A connection to one member.
pub struct Member {
    pub(crate) client: Client,
    pub(crate) url: String,
    pub(crate) deadline: Duration,
}

impl Member {
    /// Prepares a connection to one member; nothing is sent yet. Every call made through it is
    /// bounded by `deadline`.
    ///
    /// # Errors
    /// When the URL is not one.
    pub async fn at(url: &str, deadline: Duration) -> Result<Self, CallError> {
        // The crate has no time-out of its own (measured: a silent listener held a call for as long as it was watched).
        let options = ConnectOptions::new().with_timeout(deadline).with_connect_timeout(deadline);
        let client = Client::connect([url], Some(options)).await.map_err(|e| CallError::refused("connect", url, &e))?;
        Ok(Self { client, url: url.to_owned(), deadline })
    }

    /// Bounds a call: the crate's own time-out does not cover a connection that hangs.
    pub(crate) async fn bounded<T>(
        &self,
        call: &'static str,
        answer: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, CallError> {
        match tokio::time::timeout(self.deadline, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(CallError::refused(call, &self.url, &error)),
            Err(_) => Err(CallError::Silent { call, url: self.url.clone(), deadline: self.deadline }),
        }
    }

    /// Its status, its member list, and for a voter proof that it serves: a linearizable read.
    ///
    /// # Errors
    /// When any of these failed: a member that answers only in part counts as one that does not answer.
    pub async fn answer(&self) -> Result<Answer, CallError> {
        let mut client = self.client.clone();
        let status = self.bounded("endpoint status", client.status()).await?;
        let header = status.header().copied_ids();
        let list = match self.bounded("member list", client.member_list()).await {
            Ok(list) => Some(list.members().iter().map(listed).collect()),
            Err(error) if error.refusal() == Refusal::NotForLearners => None,
            Err(error) => return Err(error),
        };
        if !status.is_learner() {
            // As `etcdctl endpoint health` does: a linearizable read of any key.
            let options = GetOptions::new().with_limit(1).with_count_only();
            self.bounded("endpoint health", client.get("health", Some(options))).await?;
        }
        Ok(Answer {
            member: Id(header.member),
            cluster: Id(header.cluster),
            leader: (status.leader() != 0).then(|| Id(status.leader())),
            learner: status.is_learner(),
            version: status.version().to_owned(),
            revision: header.revision,
            raft_index: status.raft_index(),
            applied_index: status.raft_applied_index(),
            errors: status.errors().iter().filter(|error| Alarm::parse(error).is_none()).cloned().collect(),
            alarms: status.errors().iter().filter_map(|error| Alarm::parse(error)).collect(),
            db: database(&status),
            list,
        })
    }
}

/// The database as a status has it.
pub(crate) fn database(status: &etcd_client::StatusResponse) -> Database {
    let size = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
    Database {
        size: size(status.db_size()),
        in_use: size(status.raft_used_db_size()),
        quota: Some(size(status.db_size_quota())).filter(|&quota| quota > 0),
    }
}

/// The IDs of a response header; without a header zeros, which are no member's.
struct HeaderIds {
    member: u64,
    cluster: u64,
    revision: i64,
}

trait CopiedIds {
    fn copied_ids(self) -> HeaderIds;
}

impl CopiedIds for Option<&etcd_client::ResponseHeader> {
    fn copied_ids(self) -> HeaderIds {
        self.map_or(HeaderIds { member: 0, cluster: 0, revision: 0 }, |h| HeaderIds {
            member: h.member_id(),
            cluster: h.cluster_id(),
            revision: h.revision(),
        })
    }
}

fn listed(member: &etcd_client::Member) -> ListedMember {
    ListedMember {
        id: Id(member.id()),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        learner: member.is_learner(),
    }
}

/// Asks the members of these ordinals, all at once, each within `deadline`. An error does not name the member; its
/// ordinal does.
pub async fn observe(
    target: &Target,
    ordinals: impl IntoIterator<Item = Ordinal>,
    deadline: Duration,
) -> BTreeMap<Ordinal, Answered> {
    let asked = ordinals.into_iter().map(|ordinal| async move {
        let url = target.client_url(ordinal);
        let answer = async { Member::at(&url, deadline).await?.answer().await };
        let answered = match tokio::time::timeout(deadline, answer).await {
            Ok(answered) => answered.map_err(|error| error.brief()),
            Err(_) => Err(format!("no answer within {:.1} s", deadline.as_secs_f64())),
        };
        (ordinal, answered)
    });
    join_all(asked).await.into_iter().collect()
}
