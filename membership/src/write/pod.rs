//! A pod of the StatefulSet that is being created: what is written into it by its ordinal's state.
//!
//! - `member`, `leaving`: an ordinary pod. A plain etcd gets `existing` and an initial cluster that names only itself,
//!   so that on a lost disk it refuses to start instead of coming back empty under a live ID.
//! - `bootstrapping`, and any ordinal without a record: as its chart made it. If a new cluster begins by a person's
//!   decision over an earlier one's data, with an init container that sets that data aside.
//! - any other ordinal: a joiner, held by the init container `admit` until the Job permits it. If an ordinal below it
//!   has still to join, it also has a scheduling gate until its turn comes: newcomers are scheduled in any order, and a
//!   later one, with its new volume, could take the only node that an earlier one's kept volume is on.
//!
//! What only etcd-scaler writes is taken off every pod that is not a joiner ([`own`]).

use json_patch::Patch;
use serde_json::{Value, json};

use super::{Edit, env, own};
use crate::know::environment;
use crate::know::names::{
    ADMIT, ADMIT_COMMAND, ETCD_VERSION, JOINER, Ordinal, PERMISSION, PERMISSION_DIR, SET_ASIDE, TARGET, TURN, Target,
    WAITS_FOR,
};

use crate::know::object::{get, list, named, text};
use crate::know::pod::owned_by;
use crate::know::statefulset;

use crate::know::record::{Record, State};
use crate::know::start::{self, BITNAMI_RUN, Start};

/// The permission's file in that volume.
const PERMISSION_FILE: &str = "permission";
/// The file with the pod's own UID in that volume.
const UID_FILE: &str = "uid";

/// The patch for a pod that is being created, given the live StatefulSet.
///
/// # Errors
/// The sentence that refuses a joiner, if it could not be held safely. The pod of a member is never refused.
pub fn patch(pod: &Value, statefulset: &Value, target: &Target, our_image: &str) -> Result<Patch, String> {
    let untouched = Ok(Patch::default());
    let Some(ordinal) = text(pod, &["metadata", "name"]).and_then(|name| target.ordinal_of(name)) else {
        return untouched;
    };
    if !owned_by(pod, statefulset) {
        return untouched;
    }
    if statefulset::record(statefulset).is_none() && statefulset::begins_anew(statefulset, target) {
        return set_aside(pod, statefulset, ordinal, target, our_image);
    }
    // Without a readable record it is not known who is a member, so no pod is held. The admission policy still denies a
    // pod whose ordinal it does not find in its Role.
    let Some(Ok(record)) = statefulset::record(statefulset) else {
        return Ok(as_its_chart_made_it(pod));
    };
    match record.state(ordinal) {
        Some(State::Member | State::Leaving) => Ok(member(pod, statefulset, ordinal, target)),
        Some(State::Bootstrapping) => Ok(as_its_chart_made_it(pod)),
        Some(State::Joining) | None => {
            let start =
                start::of_pod(pod, statefulset, target, ordinal).map_err(|why| refusal(target, ordinal, &why))?;
            joiner(pod, ordinal, &record, target, &start, our_image).map_err(|why| refusal(target, ordinal, &why))
        }
    }
}

fn as_its_chart_made_it(pod: &Value) -> Patch {
    let mut edit = Edit::new(pod);
    own::take_off(&mut edit, false);
    edit.finish()
}

/// If it is not understood how etcd is started, the pod stays as its chart made it. So does the environment for images
/// with start scripts, which read it at every start.
fn member(pod: &Value, statefulset: &Value, ordinal: Ordinal, target: &Target) -> Patch {
    let mut edit = Edit::new(pod);
    own::take_off(&mut edit, false);
    let start = start::of_pod(pod, statefulset, target, ordinal);
    if let Some(index) = container(pod, target).filter(|_| start.is_ok_and(|start| !start.scripts)) {
        let path = ["spec", "containers", index.as_str()];
        env::start_without_token(&mut edit, &path, &target.bootstrap());
        set_env(&mut edit, &path, &target.initial_cluster([ordinal]));
    }
    edit.finish()
}

/// Adds the init container that sets aside what an earlier cluster left in the data directory, before a new cluster
/// begins by a person's decision.
fn set_aside(
    pod: &Value,
    statefulset: &Value,
    ordinal: Ordinal,
    target: &Target,
    our_image: &str,
) -> Result<Patch, String> {
    let refuse = |why: String| {
        format!("what an earlier cluster left to pod {} cannot be set aside for a new one: {why}", target.pod(ordinal))
    };
    let data_dir = start::of_pod(pod, statefulset, target, ordinal).map_err(|why| refuse(why.to_string()))?.data_dir;
    let Some(index) = container(pod, target) else { return Ok(Patch::default()) };
    let etcd = get(pod, &["spec", "containers", &index]).unwrap_or(&Value::Null);
    let uid = text(statefulset, &["metadata", "uid"]).unwrap_or_default();
    let mut edit = Edit::new(pod);
    let init = with_limits_of(
        etcd,
        json!({
            "name": SET_ASIDE,
            "image": our_image,
            "imagePullPolicy": "IfNotPresent",
            "command": ["/hook", "set-aside", format!("--data-dir={data_dir}"), format!("--for={uid}")],
            "volumeMounts": list(etcd, &["volumeMounts"]),
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    append_init(&mut edit, init).map_err(&refuse)?;
    Ok(edit.finish())
}

fn refusal(target: &Target, ordinal: Ordinal, why: &dyn std::fmt::Display) -> String {
    let name = target.pod(ordinal);
    format!("pod {name} is not yet a member of the etcd cluster and cannot be held until it may join: {why}")
}

fn joiner(
    pod: &Value,
    ordinal: Ordinal,
    record: &Record,
    target: &Target,
    start: &Start,
    our_image: &str,
) -> Result<Patch, String> {
    let name = target.pod(ordinal);
    let Some(index) = container(pod, target) else { return Ok(Patch::default()) };
    let path = ["spec", "containers", index.as_str()];
    let etcd = get(pod, &path).unwrap_or(&Value::Null);
    let mut edit = Edit::new(pod);
    let ordinals = record.members.keys().copied().chain(0..=ordinal).collect::<std::collections::BTreeSet<_>>();
    set_env(&mut edit, &path, &target.initial_cluster(ordinals));
    env::start_without_token(&mut edit, &path, &target.bootstrap());
    if start.scripts {
        // Their set-up would add the member by itself. So a joiner starts plain etcd, by the images' own script for
        // that (facts-etcd 7: run and found sound).
        edit.set(&[&path[..], &["command"]].concat(), json!([BITNAMI_RUN]));
        edit.remove(&[&path[..], &["args"]].concat());
    }
    // A learner fails the liveness probe of Bitnami's chart 8.6 as long as it is a learner (facts-etcd 7). And a
    // startup probe must not end a member that still copies a large database: the Job has a deadline for the join.
    edit.remove(&[&path[..], &["livenessProbe"]].concat());
    edit.remove(&[&path[..], &["startupProbe"]].concat());

    let version = with_limits_of(
        etcd,
        json!({
            "name": ETCD_VERSION,
            "image": get(etcd, &["image"]),
            "imagePullPolicy": get(etcd, &["imagePullPolicy"]),
            "command": [start.program, "--version"],
        }),
    );
    let mut command = ADMIT_COMMAND.map(str::to_owned).to_vec();
    command.push(format!("--data-dir={}", start.data_dir));
    command.push(format!("--permission-file={PERMISSION_DIR}/{PERMISSION_FILE}"));
    command.push(format!("--uid-file={PERMISSION_DIR}/{UID_FILE}"));
    command.push(format!("--cluster={}", record.cluster));
    let others = record.members.iter().filter(|(other, _)| **other != ordinal);
    command.extend(others.map(|(_, recorded)| format!("--other={}", recorded.id)));
    let mut mounts = list(etcd, &["volumeMounts"]).to_vec();
    mounts.push(json!({ "name": own::PERMISSION_VOLUME, "mountPath": PERMISSION_DIR, "readOnly": true }));
    let admit = with_limits_of(
        etcd,
        json!({
            "name": ADMIT,
            "image": our_image,
            "imagePullPolicy": "IfNotPresent",
            "command": command,
            "volumeMounts": mounts,
            "terminationMessagePolicy": "FallbackToLogsOnError",
        }),
    );
    for init in [version, admit] {
        append_init(&mut edit, init)?;
    }
    if named(list(pod, &["spec", "volumes"]), own::PERMISSION_VOLUME).is_none() {
        let field = format!("metadata.annotations['{PERMISSION}']");
        let items = json!([
            { "path": PERMISSION_FILE, "fieldRef": { "fieldPath": field } },
            { "path": UID_FILE, "fieldRef": { "fieldPath": "metadata.uid" } },
        ]);
        edit.push(&["spec", "volumes"], json!({ "name": own::PERMISSION_VOLUME, "downwardAPI": { "items": items } }));
    }
    if !(0..ordinal).all(|lower| record.state(lower) == Some(State::Member)) {
        let gates = ["spec", "schedulingGates"];
        if named(edit.get(&gates).and_then(Value::as_array).map_or(&[][..], Vec::as_slice), TURN).is_none() {
            edit.push(&gates, json!({ "name": TURN }));
        }
    }
    own::take_off(&mut edit, true);
    edit.set(&["metadata", "annotations", JOINER], "true".into());
    let waits = format!(
        "init container {ADMIT} waits until the etcd-scaler Job has added {name} to etcd; the Job: kubectl logs -l {TARGET}={}",
        target.statefulset
    );
    edit.set(&["metadata", "annotations", WAITS_FOR], waits.into());
    Ok(edit.finish())
}

/// The index of the etcd container, as a path segment.
fn container(pod: &Value, target: &Target) -> Option<String> {
    environment::container(get(pod, &["spec"])?, &target.container).map(|index| index.to_string())
}

fn set_env(edit: &mut Edit, container: &[&str], peers: &str) {
    env::set(edit, container, environment::INITIAL_CLUSTER, peers);
    env::set(edit, container, environment::INITIAL_CLUSTER_STATE, "existing");
}

/// Gives an init container the security context of the etcd container, so that a restricted namespace admits it, and
/// requests so small that the pod's own requests do not grow.
fn with_limits_of(etcd: &Value, mut init: Value) -> Value {
    if let Value::Object(fields) = &mut init {
        fields.retain(|_, value| !value.is_null());
        if let Some(context) = get(etcd, &["securityContext"]) {
            fields.insert("securityContext".into(), context.clone());
        }
        fields.insert("resources".into(), json!({ "requests": { "cpu": "10m", "memory": "16Mi" } }));
    }
    init
}

/// Appends an init container unless it is there already (the API server may call twice).
fn append_init(edit: &mut Edit, init: Value) -> Result<(), String> {
    let path = ["spec", "initContainers"];
    let present = edit.get(&path).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let name = text(&init, &["name"]).unwrap_or_default();
    match named(present, name).map(|index| &present[index]) {
        None => edit.push(&path, init),
        Some(same)
            if get(same, &["command"]) == get(&init, &["command"])
                && get(same, &["image"]) == get(&init, &["image"]) => {}
        Some(_) => {
            return Err(format!("it has an init container {name:?} of its own; rename it"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
