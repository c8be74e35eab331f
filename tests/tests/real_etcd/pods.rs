//! Pods as processes: what the webhook's patch makes of a pod, started: `hook admit`, then etcd, with
//! exactly that environment. Pods whose model is gone are killed, containers that ended are started
//! again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use membership::know::names::{ADMIT, JOINER, Ordinal, PERMISSION_DIR, RECORD, Target};
use membership::know::observed;
use membership::know::record::{Permission, Record};
use membership::world::World;
use membership::write::pod;
use serde_json::{Value, json};

use crate::loopback::address;

/// A container that ended is started again after this long, as the kubelet does.
const BACK_OFF: Duration = Duration::from_millis(500);
/// The StatefulSet's UID.
const STATEFULSET: &str = "statefulset";

/// One pod's processes.
struct Running {
    uid: String,
    pod: Value,
    admit: Option<Child>,
    admitted: bool,
    etcd: Option<Child>,
    /// When the container was started last.
    since: Instant,
}

impl Drop for Running {
    fn drop(&mut self) {
        for process in [self.admit.take(), self.etcd.take()].iter_mut().flatten() {
            kill(process);
        }
    }
}

/// SIGKILL, and its end.
fn kill(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// The kubelets, and the disks.
pub struct Pods {
    target: Target,
    directory: tempfile::TempDir,
    running: BTreeMap<Ordinal, Running>,
    /// The pods as they were created, and who was permitted what, by UID.
    created: BTreeMap<String, Value>,
    permissions: BTreeMap<String, Permission>,
    /// What was on a disk before it was lost, by the member's ordinal.
    lost: BTreeMap<Ordinal, PathBuf>,
}

impl Pods {
    /// None yet.
    pub fn of(target: &Target) -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self {
            target: target.clone(),
            directory,
            running: BTreeMap::new(),
            created: BTreeMap::new(),
            permissions: BTreeMap::new(),
            lost: BTreeMap::new(),
        }
    }

    /// The members of a new cluster, started as their chart would.
    pub fn bootstrap(&mut self, count: u32) {
        for ordinal in 0..count {
            let pod = self.template(ordinal, &self.target.initial_cluster(0..count));
            self.start(ordinal, "bootstrap", pod, true);
            self.start_etcd(ordinal);
        }
    }

    /// The permission is in this pod's annotation now.
    pub fn permit(&mut self, uid: &str, permission: &Permission) {
        self.permissions.insert(uid.to_owned(), permission.clone());
    }

    /// The processes are made to be those of the world's pods.
    pub fn follow(&mut self, world: &World) {
        let here = |ordinal: &Ordinal| world.pods.get(ordinal).filter(|_| !world.lost.contains(ordinal));
        self.running.retain(|ordinal, running| here(ordinal).is_some_and(|pod| pod.uid == running.uid));
        for (&ordinal, pod) in &world.pods {
            // Created once: on a node that was away it runs again as it is.
            if !self.created.contains_key(&pod.uid) {
                self.created.insert(pod.uid.clone(), self.made(world, ordinal, pod));
            }
            if world.lost.contains(&ordinal) {
                continue;
            }
            if !self.running.contains_key(&ordinal) {
                self.start(ordinal, &pod.uid, self.created[&pod.uid].clone(), !pod.joiner);
            }
            self.go_on(world, ordinal);
        }
    }

    /// Kills a pod's etcd; its container is started again.
    pub fn kill(&mut self, ordinal: Ordinal) {
        if let Some(etcd) = self.running.get_mut(&ordinal).and_then(|running| running.etcd.as_mut()) {
            kill(etcd);
        }
    }

    /// Empties an ordinal's disk under its etcd, which is started again.
    pub fn lose_disk(&mut self, ordinal: Ordinal) {
        self.kill(ordinal);
        let aside = self.directory.path().join(format!("lost-{ordinal}"));
        let _ = std::fs::remove_dir_all(&aside);
        std::fs::rename(self.data(ordinal), &aside).unwrap();
        std::fs::create_dir(self.data(ordinal)).unwrap();
        self.lost.insert(ordinal, aside);
    }

    /// Puts back what was on the disks of these members.
    pub fn put_disks_back(&mut self, world: &World) {
        for (ordinal, aside) in std::mem::take(&mut self.lost) {
            let whose = etcd::identify(&aside).unwrap();
            let member = world.members.get(&ordinal).map(|member| member.id);
            if matches!(whose, etcd::DataDir::Member { member: id, .. } if Some(id) == member) {
                self.kill(ordinal);
                std::fs::remove_dir_all(self.data(ordinal)).unwrap();
                std::fs::rename(&aside, self.data(ordinal)).unwrap();
            }
        }
    }

    /// What an ordinal's etcd said last.
    pub fn log(&self, ordinal: Ordinal) -> String {
        let log = std::fs::read_to_string(self.log_file(ordinal)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn log_file(&self, ordinal: Ordinal) -> PathBuf {
        self.directory.path().join(format!("{}.log", self.target.pod(ordinal)))
    }

    fn data(&self, ordinal: Ordinal) -> PathBuf {
        self.directory.path().join(format!("pod-{ordinal}/data"))
    }

    /// The pod as the StatefulSet controller makes it.
    fn template(&self, ordinal: Ordinal, initial_cluster: &str) -> Value {
        let Target { container, .. } = &self.target;
        let listen = |port: u16| format!("http://{}:{port}", address(ordinal));
        let env = [
            ("ETCD_NAME", self.target.pod(ordinal)),
            ("ETCD_DATA_DIR", self.data(ordinal).display().to_string()),
            ("ETCD_LISTEN_PEER_URLS", listen(self.target.peer_port)),
            ("ETCD_LISTEN_CLIENT_URLS", listen(self.target.client_port)),
            ("ETCD_INITIAL_ADVERTISE_PEER_URLS", self.target.peer_url(ordinal)),
            ("ETCD_ADVERTISE_CLIENT_URLS", self.target.client_url(ordinal)),
            ("ETCD_INITIAL_CLUSTER", initial_cluster.to_owned()),
            ("ETCD_INITIAL_CLUSTER_STATE", "new".to_owned()),
        ];
        let env: Vec<Value> = env.into_iter().map(|(name, value)| json!({ "name": name, "value": value })).collect();
        let mount = self.directory.path().join(format!("pod-{ordinal}")).display().to_string();
        json!({
            "metadata": {
                "name": self.target.pod(ordinal),
                "ownerReferences": [{ "kind": "StatefulSet", "uid": STATEFULSET }],
            },
            "spec": { "containers": [{
                "name": container, "image": "etcd", "command": ["etcd"], "env": env,
                "volumeMounts": [{ "name": "data", "mountPath": mount }],
            }] },
        })
    }

    /// The pod as it is stored, after the webhook; it is what the world takes it for.
    fn made(&self, world: &World, ordinal: Ordinal, pod: &observed::Pod) -> Value {
        let annotations: BTreeMap<&str, String> =
            world.record.iter().map(|r| (RECORD, Record::annotation(r))).collect();
        let statefulset = json!({
            "metadata": { "name": self.target.statefulset, "uid": STATEFULSET, "annotations": annotations },
            "spec": { "volumeClaimTemplates": [{ "metadata": { "name": "data" } }] },
        });
        let mut created = self.template(ordinal, &self.target.initial_cluster(0..world.desired));
        let patch = pod::patch(&created, &statefulset, &self.target, "etcd-scaler").unwrap();
        json_patch::patch(&mut created, &patch).unwrap();
        let joiner = created["metadata"]["annotations"][JOINER] == "true";
        assert_eq!(joiner, pod.joiner, "{} is another pod than the world's", self.target.pod(ordinal));
        if joiner {
            let told = env(&created).remove("ETCD_INITIAL_CLUSTER");
            assert_eq!(told, pod.initial_cluster, "{} is told of others", self.target.pod(ordinal));
        }
        created
    }

    fn start(&mut self, ordinal: Ordinal, uid: &str, pod: Value, admitted: bool) {
        std::fs::create_dir_all(self.data(ordinal)).unwrap();
        let running = Running { uid: uid.to_owned(), pod, admit: None, admitted, etcd: None, since: Instant::now() };
        self.running.insert(ordinal, running);
    }

    /// One pod's next container, where it is its turn.
    fn go_on(&mut self, world: &World, ordinal: Ordinal) {
        let permission = self.directory.path().join(format!("permission-{ordinal}"));
        let Some(running) = self.running.get_mut(&ordinal) else { return };
        if world.unstartable.contains(&ordinal) && !running.admitted {
            running.admit.iter_mut().for_each(kill);
            running.admit = None;
            return;
        }
        if !running.admitted {
            let text = self.permissions.get(&running.uid).map(|it| serde_json::to_string(it).unwrap());
            // As the kubelet does: never a half of it.
            let whole = permission.with_extension("new");
            std::fs::write(&whole, text.unwrap_or_default()).unwrap();
            std::fs::rename(&whole, &permission).unwrap();
            let admit = running.admit.get_or_insert_with(|| admit(&running.pod, &permission));
            let Some(ended) = admit.try_wait().unwrap() else { return };
            assert!(ended.success(), "admit of {}: {ended}", self.target.pod(ordinal));
            running.admitted = true;
        }
        if world.broken.contains(&ordinal) {
            running.etcd.iter_mut().for_each(kill);
            running.etcd = None;
            return;
        }
        let ended = running.etcd.as_mut().is_none_or(|etcd| etcd.try_wait().unwrap().is_some());
        if ended && (running.etcd.is_none() || running.since.elapsed() > BACK_OFF) {
            self.start_etcd(ordinal);
        }
    }

    fn start_etcd(&mut self, ordinal: Ordinal) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file(ordinal)).unwrap();
        let Some(running) = self.running.get_mut(&ordinal) else { return };
        let etcd = Command::new(binary()).env_clear().envs(env(&running.pod)).stdout(Stdio::null()).stderr(log).spawn();
        (running.etcd, running.since) = (Some(etcd.unwrap()), Instant::now());
    }
}

fn binary() -> String {
    std::env::var("ETCD").expect("ETCD names the etcd binary")
}

/// The version of etcd.
pub fn version() -> String {
    let printed = Command::new(binary()).arg("--version").output().unwrap().stdout;
    let printed = String::from_utf8(printed).unwrap();
    let version = printed.lines().find_map(|line| line.strip_prefix("etcd Version: "));
    version.expect("etcd prints its version").trim().to_owned()
}

/// The environment of a pod's etcd.
fn env(pod: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let entries = pod["spec"]["containers"][0]["env"].as_array().into_iter().flatten();
    entries.map(|entry| (text(&entry["name"]), text(&entry["value"]))).collect()
}

/// The init container, with the words of the pod; its permission is a file elsewhere.
fn admit(pod: &Value, permission: &Path) -> Child {
    let init = pod["spec"]["initContainers"].as_array().into_iter().flatten().find(|init| init["name"] == ADMIT);
    let words = init.unwrap()["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let words = words.skip(1).map(|word| match word.split_once(PERMISSION_DIR) {
        Some((flag, _)) => format!("{flag}{}", permission.display()),
        None => word.to_owned(),
    });
    let hook = std::env::var("HOOK").expect("HOOK names the hook binary (cargo build -p hook)");
    Command::new(hook).args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}
