//! One step, applied.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use etcd::{CallError, Member, Refusal};
use k8s_openapi::api::apps::v1::StatefulSet;
use kube::api::{Patch, PatchParams};
use kubernetes::lease::Lease;
use kubernetes::objects::{Objects, this_one};
use kubernetes::report::Reports;
use kubernetes::serving::permit;
use kubernetes::{pods, volumes};
use membership::decide::next_step::Step;
use membership::know::names::{LEFT, Ordinal, PERMISSION, RECORD, RECORDED_FOR, TURN};
use membership::know::observed::{Answered, Observed};
use membership::know::record::{Id, Permission, Record};
use membership::know::version::JoinAs;
use membership::know::volume::VolumePlan;
use membership::write::serving;
use serde_json::json;
use tracing::info;

use crate::failpoint::{self, Failpoint};

/// How long a change of members may take: an election may come in between.
const CHANGE: Duration = Duration::from_secs(5);
/// A change of etcd is sent only with this much of the Lease left, which is longer than it may take, so that no other
/// run works meanwhile.
const LEASE: Duration = Duration::from_secs(7);

/// Everything that applying a step needs.
pub struct Apply<'a> {
    /// Kubernetes.
    pub objects: &'a Objects,
    /// This run's right to change anything.
    pub lease: &'a Lease,
    /// Where it is reported.
    pub reports: &'a Reports,
    /// How volumes are made.
    pub plan: &'a VolumePlan,
    /// What the step was decided from.
    pub seen: &'a Observed,
    /// The StatefulSet as it was read for that decision.
    pub statefulset: &'a StatefulSet,
}

/// How a step went.
#[derive(Debug, PartialEq, Eq)]
pub enum Applied {
    /// Done: look again at once.
    Done,
    /// Not done, and another look may tell more; why.
    NotYet(String),
}

impl Apply<'_> {
    /// Applies a step. `Done`, `Wait` and `Fail` change nothing and are handled by the run's loop.
    ///
    /// # Errors
    /// When it failed and trying again would not help.
    pub async fn step(&self, step: Step) -> anyhow::Result<Applied> {
        match step {
            Step::Done | Step::Wait(_) | Step::Fail(_) => Ok(Applied::Done),
            Step::CreateVolume(ordinal) => self.create_volume(ordinal).await,
            Step::PinVolume(ordinal, node) => self.pin_volume(ordinal, &node).await,
            // A member may just have been removed, by this run, an earlier one or a person. Where one voter is left,
            // its log must have that removal on disk before the record says so.
            Step::Record(record, what) => match self.written_down(None).await {
                Ok(()) => self.record(&record, &what).await,
                Err(not_yet) => not_yet,
            },
            Step::Add(ordinal, join) => self.add(ordinal, join).await,
            Step::Permit(ordinal, uid, permission) => self.permit(ordinal, &uid, &permission).await,
            Step::Settle(ordinal, uid) => self.settle(ordinal, &uid).await,
            Step::Schedule(ordinal, uid) => self.schedule(ordinal, &uid).await,
            Step::Swap(ordinal, uid) => {
                let note = |pod: &str| format!("joining pod {pod} is deleted: it serves; its ordinary pod takes over");
                self.delete_pod(ordinal, &uid, Failpoint::PodSwapped, "JoiningPodSwapped", note).await
            }
            Step::Renew(ordinal, uid, why) => {
                let note = |pod: &str| format!("pod {pod} is deleted, to be made again: {why}");
                self.delete_pod(ordinal, &uid, Failpoint::PodRenewed, "PodRenewed", note).await
            }
            Step::Promote(ordinal, id) => {
                let pod = self.seen.target.pod(ordinal);
                let promoted = async {
                    let leader = self.leader().await?;
                    failpoint::at(Failpoint::BeforePromote, self.lease).await;
                    self.may_change()?;
                    leader.promote(id).await
                };
                match self.changed(promoted.await) {
                    Ok(()) => {
                        failpoint::at(Failpoint::Promoted, self.lease).await;
                        let note = format!("{pod} (member {id}) is promoted: a voting member");
                        self.reports.did("MemberPromoted", note).await;
                        Ok(Applied::Done)
                    }
                    Err(refused) => refused.with_context(|| format!("failed to promote {pod} (member {id})")),
                }
            }
            Step::TakeBack(ordinal, id, why) => {
                let at = [Failpoint::BeforeTakingBack, Failpoint::TakenBack];
                self.remove(ordinal, id, at, |pod| Told {
                    reason: "MemberTakenBack",
                    note: format!("{pod} (member {id}) is removed from etcd again: {why}"),
                    trouble: true,
                })
                .await
            }
            Step::MoveLeader(heir, id) => self.move_leader(heir, id).await,
            Step::Remove(ordinal, id) => {
                let at = [Failpoint::BeforeRemove, Failpoint::MemberRemoved];
                self.remove(ordinal, id, at, |pod| Told {
                    reason: "MemberRemoved",
                    note: format!(
                        "{pod} (member {id}) is removed from etcd: {} replicas are wanted",
                        self.seen.desired
                    ),
                    trouble: false,
                })
                .await
            }
            Step::RemovePod(ordinal, uid) => {
                let note = |pod: &str| format!("pod {pod} is deleted: its member has left etcd");
                match self.written_down(None).await {
                    Ok(()) => self.delete_pod(ordinal, &uid, Failpoint::PodRemoved, "PodRemoved", note).await,
                    Err(not_yet) => not_yet,
                }
            }
            Step::FreeVolume(ordinal) => {
                let Self { objects, plan, seen, .. } = self;
                let claim =
                    volumes::claim_name(self.statefulset, &seen.target, ordinal).context("no claim template")?;
                volumes::free(objects, plan, &claim, ordinal).await?;
                let note =
                    format!("volume {} is free again for claim {claim}; what is on it is kept", plan.name(ordinal));
                self.reports.did("VolumeFreed", note).await;
                Ok(Applied::Done)
            }
            Step::RemoveClaim(ordinal, uid) => self.remove_claim(ordinal, &uid).await,
        }
    }

    async fn move_leader(&self, heir: Ordinal, from: Id) -> anyhow::Result<Applied> {
        let pod = self.seen.target.pod(heir);
        let to = self.seen.answer(heir).map(|answer| answer.member);
        let to = to.with_context(|| format!("{pod} was not seen, so it cannot lead"))?;
        let moved = async {
            let leader = self.leader().await?;
            failpoint::at(Failpoint::BeforeMovingLeader, self.lease).await;
            self.may_change()?;
            leader.move_leader(to).await
        };
        match self.changed(moved.await) {
            Ok(()) => {
                failpoint::at(Failpoint::LeaderMoved, self.lease).await;
                let note = format!("{pod} (member {to}) leads now, instead of member {from}, which is to leave");
                self.reports.did("LeaderMoved", note).await;
                Ok(Applied::Done)
            }
            Err(refused) => refused.with_context(|| format!("failed to make {pod} (member {to}) the leader")),
        }
    }

    pub(crate) async fn remove(
        &self,
        ordinal: Ordinal,
        id: Id,
        [before, after]: [Failpoint; 2],
        told: impl Fn(&str) -> Told,
    ) -> anyhow::Result<Applied> {
        let pod = self.seen.target.pod(ordinal);
        let removed = self.by_anyone(before, async |member| member.remove(id).await).await;
        match self.changed(removed) {
            Ok(()) => {
                // At once, as far as possible. Before the removed member's pod or its record goes, it is done again,
                // and must succeed.
                let _ = self.written_down(Some(id)).await;
                failpoint::at(after, self.lease).await;
                let Told { reason, note, trouble } = told(&pod);
                if trouble {
                    self.reports.trouble(reason, note).await;
                } else {
                    self.reports.did(reason, note).await;
                }
                Ok(Applied::Done)
            }
            Err(refused) => refused.with_context(|| format!("failed to remove {pod} (member {id})")),
        }
    }

    /// Deletes the volume first, which ends when its claim does. If the run is killed before the claim is deleted, the
    /// next run sees the claim.
    async fn remove_claim(&self, ordinal: Ordinal, uid: &str) -> anyhow::Result<Applied> {
        let Self { objects, plan, seen, .. } = self;
        let claim = volumes::claim_name(self.statefulset, &seen.target, ordinal).context("no claim template")?;
        let volume = volumes::remove(objects, &seen.target, plan, &claim, ordinal).await?;
        let deleted = objects.claims.delete(&claim, &this_one(uid)).await;
        if let Some(gone) = is_gone(&deleted) {
            return Ok(Applied::NotYet(gone));
        }
        deleted.with_context(|| format!("failed to delete claim {claim}"))?;
        let volume = if volume { format!(" and its volume {}", plan.name(ordinal)) } else { String::new() };
        let note = format!("claim {claim}{volume} deleted: its member has left etcd (pv.onScaleDown=delete)");
        self.reports.did("ClaimRemoved", note).await;
        Ok(Applied::Done)
    }

    async fn create_volume(&self, ordinal: Ordinal) -> anyhow::Result<Applied> {
        let Self { objects, plan, seen, .. } = self;
        let claim = volumes::claim_name(self.statefulset, &seen.target, ordinal).context("no claim template")?;
        volumes::create(objects, &seen.target, plan, &claim, ordinal).await?;
        failpoint::at(Failpoint::VolumeMade, self.lease).await;
        volumes::wake(objects, plan, &claim, ordinal).await?;
        failpoint::at(Failpoint::ClaimWoken, self.lease).await;
        self.reports.did("VolumeCreated", plan.made(&claim, ordinal)).await;
        Ok(Applied::Done)
    }

    async fn pin_volume(&self, ordinal: Ordinal, node: &str) -> anyhow::Result<Applied> {
        volumes::pin(self.objects, self.plan, ordinal, node).await?;
        failpoint::at(Failpoint::VolumePinned, self.lease).await;
        self.reports.did("VolumePinned", format!("volume {} is tied to node {node}", self.plan.name(ordinal))).await;
        Ok(Applied::Done)
    }

    /// Writes a record in this order: the Role for the admission policy with the names of the old and the new record,
    /// the copy in the Lease (which outlives the StatefulSet), the annotation, the Role with the new names alone.
    async fn record(&self, record: &Record, what: &str) -> anyhow::Result<Applied> {
        let target = &self.seen.target;
        let uid = self.statefulset.metadata.uid.as_deref().unwrap_or_default();
        let after = serving::names(target, record);
        let mut both = after.clone();
        both.extend(self.seen.record.iter().flat_map(|record| serving::names(target, record)));
        self.serve(&both).await?;
        self.lease.write(Some(record)).await?;
        failpoint::copied(self.seen.record.as_ref(), record, self.lease).await;
        // With the resourceVersion that was read: a run that was frozen since must not put an old record over a newer
        // one. The annotation that leaves a StatefulSet alone since an earlier uninstall is removed.
        let patch = json!({ "metadata": {
            "resourceVersion": self.statefulset.metadata.resource_version,
            "annotations": { RECORD: record.annotation(), RECORDED_FOR: uid, LEFT: null },
        } });
        let statefulsets = &self.objects.statefulsets;
        let written = statefulsets.patch(&target.statefulset, &PatchParams::default(), &Patch::Merge(&patch)).await;
        written.with_context(|| format!("failed to write the record of {target}"))?;
        self.serve(&after).await?;
        failpoint::recorded(self.seen.record.as_ref(), record, self.lease).await;
        self.reports.did("Recorded", format!("recorded: {what}")).await;
        Ok(Applied::Done)
    }

    async fn serve(&self, names: &BTreeSet<String>) -> anyhow::Result<()> {
        permit(self.objects, self.lease.name(), &self.seen.target, self.statefulset, names).await
    }

    async fn add(&self, ordinal: Ordinal, join: JoinAs) -> anyhow::Result<Applied> {
        let target = &self.seen.target;
        let pod = target.pod(ordinal);
        let url = target.peer_url(ordinal);
        let added = self.by_anyone(Failpoint::BeforeAdd, async |member| member.add(&url, join).await).await;
        match self.changed(added) {
            Ok(id) => {
                failpoint::at(Failpoint::MemberAdded, self.lease).await;
                let role = if join == JoinAs::Learner { "a learner" } else { "a voting member" };
                let note = format!("{pod} is added to etcd as {role} (member {id}, {url})");
                self.reports.did("MemberAdded", note).await;
                Ok(Applied::Done)
            }
            Err(refused) => refused.with_context(|| format!("failed to add {pod} to etcd")),
        }
    }

    async fn permit(&self, ordinal: Ordinal, uid: &str, permission: &Permission) -> anyhow::Result<Applied> {
        let pod = self.seen.target.pod(ordinal);
        let text = serde_json::to_string(permission).context("a permission that cannot be written as JSON")?;
        // With the UID, so that no later pod of the same name gets the permission.
        let patch = json!({ "metadata": { "uid": uid, "annotations": { PERMISSION: text } } });
        let written = self.objects.pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(gone) = is_gone(&written) {
            return Ok(Applied::NotYet(gone));
        }
        written.with_context(|| format!("failed to permit {pod} to start"))?;
        failpoint::at(Failpoint::Permitted, self.lease).await;
        self.reports.did("StartPermitted", format!("{pod} may start as member {}", permission.member)).await;
        Ok(Applied::Done)
    }

    async fn schedule(&self, ordinal: Ordinal, uid: &str) -> anyhow::Result<Applied> {
        let pod = self.seen.target.pod(ordinal);
        // Only our gate: one of somebody else is theirs to remove.
        let gates = json!([{ "name": TURN, "$patch": "delete" }]);
        let patch = json!({ "metadata": { "uid": uid }, "spec": { "schedulingGates": gates } });
        let written = self.objects.pods.patch(&pod, &PatchParams::default(), &Patch::Strategic(&patch)).await;
        if let Some(gone) = is_gone(&written) {
            return Ok(Applied::NotYet(gone));
        }
        written.with_context(|| format!("failed to let {pod} be scheduled"))?;
        self.reports.did("SchedulingPermitted", format!("{pod} may be scheduled: it joins next")).await;
        Ok(Applied::Done)
    }

    async fn settle(&self, ordinal: Ordinal, uid: &str) -> anyhow::Result<Applied> {
        let target = &self.seen.target;
        let pod = target.pod(ordinal);
        let annotations: BTreeMap<_, _> = pods::settled(target, ordinal).into();
        let patch = json!({ "metadata": { "uid": uid, "annotations": annotations } });
        let written = self.objects.pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
        if let Some(gone) = is_gone(&written) {
            return Ok(Applied::NotYet(gone));
        }
        written.with_context(|| format!("failed to write into {pod} that it never starts as new again"))?;
        info!("{pod} has served: on an empty disk it would refuse to start from now on, not start as new");
        Ok(Applied::Done)
    }

    pub(crate) async fn delete_pod(
        &self,
        ordinal: Ordinal,
        uid: &str,
        done: Failpoint,
        reason: &str,
        note: impl Fn(&str) -> String,
    ) -> anyhow::Result<Applied> {
        let pod = self.seen.target.pod(ordinal);
        let deleted = self.objects.pods.delete(&pod, &this_one(uid)).await;
        if let Some(gone) = is_gone(&deleted) {
            return Ok(Applied::NotYet(gone));
        }
        deleted.with_context(|| format!("failed to delete pod {pod}"))?;
        failpoint::at(done, self.lease).await;
        self.reports.did(reason, note(&pod)).await;
        Ok(Applied::Done)
    }

    /// If one voter is left, has it write its log to disk ([`Member::write_down`]), so that the removal of the others
    /// is in it. `removed`: the member that was removed since the last look. With more voters there is nothing to do.
    async fn written_down(&self, removed: Option<Id>) -> Result<(), anyhow::Result<Applied>> {
        let Ok(agreed) = self.seen.agreed() else { return Ok(()) };
        let mut voters = agreed.members.iter().filter(|member| !member.learner && Some(member.id) != removed);
        let (Some(last), None) = (voters.next(), voters.next()) else { return Ok(()) };
        let at = |(ordinal, answered): (&Ordinal, &Answered)| {
            answered.as_ref().is_ok_and(|answer| answer.member == last.id).then_some(*ordinal)
        };
        let Some(ordinal) = self.seen.answers.iter().find_map(at) else {
            return Err(Ok(Applied::NotYet(format!("member {} is not heard", last.id))));
        };
        let written = async { Member::at(&self.seen.target.client_url(ordinal), CHANGE).await?.write_down().await };
        self.changed(written.await)
    }

    /// Has etcd write a log entry that changes nothing, for a member that may be waiting for one
    /// ([`Observed::may_wait_for_entry`]).
    ///
    /// # Errors
    /// Why it was not written.
    pub async fn write_entry(&self) -> Result<(), CallError> {
        self.leader().await?.write_down().await
    }

    /// Asks the leader for a change and, if it refuses because the cluster is unhealthy, each other voter.
    ///
    /// Each member judges by its own connections. After a peer's node was lost and came back, a member may take the
    /// peer for away for minutes although both work: etcd marks the peer when the old connection ends, after the new
    /// one was made (`all::kills`). So another member's answer may be the right one; its check is the same.
    async fn by_anyone<T>(
        &self,
        before: Failpoint,
        change: impl AsyncFn(&Member) -> Result<T, CallError>,
    ) -> Result<T, CallError> {
        let leader = self.leader().await?;
        failpoint::at(before, self.lease).await;
        self.may_change()?;
        let unhealthy = match change(&leader).await {
            Err(error) if error.refusal() == Refusal::Unhealthy => error,
            answer => return answer,
        };
        let seen = self.seen.answers.iter().filter_map(|(&ordinal, answered)| Some((ordinal, answered.as_ref().ok()?)));
        for (ordinal, _) in seen.filter(|(_, answer)| !answer.learner && Some(answer.member) != answer.leader) {
            let member = Member::at(&self.seen.target.client_url(ordinal), CHANGE).await?;
            self.may_change()?;
            match change(&member).await {
                Err(error) if error.refusal() == Refusal::Unhealthy => {}
                answer => return answer,
            }
        }
        Err(unhealthy)
    }

    /// A connection to the leader, to which changes are sent.
    async fn leader(&self) -> Result<Member, CallError> {
        let leader = self.seen.agreed().ok().and_then(|agreed| agreed.leader);
        let ordinal = self.seen.answers.iter().find_map(|(&ordinal, answered)| {
            answered.as_ref().ok().filter(|answer| Some(answer.member) == leader).map(|_| ordinal)
        });
        let ordinal = ordinal.ok_or_else(|| self.not_now("the members know no leader"))?;
        Member::at(&self.seen.target.client_url(ordinal), CHANGE).await
    }

    /// Checked right before a change is sent: a run that was frozen since its last look must not send it.
    fn may_change(&self) -> Result<(), CallError> {
        if self.lease.left() < LEASE {
            return Err(self.not_now("too little of the Lease is left for a change; it is renewed first"));
        }
        Ok(())
    }

    fn not_now(&self, text: &str) -> CallError {
        CallError::Refused {
            call: "change of members",
            url: self.seen.target.to_string(),
            text: text.to_owned(),
            refusal: Refusal::Unknown,
        }
    }

    /// Tells refusals of etcd that only need another look from failures.
    fn changed<T>(&self, answer: Result<T, CallError>) -> Result<T, anyhow::Result<Applied>> {
        answer.map_err(|error| match error.refusal() {
            Refusal::Unhealthy
            | Refusal::LearnerNotReady
            | Refusal::TooManyLearners
            | Refusal::AlreadyExists
            | Refusal::AlreadyVoter
            | Refusal::NotFound
            | Refusal::NotEnoughStarted
            | Refusal::Unknown => Ok(Applied::NotYet(error.to_string())),
            Refusal::NotForLearners | Refusal::FutureRevision | Refusal::Compacted | Refusal::Other => {
                Err(error.into())
            }
        })
    }
}

/// What is told of a removal.
pub(crate) struct Told {
    pub(crate) reason: &'static str,
    pub(crate) note: String,
    pub(crate) trouble: bool,
}

/// Why the object is not the one that was meant any more (not found, another UID or version); the next look tells what
/// there is.
pub(crate) fn is_gone<T>(answer: &kube::Result<T>) -> Option<String> {
    match answer {
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Some(status.message.clone()),
        _ => None,
    }
}
