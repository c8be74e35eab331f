//! How etcd is started in a pod or in a pod template: which program, flags, variables, data directory. Read in this one
//! place.
//!
//! If any part of it is not understood, nothing is written: not into a member's pod, not into the template; no
//! newcomer's pod is let in, and no change of the count is admitted. etcd takes its settings from a configuration file
//! (and then from nothing else), from flags, and from variables, and it exits if a setting is given both as a flag and
//! as a variable (etcd 3.7.1 server/etcdmain/config.go, pkg/flags/flag.go). So a variable that we wrote beside a flag
//! of that name would keep every pod that is made again from starting.

mod reason;
mod settings;

use serde_json::Value;

use crate::know::names::{Ordinal, Target};
use crate::know::object::{get, list, named, text};
use crate::know::version::Version;

pub use reason::{NotUnderstood, Place};
use settings::{Settings, Told};

/// The program's file name.
const ETCD: &str = "etcd";
/// The entry point of Bitnami's images: it runs their set-up, then the script that it is given.
const BITNAMI_ENTRYPOINT: &str = "/opt/bitnami/scripts/etcd/entrypoint.sh";
/// The script that starts plain etcd in Bitnami's images. Called directly, it skips their set-up,
/// which adds members and wipes directories by itself (facts-etcd 2.4 and 7).
pub(crate) const BITNAMI_RUN: &str = "/opt/bitnami/scripts/etcd/run.sh";
/// Where etcd itself is in Bitnami's images.
const BITNAMI_ETCD: &str = "/opt/bitnami/etcd/bin/etcd";
/// Where Bitnami's scripts look for a configuration file.
const BITNAMI_CONF: &str = "/opt/bitnami/etcd/conf";
/// Variables that only Bitnami's scripts read. The scripts need one of the last three.
const BITNAMI_VARIABLES: [&str; 6] = [
    "BITNAMI_DEBUG",
    "ETCD_ON_K8S",
    "MY_STS_NAME",
    "ALLOW_NONE_AUTHENTICATION",
    "ETCD_ROOT_PASSWORD",
    "ETCD_ROOT_PASSWORD_FILE",
];
/// From variables with this prefix Bitnami's scripts write a configuration file.
const BITNAMI_SETTING: &str = "ETCD_CFG_";
/// Ways to find the first members. etcd takes only one way, and a list of members (`initial-cluster`) is another.
const DISCOVERY: [&str; 5] =
    ["discovery", "discovery-srv", "discovery-srv-name", "discovery-endpoints", "discovery-token"];
/// The flags whose variables we write.
const MANAGED_FLAGS: [&str; 2] = ["initial-cluster", "initial-cluster-state"];

/// How etcd is started. There is one only if all of it is understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The member's data directory.
    pub data_dir: String,
    /// Whether Bitnami's scripts start it, which act on the environment themselves.
    pub scripts: bool,
    /// Where etcd itself is in its image.
    pub program: String,
    /// Whether `ETCD_INITIAL_CLUSTER_STATE=existing` in the *template* does harm: from 3.6, Bitnami's scripts then
    /// start a member whose disk was lost under its old ID with an empty log (facts-etcd 7). A version that cannot
    /// be told counts as harmed.
    pub state_does_harm: bool,
}

/// How the StatefulSet's template starts etcd, as its first pod has it.
///
/// # Errors
/// What of it is not understood.
pub fn of_statefulset(object: &Value, target: &Target) -> Result<Start, NotUnderstood> {
    let spec = get(object, &["spec", "template", "spec"]).unwrap_or(&Value::Null);
    understand(spec, &claims(object), target, 0)
}

/// How this pod of the StatefulSet starts etcd.
///
/// # Errors
/// What of it is not understood.
pub fn of_pod(pod: &Value, statefulset: &Value, target: &Target, ordinal: Ordinal) -> Result<Start, NotUnderstood> {
    understand(get(pod, &["spec"]).unwrap_or(&Value::Null), &claims(statefulset), target, ordinal)
}

/// A managed setting that the StatefulSet's template gives both as a flag and as a variable: no pod made from it
/// starts.
#[must_use]
pub fn shadowed(object: &Value, target: &Target) -> Option<&'static str> {
    let etcd = etcd(get(object, &["spec", "template", "spec"])?, target)?;
    shadowed_in(&Settings::of(etcd, target, 0))
}

/// The names of the claims that each pod has of its own.
fn claims(statefulset: &Value) -> Vec<&str> {
    let templates = list(statefulset, &["spec", "volumeClaimTemplates"]).iter();
    templates.filter_map(|template| text(template, &["metadata", "name"])).collect()
}

fn etcd<'a>(pod_spec: &'a Value, target: &Target) -> Option<&'a Value> {
    let containers = list(pod_spec, &["containers"]);
    named(containers, &target.container).map(|index| &containers[index])
}

fn understand(pod_spec: &Value, claims: &[&str], target: &Target, ordinal: Ordinal) -> Result<Start, NotUnderstood> {
    let etcd = etcd(pod_spec, target).ok_or_else(|| NotUnderstood::Container(target.container.clone()))?;
    let scripts = by_scripts(etcd)?;
    if !list(etcd, &["envFrom"]).is_empty() {
        return Err(NotUnderstood::Elsewhere);
    }
    let settings = Settings::of(etcd, target, ordinal);
    if let Some(flag) = MANAGED_FLAGS.into_iter().find(|flag| settings.has_flag(flag)) {
        let beside = shadowed_in(&settings).map(|_| {
            format!(
                "kubectl -n {} set env statefulset/{} -c {} ETCD_INITIAL_CLUSTER- ETCD_INITIAL_CLUSTER_STATE-",
                target.namespace, target.statefulset, target.container
            )
        });
        return Err(NotUnderstood::Flag { flag, beside });
    }
    configured_by_file(etcd, pod_spec, scripts, &settings)?;
    if let Some(setting) = DISCOVERY.into_iter().find(|setting| settings.of_either(setting) != Told::Absent) {
        return Err(NotUnderstood::Discovery(setting));
    }
    match settings.of_either("force-new-cluster") {
        Told::Absent => {}
        Told::Is(value) if value == "false" => {}
        Told::Is(_) | Told::Unknown => return Err(NotUnderstood::ForceNewCluster),
    }
    match settings.of_either("name") {
        Told::Is(name) if name == target.pod(ordinal) => {}
        Told::Is(name) => return Err(NotUnderstood::Name(Some(name), target.pod(ordinal))),
        Told::Absent | Told::Unknown => return Err(NotUnderstood::Name(None, target.pod(ordinal))),
    }
    let needed = target.peer_url(ordinal);
    match settings.of_either("initial-advertise-peer-urls") {
        Told::Is(url) if url == needed => {}
        Told::Is(url) => return Err(NotUnderstood::PeerUrl { found: Some(url), needed }),
        Told::Absent | Told::Unknown => return Err(NotUnderstood::PeerUrl { found: None, needed }),
    }
    let data_dir = data_dir(etcd, pod_spec, claims, &settings)?;
    Ok(Start { data_dir, scripts, program: program(etcd, scripts), state_does_harm: scripts && !harmless(etcd) })
}

fn shadowed_in(settings: &Settings<'_>) -> Option<&'static str> {
    MANAGED_FLAGS.into_iter().find(|flag| settings.has_flag(flag) && settings.has_variable(flag))
}

/// Whether Bitnami's scripts start etcd; false: the container's command is etcd itself.
///
/// Told from the command and the environment, not from the image's name: any image may have "bitnami" in its path.
fn by_scripts(etcd: &Value) -> Result<bool, NotUnderstood> {
    let line: Vec<&str> = settings::command_line(etcd).collect();
    let env = list(etcd, &["env"]);
    match line.split_first() {
        None if BITNAMI_VARIABLES.iter().any(|name| named(env, name).is_some()) => Ok(true),
        None => Err(NotUnderstood::Program(None)),
        // Arguments without a command go to the image's entry point, which is not known here.
        Some(_) if list(etcd, &["command"]).is_empty() => Err(NotUnderstood::Program(None)),
        Some((&BITNAMI_RUN, [])) | Some((&BITNAMI_ENTRYPOINT, [BITNAMI_RUN])) => Ok(true),
        Some((program, arguments)) if program.rsplit('/').next() == Some(ETCD) && settings::are_flags(arguments) => {
            Ok(false)
        }
        Some(_) => Err(NotUnderstood::Program(Some(line.join(" ")))),
    }
}

/// Refuses a configuration file: etcd then reads nothing else.
fn configured_by_file(
    etcd: &Value,
    pod_spec: &Value,
    scripts: bool,
    settings: &Settings<'_>,
) -> Result<(), NotUnderstood> {
    if settings.of_either("config-file") != Told::Absent {
        return Err(NotUnderstood::File("--config-file".into()));
    }
    if !scripts {
        return Ok(());
    }
    let mut names = list(etcd, &["env"]).iter().filter_map(|entry| text(entry, &["name"]));
    if let Some(name) = names.find(|name| name.starts_with(BITNAMI_SETTING)) {
        return Err(NotUnderstood::File(name.to_owned()));
    }
    // Bitnami's chart 12 mounts an emptyDir there, which holds no file.
    let mounted = list(etcd, &["volumeMounts"]).iter().find(|mount| {
        let path = text(mount, &["mountPath"]).unwrap_or_default();
        let volume = volume(pod_spec, text(mount, &["name"]).unwrap_or_default());
        is_below(path, BITNAMI_CONF) && volume.is_none_or(|volume| get(volume, &["emptyDir"]).is_none())
    });
    match mounted.and_then(|mount| text(mount, &["mountPath"])) {
        Some(path) => Err(NotUnderstood::File(path.to_owned())),
        None => Ok(()),
    }
}

/// The member's data directory, if it is on a claim of the pod's own. A newcomer's directory is looked into before etcd
/// starts, and its content moved aside as a whole. If it were another directory than the one looked into, etcd could
/// start on the data of a removed or a living member.
fn data_dir(etcd: &Value, pod_spec: &Value, claims: &[&str], settings: &Settings<'_>) -> Result<String, NotUnderstood> {
    let Told::Is(dir) = settings.of_either("data-dir") else { return Err(NotUnderstood::DataDirectory) };
    let dir = dir.trim_end_matches('/').to_owned();
    if !dir.starts_with('/') || dir.split('/').any(|part| part == "..") {
        return Err(NotUnderstood::DataDirectory);
    }
    // What a directory holds is told from the write-ahead log, so the log must be in it.
    if settings.of_either("wal-dir") != Told::Absent {
        return Err(NotUnderstood::Log);
    }
    let mounts = || list(etcd, &["volumeMounts"]).iter();
    let path = |mount: &&Value| text(mount, &["mountPath"]).unwrap_or_default().trim_end_matches('/').to_owned();
    if let Some(part) = mounts().map(|mount| path(&mount)).find(|path| *path != dir && is_below(path, &dir)) {
        return Err(NotUnderstood::Split { dir, part });
    }
    let mount = mounts().filter(|mount| is_below(&dir, &path(mount))).max_by_key(|mount| path(mount).len());
    let Some(name) = mount.and_then(|mount| text(mount, &["name"])) else {
        return Err(NotUnderstood::Kept { dir, on: Place::NoVolume });
    };
    if claims.contains(&name) {
        return Ok(dir);
    }
    let volume = volume(pod_spec, name).unwrap_or(&Value::Null);
    let is = |kind: &str| get(volume, &[kind]).is_some();
    let claim = text(volume, &["persistentVolumeClaim", "claimName"]);
    let on = match claim {
        Some(claim) => Place::OneClaim(claim.to_owned()),
        None if is("emptyDir") => Place::EmptyDir,
        None if is("hostPath") => Place::HostPath,
        None => Place::Other(name.to_owned()),
    };
    Err(NotUnderstood::Kept { dir, on })
}

/// The path of etcd in its image. A joining pod runs it with `--version` first, to prove the image.
fn program(etcd: &Value, scripts: bool) -> String {
    let first = settings::command_line(etcd).next();
    if scripts { BITNAMI_ETCD } else { first.unwrap_or(ETCD) }.to_owned()
}

/// Whether the image is of a version (before 3.6, by its tag) whose scripts refuse an empty disk by themselves.
fn harmless(etcd: &Value) -> bool {
    let tag = text(etcd, &["image"])
        .and_then(|image| image.split('@').next())
        .and_then(|image| image.rsplit('/').next())
        .and_then(|image| image.split_once(':'))
        .map_or("", |(_, tag)| tag.trim_start_matches('v'));
    tag.parse::<Version>().is_ok_and(|version| (version.major, version.minor) < (3, 6))
}

fn volume<'a>(pod_spec: &'a Value, name: &str) -> Option<&'a Value> {
    let volumes = list(pod_spec, &["volumes"]);
    named(volumes, name).map(|index| &volumes[index])
}

/// Whether a path is this directory or one below it.
fn is_below(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir.trim_end_matches('/')).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests;
