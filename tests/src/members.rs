//! etcd's members and their pods, as they are.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::cluster::nodes;
use crate::process::until;
use crate::release::Release;

/// How long members may take until all have applied one revision, and none has compacted it
/// meanwhile: then another is asked for.
const HASHES: Duration = Duration::from_secs(60);

/// How long a member may take to lead once it is asked to.
const LEADS: Duration = Duration::from_secs(30);

/// What else is in the initial cluster of a template that members' pods are made from.
const NO_START_WITHOUT_DATA: &str =
    ",no-start-without-data=http://a-member-that-lost-its-disk-must-not-start-empty.invalid:2380";

/// What must not change for a pod that was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Restarts of all its containers.
    pub restarts: i64,
    /// Its node.
    pub node: String,
}

/// One entry of etcd's member list.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Member {
    /// The name: its pod's, empty until it was started.
    pub name: String,
    /// Its ID, as in the record.
    pub id: String,
    /// Whether it is a learner.
    pub learner: bool,
    /// Whether it ever ran.
    pub started: bool,
}

impl Release {
    /// The nodes that none of its pods is on.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn spare_nodes(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.pods().await?;
        let mut spare = nodes().await?;
        spare.retain(|node| pods.values().all(|pod| pod.node != *node));
        Ok(spare)
    }

    /// etcd's pods, by name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self) -> anyhow::Result<BTreeMap<String, Pod>> {
        let list = self.json(&["get", "pods", "-l", "app=etcd"]).await?;
        let items = list["items"].as_array().context("a list without items")?;
        Ok(items.iter().map(|pod| (text(&pod["metadata"]["name"]), Pod::of(pod))).collect())
    }

    /// Runs etcdctl in the first member's pod.
    ///
    /// # Errors
    /// When it fails.
    pub async fn etcdctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.etcdctl_in(0, arguments).await
    }

    /// Runs etcdctl in a member's pod.
    ///
    /// # Errors
    /// When it fails.
    pub async fn etcdctl_in(&self, ordinal: usize, arguments: &[&str]) -> anyhow::Result<String> {
        let pod = self.pod(ordinal);
        // The first container, however it is named.
        self.kubectl(&[&["exec", &pod, "--", "etcdctl"], arguments].concat()).await
    }

    /// `etcdctl member remove`, as a person would: once more where etcd holds members for unhealthy that have run for less
    /// than five seconds.
    ///
    /// # Errors
    /// When etcd refuses it for longer.
    pub async fn remove_member(&self, id: &str) -> anyhow::Result<()> {
        until("etcd removes it", Duration::from_secs(30), async || {
            self.etcdctl(&["member", "remove", id]).await.map(drop)
        })
        .await
    }

    /// etcd's member list.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn members(&self) -> anyhow::Result<Vec<Member>> {
        self.members_seen_by(0).await
    }

    /// etcd's member list, asked in a member's pod.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn members_seen_by(&self, ordinal: usize) -> anyhow::Result<Vec<Member>> {
        // Not JSON: there IDs are numbers that an f64 does not hold.
        let printed = self.etcdctl_in(ordinal, &["member", "list", "-w", "simple"]).await?;
        let mut members = Vec::new();
        for line in printed.lines() {
            let words: Vec<&str> = line.split(", ").collect();
            let [id, status, name, _peers, _clients, learner] = words[..] else {
                anyhow::bail!("etcdctl member list printed {line:?}");
            };
            members.push(Member {
                name: name.to_owned(),
                id: format!("{id:0>16}"),
                learner: learner == "true",
                started: status == "started",
            });
        }
        members.sort();
        Ok(members)
    }

    /// The ordinal of the member that leads.
    ///
    /// # Errors
    /// When nobody does, or the members do not answer.
    pub async fn leader(&self) -> anyhow::Result<usize> {
        let status = self.etcdctl(&["endpoint", "status", "--cluster", "-w", "json"]).await?;
        let status: Value = serde_json::from_str(&status)?;
        let all = status.as_array().context("no status")?;
        let leads = |it: &&Value| it["Status"]["leader"] == it["Status"]["header"]["member_id"];
        let leader = all.iter().find(leads).and_then(|it| it["Status"]["leader"].as_u64()).context("nobody leads")?;
        let members = self.members().await?;
        let leader = members.iter().find(|member| member.id == format!("{leader:016x}"));
        let name = &leader.context("the leader is not in the member list")?.name;
        let ordinal = name.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse().ok());
        ordinal.with_context(|| format!("the leader is {name}"))
    }

    /// Makes a member lead.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn make_lead(&self, ordinal: usize) -> anyhow::Result<()> {
        let members = self.members().await?;
        let id = &members.iter().find(|member| member.name == self.pod(ordinal)).context("no such member")?.id;
        until("it leads", LEADS, async || {
            let leader = self.leader().await?;
            if leader == ordinal {
                return Ok(());
            }
            self.etcdctl_in(leader, &["move-leader", id]).await?;
            bail!("asked for just now")
        })
        .await
    }

    /// The hash that each member holds at one revision, by endpoint.
    ///
    /// # Errors
    /// When a member does not answer.
    pub async fn hashes(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let status: Value = serde_json::from_str(&self.etcdctl(&["endpoint", "status", "-w", "json"]).await?)?;
        let at = format!("--rev={}", status[0]["Status"]["header"]["revision"]);
        let printed = self.etcdctl(&["endpoint", "hashkv", "--cluster", &at, "-w", "simple"]).await?;
        let lines = printed.lines().filter_map(|line| line.split_once(", "));
        Ok(lines.map(|(endpoint, hash)| (endpoint.to_owned(), hash.to_owned())).collect())
    }

    /// The value of an environment variable of etcd in the live StatefulSet, and how often it is there.
    ///
    /// # Errors
    /// When the StatefulSet cannot be read.
    pub async fn env(&self, name: &str) -> anyhow::Result<Vec<String>> {
        let set = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        let containers = set["spec"]["template"]["spec"]["containers"].as_array().context("no containers")?;
        let etcd = containers.iter().find(|container| container["name"] == "etcd").context("no container etcd")?;
        let env = etcd["env"].as_array().into_iter().flatten();
        Ok(env.filter(|variable| variable["name"] == name).map(|variable| text(&variable["value"])).collect())
    }

    /// What was verified: the record, by ordinal.
    ///
    /// # Errors
    /// When there is none.
    pub async fn record(&self) -> anyhow::Result<Value> {
        let set = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        let record = set["metadata"]["annotations"]["etcd-scaler.io/record"].as_str().context("there is no record")?;
        Ok(serde_json::from_str(record)?)
    }

    /// That these are the voting members 0 to `count` - 1, all started, recorded, none else, and
    /// that all hold the same.
    ///
    /// # Errors
    /// What is not so.
    pub async fn is_settled(&self, count: usize) -> anyhow::Result<()> {
        let members = self.members().await?;
        let expected: Vec<String> = (0..count).map(|ordinal| self.pod(ordinal)).collect();
        let found: Vec<String> = members.iter().map(|member| member.name.clone()).collect();
        ensure!(found == expected, "the members are {found:?}");
        ensure!(members.iter().all(|m| m.started && !m.learner), "not all are started voters: {members:?}");
        let record = self.record().await?;
        for (ordinal, member) in members.iter().enumerate() {
            let recorded = &record["members"][ordinal.to_string()];
            ensure!(
                recorded["id"] == member.id.as_str() && recorded["state"] == "member",
                "{} is {}, the record says {recorded}",
                member.name,
                member.id
            );
        }
        let recorded = record["members"].as_object().map_or(0, serde_json::Map::len);
        ensure!(recorded == count, "the record has {recorded} members: {record}");
        // Under load a member may not have applied the revision yet that another answered with.
        let hashes = until("every member answers for a revision", HASHES, async || self.hashes().await).await?;
        let mut values: Vec<&String> = hashes.values().collect();
        values.dedup();
        ensure!(hashes.len() == count && values.len() == 1, "the members' hashes are {hashes:?}");
        Ok(())
    }

    /// That the live StatefulSet names exactly these peers, once, on one line. Only where its pods are made from it,
    /// which they are not while a partition of ours is in force, may it also name nobody ([`NO_START_WITHOUT_DATA`]).
    ///
    /// # Errors
    /// What is not so.
    pub async fn names_peers(&self, count: usize) -> anyhow::Result<()> {
        let cluster = self.env("ETCD_INITIAL_CLUSTER").await?;
        let [cluster] = cluster.as_slice() else { bail!("ETCD_INITIAL_CLUSTER is {cluster:?}") };
        let rolls = self.kept_partition().await?.is_none();
        let peers = cluster.strip_suffix(NO_START_WITHOUT_DATA).filter(|_| rolls).unwrap_or(cluster);
        ensure!(peers == self.initial_cluster(count), "ETCD_INITIAL_CLUSTER is {cluster:?}");
        let state = self.env("ETCD_INITIAL_CLUSTER_STATE").await?;
        ensure!(state == ["existing"], "ETCD_INITIAL_CLUSTER_STATE is {state:?}");
        Ok(())
    }

    /// That a pod which is made from the live StatefulSet starts on its own data only.
    ///
    /// # Errors
    /// What is not so.
    pub async fn starts_nobody_empty(&self) -> anyhow::Result<()> {
        let cluster = self.env("ETCD_INITIAL_CLUSTER").await?;
        let ends = |cluster: &String| cluster.ends_with(NO_START_WITHOUT_DATA);
        ensure!(cluster.iter().all(ends) && cluster.len() == 1, "ETCD_INITIAL_CLUSTER is {cluster:?}");
        Ok(())
    }

    /// That the pods of `before` are the same ones, and no container of any etcd pod restarted.
    ///
    /// # Errors
    /// What is not so.
    pub async fn kept(&self, before: &BTreeMap<String, Pod>) -> anyhow::Result<()> {
        let now = self.pods().await?;
        for (name, pod) in before {
            ensure!(now.get(name) == Some(pod), "{name} was {pod:?} and is {:?}", now.get(name));
        }
        let restarted: Vec<_> = now.iter().filter(|(_, pod)| pod.restarts > 0).collect();
        ensure!(restarted.is_empty(), "restarts: {restarted:?}");
        Ok(())
    }
}

impl Pod {
    fn of(pod: &Value) -> Self {
        let statuses = ["containerStatuses", "initContainerStatuses"].map(|kind| pod["status"][kind].as_array());
        let restarts = statuses.into_iter().flatten().flatten().filter_map(|status| status["restartCount"].as_i64());
        Self { uid: text(&pod["metadata"]["uid"]), restarts: restarts.sum(), node: text(&pod["spec"]["nodeName"]) }
    }
}

/// A string, or nothing.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
