//! The Lease. One run works at a time, and none changes etcd after its Lease has run out.

use std::time::Duration;

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease as Object, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, Patch, PatchParams, PostParams};
use membership::know::names::RECORD;
use membership::know::record::Record;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::objects::{is_passing, patiently};

/// How long a holder that does not renew it keeps it.
const DURATION: Duration = Duration::from_secs(15);
/// The time between two renewals: three tries before it runs out.
const RENEW: Duration = Duration::from_secs(4);
/// The pause between two looks of a run that waits for it.
const LOOK: Duration = Duration::from_millis(500);

/// Who holds a Lease at this time; `None`: it was released, or has run out. If it was renewed in the future, the clock
/// of its holder is ahead of ours; it counts as held, because that run may be at work.
#[must_use]
pub fn held_by(spec: &LeaseSpec, now: Timestamp) -> Option<&str> {
    let holder = spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())?;
    let MicroTime(renewed) = spec.renew_time.as_ref()?;
    let lasts = SignedDuration::from_secs(spec.lease_duration_seconds?.into());
    (now.duration_since(*renewed) < lasts).then_some(holder)
}

/// The Lease of one StatefulSet, held by this run.
pub struct Lease {
    api: Api<Object>,
    name: String,
    holder: String,
    /// Until when nobody else may take it, counted from before the request that took or renewed it.
    until: Instant,
    renewed: Instant,
}

impl Lease {
    /// Waits for the Lease until `deadline`.
    ///
    /// # Errors
    /// When somebody else held it until then; who.
    pub async fn acquire(api: Api<Object>, name: &str, holder: &str, deadline: Instant) -> anyhow::Result<Self> {
        let (mut waiting_for, mut unchanged) = (None, None);
        loop {
            let (other, renewed) = match patiently(deadline, || Self::attempt(&api, name, holder, unchanged)).await? {
                Ok(lease) => return Ok(lease),
                Err(other) => other,
            };
            let seen = unchanged.filter(|(before, _)| *before == renewed);
            unchanged = Some(seen.unwrap_or_else(|| (renewed, Instant::now())));
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

    /// One try to take it. Inner `Err`: who holds it, and when that one renewed it last. `unchanged`: the renewal that
    /// was seen last, and since when it has not changed.
    async fn attempt(
        api: &Api<Object>,
        name: &str,
        holder: &str,
        unchanged: Option<(Option<Timestamp>, Instant)>,
    ) -> anyhow::Result<Result<Self, (String, Option<Timestamp>)>> {
        let now = Instant::now();
        let held =
            Self { api: api.clone(), name: name.into(), holder: holder.into(), until: now + DURATION, renewed: now };
        let failed = || format!("failed to take Lease {name}");
        let Some(mut object) = api.get_opt(name).await.with_context(failed)? else {
            let spec = Some(held.spec(1));
            let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
            return match api.create(&PostParams::default(), &Object { metadata, spec }).await {
                Ok(_) => Ok(Ok(held)),
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(("another run".into(), None))),
                Err(error) => Err(error).with_context(failed),
            };
        };
        let spec = object.spec.take().unwrap_or_default();
        let renewed = spec.renew_time.as_ref().map(|MicroTime(time)| *time);
        // A holder whose clock is ahead may look alive for ever. So a renewal time that has not changed for the whole
        // duration, by our own clock, means that the holder is gone.
        let silent = unchanged.filter(|(before, _)| *before == renewed).is_some_and(|(_, since)| {
            since.elapsed() >= Duration::from_secs(spec.lease_duration_seconds.unwrap_or(0).unsigned_abs().into())
        });
        if let Some(other) = held_by(&spec, Timestamp::now()).filter(|other| *other != holder && !silent) {
            return Ok(Err((other.to_owned(), renewed)));
        }
        object.spec = Some(held.spec(spec.lease_transitions.unwrap_or(0) + 1));
        // The resourceVersion that was read makes a second taker fail.
        match api.replace(name, &PostParams::default(), &object).await {
            Ok(_) => Ok(Ok(held)),
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Err(("another run".into(), None))),
            Err(error) => Err(error).with_context(failed),
        }
    }

    /// Does work that may take longer than the Lease lasts, and renews the Lease meanwhile.
    ///
    /// # Errors
    /// Those of the work; or that somebody else has the Lease now, and then the work is dropped.
    pub async fn keep_during<T>(&mut self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(RENEW) => match self.keep().await {
                    // It may still be renewed in time, and the work changes no member.
                    Err(error) if is_passing(&error) => info!("the Lease was not renewed: {error:#}"),
                    renewed => renewed?,
                },
            }
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

    /// Renews it when it is due. It is called in every round of the run, so a run that hangs or is frozen loses the
    /// Lease.
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
        // No holder: the run that took it over has already released it.
        let other = if holder.is_empty() { "another run" } else { holder };
        anyhow::ensure!(
            holder == self.holder,
            "{other} took Lease {} over; this run stops and changes nothing more",
            self.name
        );
        Ok(object)
    }

    /// For how long nobody else can take it.
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

    /// Its name. The Role for the admission policy has the same name.
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

    /// Releases it, so that the next run can take it at once; unless somebody else has it already.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_was_let_go_or_ran_out_has_no_holder() {
        let now: Timestamp = "2026-11-25T10:00:20Z".parse().unwrap();
        let held = |holder: &str, renewed: &str| {
            let spec = json!({ "holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15 });
            held_by(&serde_json::from_value(spec).unwrap(), now).map(str::to_owned)
        };
        assert_eq!(held("job-a", "2026-11-25T10:00:06.000000Z").as_deref(), Some("job-a"));
        assert_eq!(held("job-a", "2026-11-25T10:00:05.000000Z"), None);
        assert_eq!(held("", "2026-11-25T10:00:19.000000Z"), None);
        assert_eq!(held("job-a", "2026-11-25T10:02:00.000000Z").as_deref(), Some("job-a"), "by a clock that is ahead");
        assert_eq!(held_by(&LeaseSpec::default(), now), None);
    }
}
