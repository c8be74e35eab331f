//! One round of looking: the StatefulSet, its pods and volumes, and every member's own answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::ListParams;
use membership::know::names::{MOST_MEMBERS, Ordinal, RECORD, Target};
use membership::know::observed::{Observed, Pod, Volume};
use membership::know::record::{Id, Record, State};
use membership::know::start;
use membership::know::statefulset::{override_of, rollout, room};
use membership::know::volume::{OnScaleDown, VolumePlan};
use tokio::time::Instant;

use crate::lease::Lease;
use crate::objects::{Objects, replicas};
use crate::volumes::{Volumes, claim_name};
use crate::{pods, waiting};

/// How long one member may take to answer. Members that are away must not hold up the round.
const ANSWER: Duration = Duration::from_millis(1500);

/// The scheduler says that claims are unbound, not which; only its class tells why.
fn name_claims(pods: &mut BTreeMap<Ordinal, Pod>, volumes: &BTreeMap<Ordinal, Volume>) {
    for (ordinal, pod) in pods.iter_mut().filter(|(_, pod)| pod.node.is_none()) {
        let unbound = volumes.get(ordinal).filter(|volume| volume.claimed && !volume.bound && !volume.ours);
        if let (Some(trouble), Some(volume)) = (&mut pod.trouble, unbound) {
            trouble.what = format!("{}; {} has no volume", trouble.what.trim_end_matches('.'), volume.claim);
        }
    }
}

/// What is kept from round to round.
#[derive(Default)]
pub struct Observer {
    volumes: Volumes,
    joining: Option<(Id, Instant)>,
    /// The UIDs of the pods in the first round.
    older: Option<BTreeSet<String>>,
    /// The ordinals whose pod this run has deleted because it was held.
    freed: BTreeSet<Ordinal>,
}

impl Observer {
    /// Looks once.
    ///
    /// # Errors
    /// When Kubernetes did not tell; members that do not answer are part of the observation.
    pub async fn observe(
        &mut self,
        objects: &Objects,
        target: &mut Target,
        plan: &VolumePlan,
        lease: &Lease,
    ) -> anyhow::Result<(Observed, StatefulSet)> {
        let statefulset = objects.statefulset(target).await?;
        adopt(&statefulset, target)?;
        let desired = replicas(&statefulset);
        let record = record(&statefulset)?;
        let copy = if record.is_none() { lease.record().await? } else { None };
        let recorded =
            record.iter().chain(&copy).flat_map(|record| record.members.keys()).max().map_or(0, |last| last + 1);
        // One more than either: an addition that was not written down yet.
        let count = desired.max(recorded).saturating_add(1).min(MOST_MEMBERS);
        let mut pods = pods(objects, target, &statefulset).await?;
        let older = self.older.get_or_insert_with(|| pods.values().map(|pod| pod.uid.clone()).collect());
        for (ordinal, pod) in &mut pods {
            pod.older = older.contains(&pod.uid);
            pod.freed = self.freed.contains(ordinal);
        }
        let mut volumes = BTreeMap::new();
        for ordinal in 0..desired.min(MOST_MEMBERS) {
            if let Some(claim) = claim_name(&statefulset, target, ordinal) {
                let volume = self.volumes.observe(objects, target, plan, &claim, ordinal).await?;
                volumes.insert(ordinal, volume);
            }
        }
        name_claims(&mut pods, &volumes);
        let asked = (0..count).filter(|ordinal| pods.contains_key(ordinal) || *ordinal < recorded);
        let answers = etcd::observe(target, asked, ANSWER).await;
        // Only once nothing else is left to do for them.
        let all_left = record.as_ref().is_some_and(|record| record.members.keys().copied().eq(0..desired));
        let mut claims = BTreeMap::new();
        if plan.on_scale_down == OnScaleDown::Delete && all_left {
            claims = spare_claims(objects, target, &statefulset, desired).await?;
        }
        let target = target.clone();
        let live = serde_json::to_value(&statefulset)?;
        let (rollout, room) = (rollout(&live), room(&live, &target));
        let override_ = override_of(&live).and_then(Result::ok);
        let mut seen = Observed {
            target,
            desired,
            record,
            copy,
            rollout,
            answers,
            pods,
            volumes,
            claims,
            room,
            override_,
            joining_for: None,
        };
        seen.joining_for = self.joining_for(&seen);
        Ok((seen, statefulset))
    }

    /// A held pod of this ordinal was deleted: not a second time in this run.
    pub fn freed(&mut self, ordinal: Ordinal) {
        self.freed.insert(ordinal);
    }

    /// Since when the newcomer is in the list, as far as this run has seen.
    fn joining_for(&mut self, seen: &Observed) -> Option<Duration> {
        let list = seen.agreed().ok()?.members;
        let joining = list.iter().find(|member| {
            let recorded = seen.record.iter().flat_map(|record| record.members.values()).find(|r| r.id == member.id);
            member.learner || recorded.is_some_and(|recorded| recorded.state == State::Joining)
        });
        let Some(joining) = joining else {
            self.joining = None;
            return None;
        };
        match self.joining {
            Some((id, since)) if id == joining.id => Some(since.elapsed()),
            _ => {
                self.joining = Some((joining.id, Instant::now()));
                Some(Duration::ZERO)
            }
        }
    }
}

/// What the live StatefulSet tells about the target.
///
/// # Errors
/// When it is one this product does not support.
pub fn adopt(statefulset: &StatefulSet, target: &mut Target) -> anyhow::Result<()> {
    let spec = statefulset.spec.as_ref().with_context(|| format!("{target} has no spec"))?;
    target.service = spec.service_name.clone().unwrap_or_default();
    let start = spec.ordinals.as_ref().and_then(|ordinals| ordinals.start).unwrap_or(0);
    anyhow::ensure!(start == 0, "{target} numbers its pods from {start} (spec.ordinals.start); only 0 is supported");
    Ok(())
}

/// That it is understood how its etcd is started: before anything is written about it.
///
/// # Errors
/// What is not understood.
pub fn understood(statefulset: &StatefulSet, target: &Target) -> anyhow::Result<()> {
    let live = serde_json::to_value(statefulset)?;
    start::of_statefulset(&live, target).map(drop).map_err(|why| anyhow::anyhow!(why.sentence(target)))
}

/// The record in the StatefulSet's annotation.
///
/// # Errors
/// When the annotation is there and not a record.
pub fn record(statefulset: &StatefulSet) -> anyhow::Result<Option<Record>> {
    let annotations = statefulset.metadata.annotations.as_ref();
    Ok(annotations.and_then(|all| all.get(RECORD)).map(|text| Record::parse(text)).transpose()?)
}

/// The revision from which the controller would make this pod now; `None`: it has not yet seen the
/// StatefulSet as it is.
fn made_from(statefulset: &StatefulSet, ordinal: Ordinal) -> Option<&str> {
    let status = statefulset.status.as_ref()?;
    if status.observed_generation != statefulset.metadata.generation {
        return None;
    }
    let strategy = statefulset.spec.as_ref()?.update_strategy.as_ref();
    let partition = strategy.and_then(|strategy| strategy.rolling_update.as_ref()?.partition).unwrap_or(0);
    let held_back = i64::from(ordinal) < i64::from(partition);
    if held_back { status.current_revision.as_deref() } else { status.update_revision.as_deref() }
}

/// The claims of ordinals that are not wanted, by UID.
async fn spare_claims(
    objects: &Objects,
    target: &Target,
    statefulset: &StatefulSet,
    desired: u32,
) -> anyhow::Result<BTreeMap<Ordinal, String>> {
    let mut spare = BTreeMap::new();
    for ordinal in desired..MOST_MEMBERS {
        let Some(claim) = claim_name(statefulset, target, ordinal) else { continue };
        let found = objects.claims.get_opt(&claim).await.with_context(|| format!("failed to read claim {claim}"))?;
        let metadata = found.map(|claim| claim.metadata).filter(|metadata| metadata.deletion_timestamp.is_none());
        spare.extend(metadata.and_then(|metadata| Some((ordinal, metadata.uid?))));
    }
    Ok(spare)
}

/// The pods that its selector finds, by ordinal.
///
/// # Errors
/// When the API server did not tell.
pub async fn pods(
    objects: &Objects,
    target: &Target,
    statefulset: &StatefulSet,
) -> anyhow::Result<BTreeMap<Ordinal, membership::know::observed::Pod>> {
    let selector = statefulset.spec.as_ref().and_then(|spec| spec.selector.match_labels.clone()).unwrap_or_default();
    let labels: Vec<String> = selector.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let listed = objects.pods.list(&ListParams::default().labels(&labels.join(","))).await;
    let listed = listed.with_context(|| format!("failed to list the pods of {target}"))?;
    let mut seen = BTreeMap::new();
    for pod in &listed.items {
        let Some(ordinal) = pod.metadata.name.as_deref().and_then(|name| target.ordinal_of(name)) else { continue };
        let mut ours = pods::observe(pod, target, ordinal, made_from(statefulset, ordinal), Timestamp::now());
        // The kubelet's word may be a second late.
        let on_its_way = ours.joiner && ours.never_started && !ours.waits_in_admit && !ours.terminating;
        if on_its_way && let Some(address) = pods::address(pod) {
            ours.waits_in_admit = waiting::is_told(address, &ours.uid).await;
        }
        seen.insert(ordinal, ours);
    }
    Ok(seen)
}
