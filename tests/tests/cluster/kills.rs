//! The Job is killed while a member joins, its pod and its node are taken away under it; run again,
//! it ends the same.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::cluster::{is_bed, names};
use tests::failpoints::{Failpoint, Job};
use tests::faults::{kill_node, start_node};
use tests::load::Load;
use tests::members::text;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;
use tests::seed::Seed;

type Result = anyhow::Result<()>;

/// A silent holder keeps the Lease for 15 s; then a step, and the Event that tells of it.
const STEP: Duration = Duration::from_secs(60);
/// How long until the controllers have made an object or the scheduler has found a node.
const MADE: Duration = Duration::from_secs(30);

/// What the Job says of itself when the step before a kill is done, in the order of the steps.
const STEPS: [&str; 5] = ["VolumePinned", "MemberAdded", "StartPermitted", "JoiningPodSwapped", "MemberPromoted"];

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn killed_after_each_step_of_a_join_it_ends_the_same() -> Result {
    scenario::run("kills", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        // Helm only changes the StatefulSet; the launcher and the Jobs made here do the work.
        let mut upgrade = release.upgrade(4, &["--no-hooks"]).await?;
        for (attempt, step) in STEPS.into_iter().enumerate() {
            release.job(&format!("attempt-{attempt}")).await?;
            until(step, STEP, async || {
                let events = release.events_since(upgrade.from).await?;
                ensure!(events.iter().any(|event| event.reason == step), "no Event {step}");
                Ok(())
            })
            .await?;
            kill_jobs(release).await?;
        }
        release.job("last").await?.done().await?;
        release.is_settled(4).await?;
        release.names_peers(4).await?;
        release.kept(&before).await?;
        upgrade.to = tests::release::now();
        let counts = load.lost_nothing(4, &upgrade).await?;
        release.say(&format!(
            "3 → 4 with {} kills in {:.1} s, longest stall {} ms",
            STEPS.len(),
            upgrade.seconds(),
            counts["window"]["longest_stall_ms"]
        ));
        Ok(())
    })
    .await
}

/// Ends whatever works on the StatefulSet now, as a lost node would: without a word.
async fn kill_jobs(release: &Release) -> Result {
    let label = format!("etcd-scaler.io/target={}", release.statefulset());
    let running = release.json(&["get", "pods", "-l", &label, "--field-selector=status.phase!=Succeeded"]).await?;
    for pod in names(&running) {
        release.kubectl(&["delete", "pod", &pod, "--force", "--grace-period=0", "--ignore-not-found"]).await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn harmed_at_a_random_failpoint_it_ends_the_same() -> Result {
    let mut seed = Seed::from_environment();
    let again = seed.again();
    let harms = if is_bed() { &Harm::ALL[..] } else { &[Harm::JobKilled, Harm::PodDeleted] };
    let harm = seed.pick(harms);
    let points: Vec<Failpoint> = Failpoint::JOIN.into_iter().filter(|point| harm.can_be_done_at(*point)).collect();
    let point = seed.pick(&points);
    let mut release = Release::of("chance", Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    release.say(&format!("{again}: {harm:?} at {}", point.name()));
    let scenario = async |release: &Release| {
        release.install(1, &[]).await?;
        Load::start(release).await?;
        one_more(release, 2, point, harm).await
    };
    let ended = if harm.needs_nodes() {
        scenario::run_alone(release, scenario).await
    } else {
        scenario::run_on(release, scenario).await
    };
    ended.with_context(|| format!("{again}: {harm:?} at {}", point.name()))
}

/// What is done while a Job is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// The Job's process is killed.
    JobKilled,
    /// The joining pod is deleted; the Job goes on.
    PodDeleted,
    /// The joining pod's node is killed; the Job goes on, and then the node is started.
    NodeKilled,
    /// The joining pod's node and the Job are killed; then the node is started.
    NodeAndJobKilled,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::JobKilled, Self::PodDeleted, Self::NodeKilled, Self::NodeAndJobKilled];

    /// Whether it takes nodes away, which only a scenario that is alone may do.
    pub fn needs_nodes(self) -> bool {
        matches!(self, Self::NodeKilled | Self::NodeAndJobKilled)
    }

    /// A pod has no node before it has a volume.
    pub fn can_be_done_at(self, point: Failpoint) -> bool {
        !self.needs_nodes() || point != Failpoint::LeaseTaken
    }

    /// Does it, and has the Job go on, if it is left.
    pub async fn done(self, release: &Release, job: &Job<'_>, ordinal: usize) -> Result {
        match self {
            Self::JobKilled => job.kill().await,
            Self::PodDeleted => {
                let pod = joining_pod(release, ordinal).await?;
                release.kubectl(&["delete", "pod", &pod, "--wait=false"]).await?;
                job.go_on().await
            }
            Self::NodeKilled => {
                let node = node_of(release, ordinal).await?;
                kill_node(&node).await?;
                job.go_on().await?;
                start_node(&node).await
            }
            Self::NodeAndJobKilled => {
                let node = node_of(release, ordinal).await?;
                job.kill().await?;
                kill_node(&node).await?;
                start_node(&node).await
            }
        }
    }
}

/// One member more, with harm done where the Job stops on the way. Run once more, it has ended as
/// without.
///
/// # Errors
/// What is not as promised.
pub async fn one_more(release: &Release, to: usize, point: Failpoint, harm: Harm) -> Result {
    let began = Instant::now();
    let what = format!("{} → {to}, {harm:?} at {}", to - 1, point.name());
    let ended = async {
        webhook_is_ready(release).await?;
        let before = release.pods().await?;
        let name = format!("to-{to}-{}", point.name());
        // It has the Lease before there is anything to do: the launcher leaves the work to it.
        let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, point]).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        release.upgrade(to, &["--no-hooks"]).await?;
        if point != Failpoint::LeaseTaken {
            job.go_on().await?;
            job.reached(point).await?;
        }
        harm.done(release, &job, to - 1).await?;
        release.job(&format!("{name}-again")).await?.done().await?;
        release.is_settled(to).await?;
        release.names_peers(to).await?;
        stayed(release, &before).await?;
        nobody_is_held(release, to).await
    };
    ended.await.with_context(|| what.clone())?;
    release.say(&format!("{what}: the same in {} s", began.elapsed().as_secs()));
    Ok(())
}

/// That the members which were there before were left alone: the same pods, no restart.
pub async fn stayed(release: &Release, before: &std::collections::BTreeMap<String, tests::members::Pod>) -> Result {
    let now = release.pods().await?;
    for (name, pod) in before {
        ensure!(now.get(name) == Some(pod), "{name} was {pod:?} and is {:?}", now.get(name));
    }
    Ok(())
}

/// That there are just these pods, all Ready and ordinary: a joining pod would keep its permission
/// and need our image for ever.
pub async fn nobody_is_held(release: &Release, count: usize) -> Result {
    let pods = release.json(&["get", "pods", "-l", "app=etcd"]).await?;
    let pods = pods["items"].as_array().context("a list without items")?;
    ensure!(pods.len() == count, "{} pods instead of {count}", pods.len());
    for pod in pods {
        let name = &pod["metadata"]["name"];
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.filter(|c| c["type"] == "Ready").any(|c| c["status"] == "True");
        ensure!(ready && pod["metadata"]["deletionTimestamp"].is_null(), "{name} is not Ready: {}", pod["status"]);
        ensure!(pod["metadata"]["annotations"]["etcd-scaler.io/joiner"].is_null(), "{name} is a joining pod");
        let inits = pod["spec"]["initContainers"].as_array().into_iter().flatten();
        ensure!(inits.clone().all(|init| init["name"] != "admit"), "{name} has the init container admit");
    }
    Ok(())
}

/// The webhook may have lived on a node that was killed; a change of members needs it.
pub async fn webhook_is_ready(release: &Release) -> Result {
    let deployment = format!("deployment/{}-etcd-scaler-webhook", release.name);
    let status = ["-n", &release.namespace, "rollout", "status", &deployment, "--timeout=60s"];
    tests::process::run("kubectl", status, "", Duration::from_secs(70)).await?.ok().map(drop)
}

/// The joining pod, once there is one that is not being deleted.
pub async fn joining_pod(release: &Release, ordinal: usize) -> anyhow::Result<String> {
    let name = release.pod(ordinal);
    until("there is a joining pod", MADE, async || {
        let pod = release.json(&["get", "pod", &name]).await?;
        ensure!(pod["metadata"]["deletionTimestamp"].is_null(), "{name} is being deleted");
        Ok(())
    })
    .await?;
    Ok(name)
}

/// The node of the joining pod, which may be on its way out.
pub async fn node_of(release: &Release, ordinal: usize) -> anyhow::Result<String> {
    let name = release.pod(ordinal);
    until("the joining pod has a node", MADE, async || {
        let node = text(&release.json(&["get", "pod", &name]).await?["spec"]["nodeName"]);
        ensure!(!node.is_empty(), "{name} is not scheduled");
        Ok(node)
    })
    .await
}
