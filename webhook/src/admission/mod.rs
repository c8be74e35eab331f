//! Decides about one request. The decisions themselves are pure and in `membership`; here their inputs are put
//! together. A decision writes only an Event, and on a dry run not even that.

pub mod held;

use std::time::Duration;

use json_patch::Patch;
use k8s_openapi::api::core::v1::Pod;
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, Operation};
use membership::decide::guard::disruption::{self, Going, Leave};
use membership::decide::guard::{self, Change, Decision, deletion, reset};
use membership::know::annotations::OnReset;
use membership::know::names::{MOST_MEMBERS, Ordinal, Target};
use membership::know::pod::{is_ready, owned_by};
use membership::know::{observed, start, statefulset};
use membership::write::carried::carried;
use membership::write::pod;
use membership::write::statefulset::{Update, created, keep_count, over_kept_volumes, over_unheard};
use serde_json::Value;
use tracing::warn;

use crate::admission::held::Held;
use crate::events::{Events, Reason};
use crate::health::cluster::Cluster;
use crate::health::{Health, controller};

/// The answer to a request.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Let it pass, with these changes and warnings.
    Allow {
        /// What is rewritten; empty: nothing.
        patch: Patch,
        /// Risks, told to the person who asked.
        warnings: Vec<String>,
    },
    /// Refuse it with this sentence.
    Deny(String),
    /// Refuse it for now with this sentence: the same request may be admitted later.
    Later(String),
}

impl Verdict {
    fn allow(patch: Patch) -> Self {
        Self::Allow { patch, warnings: Vec::new() }
    }

    fn untouched() -> Self {
        Self::allow(Patch::default())
    }
}

/// Everything that decisions need.
pub struct Admission {
    /// The StatefulSet.
    pub cluster: Cluster,
    /// The members' health, from the latest round.
    pub health: Health,
    /// Where refusals are told.
    pub events: Events,
    /// Our own image, for joining pods.
    pub our_image: String,
    /// The user name of the Job's ServiceAccount.
    pub hook: String,
    /// What happens to a count that was scaled, if the StatefulSet's annotation does not say.
    pub on_reset: OnReset,
    /// The roll-out that is held up.
    pub held: Held,
}

/// How long members may take to answer if a decision has to ask them, and how long reading their pods beside that.
/// Together with [`Cluster::read`] before it, it is less than the `timeoutSeconds` of those webhooks (3 s).
const ETCD_DEADLINE: Duration = Duration::from_secs(1);

/// Why there is no verdict: the webhook's failure policy has to decide.
pub type NoVerdict = String;

impl Admission {
    /// Decides about a request to one of our mutating webhooks.
    ///
    /// # Errors
    /// When something that the decision needs could not be read.
    pub async fn mutate(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        let kind = (request.resource.resource.as_str(), request.sub_resource.as_deref().unwrap_or_default());
        match (kind, &request.operation) {
            (("statefulsets", ""), Operation::Update) => self.update(request),
            (("pods", ""), Operation::Create) => self.create_pod(request).await,
            (("statefulsets", ""), Operation::Create) => self.create(request).await,
            _ => Ok(Verdict::untouched()),
        }
    }

    /// Decides about a request to our validating webhook.
    ///
    /// # Errors
    /// When something that the decision needs could not be read.
    pub async fn validate(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        let kind = (request.resource.resource.as_str(), request.sub_resource.as_deref().unwrap_or_default());
        match (kind, &request.operation) {
            (("statefulsets", "scale"), Operation::Update) => self.scale(request).await,
            (("statefulsets", "status"), Operation::Update) => Ok(self.controller_seen(request)),
            (("pods", ""), Operation::Delete) => self.delete_pod(request).await,
            (("pods", "eviction"), Operation::Create) => Ok(self.evict(request).await),
            _ => Ok(Verdict::untouched()),
        }
    }

    fn update(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        if !self.cluster.is_target(request.namespace.as_deref(), &request.name) {
            return Ok(Verdict::untouched());
        }
        let (old, new) = (value(request.old_object.as_ref())?, value(request.object.as_ref())?);
        if self.cluster.left(&old) {
            return Ok(Verdict::untouched());
        }
        let target = self.cluster.target(&new);
        let (new, kept) = carried(&old, &new, &target).unwrap_or_else(|| (new, Patch::default()));
        let by_hook = request.user_info.username.as_deref() == Some(self.hook.as_str());
        let options = request.options.as_ref().map(|options| &options.0);
        let manager = options.and_then(|options| options["fieldManager"].as_str()).unwrap_or_default();
        let update = match Update::new(&old, &new, &target, by_hook) {
            Ok(update) => update.by(manager),
            Err(why) => return Ok(Verdict::Deny(why)),
        };
        if let Some(why) = update.never_starts() {
            return Ok(Verdict::Deny(why));
        }
        let (live, asked) = (statefulset::replicas(&old), statefulset::replicas(&new));
        let change = Change {
            target: &target,
            request: guard::Request::StatefulSet,
            old: live,
            new: asked,
            first_ordinal: (statefulset::first_ordinal(&old), statefulset::first_ordinal(&new)),
            record: update.record(),
            not_understood: start::of_statefulset(&new, &target).err(),
            changes_template: update.changes_template(),
            may_stop: statefulset::may_stop(&new),
            deletes_claims: statefulset::deletes_claims(&new),
            controller: statefulset::controller(&old),
            rollout: statefulset::rollout(&old),
            canary: statefulset::canary(&old),
            strategy: statefulset::unknown_strategy(&new, live.max(asked)),
            room: statefulset::room(&new, &target),
            diverged: statefulset::diverged(&old),
            override_: statefulset::override_of(&new),
            seen: None,
        };
        // Going back towards the verified count is an undo, so it is not treated as a reset.
        if update.is_reset() && !change.goes_back() {
            match statefulset::on_reset(&new).unwrap_or(self.on_reset) {
                OnReset::Refuse => return Ok(self.refuse(request, &old, reset::refusal(&target, live, asked))),
                OnReset::Follow => {}
                OnReset::Keep => {
                    let (counted, mut patch) = keep_count(&old, &new);
                    match Update::new(&old, &counted, &target, by_hook) {
                        Ok(update) => patch.0.extend(update.patch().0),
                        Err(why) => return Ok(Verdict::Deny(why)),
                    }
                    let patch = Patch([kept.0, patch.0].concat());
                    return Ok(Verdict::Allow { patch, warnings: vec![reset::kept(live, asked)] });
                }
            }
        }
        let decision = self.health.with_seen(|seen| guard::decide(&Change { seen, ..change }));
        Ok(match decision {
            Decision::Refuse(why) => self.refuse(request, &old, why),
            Decision::Admit { warnings, lifted } => {
                let patch = Patch([kept.0, update.patch().0].concat());
                self.admit(request, &old, patch, warnings, lifted)
            }
        })
    }

    async fn scale(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        if !self.cluster.is_target(request.namespace.as_deref(), &request.name) {
            return Ok(Verdict::untouched());
        }
        let (old, new) = (value(request.old_object.as_ref())?, value(request.object.as_ref())?);
        // A Scale leaves a count of 0 out, where a StatefulSet without a count has 1.
        let count = |scale: &Value| scale["spec"]["replicas"].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(0);
        // A Scale has neither template nor annotations: the rest is the live object's.
        let Some(live) = self.cluster.read().await? else { return Ok(Verdict::untouched()) };
        let target = self.cluster.target(&live);
        let first = statefulset::first_ordinal(&live);
        let decision = self.health.with_seen(|seen| {
            guard::decide(&Change {
                target: &target,
                request: guard::Request::Scale,
                old: count(&old),
                new: count(&new),
                first_ordinal: (first, first),
                record: statefulset::record(&live),
                not_understood: start::of_statefulset(&live, &target).err(),
                changes_template: false,
                may_stop: statefulset::may_stop(&live),
                deletes_claims: statefulset::deletes_claims(&live),
                controller: statefulset::controller(&live),
                rollout: statefulset::rollout(&live),
                canary: statefulset::canary(&live),
                strategy: statefulset::unknown_strategy(&live, count(&old).max(count(&new))),
                room: statefulset::room(&live, &target),
                diverged: statefulset::diverged(&live),
                override_: statefulset::override_of(&live),
                seen,
            })
        });
        Ok(match decision {
            Decision::Refuse(why) => self.refuse(request, &live, why),
            Decision::Admit { warnings, lifted } => self.admit(request, &live, Patch::default(), warnings, lifted),
        })
    }

    async fn create_pod(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        let object = value(request.object.as_ref())?;
        // Other pods of this namespace are let pass by their name, without a request.
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        if !self.cluster.is_pod(request.namespace.as_deref(), name) {
            return Ok(Verdict::untouched());
        }
        let Some(live) = self.cluster.read().await? else { return Ok(Verdict::untouched()) };
        if let Some(Err(error)) = statefulset::record(&live) {
            warn!(pod = name, %error, "the record cannot be read, so this pod is left as its chart made it");
        }
        Ok(match pod::patch(&object, &live, &self.cluster.target(&live), &self.our_image) {
            Ok(patch) => Verdict::allow(patch),
            Err(why) => Verdict::Deny(why),
        })
    }

    /// Decides about a StatefulSet that is created. If it is made again over living members, it gets their record back,
    /// and another count is refused. If there are none, it bootstraps as new.
    async fn create(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        let new = value(request.object.as_ref())?;
        let name = new["metadata"]["name"].as_str().unwrap_or_default();
        if !self.cluster.is_target(request.namespace.as_deref(), name) {
            return Ok(Verdict::untouched());
        }
        let target = self.cluster.target(&new);
        // An error here would let it pass, by the failure policy (Ignore). If it could not be looked, it is refused
        // instead.
        Ok(self.recreated(&new, &target).await.unwrap_or_else(|why| {
            Verdict::Deny(format!(
                "creating {target} is refused: {why}. It is not known then whether members live in its place, and what is made over living members without what was verified of them restarts them. Ask again in a few seconds."
            ))
        }))
    }

    async fn recreated(&self, new: &Value, target: &Target) -> Result<Verdict, NoVerdict> {
        let known = match self.cluster.copy().await? {
            Some(copy) => Some(copy),
            None => statefulset::record(new).and_then(Result::ok),
        };
        let living = match known {
            Some(record) => {
                let asked = record.members.keys().copied().collect::<Vec<_>>();
                let answers = etcd::observe(target, asked.iter().copied(), ETCD_DEADLINE).await;
                let mut unheard = Vec::new();
                if let Err(why) = observed::agreed(target, &answers, Some(&record)) {
                    unheard = self.cluster.running(target, &asked).await?;
                    if let Some(why) = over_unheard(new, target, &record, &unheard, &why) {
                        return Ok(Verdict::Deny(why));
                    }
                }
                // Pods of recorded members run and are not heard. With the recorded count and the record, the
                // StatefulSet deletes no pod, starts none as new and brings missing ones back, which the quorum may be
                // waiting for.
                let lives = !unheard.is_empty() || statefulset::lives(&record, target, &answers);
                if !lives {
                    let claims = statefulset::claims(new, target, asked.iter().copied());
                    let kept = self.cluster.kept(&claims).await?;
                    if let Some(why) = over_kept_volumes(new, target, &record, &kept) {
                        return Ok(Verdict::Deny(why));
                    }
                }
                lives.then_some(record)
            }
            None => None,
        };
        let newest = match living {
            Some(_) => self.cluster.newest_revision(new).await?,
            None => None,
        };
        Ok(match created(new, target, living.as_ref(), newest.as_ref()) {
            Ok(patch) => Verdict::allow(patch),
            Err(why) => Verdict::Deny(why),
        })
    }

    /// Decides about a delete by the StatefulSet controller of a pod that has not ended. If its ordinal is not wanted
    /// any more, its member must have left etcd. If it is wanted, only a roll-out may delete it.
    async fn delete_pod(&self, request: &AdmissionRequest<DynamicObject>) -> Result<Verdict, NoVerdict> {
        let pod = value(request.old_object.as_ref())?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        if !self.cluster.is_pod(request.namespace.as_deref(), name) {
            return Ok(Verdict::untouched());
        }
        // Not from the watch, which may still have the old count.
        let Some(live) = self.cluster.read().await? else { return Ok(Verdict::untouched()) };
        let target = self.cluster.target(&live);
        let wanted = statefulset::replicas(&live);
        // All members stop on purpose, and none is removed.
        if wanted == 0 && statefulset::may_stop(&live) {
            return Ok(Verdict::untouched());
        }
        // Only members numbered from 0 are recorded; nothing is known about others.
        let numbered_otherwise = statefulset::first_ordinal(&live) != 0;
        let deleting = !live["metadata"]["deletionTimestamp"].is_null() || numbered_otherwise;
        let Some(ordinal) = target.ordinal_of(name).filter(|_| !deleting && owned_by(&pod, &live)) else {
            return Ok(Verdict::untouched());
        };
        if ordinal < wanted {
            if statefulset::rolls_nobody(&live) {
                return Ok(Verdict::Deny(deletion::outdated(&target, ordinal, wanted)));
            }
            let unrecorded = statefulset::record(&live).is_none() && !self.cluster.left(&live) && is_ready(&pod);
            // Only if it is understood how etcd is started: else no run would write the record again.
            let awaited = unrecorded && start::of_statefulset(&live, &target).is_ok();
            if awaited && self.cluster.copy().await?.is_some() {
                return Ok(Verdict::Deny(deletion::unrecorded(&target, ordinal)));
            }
            let leave = self.may_leave(&live, &target, ordinal, Going::RollOut).await;
            self.held.set((!request.dry_run && leave.is_err()).then_some(ordinal));
            return Ok(leave.map_or_else(Verdict::Deny, |()| Verdict::untouched()));
        }
        let recorded = statefulset::record(&live).and_then(Result::ok);
        let recorded = recorded.and_then(|record| record.members.keys().last().copied()).unwrap_or(0);
        // The members are asked now: only the controller waits for the answer, and what was seen seconds ago is not
        // enough.
        let answers = etcd::observe(&target, 0..=ordinal.max(recorded), ETCD_DEADLINE).await;
        Ok(match deletion::may_go(&target, ordinal, wanted, &answers) {
            Ok(()) => Verdict::untouched(),
            Err(why) => Verdict::Deny(why),
        })
    }

    /// Notes the user that writes the StatefulSet's status: that is its controller. The webhook is called only for a
    /// user that is not noted yet.
    fn controller_seen(&self, request: &AdmissionRequest<DynamicObject>) -> Verdict {
        let user = request.user_info.username.as_deref().filter(|_| !request.dry_run);
        if let Some(user) = user.filter(|_| self.cluster.is_target(request.namespace.as_deref(), &request.name)) {
            tokio::spawn(controller::note(self.cluster.clone(), user.to_owned()));
        }
        Verdict::untouched()
    }

    /// Decides about an eviction. An error here would let it pass, by the failure policy (Ignore), so if something
    /// could not be read, it is refused.
    async fn evict(&self, request: &AdmissionRequest<DynamicObject>) -> Verdict {
        let name = &request.name;
        if !self.cluster.is_pod(request.namespace.as_deref(), name) {
            return Verdict::untouched();
        }
        let live = match self.cluster.read().await {
            Ok(Some(live)) => live,
            Ok(None) => return Verdict::untouched(),
            Err(why) => return Verdict::Later(disruption::unread(name, &why)),
        };
        let target = self.cluster.target(&live);
        let stops = statefulset::replicas(&live) == 0 && statefulset::may_stop(&live);
        let goes = !live["metadata"]["deletionTimestamp"].is_null()
            || self.cluster.left(&live)
            || statefulset::first_ordinal(&live) != 0;
        let Some(ordinal) = target.ordinal_of(name).filter(|_| !stops && !goes) else { return Verdict::untouched() };
        let leave = self.may_leave(&live, &target, ordinal, Going::Eviction).await;
        leave.map_or_else(Verdict::Later, |()| Verdict::untouched())
    }

    /// Whether a member's pod may go for a while, from fresh answers of the members.
    async fn may_leave(&self, live: &Value, target: &Target, ordinal: Ordinal, going: Going) -> Result<(), String> {
        let record = statefulset::record(live).and_then(Result::ok);
        let wanted = statefulset::replicas(live);
        let recorded = record.iter().flat_map(|record| record.members.keys()).max().map_or(0, |last| last + 1);
        let all = 0..recorded.max(wanted).max(ordinal + 1).min(MOST_MEMBERS);
        let (answers, pods) = tokio::join!(
            etcd::observe(target, all.clone(), ETCD_DEADLINE),
            self.cluster.pods(target, all, ETCD_DEADLINE),
        );
        let pods = pods.map_err(|why| disruption::unread(&target.pod(ordinal), &why))?;
        let pods = pods.iter().filter_map(|(&ordinal, pod)| Some((ordinal, disruption_pod(pod, live)?))).collect();
        Leave { target, ordinal, going, wanted, record: record.as_ref(), answers: &answers, pods: &pods }.decide()
    }

    /// Admits a change. What a person has lifted becomes an Event, where it can be found later.
    fn admit(
        &self,
        request: &AdmissionRequest<DynamicObject>,
        statefulset: &Value,
        patch: Patch,
        mut warnings: Vec<String>,
        lifted: Vec<String>,
    ) -> Verdict {
        let uid = statefulset["metadata"]["uid"].as_str().unwrap_or_default();
        for lifted in lifted {
            if !request.dry_run {
                self.events.tell(uid, Reason::Lifted, &lifted);
            }
            warnings.push(lifted);
        }
        Verdict::Allow { patch, warnings }
    }

    fn refuse(&self, request: &AdmissionRequest<DynamicObject>, statefulset: &Value, why: String) -> Verdict {
        if !request.dry_run {
            let uid = statefulset["metadata"]["uid"].as_str().unwrap_or_default();
            self.events.tell(uid, Reason::Refused, &why);
        }
        Verdict::Deny(why)
    }
}

/// What a decision needs of a pod of this StatefulSet; `None`: it is not one.
fn disruption_pod(pod: &Pod, live: &Value) -> Option<disruption::Pod> {
    let pod = serde_json::to_value(pod).ok().filter(|pod| owned_by(pod, live))?;
    Some(disruption::Pod { ready: is_ready(&pod), terminating: !pod["metadata"]["deletionTimestamp"].is_null() })
}

fn value(object: Option<&DynamicObject>) -> Result<Value, NoVerdict> {
    let object = object.ok_or("the request has no object")?;
    serde_json::to_value(object).map_err(|error| format!("the request's object cannot be read: {error}"))
}
