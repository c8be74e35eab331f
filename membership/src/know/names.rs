//! Names and addresses: one StatefulSet, its ordinals, and the URLs that follow from them.

use std::fmt;

/// The annotation of the StatefulSet (and of the Lease) that holds the [`crate::know::record::Record`].
pub const RECORD: &str = "etcd-scaler.io/record";
/// The annotation of the StatefulSet with the UID of the StatefulSet for which a run last confirmed the record. If it
/// is not the UID of the StatefulSet that has it, that one was made again and took its record over from the Lease.
pub const RECORDED_FOR: &str = "etcd-scaler.io/recorded-for";
/// The annotation of the StatefulSet that keeps the person's or chart's own partition
/// while ours is in force.
pub const KEPT_PARTITION: &str = "etcd-scaler.io/partition";
/// The annotation of the StatefulSet in which the hook, before an uninstall, tells the webhook which managed
/// environment to put back: that of the revision that the pods were made from (JSON: variable name to entry, `null` if
/// there was none).
pub const LEAVING: &str = "etcd-scaler.io/leaving";
/// The annotation of the StatefulSet that says since when etcd-scaler leaves it alone: it was given back to its own
/// chart at an uninstall (RFC 3339).
pub const LEFT: &str = "etcd-scaler.io/left";
/// The annotation of the StatefulSet with which a person allows 0 replicas (`"true"`): every member
/// stops and none is removed.
pub const STOP: &str = "etcd-scaler.io/stop";
/// The annotation of the StatefulSet by which a person has one count admitted although a rule that may be lifted
/// refuses it (`<count>: <reason>`, [`crate::know::annotations::Override`]).
pub const OVERRIDE: &str = "etcd-scaler.io/override";
/// The annotation of the StatefulSet with what the last comparison of the members' keys found
/// ([`crate::know::summary::Summary`]).
pub const SUMMARY: &str = "etcd-scaler.io/summary";
/// The annotation of the StatefulSet that says what happens to a count that was set through `statefulsets/scale`, if
/// the release sets another one ([`crate::know::annotations::OnReset`]).
pub const ON_RESET: &str = "etcd-scaler.io/on-reset";
/// The annotation of the StatefulSet with the count that was set through `statefulsets/scale` and is
/// kept though the release has another one.
pub const SCALED_TO: &str = "etcd-scaler.io/scaled-to";
/// The annotation of the StatefulSet with a person's answer to the question what to do with what an earlier cluster
/// left behind ([`crate::decide::bootstrap`]). It counts only for the bootstrap that asked.
pub const BOOTSTRAP: &str = "etcd-scaler.io/bootstrap";
/// The annotation of the StatefulSet with what the Job does on that answer ([`crate::know::annotations::Decided`]).
pub const DECIDED: &str = "etcd-scaler.io/bootstrap-decided";
/// The annotation that the Job writes into a pod after the token, so that the pod's kubelet looks at it at once.
pub const BEGUN: &str = "etcd-scaler.io/begun";
/// The key of the token in the ConfigMap ([`Target::bootstrap`]).
pub const TOKEN: &str = "token";
/// The init container of the chart's etcd pods that looks into the data directory; its termination message says what is
/// there.
pub const LOOK: &str = "volume-permissions";
/// The name of the init container in which old data is set aside before a new cluster begins.
pub const SET_ASIDE: &str = "set-aside";
/// The annotation of the StatefulSet with the user as which its controller was last seen.
pub const CONTROLLER: &str = "etcd-scaler.io/controller";
/// The users whose deletes of pods the webhook is asked about, because the StatefulSet controller may work as one of
/// them: its own account, and the one that all controllers share if kube-controller-manager runs without
/// `--use-service-account-credentials`. The webhook's configuration in the chart names the same two.
pub const CONTROLLERS: [&str; 2] =
    ["system:serviceaccount:kube-system:statefulset-controller", "system:kube-controller-manager"];
/// What every annotation of ours begins with.
pub const PREFIX: &str = "etcd-scaler.io/";
/// The annotation of a pod that the webhook made a joiner (`"true"`). It is only for people: a joiner is known by its
/// init container [`ADMIT`], because anybody can write an annotation.
pub const JOINER: &str = "etcd-scaler.io/joiner";
/// The scheduling gate of a joining pod whose turn has not come.
pub const TURN: &str = "etcd-scaler.io/turn";
/// The annotation of a joining pod that says what it waits for, for `kubectl describe`.
pub const WAITS_FOR: &str = "etcd-scaler.io/waits-for";
/// The annotation of a joining pod in which the Job permits its start ([`Permission`]).
pub const PERMISSION: &str = "etcd-scaler.io/permission";
/// The annotation of a pod from which its `ETCD_INITIAL_CLUSTER` comes, where the chart has it so.
pub const INITIAL_CLUSTER: &str = "etcd-scaler.io/initial-cluster";
/// The annotation of a pod from which its `ETCD_INITIAL_CLUSTER_STATE` comes, where the chart has
/// it so: the kubelet reads it at every start of the container.
pub const INITIAL_CLUSTER_STATE: &str = "etcd-scaler.io/initial-cluster-state";
/// The label of every Job of ours, and of its pod: the StatefulSet it works on.
pub const TARGET: &str = "etcd-scaler.io/target";
/// The name of the init container in which a joining pod waits.
pub const ADMIT: &str = "admit";
/// How the command of that container begins.
pub const ADMIT_COMMAND: [&str; 2] = ["/hook", "admit"];
/// The name of the init container that proves the joining pod's etcd image.
pub const ETCD_VERSION: &str = "etcd-version";
/// The directory in which `admit` finds the permission as a downward-API file.
pub const PERMISSION_DIR: &str = "/etc/etcd-scaler";
/// The port on which `admit` tells that it waits; etcd's own are 2379 to 2381.
pub const WAITING_PORT: u16 = 2382;
/// The most members etcd's FAQ advises; more are refused.
pub const MOST_MEMBERS: u32 = 7;

/// A pod's number within its StatefulSet, from 0 (`spec.ordinals.start` other than 0 is refused).
pub type Ordinal = u32;

/// One etcd StatefulSet and how its members are addressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The StatefulSet's namespace.
    pub namespace: String,
    /// The StatefulSet's name; pods are `<statefulset>-<ordinal>`.
    pub statefulset: String,
    /// The headless Service of the pods (`spec.serviceName`).
    pub service: String,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub cluster_domain: String,
    /// The container that runs etcd.
    pub container: String,
    /// `http` or `https`, between members.
    pub peer_scheme: String,
    /// The port on which members listen for each other.
    pub peer_port: u16,
    /// `http` or `https`, for clients.
    pub client_scheme: String,
    /// The port on which members listen for clients.
    pub client_port: u16,
    /// The suspended CronJob from whose template a person starts a Job of ours.
    pub cronjob: String,
}

impl Target {
    /// The pod, and so the member, of an ordinal.
    #[must_use]
    pub fn pod(&self, ordinal: Ordinal) -> String {
        format!("{}-{ordinal}", self.statefulset)
    }

    /// The claim of an ordinal, by the claim template of this name.
    #[must_use]
    pub fn claim(&self, template: &str, ordinal: Ordinal) -> String {
        format!("{template}-{}", self.pod(ordinal))
    }

    /// The ConfigMap from which the chart's etcd pods read their cluster's token. Without it no pod that is as its
    /// chart made it starts.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("{}-bootstrap", self.statefulset)
    }

    /// The ordinal of a pod or member name, if it is one of ours.
    #[must_use]
    pub fn ordinal_of(&self, pod: &str) -> Option<Ordinal> {
        let digits = pod.strip_prefix(&self.statefulset)?.strip_prefix('-')?;
        let ordinal: Ordinal = digits.parse().ok()?;
        // "01" and "+1" parse as 1 and are not what the StatefulSet controller writes.
        (ordinal.to_string() == digits).then_some(ordinal)
    }

    /// The pod's name in DNS.
    #[must_use]
    pub fn host(&self, ordinal: Ordinal) -> String {
        let Self { namespace, service, cluster_domain, .. } = self;
        format!("{}.{service}.{namespace}.svc.{cluster_domain}", self.pod(ordinal))
    }

    /// The member's peer URL.
    #[must_use]
    pub fn peer_url(&self, ordinal: Ordinal) -> String {
        format!("{}://{}:{}", self.peer_scheme, self.host(ordinal), self.peer_port)
    }

    /// The member's client URL.
    #[must_use]
    pub fn client_url(&self, ordinal: Ordinal) -> String {
        format!("{}://{}:{}", self.client_scheme, self.host(ordinal), self.client_port)
    }

    /// The ordinal whose peer URL this is, if any up to [`MOST_MEMBERS`].
    #[must_use]
    pub fn ordinal_of_peer_url(&self, url: &str) -> Option<Ordinal> {
        (0..MOST_MEMBERS).find(|&ordinal| self.peer_url(ordinal) == url)
    }

    /// ETCD_INITIAL_CLUSTER for these ordinals: on one line, commas only. etcd refuses the
    /// page's multi-line form (facts-etcd 6: "couldn't find local name").
    #[must_use]
    pub fn initial_cluster(&self, ordinals: impl IntoIterator<Item = Ordinal>) -> String {
        let peers: Vec<String> =
            ordinals.into_iter().map(|o| format!("{}={}", self.pod(o), self.peer_url(o))).collect();
        peers.join(",")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StatefulSet {}/{}", self.namespace, self.statefulset)
    }
}

#[cfg(test)]
pub(crate) mod tests {

    pub(crate) use crate::world::puls8;

    #[test]
    fn the_pages_four_peers_are_on_one_line() {
        insta::assert_snapshot!(puls8().initial_cluster(0..4), @"puls8-etcd-0=http://puls8-etcd-0.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-1=http://puls8-etcd-1.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-2=http://puls8-etcd-2.puls8-etcd-headless.puls8.svc.cluster.local:2380,puls8-etcd-3=http://puls8-etcd-3.puls8-etcd-headless.puls8.svc.cluster.local:2380");
    }

    #[test]
    fn the_charts_rule_keeps_the_same_users_from_deleting() {
        let rule = include_str!("../../../chart/templates/webhook/configurations.yaml");
        for user in super::CONTROLLERS {
            assert!(rule.contains(&format!("request.userInfo.username == '{user}'")), "{user}");
        }
    }

    #[test]
    fn only_the_controllers_spelling_of_a_pod_name_is_ours() {
        let target = puls8();
        assert_eq!(target.ordinal_of("puls8-etcd-10"), Some(10));
        for other in ["puls8-etcd-01", "puls8-etcd-+1", "puls8-etcd-", "puls8-etcd", "x-1", "puls8-etcd-headless-1"] {
            assert_eq!(target.ordinal_of(other), None, "{other}");
        }
    }
}
