//! A member's disk on its node: looked into, edited, lost, given back. Only on the bed, whose nodes can be
//! entered.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use crate::cluster::in_node;
use crate::faults::{freeze_container, kill_container, kill_node, start_node};
use crate::members::{Member, text};
use crate::process::{kubectl_json, run, until};
use crate::release::Release;

/// Two refusals, the second after a pause of the kubelet: 10 s, doubled each time, 300 s at most.
const REFUSALS: Duration = Duration::from_secs(660);
/// The kubelet's longest pause after as many refusals, and a member's start.
const BACK: Duration = Duration::from_secs(420);
/// How often etcd must have refused to start before that is believed.
const TWICE: i64 = 2;
/// A key of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEY: &str = "traffic/900/0000000000";

/// Where a member's volume lies.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The node.
    pub node: String,
    /// The directory on it.
    pub path: String,
}

impl Disk {
    async fn shell(&self, script: &str) -> anyhow::Result<String> {
        in_node(&self.node, &["sh", "-ec", script, "sh", &self.path]).await
    }

    /// Every file and directory on it, as paths below the data directory's parent.
    ///
    /// # Errors
    /// When the node cannot be entered.
    pub async fn content(&self) -> anyhow::Result<Vec<String>> {
        let printed = self.shell("find \"$1\" -mindepth 1 -printf '%P\\n' | sort").await?;
        Ok(printed.lines().map(str::to_owned).collect())
    }

    /// Moves its content away: for whoever is started now, it is empty. Kept beside it, so that
    /// the member can be given its own data back.
    ///
    /// # Errors
    /// When the node cannot be entered, or its content is away already.
    pub async fn lose(&self) -> anyhow::Result<()> {
        let move_away = "mkdir \"$1.lost\"; find \"$1\" -mindepth 1 -maxdepth 1 -exec mv -t \"$1.lost\" {} +";
        self.shell(move_away).await?;
        ensure!(self.content().await?.is_empty(), "{self:?} is not empty");
        Ok(())
    }

    /// Puts its content back, in the place of what was written there meanwhile.
    ///
    /// # Errors
    /// When the node cannot be entered, or nothing was away.
    pub async fn give_back(&self) -> anyhow::Result<()> {
        // Its etcd may begin again in between and make its directory anew: what is in the way is taken
        // away again, a hundred times at most.
        let move_back = r#"
            find "$1" -mindepth 1 -delete || :
            for lost in $(find "$1.lost" -mindepth 1 -maxdepth 1); do
                place="$1/${lost##*/}" times=0
                until rm -rf "$place" && mv -T "$lost" "$place"; do
                    times=$((times + 1))
                    [ "$times" -lt 100 ]
                done
            done
            rmdir "$1.lost""#;
        self.shell(move_back).await.map(drop)
    }
}

/// A member of a cluster that is restored from a snapshot.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The file, on this machine.
    pub snapshot: PathBuf,
    /// The ordinals of all members of the restored cluster.
    pub members: Vec<usize>,
}

impl Release {
    /// `etcdctl snapshot save` of the first member, to a file.
    ///
    /// # Errors
    /// When etcdctl fails.
    pub async fn snapshot(&self, file: &Path) -> anyhow::Result<()> {
        let endpoint = format!("--endpoints=http://{}:2379", self.host(0));
        let save = [&endpoint, "snapshot", "save", &file.to_string_lossy()];
        run("etcdctl", save, "", Duration::from_secs(30)).await?.ok().map(drop)
    }

    /// `etcdutl snapshot restore` in the place of what is on a member's disk, which is kept beside it;
    /// another token than the chart's, as etcd's documentation asks for: the cluster has another ID.
    ///
    /// # Errors
    /// When the node cannot be entered, or etcdutl fails.
    pub async fn restore(&self, disk: &Disk, ordinal: usize, from: &Restored) -> anyhow::Result<()> {
        let restore = "mkdir \"$1.before\"; find \"$1\" -mindepth 1 -maxdepth 1 -exec mv -t \"$1.before\" {} +; \
            etcdutl snapshot restore \"$2\" --data-dir \"$1/data\" --name \"$3\" --initial-advertise-peer-urls \"$4\" \
            --initial-cluster \"$5\" --initial-cluster-token restored; \
            chown -R --reference=\"$1.before/data\" \"$1/data\"";
        let peers: Vec<String> =
            from.members.iter().map(|&o| format!("{}={}", self.pod(o), self.peer_url(o))).collect();
        let snapshot = from.snapshot.to_string_lossy();
        let (pod, url, peers) = (self.pod(ordinal), self.peer_url(ordinal), peers.join(","));
        let command = ["sh", "-ec", restore, "sh", &disk.path, &snapshot, &pod, &url, &peers];
        in_node(&disk.node, &command).await.map(drop)
    }

    /// The same while its etcd stands still, which is then started again on it in the same pod.
    ///
    /// # Errors
    /// When a step of it fails.
    pub async fn restore_running(&self, ordinal: usize, from: &Restored) -> anyhow::Result<()> {
        let disk = self.disk(ordinal).await?;
        let etcd = self.running(&self.pod(ordinal), "etcd").await?;
        freeze_container(&etcd.node, &etcd.id).await?;
        self.restore(&disk, ordinal, from).await?;
        kill_container(&etcd.node, &etcd.id).await
    }

    /// `etcd --force-new-cluster` on a member's data, kept beside it as it was, while its own etcd stands
    /// still, which is then started again on it in the same pod: a cluster of one, under the same IDs.
    ///
    /// # Errors
    /// When a step of it fails.
    pub async fn force_new_cluster(&self, ordinal: usize) -> anyhow::Result<()> {
        // On ports of the node's that nobody else uses there; what it advertises, the real start mends.
        let force = r#"
            mkdir "$1.before"
            find "$1" -mindepth 1 -maxdepth 1 -exec mv -t "$1.before" {} +
            cp -a "$1.before/." "$1/"
            peer=http://127.0.0.1:22380 client=http://127.0.0.1:22379
            etcd --force-new-cluster --name "$2" --data-dir "$1/data" --initial-cluster "$2=$peer" \
                --initial-advertise-peer-urls $peer --listen-peer-urls $peer \
                --advertise-client-urls $client --listen-client-urls $client >"$1.forced" 2>&1 &
            trap "kill -9 $! 2>/dev/null || :" EXIT
            timeout 60 sh -c "until etcdctl --endpoints=$client endpoint health; do sleep 0.2; done"
            kill $!
            wait $! || :
            chown -R --reference="$1.before/data" "$1/data""#;
        let disk = self.disk(ordinal).await?;
        let etcd = self.running(&self.pod(ordinal), "etcd").await?;
        freeze_container(&etcd.node, &etcd.id).await?;
        in_node(&disk.node, &["sh", "-ec", force, "sh", &disk.path, &self.pod(ordinal)]).await?;
        kill_container(&etcd.node, &etcd.id).await
    }
}

/// What starts etcd again on the empty disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// The kubelet, in the same pod.
    Container,
    /// The node, in the same pod, whose init containers run again.
    Node,
    /// A pod that the StatefulSet controller makes.
    Pod,
}

/// A member whose disk is empty and whose etcd is being started on it.
#[derive(Debug)]
pub struct Lost {
    /// Its ordinal.
    pub ordinal: usize,
    /// The empty disk.
    pub disk: Disk,
    /// The container that ran on the data: what is Ready under another ID was started on nothing.
    container: String,
    restarts: i64,
}

impl Release {
    /// A member's disk.
    ///
    /// # Errors
    /// When its claim is bound to no directory of a node.
    pub async fn disk(&self, ordinal: usize) -> anyhow::Result<Disk> {
        let pod = self.pod(ordinal);
        let claim = format!("data-{pod}");
        let volume = self.kubectl(&["get", "pvc", &claim, "-o", "jsonpath={.spec.volumeName}"]).await?;
        let spec = &kubectl_json(["get", "pv", &volume]).await?["spec"];
        let path = ["hostPath", "local"].into_iter().find_map(|kind| spec[kind]["path"].as_str());
        let path = path.with_context(|| format!("volume {volume} is no directory of a node: {spec}"))?.to_owned();
        let node = self.pods().await?.remove(&pod).with_context(|| format!("{pod} is not there"))?.node;
        Ok(Disk { node, path })
    }

    /// Edits a member's database while it is stopped: each of these, as sed has it, by as many bytes. Pages of keys have
    /// no checksum, and etcd reads its index from the stored keys when it starts.
    ///
    /// # Errors
    /// When one of them is not in it, or the member does not come back.
    pub async fn edit_database(&self, ordinal: usize, edits: &[(String, String)]) -> anyhow::Result<()> {
        let edit = r#"
            file=$(find "$1" -path '*/member/snap/db')
            LC_ALL=C sed "s|$2|$3|g" "$file" >"$file.edited"
            if cmp -s "$file" "$file.edited"; then
                echo "$2 is not in $file" >&2
                exit 1
            fi
            cat "$file.edited" >"$file"
            rm "$file.edited""#;
        let (node, path) = self.volume_on_node(ordinal).await?;
        self.take_down(&[ordinal]).await?;
        for (from, to) in edits {
            in_node(&node, &["sh", "-ec", edit, "sh", &path, from, to]).await?;
        }
        self.bring_back().await
    }

    /// The status of a member's etcd container, `null` while it has none.
    async fn etcd_status(&self, ordinal: usize) -> anyhow::Result<Value> {
        let pod = self.json(&["get", "pod", &self.pod(ordinal)]).await?;
        let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
        Ok(statuses.into_iter().find(|status| status["name"] == "etcd").cloned().unwrap_or_default())
    }

    /// Empties a member's disk while its etcd stands still, and has etcd started again.
    ///
    /// # Errors
    /// When a step of it fails.
    pub async fn lose_disk(&self, ordinal: usize, start: Start) -> anyhow::Result<Lost> {
        let (name, disk) = (self.pod(ordinal), self.disk(ordinal).await?);
        let status = self.etcd_status(ordinal).await?;
        let etcd = self.running(&name, "etcd").await?;
        freeze_container(&etcd.node, &etcd.id).await?;
        disk.lose().await?;
        match start {
            Start::Container => kill_container(&etcd.node, &etcd.id).await?,
            Start::Pod => self.kubectl(&["delete", "pod", &name, "--grace-period=1"]).await.map(drop)?,
            Start::Node => {
                kill_node(&disk.node).await?;
                start_node(&disk.node).await?;
            }
        }
        let restarts = if start == Start::Pod { 0 } else { status["restartCount"].as_i64().unwrap_or(0) };
        Ok(Lost { ordinal, disk, container: text(&status["containerID"]), restarts })
    }

    /// That a member whose disk was lost refuses to start: it ends by itself, twice, is never Ready
    /// and never answers, and nothing of a member is on the disk. What its etcd says, as
    /// `kubectl describe pod` has it.
    ///
    /// # Errors
    /// What is not so.
    pub async fn refuses_to_start(&self, lost: &Lost, asked_in: Option<usize>) -> anyhow::Result<String> {
        let name = self.pod(lost.ordinal);
        let said = until("it has refused to start twice", REFUSALS, async || {
            let status = self.etcd_status(lost.ordinal).await?;
            let new = status["containerID"].as_str().is_some_and(|id| !id.is_empty() && id != lost.container);
            if new && status["ready"] == true {
                // Ends the wait: what must never be is not waited away.
                return Ok(Err(format!("{name} is Ready on an empty disk: {status}")));
            }
            if let Some(other) = asked_in
                && let Ok(answer) = self.answers(lost.ordinal, other).await
            {
                return Ok(Err(format!("{name} answers on an empty disk: {answer}")));
            }
            let restarts = status["restartCount"].as_i64().unwrap_or(0);
            ensure!(restarts >= lost.restarts + TWICE, "{name} has {restarts} restarts: {status}");
            let ended = [&status["state"], &status["lastState"]].into_iter().map(|state| &state["terminated"]);
            let ended = ended.into_iter().find(|ended| ended.is_object()).context("it has not ended")?;
            Ok(match ended["exitCode"].as_i64() {
                Some(code) if code != 0 => Ok(text(&ended["message"])),
                _ => Err(format!("{name} ended without an error: {ended}")),
            })
        })
        .await?;
        let said = match said {
            Ok(said) => said,
            Err(violation) => bail!(violation),
        };
        let content = lost.disk.content().await?;
        let logs: Vec<&String> = content.iter().filter(|path| path.ends_with(".wal")).collect();
        ensure!(logs.is_empty(), "{name} has begun a log on the empty disk: {content:?}");
        let reason = said.lines().filter_map(reason).next_back();
        reason.with_context(|| format!("{name} does not say why it ended: {said}"))
    }

    /// What a member tells about itself, asked over the network from another's pod.
    async fn answers(&self, ordinal: usize, other: usize) -> anyhow::Result<String> {
        let endpoint = format!("--endpoints=http://{}:2379", self.host(ordinal));
        let ask = [&endpoint, "--command-timeout=1s", "--dial-timeout=1s", "endpoint", "status", "-w", "simple"];
        self.etcdctl_in(other, &ask).await
    }

    /// Gives a member its own data back; returns when it is Ready on it, in the pod it was lost in
    /// unless that was to go.
    ///
    /// # Errors
    /// When it does not come back.
    pub async fn give_disk_back(&self, lost: Lost) -> anyhow::Result<()> {
        let name = self.pod(lost.ordinal);
        // Between two starts: the next one is on the whole of it.
        until("etcd does not run", REFUSALS, async || {
            let status = self.etcd_status(lost.ordinal).await?;
            ensure!(status["state"]["running"].is_null(), "{name} runs: {status}");
            Ok(())
        })
        .await?;
        lost.disk.give_back().await?;
        until("the member is back on its own data", BACK, async || {
            let status = self.etcd_status(lost.ordinal).await?;
            ensure!(status["ready"] == true, "{name} is {status}");
            Ok(())
        })
        .await
    }

    /// That members go on without the others: they list the same members, acknowledge a write, each
    /// of them reads it, and all hold the same.
    ///
    /// # Errors
    /// What is not so.
    pub async fn go_on(&self, ordinals: &[usize], members: &[Member]) -> anyhow::Result<()> {
        let (&first, _) = ordinals.split_first().context("nobody goes on")?;
        let now = self.members_seen_by(first).await?;
        ensure!(now == members, "the member list was {members:?} and is {now:?}");
        let value = crate::release::now().to_string();
        self.etcdctl_in(first, &["put", KEY, &value]).await?;
        for &ordinal in ordinals {
            let own = format!("--endpoints=http://{}:2379", self.host(ordinal));
            let get = [&own, "get", KEY, "--print-value-only"];
            let read = self.etcdctl_in(ordinal, &get).await?;
            ensure!(read.trim() == value, "{} reads {read:?} instead of {value}", self.pod(ordinal));
        }
        let urls: Vec<String> = ordinals.iter().map(|&o| format!("http://{}:2379", self.host(o))).collect();
        let endpoints = format!("--endpoints={}", urls.join(","));
        let status = self.etcdctl_in(first, &[&endpoints, "endpoint", "status", "-w", "json"]).await?;
        let status: Value = serde_json::from_str(&status)?;
        let at = format!("--rev={}", status[0]["Status"]["header"]["revision"]);
        // A follower may be a moment behind the revision that another answered with.
        until("all hold the same", Duration::from_secs(15), async || {
            let hashes = self.etcdctl_in(first, &[&endpoints, "endpoint", "hashkv", &at, "-w", "simple"]).await?;
            let mut values: Vec<&str> = hashes.lines().filter_map(|line| Some(line.split_once(", ")?.1)).collect();
            let count = values.len();
            values.dedup();
            ensure!(count == ordinals.len() && values.len() == 1, "their hashes are\n{hashes}");
            Ok(())
        })
        .await
    }
}

/// The reason in a log line of etcd with which it ends.
fn reason(line: &str) -> Option<String> {
    let line: Value = serde_json::from_str(line.trim()).ok()?;
    let last = ["fatal", "panic"].iter().any(|level| line["level"] == *level);
    let (said, error) = (line["msg"].as_str()?, line["error"].as_str().unwrap_or_default());
    last.then(|| format!("{said}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_in_the_line_with_which_etcd_ends() {
        let fatal = r#"{"level":"fatal","ts":"2026-11-24T19:18:04.205131Z","caller":"etcdmain/etcd.go:183","msg":"discovery failed","error":"member 6dbaaa6ba6f8584f has already been bootstrapped","stacktrace":"…"}"#;
        assert_eq!(
            reason(fatal).as_deref(),
            Some("discovery failed: member 6dbaaa6ba6f8584f has already been bootstrapped")
        );
        assert_eq!(reason(r#"{"level":"warn","msg":"failed to find remote peer in cluster"}"#), None);
        assert_eq!(reason("panic: "), None);
    }
}
