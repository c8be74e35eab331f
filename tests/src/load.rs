//! The load of a scenario: the pod that puts keys all the time, and what it tells.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::journal;
use crate::process::{apply, run, until};
use crate::referee::history::ReadBack;
use crate::referee::watch::state_volume;
use crate::release::{Ran, Release};

/// Reading some ten thousand keys back from every member.
const VERIFY: Duration = Duration::from_secs(120);

/// A running load on a release's etcd.
pub struct Load<'a> {
    release: &'a Release,
}

/// How the member list stood from one moment on.
#[derive(Debug)]
pub struct Seen {
    /// Milliseconds since 1970.
    pub at: i64,
    /// Those that are unstarted: peer URLs.
    pub unstarted: Vec<String>,
    /// Those that are learners: peer URLs.
    pub learners: Vec<String>,
    /// All: peer URLs.
    pub all: Vec<String>,
}

/// How one member joined, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub struct Join {
    /// Its ordinal.
    pub ordinal: usize,
    /// When it was added, since 1970.
    pub added: i64,
    /// When it was promoted, since 1970.
    pub promoted: i64,
    /// How long it was in the list without having started.
    pub unstarted: i64,
}

impl Join {
    /// From `member add` to promotion.
    #[must_use]
    pub fn took(&self) -> i64 {
        self.promoted - self.added
    }
}

impl<'a> Load<'a> {
    /// Starts three clients that put about 100 keys a second in all; returns when keys are being
    /// acknowledged.
    ///
    /// # Errors
    /// When none is within half a minute.
    pub async fn start(release: &'a Release) -> anyhow::Result<Self> {
        Self::begin(release, "30ms").await
    }

    /// The same with about 300 keys a second: for what is measured, and where many are promised. Each is
    /// forced to each member's disk, which is most of what a scenario costs a small machine.
    ///
    /// # Errors
    /// When none is acknowledged within half a minute.
    pub async fn busy(release: &'a Release) -> anyhow::Result<Self> {
        Self::begin(release, "10ms").await
    }

    async fn begin(release: &'a Release, pause: &str) -> anyhow::Result<Self> {
        let endpoint = format!("http://{}:2379", release.statefulset());
        let state = state_volume(&release.namespace);
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "traffic", "namespace": release.namespace },
            "spec": {
                // Its node may be lost: it goes on where it was.
                "restartPolicy": "OnFailure",
                "terminationGracePeriodSeconds": 1,
                "automountServiceAccountToken": false,
                "securityContext": {
                    "runAsNonRoot": true, "runAsUser": 65532, "fsGroup": 65532,
                    "seccompProfile": { "type": "RuntimeDefault" },
                },
                "containers": [{
                    "name": "traffic",
                    "image": release.images.traffic,
                    "imagePullPolicy": "IfNotPresent",
                    "args": ["write", "--endpoint", endpoint, "--clients", "3", "--pause", pause, "--state", "/state"],
                    "securityContext": {
                        "allowPrivilegeEscalation": false,
                        "readOnlyRootFilesystem": true,
                        "capabilities": { "drop": ["ALL"] },
                    },
                    "volumeMounts": [{ "name": state, "mountPath": "/state" }],
                }],
                "volumes": [{ "name": state, "emptyDir": {} }],
            },
        });
        apply(&pod).await?;
        let load = Self { release };
        until("keys are acknowledged", Duration::from_secs(30), async || {
            let stats = load.stats().await?;
            ensure!(stats["acknowledged"].as_u64() > Some(100), "so far: {stats}");
            Ok(())
        })
        .await?;
        Ok(load)
    }

    /// The load that an earlier part of a scenario started, if one did.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn of(release: &'a Release) -> anyhow::Result<Option<Self>> {
        let pod = release.kubectl(&["get", "pod", "traffic", "--ignore-not-found", "-o", "name"]).await?;
        Ok((!pod.is_empty()).then_some(Self { release }))
    }

    async fn traffic(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let exec = ["-n", &self.release.namespace, "exec", "traffic", "--", "/traffic"];
        run("kubectl", [&exec, arguments].concat(), "", VERIFY).await?.ok()
    }

    /// What was acknowledged so far.
    ///
    /// # Errors
    /// When the load does not run.
    pub async fn stats(&self) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&self.traffic(&["stats"]).await?)?)
    }

    /// That everything acknowledged until now is read back from each of these members; what was
    /// acknowledged while a command ran is in `window`. The load goes on.
    ///
    /// # Errors
    /// What is not so.
    pub async fn lost_nothing(&self, members: usize, during: &Ran) -> anyhow::Result<Value> {
        let urls: Vec<String> =
            (0..members).map(|o| format!("{}=http://{}:2379", self.release.pod(o), self.release.host(o))).collect();
        let (from, to) = (during.from.to_string(), during.to.to_string());
        let command = ["verify", "--running", "--members", &urls.join(","), "--from", &from, "--to", &to];
        let counts: Value = serde_json::from_str(&self.traffic(&command).await?)?;
        let read = counts["members"].as_object().context("no member was read")?;
        ensure!(read.len() == members, "{} members were read", read.len());
        for (member, read) in read {
            ensure!(read["read"] == counts["acknowledged"], "{member}: {counts}");
        }
        Ok(counts)
    }

    /// What each of these members holds of what was acknowledged until now. The load goes on.
    ///
    /// # Errors
    /// When a member does not answer.
    pub async fn read_back(&self, members: &[String]) -> anyhow::Result<Vec<ReadBack>> {
        let host = |pod: &String| self.release.host(0).replacen(&self.release.pod(0), pod, 1);
        let url = |pod: &String| format!("{pod}=http://{}:2379", host(pod));
        let urls: Vec<String> = members.iter().map(url).collect();
        let exec = ["-n", &self.release.namespace, "exec", "traffic", "--", "/traffic"];
        let verify = ["verify", "--running", "--members", &urls.join(",")];
        // It fails when something is lost, and has said what.
        let ended = run("kubectl", [&exec[..], &verify].concat(), "", VERIFY).await?;
        let Ok(counts) = serde_json::from_str::<Value>(&ended.stdout) else {
            bail!("{} failed:\n{}", ended.command, ended.printed());
        };
        let examples: Vec<&str> =
            counts["examples"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let read = counts["members"].as_object().context("no member was read")?;
        Ok(read
            .iter()
            .map(|(member, read)| ReadBack {
                member: member.clone(),
                lost: read["lost"].as_u64().unwrap_or(u64::MAX),
                wrong: read["wrong"].as_u64().unwrap_or(u64::MAX),
                examples: examples
                    .iter()
                    .filter(|it| it.starts_with(member.as_str()))
                    .map(|&it| it.to_owned())
                    .collect(),
            })
            .collect())
    }

    /// What the clients noted: the text of each file, by its name.
    ///
    /// # Errors
    /// When the load's pod cannot be asked.
    pub async fn journals(&self) -> anyhow::Result<Vec<(String, String)>> {
        let printed = self.traffic(&["journals"]).await?;
        Ok(journal::files(&printed))
    }

    /// How the member list changed, from the last state before `from` on.
    ///
    /// # Errors
    /// When the load does not run.
    pub async fn member_lists(&self, from: i64) -> anyhow::Result<Vec<Seen>> {
        let printed = self.traffic(&["members"]).await?;
        let mut seen = Vec::new();
        for line in printed.lines() {
            seen.push(Seen::of(&serde_json::from_str(line)?)?);
        }
        let first = seen.iter().rposition(|seen| seen.at < from).unwrap_or(0);
        Ok(seen.split_off(first))
    }

    /// How these members joined, as a client saw it. Never were two unstarted or two learners.
    ///
    /// # Errors
    /// When that is not so, or a member did not join.
    pub async fn joins(&self, from: i64, ordinals: Range<usize>) -> anyhow::Result<Vec<Join>> {
        let lists = self.member_lists(from).await?;
        for seen in &lists {
            ensure!(seen.unstarted.len() <= 1, "two unstarted members at once: {seen:?}");
            ensure!(seen.learners.len() <= 1, "two learners at once: {seen:?}");
        }
        let joins = ordinals.map(|ordinal| {
            let url = self.release.peer_url(ordinal);
            let from = lists.iter().position(|seen| seen.all.contains(&url));
            let its = &lists[from.with_context(|| format!("{url} was never in the member list"))?..];
            let at = |what, then: &dyn Fn(&Seen) -> bool| {
                let seen = its.iter().find(|seen| then(seen));
                seen.map(|seen| seen.at).with_context(|| format!("{url} was never {what}"))
            };
            let added = at("added", &|_| true)?;
            let started = at("started", &|seen| !seen.unstarted.contains(&url))?;
            let promoted = at("promoted", &|seen| seen.at >= started && !seen.learners.contains(&url))?;
            Ok(Join { ordinal, added, promoted, unstarted: started - added })
        });
        joins.collect()
    }
}

impl Seen {
    fn of(line: &Value) -> anyhow::Result<Self> {
        let members = line["members"].as_array().context("no members")?;
        let urls = |which: &dyn Fn(&Value) -> bool| -> Vec<String> {
            let some = members.iter().filter(|member| which(member));
            some.filter_map(|member| member["peer_urls"][0].as_str().map(str::to_owned)).collect()
        };
        Ok(Self {
            at: line["at"].as_i64().context("no time")?,
            unstarted: urls(&|member| member["started"] == false),
            learners: urls(&|member| member["learner"] == true),
            all: urls(&|_| true),
        })
    }
}
