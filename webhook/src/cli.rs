//! The flags, and the one place that starts everything with them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context;
use kube::Client;
use kubernetes::flags::{TargetArgs, VolumeArgs};
use membership::know::annotations::OnReset;
use membership::know::names::Target;
use tokio::sync::watch;
use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::admission::Admission;
use crate::admission::held::Held;
use crate::events::Events;
use crate::health::cluster::Cluster;
use crate::health::{Health, controller};
use crate::launcher::lost_claim::Claims;
use crate::launcher::owner::Owned;
use crate::launcher::{Launcher, lost_disk};
use crate::server;
use crate::server::bundle::Bundles;
use crate::server::certificate::Certificates;
use crate::server::readiness::Readiness;

/// The admission server of one etcd StatefulSet, and the launcher of its scaling Job.
#[derive(clap::Parser)]
#[command(version)]
pub struct Args {
    #[command(flatten)]
    target: TargetArgs,
    /// The Lease of the Job, which keeps a copy of the record.
    #[arg(long, env = "ETCD_SCALER_LEASE")]
    lease: String,
    #[command(flatten)]
    volumes: VolumeArgs,
    #[command(flatten)]
    log: LogArgs,
    /// Our own image, for the init container of joining pods.
    #[arg(long, env = "ETCD_SCALER_IMAGE")]
    image: String,
    /// The ServiceAccount of the scaling Job: the only one that may write the record.
    #[arg(long, env = "ETCD_SCALER_HOOK_SERVICE_ACCOUNT")]
    hook_service_account: String,
    /// The name of our MutatingWebhookConfiguration.
    #[arg(long, env = "ETCD_SCALER_MUTATING_CONFIG")]
    mutating_config: String,
    /// The name of our ValidatingWebhookConfiguration.
    #[arg(long, env = "ETCD_SCALER_VALIDATING_CONFIG")]
    validating_config: String,
    /// The name of our policy and the prefix of our ClusterRoles: what goes with the namespace.
    #[arg(long, env = "ETCD_SCALER_CLUSTER_NAME")]
    cluster_name: String,
    /// The Secret in which the serving certificate is kept; made when absent.
    #[arg(long, env = "ETCD_SCALER_TLS_SECRET")]
    tls_secret: String,
    /// The Service through which the API server calls us; the certificate is made for its name.
    #[arg(long, env = "ETCD_SCALER_SERVICE")]
    service: String,
    /// When a release sets the count again that was changed with kubectl scale: refuse, keep or follow;
    /// the StatefulSet's annotation etcd-scaler.io/on-reset comes first.
    #[arg(long, env = "ETCD_SCALER_ON_RESET", default_value = "refuse")]
    on_reset: OnReset,
    /// Where to listen for HTTPS.
    #[arg(long, env = "ETCD_SCALER_LISTEN", default_value = "0.0.0.0:8443")]
    listen: SocketAddr,
    /// Our own pod's name, for Events.
    #[arg(long, env = "POD_NAME", default_value = "etcd-scaler-webhook")]
    pod_name: String,
}

#[derive(clap::Args)]
struct LogArgs {
    /// How log lines are written.
    #[arg(long, env = "ETCD_SCALER_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// What is logged, as tracing's directives.
    #[arg(long, env = "ETCD_SCALER_LOG_FILTER", default_value = "info")]
    log_filter: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

impl Args {
    /// Serves until SIGTERM.
    pub async fn run(self) -> anyhow::Result<()> {
        // Destructured whole: a flag that nothing uses does not compile.
        let Self {
            target,
            lease,
            volumes,
            log: LogArgs { log_format, log_filter },
            image,
            hook_service_account,
            mutating_config,
            validating_config,
            cluster_name,
            tls_secret,
            service,
            on_reset,
            listen,
            pod_name,
        } = self;
        let filter = EnvFilter::try_new(&log_filter).context("--log-filter")?;
        match log_format {
            LogFormat::Text => tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).init(),
            LogFormat::Json => tracing_subscriber::fmt().with_env_filter(filter).json().init(),
        }
        let target = target.target();
        info!(version = env!("CARGO_PKG_VERSION"), %target.namespace, %target.statefulset, "etcd-scaler webhook starts");
        // kube and the listener are built without a default provider: there is exactly one.
        if rustls::crypto::ring::default_provider().install_default().is_err() {
            anyhow::bail!("another TLS provider is installed");
        }

        let client = Client::try_default().await.context("no access to the Kubernetes API")?;
        let readiness = Arc::new(Readiness::default());
        let names = server_names(&service, &target);
        let certificates = Certificates::load(&client, &target.namespace, &tls_secret, names.clone()).await?;
        let (authority, tls) = (certificates.authority(), certificates.listener().await?);

        let (cluster, live) = Cluster::watch(&client, target.clone(), lease);
        let health = Health::poll(live.clone(), cluster.clone());
        let events = Events::new(&client, &target, pod_name);
        let plan = volumes.plan();
        let (kept_sender, kept) = watch::channel(BTreeSet::new());
        let lost_disks = lost_disk::watch(
            cluster.clone(),
            Claims::new(&client, &target.namespace, plan.clone()),
            live.clone(),
            health.clone(),
            events.clone(),
            kept_sender,
        );
        let launcher = Launcher::new(&client, &target, plan, cluster.clone(), events.clone());
        let held = Held::nobody();
        let admission = Admission {
            cluster: cluster.clone(),
            health: health.clone(),
            events,
            our_image: image,
            hook: format!("system:serviceaccount:{}:{hook_service_account}", target.namespace),
            on_reset,
            held: held.clone(),
        };
        tokio::spawn(Owned::new(&client, &target.namespace, &cluster_name).run());
        let bundles = Bundles {
            client,
            mutating: mutating_config,
            validating: validating_config,
            secret: tls_secret,
            namespace: target.namespace,
        };
        tokio::spawn(certificates.keep(tls.clone()));
        tokio::spawn(bundles.keep(authority.clone(), readiness.clone()));
        tokio::spawn(readiness.clone().watch_synced(live.clone()));
        tokio::spawn(server::check_own_listener(listen.port(), names[0].clone(), authority, readiness.clone()));
        tokio::spawn(held.wake(cluster.clone(), live.clone(), health.clone()));
        let (ready, behind) = (readiness.clone(), cluster.clone());
        tokio::spawn(async move {
            ready.ready().await;
            behind.wake_while_behind().await;
        });
        tokio::spawn(controller::ask(cluster.clone(), live.clone()));
        tokio::spawn(lost_disks);
        tokio::spawn(launcher.run(live, health, kept));
        server::serve(listen, tls, admission, readiness).await
    }
}

/// The names of our Service, that under which the API server calls first.
fn server_names(service: &str, target: &Target) -> Vec<String> {
    let Target { namespace, cluster_domain, .. } = target;
    vec![format!("{service}.{namespace}.svc"), format!("{service}.{namespace}.svc.{cluster_domain}")]
}
