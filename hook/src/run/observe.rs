//! One round of looking: the StatefulSet, its pods and volumes, and every member's own answer.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use kubernetes::lease::Lease;
use kubernetes::objects::Objects;
use kubernetes::pods;
use kubernetes::statefulset::{adopt, record, replicas};
use kubernetes::volumes::{Volumes, claim_name};
use membership::know::names::{MOST_MEMBERS, Ordinal, Target};
use membership::know::observed::{Observed, Pod, Volume};
use membership::know::record::{Id, State};
use membership::know::statefulset::{override_of, rollout, room};
use membership::know::volume::{OnScaleDown, VolumePlan};
use tokio::time::Instant;

/// How long one member may take to answer, so that members that are away do not hold up the round.
const ANSWER: Duration = Duration::from_millis(1500);

/// Adds a claim's name and class to the trouble of its pod: the scheduler says that claims are unbound, not which.
fn name_claims(pods: &mut BTreeMap<Ordinal, Pod>, volumes: &BTreeMap<Ordinal, Volume>) {
    for (ordinal, pod) in pods.iter_mut().filter(|(_, pod)| pod.node.is_none()) {
        let unbound = volumes.get(ordinal).filter(|volume| volume.claimed && !volume.bound && !volume.ours);
        if let (Some(trouble), Some(volume)) = (&mut pod.trouble, unbound) {
            trouble.what = format!("{}; {} has no volume", trouble.what.trim_end_matches('.'), volume.claim);
        }
    }
}

/// What a run keeps from round to round.
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
    /// When the API server did not answer. Members that do not answer are part of the observation.
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
        // One more than either: a member may have been added and not recorded yet.
        let count = desired.max(recorded).saturating_add(1).min(MOST_MEMBERS);
        let mut pods = pods::of(objects, target, &statefulset).await?;
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
        // Claims are deleted only when all members that are not wanted have left.
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

    /// Notes that a held pod of this ordinal was deleted, which is done once in a run.
    pub fn freed(&mut self, ordinal: Ordinal) {
        self.freed.insert(ordinal);
    }

    /// How long the newcomer is in the member list, counted from when this run first saw it there.
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

/// The UIDs of the claims of ordinals that are not wanted.
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
