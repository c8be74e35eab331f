//! One release of the chart, with names of its own in everything it touches.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::cluster::{Images, names, nodes, remove_on_nodes, top};
use crate::process::{Ended, apply, kubectl, kubectl_json, run};

/// Which Helm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Helm {
    /// Helm 4: applies on the server.
    V4,
    /// Helm 3: merges three ways.
    V3,
}

impl Helm {
    /// The program, as it is called in the bed; elsewhere `HELM4` and `HELM3` name others.
    fn program(self) -> String {
        let (variable, default) = match self {
            Self::V4 => ("HELM4", "helm"),
            Self::V3 => ("HELM3", "helm3"),
        };
        std::env::var(variable).unwrap_or_else(|_| default.to_owned())
    }
}

/// Where a release's volumes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Class `manual`, a name without a provisioner: our Job makes hostPath volumes.
    Manual,
    /// A class that waits for the first consumer and has a provisioner, as Mayastor's default for
    /// etcd: the bed's `bed-local`; elsewhere `PROVISIONED` names one.
    Provisioned,
}

impl Storage {
    /// The class of the claims.
    pub(crate) fn class(self) -> String {
        match self {
            Self::Manual => "manual".to_owned(),
            Self::Provisioned => std::env::var("PROVISIONED").unwrap_or_else(|_| "bed-local".to_owned()),
        }
    }
}

/// Where volumes lie on the nodes.
const HOST_PATH: &str = "/var/local/etcd-scaler-tests";
/// Longer than Helm's own time-out.
const HELM: Duration = Duration::from_secs(330);

/// A release.
#[derive(Debug)]
pub struct Release {
    /// Its namespace. Not the release's name, so that one taken for the other is seen.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The images it is made of.
    pub images: Images,
    /// Where its volumes come from.
    pub storage: Storage,
    /// Which Helm installs it.
    pub helm: Helm,
    /// Tells this run's directories from those of a run that was killed: on kept data a new
    /// installation would be the old cluster.
    run: i64,
}

/// How a Helm command ended, and when it ran (milliseconds since 1970).
#[derive(Debug)]
pub struct Ran {
    /// Its exit code and output.
    pub ended: Ended,
    /// Its start.
    pub from: i64,
    /// Its end.
    pub to: i64,
}

impl Ran {
    /// How long it took, in seconds.
    #[must_use]
    pub fn seconds(&self) -> f64 {
        // Milliseconds of one command: far from where an f64 is inexact.
        (self.to - self.from) as f64 / 1000.0
    }

    /// What it printed, if it failed.
    ///
    /// # Errors
    /// When it succeeded.
    pub fn refused(&self) -> anyhow::Result<String> {
        ensure!(!self.ended.success, "{} succeeded:\n{}", self.ended.command, self.ended.printed());
        Ok(self.ended.printed())
    }
}

/// The time, but no two the same: scenarios begin side by side, and the referee tells their
/// directories apart by it.
fn another_run() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(0);
    let now = now();
    LAST.fetch_max(now - 1, Ordering::Relaxed);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl Release {
    /// Names for a scenario.
    #[must_use]
    pub fn of(scenario: &str, helm: Helm) -> Self {
        let (namespace, name) = (format!("test-{scenario}"), format!("{scenario}-r"));
        let (images, storage) = (Images::from_environment(), Storage::Manual);
        Self { namespace, name, images, storage, helm, run: another_run() }
    }

    /// The same with other volumes.
    #[must_use]
    pub fn on(mut self, storage: Storage) -> Self {
        self.storage = storage;
        self
    }

    /// The same with this version of etcd, for example `3.4.23`.
    #[must_use]
    pub fn with_etcd(mut self, version: &str) -> Self {
        self.images.etcd = self.images.etcd_of(version);
        self
    }

    /// Prints a line that says whose it is: scenarios run side by side.
    pub fn say(&self, line: &str) {
        println!("[{}] {line}", self.namespace);
    }

    /// The StatefulSet.
    #[must_use]
    pub fn statefulset(&self) -> String {
        format!("{}-etcd", self.name)
    }

    /// The pod of an ordinal.
    #[must_use]
    pub fn pod(&self, ordinal: usize) -> String {
        format!("{}-{ordinal}", self.statefulset())
    }

    /// The host name of a member.
    #[must_use]
    pub fn host(&self, ordinal: usize) -> String {
        format!("{}.{}-headless.{}.svc.cluster.local", self.pod(ordinal), self.statefulset(), self.namespace)
    }

    /// The peer URL of a member.
    #[must_use]
    pub fn peer_url(&self, ordinal: usize) -> String {
        format!("http://{}:2380", self.host(ordinal))
    }

    /// What ETCD_INITIAL_CLUSTER must be for this many members.
    #[must_use]
    pub fn initial_cluster(&self, members: usize) -> String {
        let peers: Vec<String> = (0..members).map(|o| format!("{}={}", self.pod(o), self.peer_url(o))).collect();
        peers.join(",")
    }

    /// The claim of an ordinal.
    #[must_use]
    pub fn claim(&self, ordinal: usize) -> String {
        format!("data-{}", self.pod(ordinal))
    }

    /// The volume that our Job makes for an ordinal ([`Storage::Manual`]).
    #[must_use]
    pub fn volume(&self, ordinal: usize) -> String {
        format!("{}-volume-{ordinal}", self.name)
    }

    /// That volume's directory on the node.
    #[must_use]
    pub fn directory(&self, ordinal: usize) -> String {
        format!("{HOST_PATH}/{}/{}/pod-{ordinal}", self.name, self.run)
    }

    /// The volume that an ordinal's claim is bound to, whoever made it. With [`Storage::Manual`] it
    /// must be ours.
    ///
    /// # Errors
    /// When it is not bound, or not as the storage makes it.
    pub async fn bound_volume(&self, ordinal: usize) -> anyhow::Result<Value> {
        let claim = self.json(&["get", "pvc", &self.claim(ordinal)]).await?;
        let volume = claim["spec"]["volumeName"].as_str().unwrap_or_default();
        ensure!(claim["status"]["phase"] == "Bound" && !volume.is_empty(), "the claim is not bound: {claim}");
        if self.storage == Storage::Manual {
            ensure!(volume == self.volume(ordinal), "{} is bound to {volume}", self.claim(ordinal));
        }
        let volume = kubectl_json(["get", "pv", volume]).await?;
        ensure!(volume["status"]["phase"] == "Bound", "the volume is not bound: {volume}");
        Ok(volume)
    }

    /// Where a member's volume lies: its node, and the directory on it.
    ///
    /// # Errors
    /// When it is not bound, or is no directory of a node.
    pub async fn volume_on_node(&self, ordinal: usize) -> anyhow::Result<(String, String)> {
        let volume = self.bound_volume(ordinal).await?;
        let path = ["hostPath", "local"].iter().find_map(|kind| volume["spec"][kind]["path"].as_str());
        let path = path.with_context(|| format!("the volume is no directory of a node: {volume}"))?;
        let pod = self.pod(ordinal);
        let node = self.kubectl(&["get", "pod", &pod, "-o", "jsonpath={.spec.nodeName}"]).await?;
        ensure!(!node.is_empty(), "{pod} is on no node");
        Ok((node, path.to_owned()))
    }

    /// `kubectl -n NAMESPACE …`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        kubectl([&["-n", &self.namespace], arguments].concat()).await
    }

    /// `kubectl -n NAMESPACE … -o json`.
    ///
    /// # Errors
    /// When it fails.
    pub async fn json(&self, arguments: &[&str]) -> anyhow::Result<Value> {
        kubectl_json([&["-n", &self.namespace], arguments].concat()).await
    }

    /// Makes its namespace, which enforces Pod Security `baseline`.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn make_namespace(&self) -> anyhow::Result<()> {
        let labels = json!({ "pod-security.kubernetes.io/enforce": "baseline", "etcd-scaler-tests": "" });
        let metadata = json!({ "name": self.namespace, "labels": labels });
        apply(&json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata })).await.map(drop)
    }

    /// `helm install` with this many members.
    ///
    /// # Errors
    /// When it fails.
    pub async fn install(&self, members: usize, more: &[&str]) -> anyhow::Result<Ran> {
        let ran = self.try_install(members, more).await?;
        ran.ended.clone().ok()?;
        Ok(ran)
    }

    /// `helm install` with this many members, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_install(&self, members: usize, more: &[&str]) -> anyhow::Result<Ran> {
        self.helm("install", members, more).await
    }

    /// `helm upgrade` to this many members, to its success.
    ///
    /// # Errors
    /// When it fails.
    pub async fn upgrade(&self, members: usize, more: &[&str]) -> anyhow::Result<Ran> {
        let ran = self.try_upgrade(members, more).await?;
        ran.ended.clone().ok()?;
        Ok(ran)
    }

    /// `helm upgrade` to this many members, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_upgrade(&self, members: usize, more: &[&str]) -> anyhow::Result<Ran> {
        self.helm("upgrade", members, more).await
    }

    /// The StatefulSet as the chart alone has it, without a look at the cluster: what a program applies
    /// that only renders.
    ///
    /// # Errors
    /// When it cannot be rendered.
    pub async fn rendered(&self, members: usize) -> anyhow::Result<String> {
        let (chart, values) = (chart(), self.values(members).await?);
        let only = "templates/etcd/statefulset.yaml";
        let ran = self.run_helm(&["template", &self.name, &chart, "--set", &values, "-s", only]).await?;
        ran.ended.ok()
    }

    /// One of the chart's templates with these values, as an upgrade has it, without a look at the cluster.
    ///
    /// # Errors
    /// When it cannot be rendered.
    pub async fn rendered_template(&self, only: &str, members: usize, more: &[&str]) -> anyhow::Result<String> {
        let (chart, values) = (chart(), self.values(members).await?);
        let command = ["template", &self.name, &chart, "--is-upgrade", "--set", &values, "-s", only];
        self.run_helm(&[&command, more].concat()).await?.ended.ok()
    }

    /// Everything that the chart renders but for Helm's hooks, without a look at the cluster.
    ///
    /// # Errors
    /// When it cannot be rendered.
    pub async fn rendered_all(&self, members: usize) -> anyhow::Result<String> {
        let (chart, values) = (chart(), self.values(members).await?);
        let command = ["template", &self.name, &chart, "--set", &values, "--no-hooks"];
        self.run_helm(&command).await?.ended.ok()
    }

    async fn helm(&self, verb: &str, members: usize, more: &[&str]) -> anyhow::Result<Ran> {
        let (chart, values) = (chart(), self.values(members).await?);
        let command = [verb, &self.name, &chart, "--hide-notes", "--set", &values];
        self.run_helm(&[&command, more].concat()).await
    }

    async fn values(&self, members: usize) -> anyhow::Result<String> {
        let image = |image: &str| image.rsplit_once(':').map(|(a, b)| (a.to_owned(), b.to_owned()));
        let image = |name: &str| image(name).with_context(|| format!("image {name} has no tag"));
        let ((scaler, scaler_tag), (etcd, etcd_tag)) = (image(&self.images.scaler)?, image(&self.images.etcd)?);
        let (busybox, busybox_tag) = image(&self.images.busybox)?;
        // Five members are the most of any scenario.
        let affinity = if nodes().await?.len() < 5 { "soft" } else { "hard" };
        let manual = match self.storage {
            Storage::Provisioned => String::new(),
            Storage::Manual => {
                let (name, run) = (&self.name, self.run);
                format!("pv.namePrefix={name}-volume,pv.hostPath={HOST_PATH}/{name}/{run}/pod-,")
            }
        };
        Ok(format!(
            "image.repository={scaler},image.tag={scaler_tag},\
             etcd.image.repository={etcd},etcd.image.tag={etcd_tag},\
             etcd.volumePermissions.enabled=true,\
             etcd.volumePermissions.image.repository={busybox},etcd.volumePermissions.image.tag={busybox_tag},\
             etcd.persistence.storageClass={},etcd.podAntiAffinityPreset={affinity},\
             {manual}etcd.replicaCount={members}",
            self.storage.class()
        ))
    }

    /// `helm upgrade --reuse-values`: nothing but these values is said.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_upgrade_reusing(&self, values: &[&str]) -> anyhow::Result<Ran> {
        let chart = chart();
        let mut command = vec!["upgrade", &self.name, &chart, "--hide-notes", "--reuse-values"];
        command.extend(values.iter().flat_map(|value| ["--set", value]));
        self.run_helm(&command).await
    }

    /// `helm rollback` to a revision, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_rollback(&self, revision: u64, more: &[&str]) -> anyhow::Result<Ran> {
        self.run_helm(&[&["rollback", &self.name, &revision.to_string()], more].concat()).await
    }

    /// `helm rollback` to a revision, to its success.
    ///
    /// # Errors
    /// When it fails.
    pub async fn rollback(&self, revision: u64) -> anyhow::Result<Ran> {
        let ran = self.try_rollback(revision, &[]).await?;
        ran.ended.clone().ok()?;
        Ok(ran)
    }

    /// The revisions that Helm knows, with the status of each (`deployed`, `pending-upgrade`, …).
    ///
    /// # Errors
    /// When Helm does not tell.
    pub async fn revisions(&self) -> anyhow::Result<Vec<(u64, String)>> {
        let printed = self.run_helm(&["history", &self.name, "-o", "json"]).await?.ended.ok()?;
        let history: Value = serde_json::from_str(&printed).with_context(|| format!("Helm printed {printed}"))?;
        let revisions = history.as_array().context("the history is no list")?.iter();
        let told = |it: &Value| Some((it["revision"].as_u64()?, it["status"].as_str()?.to_owned()));
        revisions.map(|it| told(it).with_context(|| format!("Helm told {it}"))).collect()
    }

    /// The last revision and its status.
    ///
    /// # Errors
    /// When there is none.
    pub async fn last_revision(&self) -> anyhow::Result<(u64, String)> {
        self.revisions().await?.pop().context("the release has no revision")
    }

    async fn run_helm(&self, arguments: &[&str]) -> anyhow::Result<Ran> {
        let from = now();
        let ended = run(&self.helm.program(), [arguments, &["-n", &self.namespace]].concat(), "", HELM).await?;
        Ok(Ran { ended, from, to: now() })
    }

    /// `helm uninstall`, if it is installed.
    ///
    /// # Errors
    /// When it fails.
    pub async fn uninstall(&self) -> anyhow::Result<()> {
        self.try_uninstall(&["--ignore-not-found"]).await?.ended.ok().map(drop)
    }

    /// `helm uninstall`, however it ends.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn try_uninstall(&self, more: &[&str]) -> anyhow::Result<Ran> {
        self.run_helm(&[&["uninstall", &self.name], more].concat()).await
    }

    /// Removes the release, its namespace and its volumes, if there are any.
    ///
    /// # Errors
    /// When something of it stays.
    pub async fn remove(&self) -> anyhow::Result<()> {
        let there = ["get", "namespace", &self.namespace, "--ignore-not-found", "-o", "name"];
        if !kubectl(there).await?.is_empty() {
            self.let_go().await?;
            self.uninstall().await?;
            let namespace = ["delete", "namespace", &self.namespace, "--timeout=120s"];
            run("kubectl", namespace, "", Duration::from_secs(130)).await?.ok()?;
        }
        let volumes: Vec<String> = (0..7).map(|ordinal| self.volume(ordinal)).collect();
        let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
        kubectl([&["delete", "pv", "--ignore-not-found", "--timeout=25s"], &*volumes].concat()).await.map(drop)
    }

    /// Removes its volumes' directories on the nodes, those of earlier runs too; a provisioner
    /// removes its own.
    ///
    /// # Errors
    /// When a node could not be cleaned.
    pub async fn remove_directories(&self) -> anyhow::Result<()> {
        match self.storage {
            Storage::Manual => remove_on_nodes(HOST_PATH, &self.name, &self.images.busybox).await,
            Storage::Provisioned => Ok(()),
        }
    }

    /// Objects of the cluster that carry the release's name.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn cluster_objects(&self) -> anyhow::Result<Vec<String>> {
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,\
                     validatingadmissionpolicybindings,clusterroles,clusterrolebindings";
        let all = names(&kubectl_json(["get", kinds]).await?);
        Ok(all.into_iter().filter(|name| name.starts_with(&format!("{}-", self.name))).collect())
    }
}

/// Where the chart is.
fn chart() -> String {
    top().join("chart").to_string_lossy().into_owned()
}

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
