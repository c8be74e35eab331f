//! The flags that both programs have: which StatefulSet, and how its volumes are made. Each can be given as a variable
//! too, so that another command can be run in the same container without them.

use clap::{Args, ValueEnum};
use membership::know::names::Target;
use membership::know::volume::{OnScaleDown, VolumePlan};

/// Which StatefulSet, and how its members are addressed.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// The StatefulSet's namespace.
    #[arg(long, env = "ETCD_SCALER_NAMESPACE")]
    namespace: String,
    /// The StatefulSet's name.
    #[arg(long, env = "ETCD_SCALER_STATEFULSET")]
    statefulset: String,
    /// The container that runs etcd.
    #[arg(long, env = "ETCD_SCALER_CONTAINER", default_value = "etcd")]
    container: String,
    /// The cluster's DNS domain.
    #[arg(long, env = "ETCD_SCALER_CLUSTER_DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// http or https, between members.
    #[arg(long, env = "ETCD_SCALER_PEER_SCHEME", default_value = "http")]
    peer_scheme: String,
    /// The members' peer port.
    #[arg(long, env = "ETCD_SCALER_PEER_PORT", default_value_t = 2380)]
    peer_port: u16,
    /// http or https, for clients.
    #[arg(long, env = "ETCD_SCALER_CLIENT_SCHEME", default_value = "http")]
    client_scheme: String,
    /// The members' client port.
    #[arg(long, env = "ETCD_SCALER_CLIENT_PORT", default_value_t = 2379)]
    client_port: u16,
    /// The suspended CronJob from whose template a person starts a Job [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_CRONJOB")]
    cronjob: Option<String>,
}

impl TargetArgs {
    /// The target, without the headless Service's name, which the live StatefulSet tells.
    #[must_use]
    pub fn target(self) -> Target {
        let Self {
            namespace,
            statefulset,
            container,
            cluster_domain,
            peer_scheme,
            peer_port,
            client_scheme,
            client_port,
            cronjob,
        } = self;
        Target {
            service: String::new(),
            cronjob: cronjob.unwrap_or_else(|| format!("{statefulset}-scaler")),
            namespace,
            statefulset,
            container,
            cluster_domain,
            peer_scheme,
            peer_port,
            client_scheme,
            client_port,
        }
    }
}

/// The Lease of the runs.
#[derive(Debug, Args)]
pub struct LeaseArgs {
    /// The Lease that lets one run work at a time [default: <statefulset>-scaler].
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: Option<String>,
}

impl LeaseArgs {
    /// Its name.
    #[must_use]
    pub fn name(self, target: &Target) -> String {
        self.lease.unwrap_or_else(|| format!("{}-scaler", target.statefulset))
    }
}

/// How volumes are made.
#[derive(Debug, Args)]
pub struct VolumeArgs {
    /// The Helm release that owns the volumes.
    #[arg(long, env = "ETCD_SCALER_RELEASE")]
    release: String,
    /// That release's namespace.
    #[arg(long, env = "ETCD_SCALER_RELEASE_NAMESPACE")]
    release_namespace: String,
    /// Volumes are named <prefix>-<ordinal>.
    #[arg(long, env = "ETCD_SCALER_PV_NAME_PREFIX", default_value = "etcd-volume")]
    pv_name_prefix: String,
    /// The directory on the node; the ordinal is appended.
    #[arg(long, env = "ETCD_SCALER_PV_HOST_PATH")]
    pv_host_path: String,
    /// The volumes' capacity.
    #[arg(long, env = "ETCD_SCALER_PV_CAPACITY", default_value = "2Gi")]
    pv_capacity: String,
    /// Retain or Delete.
    #[arg(long, env = "ETCD_SCALER_PV_RECLAIM_POLICY", default_value = "Retain", value_parser = ["Retain", "Delete"])]
    pv_reclaim_policy: String,
    /// Tie each volume to the node its pod was scheduled to.
    #[arg(long, env = "ETCD_SCALER_PV_PIN", default_value = "true", action = clap::ArgAction::Set)]
    pv_pin: bool,
    /// Set pv.kubernetes.io/bound-by-controller by hand.
    #[arg(long, env = "ETCD_SCALER_PV_BOUND_BY_CONTROLLER", default_value = "false", action = clap::ArgAction::Set)]
    pv_bound_by_controller: bool,
    /// What becomes of the claim of a member that was removed, and of the volume made for it.
    #[arg(long, env = "ETCD_SCALER_ON_SCALE_DOWN", default_value = "keep")]
    on_scale_down: Claims,
}

/// What becomes of a claim when its member was removed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Claims {
    /// It stays, with the data.
    Keep,
    /// It is deleted after its member and its pod are gone.
    Delete,
}

impl From<Claims> for OnScaleDown {
    fn from(claims: Claims) -> Self {
        match claims {
            Claims::Keep => Self::Keep,
            Claims::Delete => Self::Delete,
        }
    }
}

impl VolumeArgs {
    /// The plan.
    #[must_use]
    pub fn plan(self) -> VolumePlan {
        let Self {
            release,
            release_namespace,
            pv_name_prefix,
            pv_host_path,
            pv_capacity,
            pv_reclaim_policy,
            pv_pin,
            pv_bound_by_controller,
            on_scale_down,
        } = self;
        VolumePlan {
            name_prefix: pv_name_prefix,
            host_path: pv_host_path,
            capacity: pv_capacity,
            reclaim_policy: pv_reclaim_policy,
            pin: pv_pin,
            bound_by_controller: pv_bound_by_controller,
            on_scale_down: on_scale_down.into(),
            release,
            release_namespace,
        }
    }
}
