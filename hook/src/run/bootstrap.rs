//! Before the first start of etcd: looks at what an earlier cluster left behind and, once it is decided what to do with
//! it ([`membership::decide::bootstrap`]), writes the token without which no pod of the chart starts etcd.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use kube::api::{Patch, PatchParams, PostParams};
use kubernetes::lease::Lease;
use kubernetes::objects::{Objects, is_passing, this_one};
use kubernetes::pods;
use kubernetes::report::Reports;
use kubernetes::statefulset::{adopt, record, replicas};
use kubernetes::volumes::{self, Volumes, claim_name};
use membership::decide::bootstrap::{Claim, Data, Place, Seen, Step, next_step, not_decided_in_time, token};
use membership::know::annotations::Decided;
use membership::know::names::{BEGUN, BOOTSTRAP, DECIDED, LOOK, MOST_MEMBERS, Ordinal, TARGET, TOKEN, Target};
use membership::know::observed::Volume;
use membership::know::volume::VolumePlan;
use serde_json::json;
use tokio::time::Instant;
use tracing::info;

use crate::failpoint::{self, Failpoint};
use crate::run::apply::is_gone;
use crate::run::waits::Waits;

/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long places that can still be looked at are waited for before a person is asked.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long pods are woken after the token was written. Without it their kubelets try again 10 to 15 s later.
const WAKES: Duration = Duration::from_secs(10);
/// The pause between two wakes.
const WAKE_AGAIN: Duration = Duration::from_millis(300);
/// The annotation of a claim whose volume is made by a provisioner.
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// What the run is about.
pub struct Bootstrap<'a> {
    /// Kubernetes.
    pub objects: &'a Objects,
    /// Where it is reported.
    pub reports: &'a Reports,
    /// How volumes are made.
    pub plan: &'a VolumePlan,
    /// Until when.
    pub end: Instant,
}

/// Whether its pods read their token from our ConfigMap.
fn waits_for_token(statefulset: &StatefulSet, target: &Target) -> bool {
    let spec = statefulset.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let container = spec.and_then(|spec| spec.containers.iter().find(|it| it.name == target.container));
    let env = container.iter().flat_map(|container| container.env.iter().flatten());
    let mut maps = env.filter_map(|env| env.value_from.as_ref()?.config_map_key_ref.as_ref());
    maps.any(|map| map.name == target.bootstrap() && map.key == TOKEN)
}

/// Whether the chart's init container looks into the data directory and says what is there.
fn is_looked_at(statefulset: &StatefulSet) -> bool {
    let spec = statefulset.spec.as_ref().and_then(|spec| spec.template.spec.as_ref());
    let mut init = spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    init.any(|container| {
        let command = container.command.iter().flatten();
        container.name == LOOK && command.into_iter().any(|word| word.contains("/dev/termination-log"))
    })
}

/// Writes the token again if it is missing and a record says that the cluster has begun: a pod that is as its chart
/// made it cannot start without it.
///
/// # Errors
/// When the API server did not answer.
pub async fn keep_token(objects: &Objects, target: &Target, statefulset: &StatefulSet) -> anyhow::Result<()> {
    if !waits_for_token(statefulset, target) {
        return Ok(());
    }
    let found = token_map(objects, target).await?;
    let owner = statefulset.owner_ref(&()).map(|owner| vec![owner]);
    if found.as_ref().is_some_and(|map| map.metadata.owner_references == owner && token_in(map).is_some()) {
        return Ok(());
    }
    let uid = statefulset.metadata.uid.as_deref().unwrap_or_default();
    let text = found.as_ref().and_then(token_in).map_or_else(|| token(target, uid), str::to_owned);
    let missing = found.is_none();
    write_token(objects, target, statefulset, found, text).await?;
    if missing {
        info!("ConfigMap {} is written again: pods as the chart made them cannot start without", target.bootstrap());
        for ordinal in 0..replicas(statefulset).min(MOST_MEMBERS) {
            wake(objects, target, ordinal, 0).await?;
        }
    }
    Ok(())
}

async fn token_map(objects: &Objects, target: &Target) -> anyhow::Result<Option<ConfigMap>> {
    let name = target.bootstrap();
    objects.configmaps.get_opt(&name).await.with_context(|| format!("failed to read ConfigMap {name}"))
}

fn token_in(map: &ConfigMap) -> Option<&str> {
    map.data.as_ref()?.get(TOKEN).map(String::as_str)
}

/// Writes the ConfigMap with the token. Its owner is the StatefulSet: the garbage collector deletes it if the
/// StatefulSet is deleted with its pods, and leaves it if the pods are orphaned.
async fn write_token(
    objects: &Objects,
    target: &Target,
    statefulset: &StatefulSet,
    found: Option<ConfigMap>,
    text: String,
) -> anyhow::Result<()> {
    let name = target.bootstrap();
    let failed = || format!("failed to write ConfigMap {name}, without which no pod of {target} starts etcd");
    let metadata = ObjectMeta {
        name: Some(name.clone()),
        labels: Some(BTreeMap::from([(TARGET.to_owned(), target.statefulset.clone())])),
        owner_references: statefulset.owner_ref(&()).map(|owner| vec![owner]),
        resource_version: found.as_ref().and_then(|map| map.metadata.resource_version.clone()),
        ..ObjectMeta::default()
    };
    let data = Some(BTreeMap::from([(TOKEN.to_owned(), text)]));
    let map = ConfigMap { metadata, data, ..ConfigMap::default() };
    let params = PostParams::default();
    let written = match found {
        Some(_) => objects.configmaps.replace(&name, &params, &map).await,
        None => objects.configmaps.create(&params, &map).await,
    };
    written.map(drop).with_context(failed)
}

/// Touches a pod, so that its kubelet looks at it at once. A container that lacked the token it would else try again
/// only 10 to 15 s later.
async fn wake(objects: &Objects, target: &Target, ordinal: Ordinal, times: u32) -> anyhow::Result<()> {
    let pod = target.pod(ordinal);
    let patch = json!({ "metadata": { "annotations": { BEGUN: times.to_string() } } });
    let woken = objects.pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
    if is_gone(&woken).is_some() {
        return Ok(());
    }
    woken.map(drop).with_context(|| format!("failed to touch pod {pod}, so that its kubelet looks at it"))
}

impl Bootstrap<'_> {
    /// Returns when etcd may start, or has started.
    ///
    /// # Errors
    /// Why it may not start: a person has to decide, or the deadline has passed.
    pub async fn until_started(&self, target: &mut Target, lease: &mut Lease) -> anyhow::Result<()> {
        let mut volumes = Volumes::default();
        let mut waits = Waits::default();
        let started = Instant::now();
        let mut waited_for = String::from("the API server");
        loop {
            if Instant::now() > self.end {
                bail!(not_decided_in_time(&waited_for, &target.statefulset, &target.namespace));
            }
            let round = self.round(target, lease, &mut volumes, started.elapsed() > PATIENCE).await;
            match round {
                Ok(Round::Over) => return Ok(()),
                Ok(Round::Again) => continue,
                Ok(Round::Wait(what)) => {
                    waits.say(&what);
                    waited_for = what;
                }
                Err(error) if is_passing(&error) => waits.say(&format!("the API server: {error:#}")),
                Err(error) => return Err(error),
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn round(
        &self,
        target: &mut Target,
        lease: &mut Lease,
        volumes: &mut Volumes,
        patient: bool,
    ) -> anyhow::Result<Round> {
        lease.keep().await?;
        let statefulset = self.objects.statefulset(target).await?;
        adopt(&statefulset, target)?;
        let uid = statefulset.metadata.uid.as_deref().unwrap_or_default();
        let desired = replicas(&statefulset).min(MOST_MEMBERS);
        if desired == 0 || !waits_for_token(&statefulset, target) || record(&statefulset)?.is_some() {
            return Ok(Round::Over);
        }
        let found = token_map(self.objects, target).await?;
        if found.as_ref().and_then(token_in) == Some(token(target, uid).as_str()) {
            return Ok(Round::Over);
        }
        let copy = lease.record().await?;
        let lease_name = lease.name().to_owned();
        let Some((places, begun)) = self.places(target, &statefulset, desired, volumes, lease).await? else {
            return Ok(Round::Again);
        };
        match begun {
            // A pod that is older than the StatefulSet has run etcd: the StatefulSet was made again around living
            // members. They have another token, and nobody starts by this one.
            Some(made) if made < statefulset.metadata.creation_timestamp.as_ref().map(|at| at.0) => {
                return Ok(Round::Over);
            }
            // etcd has started in this StatefulSet, and the ConfigMap is gone: the token is written again.
            Some(_) if found.is_none() => {
                return self.start(target, &statefulset, found, "etcd has started here already").await;
            }
            // etcd has started by the token of an earlier StatefulSet, whose pods were orphaned.
            Some(_) => return Ok(Round::Over),
            None => {}
        }
        let annotation = |key: &str| statefulset.metadata.annotations.as_ref().and_then(|all| all.get(key));
        let ordered = statefulset.spec.as_ref().and_then(|spec| spec.pod_management_policy.as_deref());
        let seen = Seen {
            target,
            desired,
            places,
            copy,
            lease: &lease_name,
            word: annotation(BOOTSTRAP).map(String::as_str),
            decided: annotation(DECIDED).and_then(|text| Decided::parse(text)),
            ordered: ordered != Some("Parallel"),
            patient,
        };
        match next_step(&seen) {
            Step::Wait(what) => Ok(Round::Wait(what)),
            Step::Ask(question) => bail!(question),
            Step::Decide(decided) => {
                let patch = json!({ "metadata": { "uid": uid, "annotations": { DECIDED: decided.to_string() } } });
                let set = &target.statefulset;
                let params = PatchParams::default();
                let written = self.objects.statefulsets.patch(set, &params, &Patch::Merge(&patch)).await;
                written.with_context(|| format!("failed to write into {target} what was decided"))?;
                Ok(Round::Again)
            }
            Step::Free(ordinal) => {
                let claim = claim_name(&statefulset, target, ordinal).context("no claim template")?;
                volumes::free(self.objects, self.plan, &claim, ordinal).await?;
                let volume = self.plan.name(ordinal);
                let note = format!("volume {volume} is free again for claim {claim}; what is on it is kept");
                self.reports.did("VolumeFreed", note).await;
                Ok(Round::Again)
            }
            Step::Settle(ordinal, uid) => {
                let pod = target.pod(ordinal);
                let annotations: BTreeMap<_, _> = pods::settled(target, ordinal).into();
                let patch = json!({ "metadata": { "uid": uid, "annotations": annotations } });
                let written = self.objects.pods.patch(&pod, &PatchParams::default(), &Patch::Merge(&patch)).await;
                if is_gone(&written).is_none() {
                    written.with_context(|| format!("failed to write into {pod} that it does not start as new"))?;
                }
                Ok(Round::Again)
            }
            Step::Renew(ordinal, uid, why) => {
                let pod = target.pod(ordinal);
                let deleted = self.objects.pods.delete(&pod, &this_one(&uid)).await;
                if is_gone(&deleted).is_none() {
                    deleted.with_context(|| format!("failed to delete pod {pod}"))?;
                    let note = format!("pod {pod} is deleted, to be made again: {why}");
                    self.reports.did("PodRenewed", note).await;
                }
                Ok(Round::Again)
            }
            Step::Start(what) => self.start(target, &statefulset, found, &what).await,
        }
    }

    /// Writes the token, and wakes the pods that wait for it.
    async fn start(
        &self,
        target: &Target,
        statefulset: &StatefulSet,
        found: Option<ConfigMap>,
        what: &str,
    ) -> anyhow::Result<Round> {
        let uid = statefulset.metadata.uid.as_deref().unwrap_or_default();
        write_token(self.objects, target, statefulset, found, token(target, uid)).await?;
        self.reports.did("Started", what.to_owned()).await;
        let end = Instant::now() + WAKES;
        for times in 0.. {
            let mut waiting = Vec::new();
            for ordinal in 0..replicas(statefulset).min(MOST_MEMBERS) {
                let pod = self.pod(target, ordinal).await?;
                // The kubelet reports up to a second late, so pods that are not yet reported as waiting are woken too.
                if pod.is_some_and(|pod| pods::may_wait_for_token(&pod, &target.container)) {
                    waiting.push(ordinal);
                }
            }
            if waiting.is_empty() || Instant::now() > end {
                break;
            }
            for ordinal in waiting {
                wake(self.objects, target, ordinal, times).await?;
            }
            tokio::time::sleep(WAKE_AGAIN).await;
        }
        Ok(Round::Over)
    }

    async fn pod(&self, target: &Target, ordinal: Ordinal) -> anyhow::Result<Option<Pod>> {
        let name = target.pod(ordinal);
        self.objects.pods.get_opt(&name).await.with_context(|| format!("failed to read pod {name}"))
    }

    /// What there is for each ordinal; and, if the etcd of a pod has run, when the oldest such pod was made. `None`: a
    /// volume was made, so it is to be looked again.
    async fn places(
        &self,
        target: &Target,
        statefulset: &StatefulSet,
        desired: u32,
        volumes: &mut Volumes,
        lease: &Lease,
    ) -> anyhow::Result<Option<(BTreeMap<Ordinal, Place>, Option<Option<Timestamp>>)>> {
        let Self { objects, plan, .. } = self;
        let looked_at = is_looked_at(statefulset);
        let mut places = BTreeMap::new();
        let mut begun = None;
        for ordinal in 0..MOST_MEMBERS {
            let mut place = Place { claim: Claim::Absent, kept: None, data: Data::Empty, tied_to: None, pod: None };
            let Some(claim) = claim_name(statefulset, target, ordinal) else {
                places.insert(ordinal, place);
                continue;
            };
            let found =
                objects.claims.get_opt(&claim).await.with_context(|| format!("failed to read claim {claim}"))?;
            let older = |object: &ObjectMeta| {
                let of = |metadata: &ObjectMeta| metadata.creation_timestamp.as_ref().map(|at| at.0);
                of(object) < of(&statefulset.metadata)
            };
            let bound = found.as_ref().and_then(|found| found.spec.as_ref()?.volume_name.clone());
            if let Some(found) = &found {
                let kept = older(&found.metadata) && bound.is_some();
                place.claim = if kept { Claim::Kept } else { Claim::Fresh };
            }
            let volume = volumes.observe(objects, target, plan, &claim, ordinal).await?;
            if bound.is_none() {
                place.kept = volumes::kept(objects, target, plan, &claim, ordinal, found.as_ref()).await?;
            }
            place.tied_to.clone_from(&volume.pinned_to);
            if ordinal < desired {
                if let Some(misfit) = volume.misfit.as_ref().filter(|_| !volume.bound && place.kept.is_none()) {
                    bail!(membership::know::volume::does_not_fit(&target.pod(ordinal), misfit));
                }
                if volume.claimed && volume.ours && !volume.exists && !volume.bound {
                    volumes::create(objects, target, plan, &claim, ordinal).await?;
                    failpoint::at(Failpoint::VolumeMade, lease).await;
                    volumes::wake(objects, plan, &claim, ordinal).await?;
                    failpoint::at(Failpoint::ClaimWoken, lease).await;
                    self.reports.did("VolumeCreated", plan.made(&claim, ordinal)).await;
                    return Ok(None);
                }
                let pod = self.pod(target, ordinal).await?;
                // Whether a provisioner made the volume for this very claim, by the name that provisioners give
                // (`pvc-<uid>`): then it is empty.
                let metadata = found.as_ref().map(|found| &found.metadata);
                let uid = metadata.and_then(|metadata| metadata.uid.as_deref()).unwrap_or_default();
                let provisioned =
                    metadata.is_some_and(|it| it.annotations.iter().flatten().any(|(key, _)| key == PROVISIONER));
                let made_for_it = provisioned && place.claim == Claim::Fresh && bound == Some(format!("pvc-{uid}"));
                place.data = match pod.as_ref().and_then(pods::looked_at) {
                    Some(said) => read(said),
                    None if made_for_it => Data::Empty,
                    None => Data::NotLooked {
                        why: why_not(pod.as_ref(), target, ordinal, looked_at, &volume),
                        comes: looked_at || (provisioned && place.claim == Claim::Fresh),
                    },
                };
                if let Some(pod) = pod {
                    let now = Timestamp::now();
                    if pods::observe(&pod, target, ordinal, None, now).started {
                        let made = pod.metadata.creation_timestamp.as_ref().map(|at| at.0);
                        begun = Some(begun.map_or(made, |before: Option<Timestamp>| before.min(made)));
                    }
                    place.pod = Some(pods::before_start(&pod, target, ordinal, now));
                }
            }
            places.insert(ordinal, place);
        }
        Ok(Some((places, begun)))
    }
}

enum Round {
    /// etcd may start, or its start is not ours to decide.
    Over,
    Again,
    Wait(String),
}

fn why_not(pod: Option<&Pod>, target: &Target, ordinal: Ordinal, looked_at: bool, volume: &Volume) -> String {
    let Some(pod) = pod else { return "its pod is not made yet".into() };
    if !looked_at {
        return "etcd.volumePermissions.enabled is false, so no container looks".into();
    }
    let seen = pods::observe(pod, target, ordinal, None, Timestamp::now());
    match seen.trouble {
        // The scheduler says that claims are unbound, not which.
        Some(trouble) if seen.node.is_none() && volume.claimed && !volume.bound && !volume.ours => {
            format!("{}; {} has no volume", trouble.what.trim_end_matches('.'), volume.claim)
        }
        Some(trouble) => trouble.what,
        None => "its pod is on its way".into(),
    }
}

/// What is in the data directory, from what the init container said: the beginning of the log, in hex.
fn read(said: &str) -> Data {
    if said == "none" {
        return Data::Empty;
    }
    let bytes: Option<Vec<u8>> = (0..said.len())
        .step_by(2)
        .map(|at| said.get(at..at + 2).and_then(|byte| u8::from_str_radix(byte, 16).ok()))
        .collect();
    match bytes.as_deref().and_then(etcd::whose) {
        Some((member, cluster)) => Data::Member { member, cluster },
        None => Data::Unreadable,
    }
}
