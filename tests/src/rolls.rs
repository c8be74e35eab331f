//! What happened to etcd's pods while something rolled: told by a watch, so nothing that was too
//! short for a poll is missed.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch::{self, Receiver};

use crate::members::{Member, text};
use crate::process::until;
use crate::release::{Release, now};

/// A line for each event of the watch.
const LINE: &str = concat!(
    "jsonpath={.type}|{.object.metadata.name}|{.object.metadata.uid}|{.object.metadata.deletionTimestamp}|",
    "{.object.status.conditions[?(@.type==\"Ready\")].status}|{.object.spec.containers[0].image}{\"\\n\"}"
);

/// A pod as the watch told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// Milliseconds since 1970, when it was read.
    pub at: i64,
    /// The pod.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Ready, and not being deleted.
    pub serves: bool,
    /// The image of its etcd.
    pub image: String,
}

impl Look {
    fn of(line: &str, at: i64) -> Option<Self> {
        let words: Vec<&str> = line.split('|').collect();
        let [kind, name, uid, deleted, ready, image] = words[..] else { return None };
        let serves = kind != "DELETED" && deleted.is_empty() && ready == "True";
        Some(Self { at, name: name.into(), uid: uid.into(), serves, image: image.into() })
    }
}

/// A watch of a release's etcd pods.
pub struct Watch {
    child: Child,
    looks: Receiver<Vec<Look>>,
}

impl Watch {
    /// Starts it; returns when it has told this many pods.
    ///
    /// # Errors
    /// When it does not.
    pub async fn start(release: &Release, pods: usize) -> anyhow::Result<Self> {
        let mut command = Command::new("kubectl");
        command.args(["-n", &release.namespace, "get", "pods", "-l", "app=etcd", "-w", "--output-watch-events"]);
        command.args(["-o", LINE]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("failed to start kubectl: is it on PATH?")?;
        let mut lines = BufReader::new(child.stdout.take().context("kubectl has no output")?).lines();
        let (sender, looks) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|looks: &mut Vec<Look>| looks.extend(Look::of(&line, now())));
            }
        });
        let watch = Self { child, looks };
        until("the watch tells every pod", Duration::from_secs(30), async || {
            let told: BTreeSet<String> = watch.looks().into_iter().map(|look| look.name).collect();
            ensure!(told.len() >= pods, "told: {told:?}");
            Ok(())
        })
        .await?;
        Ok(watch)
    }

    /// What it has told until now.
    #[must_use]
    pub fn looks(&self) -> Vec<Look> {
        self.looks.borrow().clone()
    }

    /// Ends it; what it has told.
    ///
    /// # Errors
    /// When it had ended before: then something may have been missed.
    pub async fn stop(mut self) -> anyhow::Result<Vec<Look>> {
        if let Some(ended) = self.child.try_wait()? {
            anyhow::bail!("the watch of the pods had ended: {ended}");
        }
        self.child.kill().await?;
        Ok(self.looks())
    }
}

/// The pods that were made again, in order, with the time at which each new one was first told.
#[must_use]
pub fn made_again(looks: &[Look]) -> Vec<(i64, String)> {
    let mut uids: BTreeMap<&str, &str> = BTreeMap::new();
    let mut made = Vec::new();
    for look in looks {
        let before = uids.insert(&look.name, &look.uid);
        if before.is_some_and(|before| before != look.uid) {
            made.push((look.at, look.name.clone()));
        }
    }
    made
}

/// The most pods that did not serve at one moment, from the first moment at which all did.
#[must_use]
pub fn most_down(looks: &[Look]) -> Vec<String> {
    let names: BTreeSet<&str> = looks.iter().map(|look| look.name.as_str()).collect();
    let mut serving: BTreeMap<&str, bool> = BTreeMap::new();
    let mut all_were_up = false;
    let mut most = Vec::new();
    for look in looks {
        serving.insert(&look.name, look.serves);
        let down: Vec<String> =
            names.iter().filter(|name| serving.get(**name) != Some(&true)).map(|name| (*name).to_owned()).collect();
        all_were_up |= down.is_empty();
        if all_were_up && down.len() > most.len() {
            most = down;
        }
    }
    most
}

/// What a member must keep when its pod is made again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Its entry in the member list: the ID, and that it is a voter.
    pub member: Member,
    /// The node of its pod.
    pub node: String,
    /// The volume of its claim.
    pub volume: String,
}

impl Release {
    /// What each member holds, by its pod's name.
    ///
    /// # Errors
    /// When a member has no pod or no claim.
    pub async fn held(&self) -> anyhow::Result<BTreeMap<String, Held>> {
        let (pods, claims) = (self.pods().await?, self.json(&["get", "pvc"]).await?);
        let claims = claims["items"].as_array().context("a list without items")?;
        let mut held = BTreeMap::new();
        for member in self.members().await? {
            let name = member.name.clone();
            let node = pods.get(&name).with_context(|| format!("no pod {name:?}"))?.node.clone();
            let claim = claims.iter().find(|claim| claim["metadata"]["name"] == format!("data-{name}"));
            let volume = text(&claim.with_context(|| format!("no claim data-{name}"))?["spec"]["volumeName"]);
            held.insert(name, Held { member, node, volume });
        }
        Ok(held)
    }

    /// The partition in the live StatefulSet; absent is 0, as Kubernetes has it.
    ///
    /// # Errors
    /// When the StatefulSet cannot be read.
    pub async fn partition(&self) -> anyhow::Result<u64> {
        let set = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        Ok(set["spec"]["updateStrategy"]["rollingUpdate"]["partition"].as_u64().unwrap_or(0))
    }

    /// The partition of the chart or a person that is kept while ours is in force.
    ///
    /// # Errors
    /// When the StatefulSet cannot be read.
    pub async fn kept_partition(&self) -> anyhow::Result<Option<String>> {
        let set = self.json(&["get", "statefulset", &self.statefulset()]).await?;
        Ok(set["metadata"]["annotations"]["etcd-scaler.io/partition"].as_str().map(str::to_owned))
    }

    /// The image of each member's etcd, by its pod's name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn images(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let list = self.json(&["get", "pods", "-l", "app=etcd"]).await?;
        let items = list["items"].as_array().context("a list without items")?;
        let of = |pod: &serde_json::Value| {
            let containers = pod["spec"]["containers"].as_array().into_iter().flatten();
            let mut etcd = containers.filter(|container| container["name"] == "etcd");
            etcd.next().map(|etcd| (text(&pod["metadata"]["name"]), text(&etcd["image"])))
        };
        Ok(items.iter().filter_map(of).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(name: &str, uid: &str, serves: bool) -> Look {
        Look { at: 0, name: name.into(), uid: uid.into(), serves, image: "etcd:1".into() }
    }

    #[test]
    fn a_line_of_the_watch_is_read() {
        let read = Look::of("ADDED|e-0|u0||True|localhost/etcd:1", 0);
        assert_eq!(read, Some(Look { image: "localhost/etcd:1".into(), ..look("e-0", "u0", true) }));
        for not_serving in ["DELETED|e-0|u0||True|etcd:1", "MODIFIED|e-0|u0|2026-01-01T00:00:00Z|True|etcd:1"] {
            assert_eq!(Look::of(not_serving, 0), Some(look("e-0", "u0", false)));
        }
        assert_eq!(Look::of("MODIFIED|e-0|u0|||etcd:1", 0), Some(look("e-0", "u0", false)), "not scheduled yet");
        assert_eq!(Look::of("Error from server", 0), None);
    }

    #[test]
    fn one_after_another_is_never_two_down() {
        let looks = [
            look("e-0", "a", true),
            look("e-1", "b", true),
            look("e-1", "b", false),
            look("e-1", "c", false),
            look("e-1", "c", true),
            look("e-0", "a", false),
            look("e-0", "d", true),
        ];
        assert_eq!(most_down(&looks).len(), 1);
        let order: Vec<String> = made_again(&looks).into_iter().map(|(_, name)| name).collect();
        assert_eq!(order, ["e-1", "e-0"]);
    }

    #[test]
    fn two_at_once_are_seen_however_short() {
        let looks = [
            look("e-0", "a", true),
            look("e-1", "b", true),
            look("e-1", "b", false),
            look("e-0", "a", false),
            look("e-0", "c", true),
        ];
        assert_eq!(most_down(&looks), ["e-0", "e-1"]);
    }
}
