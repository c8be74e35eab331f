//! What is not understood about how etcd is started, and the one sentence that says so.

use std::fmt;

use crate::know::names::Target;

/// What is not understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotUnderstood {
    /// There is no container of this name.
    Container(String),
    /// The program that starts etcd: this command line, or (`None`) the image's own, which is not known.
    Program(Option<String>),
    /// Variables come from another object (`envFrom`) and are not in the pod.
    Elsewhere,
    /// A setting whose variable we would write is given as a flag.
    Flag {
        /// Its name.
        flag: &'static str,
        /// The command that takes the managed variables out, if they are set beside the flags.
        beside: Option<String>,
    },
    /// etcd is given a configuration file, by this flag, variable or mount.
    File(String),
    /// The members find each other by a discovery service, with this flag.
    Discovery(&'static str),
    /// `--force-new-cluster`: a cluster of one at each start.
    ForceNewCluster,
    /// The member's name (`None`: it cannot be told) is not its pod's.
    Name(Option<String>, String),
    /// The peer URL that the member advertises is not its pod's.
    PeerUrl {
        /// As it is, if that can be told.
        found: Option<String>,
        /// The URL under which its pod is reached.
        needed: String,
    },
    /// The data directory cannot be told.
    DataDirectory,
    /// The write-ahead log has a directory of its own.
    Log,
    /// Another volume is mounted below the data directory.
    Split {
        /// The data directory.
        dir: String,
        /// The directory below it.
        part: String,
    },
    /// The data directory is not on a claim of the pod's own.
    Kept {
        /// The data directory.
        dir: String,
        /// What it is on.
        on: Place,
    },
}

/// What a data directory is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// No volume: the container's own layer.
    NoVolume,
    /// An emptyDir, which is deleted with the pod.
    EmptyDir,
    /// A hostPath in the template: a directory of whichever node the pod is on.
    HostPath,
    /// The same claim for every pod.
    OneClaim(String),
    /// A volume of another kind, by its name.
    Other(String),
}

impl NotUnderstood {
    /// What was found, in a part of a sentence.
    #[must_use]
    pub fn found(&self) -> String {
        match self {
            Self::Container(name) => format!("its pods have no container {name:?}"),
            Self::Program(Some(line)) => format!("its etcd is started by a program of its own ({})", short(line)),
            Self::Program(None) => "its etcd container names no command, so who starts etcd is not known".into(),
            Self::Elsewhere => "its etcd takes variables from another object (envFrom)".into(),
            Self::Flag { flag, .. } => format!("its etcd is started with the flag --{flag}"),
            Self::File(what) => format!("its etcd is given a configuration file ({what})"),
            Self::Discovery(setting) => format!("its etcd finds the first members by a service (--{setting})"),
            Self::ForceNewCluster => "its etcd is started with --force-new-cluster".into(),
            Self::Name(Some(name), pod) => format!("the member in pod {pod} is named {name:?}"),
            Self::Name(None, pod) => format!("how the member in pod {pod} is named cannot be told"),
            Self::PeerUrl { found: Some(found), needed } => {
                format!("its etcd gives the other members the URL {found}, and needed is {needed}")
            }
            Self::PeerUrl { found: None, needed } => {
                format!("which URL its etcd gives the other members cannot be told, and needed is {needed}")
            }
            Self::DataDirectory => "its data directory cannot be told".into(),
            Self::Log => "its write-ahead log has a directory of its own (--wal-dir, ETCD_WAL_DIR)".into(),
            Self::Split { dir, part } => format!("below its data directory {dir} another volume is mounted ({part})"),
            Self::Kept { dir, on } => format!("its data directory {dir} is on {on}, not on a claim of each pod's own"),
        }
    }

    /// Why etcd-scaler does not go on with that, and what can be done, in sentences.
    #[must_use]
    pub fn why_and_way_out(&self) -> (&'static str, String) {
        match self {
            Self::Container(_) => (
                "Which of its containers runs etcd is not known.",
                "Name it in etcd-scaler's values (target.container).".into(),
            ),
            Self::Program(_) => (
                "What that makes of etcd's settings, and whether it changes the member list by itself, is not known.",
                "Have its chart start etcd itself: a command whose program is etcd, with the settings as variables (ETCD_*).".into(),
            ),
            Self::Elsewhere => (
                "What is in that object is not seen here, and changes without the StatefulSet.",
                "Have its chart set etcd's variables one by one (env).".into(),
            ),
            Self::Flag { flag, beside } => (
                "etcd ends where a setting is given as a flag and as a variable, and by variables a newcomer learns whom to join.",
                match beside {
                    None => "Have its chart set ETCD_INITIAL_CLUSTER and ETCD_INITIAL_CLUSTER_STATE instead of these flags.".into(),
                    Some(command) => format!(
                        "Both are given for --{flag}, so no pod that is made again starts: take the variables out ({command}), and delete the pods that do not start."
                    ),
                },
            ),
            Self::File(_) => (
                "etcd then reads neither variables nor flags, and by variables a newcomer learns whom to join.",
                "Have its chart set ETCD_* variables with the same values instead of the file.".into(),
            ),
            Self::Discovery(_) => (
                "etcd ends where it is given that and a list of members.",
                "Have its chart set ETCD_INITIAL_CLUSTER instead: etcd reads either on an empty directory only.".into(),
            ),
            Self::ForceNewCluster => (
                "With that a member throws all others out of its list at each start.",
                "Have its chart leave it out.".into(),
            ),
            Self::Name(..) => (
                "In the list of members that a newcomer is given, each is named as its pod.",
                "Have its chart name each member as its pod (ETCD_NAME from metadata.name).".into(),
            ),
            Self::PeerUrl { .. } => (
                "By that URL a member is known for its pod's.",
                "Have its chart give that one (ETCD_INITIAL_ADVERTISE_PEER_URLS, and for each member in ETCD_INITIAL_CLUSTER), or, if its own is right, name its scheme, port and domain in etcd-scaler's values (target.peerScheme, target.peerPort, etcd.clusterDomain).".into(),
            ),
            Self::DataDirectory => (
                "A newcomer may only start where the data was looked at.",
                "Have its chart set ETCD_DATA_DIR to the path that the data is at now, as a literal.".into(),
            ),
            Self::Log | Self::Split { .. } => (
                "What a member left behind is only told, and moved aside, where all of it is in one directory.",
                "It cannot be moved under a running member: let the data be taken over by a new StatefulSet that has all of it in one (etcdctl snapshot save, etcdutl snapshot restore: docs/restore.md).".into(),
            ),
            Self::Kept { .. } => (
                "A pod that is made again may start on nothing, or on what another member wrote, and a newcomer's pod is made again before it votes.",
                "Kubernetes lets nobody change that in a StatefulSet: let the data be taken over by a new one with volumeClaimTemplates (etcdctl snapshot save, etcdutl snapshot restore: docs/restore.md).".into(),
            ),
        }
    }

    /// All of it, behind the StatefulSet's name: "StatefulSet a/b is left as it is: …".
    #[must_use]
    pub fn sentence(&self, target: &Target) -> String {
        format!("{target} is left as it is: {self}")
    }
}

impl fmt::Display for NotUnderstood {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (why, way_out) = self.why_and_way_out();
        write!(f, "{}. {why} {way_out}", self.found())
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoVolume => f.write_str("no volume"),
            Self::EmptyDir => f.write_str("an emptyDir"),
            Self::HostPath => f.write_str("a hostPath of the pod template"),
            Self::OneClaim(claim) => write!(f, "one claim for all pods ({claim})"),
            Self::Other(name) => write!(f, "the volume {name:?} of the pod template"),
        }
    }
}

/// The beginning of a command line, which may be a whole script.
fn short(line: &str) -> String {
    const LONGEST: usize = 60;
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{} …", &line[..end]),
        None => line,
    }
}
