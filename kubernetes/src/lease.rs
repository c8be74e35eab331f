//! The Lease: one run works at a time, and none changes etcd after its Lease ran out.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use membership::know::names::RECORD;
use membership::know::record::Record;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::objects::patiently;

/// How long a silent holder keeps it.
const DURATION: Duration = Duration::from_secs(15);
/// How often it is renewed: three tries before it runs out.
const RENEW: Duration = Duration::from_secs(4);
/// How often a run that waits for it looks.
const LOOK: Duration = Duration::from_millis(500);

/// The Lease of one StatefulSet, held by this run.
pub struct Lease {
    api: Api<Object>,
    name: String,
    holder: String,
    /// Until when nobody else may take it, counted from before the request that said so.
    until: Instant,
    renewed: Instant,
}

impl Lease {
    /// Waits for the Lease until `deadline`.
    ///
    /// # Errors
    /// When somebody else held it all the time; who.
    pub async fn acquire(api: Api<Object>, name: &str, holder: &str, deadline: Instant) -> anyhow::Result<Self> {
        let mut waiting_for = None;
        loop {
            let other = match patiently(deadline, || Self::attempt(&api, name, holder)).await? {
                Ok(lease) => return Ok(lease),
                Err(other) => other,
            };
            if waiting_for.as_ref() != Some(&other) {
                info!("waiting for {other}, which works on this StatefulSet now (Lease {name})");
                waiting_for = Some(other.clone());
            }
            anyhow::ensure!(
                Instant::now() + LOOK < deadline,
                "{other} held Lease {name} until this run's deadline: look at that run (kubectl logs {other}), then try again"
            );
            tokio::time::sleep(LOOK).await;
        }
    }

    /// One try; who holds it otherwise.
    async fn attempt(api: &Api<Object>, name: &str, holder: &str) -> anyhow::Result<Result<Self, String>> {
        let now = Instant::now();
        let held =
            Self { api: api.clone(), name: name.into(), holder: holder.into(), until: now + DURATION, renewed: now };
        let failed = || format!("failed to take Lease {name}");
        let Some(mut object) = api.get_opt(name).await.with_context(failed)? else {
            let spec = Some(held.spec(1));
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            return match api.create(&PostParams::default(), &Object { metadata, spec }).await {
                Ok(_) => Ok(Ok(held)),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err("another run".into())),
                Err(error) => Err(error).with_context(failed),
            };
        };
        let spec = object.spec.take().unwrap_or_default();
        if let Some(other) = spec.holder_identity.clone().filter(|other| !other.is_empty() && other != holder) {
            let duration = u64::try_from(spec.lease_duration_seconds.unwrap_or(0)).unwrap_or(0);
            let renewed = spec.renew_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |MicroTime(time)| *time);
            let age = Timestamp::now().duration_since(renewed).unsigned_abs();
            if age < Duration::from_secs(duration) {
                return Ok(Err(other));
            }
        }
        object.spec = Some(held.spec(spec.lease_transitions.unwrap_or(0) + 1));
        // The resourceVersion that was read makes a second taker fail.
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(_) => Ok(Ok(held)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err("another run".into())),
            Err(error) => Err(error).with_context(failed),
        }
    }

    fn spec(&self, transitions: i32) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        LeaseSpec {
            holder_identity: Some(self.holder.clone()),
            lease_duration_seconds: Some(i32::try_from(DURATION.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(now.clone()),
            renew_time: Some(now),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }

    /// Renews it when it is time to. Called in every round of the run, so a run that hangs or is
    /// frozen loses it.
    ///
    /// # Errors
    /// When somebody else has it now.
    pub async fn keep(&mut self) -> anyhow::Result<()> {
        if self.renewed.elapsed() < RENEW {
            return Ok(());
        }
        let before = Instant::now();
        let object = self.ours().await?;
        let patch = json!({
            "metadata": { "resourceVersion": object.metadata.resource_version },
            "spec": { "renewTime": MicroTime(Timestamp::now()) },
        });
        self.patch(&patch).await.with_context(|| format!("failed to renew Lease {}", self.name))?;
        self.until = before + DURATION;
        self.renewed = before;
        Ok(())
    }

    /// The Lease as it is now.
    async fn ours(&self) -> anyhow::Result<Object> {
        let object = self.api.get(&self.name).await.with_context(|| format!("failed to read Lease {}", self.name))?;
        let holder = object.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        // Nobody: the run that took it over is done already.
        let other = if holder.is_empty() { "another run" } else { holder };
        anyhow::ensure!(
            holder == self.holder,
            "{other} took Lease {} over; this run stops and changes nothing more",
            self.name
        );
        Ok(object)
    }

    /// Time for which nobody else can hold it.
    #[must_use]
    pub fn left(&self) -> Duration {
        self.until.saturating_duration_since(Instant::now())
    }

    /// The copy of the record that outlives the StatefulSet.
    ///
    /// # Errors
    /// When it is there and not a record, or could not be read.
    pub async fn record(&self) -> anyhow::Result<Option<Record>> {
        let copy = self.annotation(RECORD).await?;
        copy.map(|text| Record::parse(&text)).transpose().context("the Lease's copy of the record is unreadable")
    }

    /// Copies the record; `None` drops the copy.
    ///
    /// # Errors
    /// When it could not be written, or somebody else has the Lease now: a run that was frozen
    /// must not put an old record over a newer one.
    pub async fn write(&self, record: Option<&Record>) -> anyhow::Result<()> {
        let object = self.ours().await?;
        let patch = json!({ "metadata": {
            "resourceVersion": object.metadata.resource_version,
            "annotations": { RECORD: record.map(Record::annotation) },
        } });
        self.patch(&patch)
            .await
            .with_context(|| format!("failed to write the copy of the record in Lease {}", self.name))
    }

    /// An annotation, if it is there.
    ///
    /// # Errors
    /// When the Lease could not be read.
    pub async fn annotation(&self, name: &str) -> anyhow::Result<Option<String>> {
        let object =
            self.api.get_opt(&self.name).await.with_context(|| format!("failed to read Lease {}", self.name))?;
        Ok(object.and_then(|object| object.metadata.annotations?.remove(name)))
    }

    /// Its name, which the Role for the admission policy has too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Writes an annotation, whoever holds it.
    ///
    /// # Errors
    /// When it could not be written.
    #[cfg(feature = "failpoints")]
    pub async fn annotate(&self, name: &str, value: &str) -> anyhow::Result<()> {
        let patch = json!({ "metadata": { "annotations": { name: value } } });
        self.patch(&patch).await.with_context(|| format!("failed to write {name} to Lease {}", self.name))
    }

    /// Who holds it: this run.
    #[cfg(feature = "failpoints")]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// Lets the next run have it at once, unless somebody else has it already.
    pub async fn release(self) {
        if let Err(error) = self.let_go().await {
            tracing::warn!(%error, "failed to release Lease {}; it runs out by itself", self.name);
        }
    }

    async fn let_go(&self) -> kube::Result<()> {
        let mut object = self.api.get(&self.name).await?;
        match &mut object.spec {
            Some(spec) if spec.holder_identity.as_ref() == Some(&self.holder) => spec.holder_identity = None,
            _ => return Ok(()),
        }
        // The resourceVersion that was read keeps this from a Lease that was taken meanwhile.
        self.api.replace(&self.name, &PostParams::default(), &object).await.map(drop)
    }

    async fn patch(&self, patch: &serde_json::Value) -> kube::Result<()> {
        self.api.patch(&self.name, &PatchParams::default(), &Patch::Merge(patch)).await.map(drop)
    }
}
