//! What a scale depends on is killed while the Job is in its middle: the API server, the webhook, the
//! leader of etcd. Nobody starts anything again but what was killed: the Job, or the launcher's next
//! one, ends the scale, and nobody else restarts.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::failpoints::{Failpoint, Job};
use tests::faults::{kill_api_server, kill_container, start_api_server};
use tests::load::Load;
use tests::members::Pod;
use tests::process::until;
use tests::release::{Helm, Ran, Release, now};
use tests::scenario;

use crate::kills::{nobody_is_held, stayed};
use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// A Lease and a leader that were lost, a Job that failed, the launcher's pause before the next one.
const BY_ITSELF: Duration = Duration::from_secs(240);
/// Until the kubelet has started a container again that was killed a few times before.
const STARTED: Duration = Duration::from_secs(60);
/// How long there is no API server: less than a Lease lasts, and longer.
const AWAY: [Duration; 2] = [Duration::from_secs(4), Duration::from_secs(20)];

/// Where a join is stopped: nothing is added; added and not written down; permitted; to be promoted.
const UP: [Failpoint; 4] =
    [Failpoint::BeforeAdd, Failpoint::MemberAdded, Failpoint::Permitted, Failpoint::BeforePromote];
/// Where a scale-down is stopped: said; to be removed; removed; its pod gone, and only the Lease knows.
const DOWN: [Failpoint; 4] =
    [Failpoint::LeavingRecorded, Failpoint::BeforeRemove, Failpoint::MemberRemoved, Failpoint::GoneCopied];

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outage {
    /// The API server, for a while.
    ApiServer,
    /// Every replica of the webhook.
    Webhook,
    /// The process of the member that leads.
    Leader,
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_api_server_killed_in_the_middle_of_an_up_and_a_down() -> Result {
    up_and_down("out-api", Helm::V4, Outage::ApiServer).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_webhook_killed_in_the_middle_of_an_up_and_a_down() -> Result {
    up_and_down("out-webhook", Helm::V3, Outage::Webhook).await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_leader_of_etcd_killed_in_the_middle_of_an_up_and_a_down() -> Result {
    up_and_down("out-leader", Helm::V4, Outage::Leader).await
}

/// 3 → 4 and back, again and again, at each of the places.
async fn up_and_down(name: &str, helm: Helm, outage: Outage) -> Result {
    let mut release = Release::of(name, helm);
    release.images.scaler = release.images.failpoints.clone();
    let scenario = async |release: &Release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        for (round, (up, down)) in UP.into_iter().zip(DOWN).enumerate() {
            one(release, &load, outage, round, (3, 4), up).await?;
            one(release, &load, outage, round, (4, 3), down).await?;
        }
        Ok(())
    };
    // Without an API server nobody else gets on.
    if outage == Outage::ApiServer {
        scenario::run_alone(release, scenario).await
    } else {
        scenario::run_on(release, scenario).await
    }
}

/// One scale with one outage, and everything that is promised about it.
async fn one(
    release: &Release,
    load: &Load<'_>,
    outage: Outage,
    round: usize,
    (from, to): (usize, usize),
    point: Failpoint,
) -> Result {
    let what = format!("{from} → {to}, {outage:?} killed at {}", point.name());
    let began = Instant::now();
    let ended = async {
        release.webhook_is_whole().await?;
        let mut staying: BTreeMap<String, Pod> = release.pods().await?.into_iter().take(from.min(to)).collect();
        let mut during = from_now();
        let job = release.stopping_job(&format!("{to}-{round}"), &[Failpoint::LeaseTaken, point]).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        release.upgrade(to, &["--no-hooks"]).await?;
        job.go_on().await?;
        job.reached(point).await?;
        let restarted = outage.befalls(release, &job, round).await?;
        until("the scale ends by itself", BY_ITSELF, async || {
            release.is_settled(to).await?;
            nobody_is_held(release, to).await
        })
        .await?;
        release.names_peers(to).await?;
        if let Some(pod) = restarted {
            once_more_started(release, &staying, &pod).await?;
            staying.remove(&pod);
        }
        stayed(release, &staying).await?;
        let end = job.ended().await?;
        let last = end.log.lines().last().unwrap_or_default().to_owned();
        release.say(&format!("the Job ended {}: {last}", if end.complete { "well" } else { "without success" }));
        nobody_works(release).await?;
        during.to = now();
        nothing_is_lost(release, load, to, &during).await
    };
    ended.await.with_context(|| what.clone())?;
    release.say(&format!("{what}: {to} healthy members after {} s", began.elapsed().as_secs()));
    Ok(())
}

impl Outage {
    /// Lets the Job go on, and kills what it depends on; the member's pod whose container that was, if
    /// it was one that stays.
    async fn befalls(self, release: &Release, job: &Job<'_>, round: usize) -> anyhow::Result<Option<String>> {
        match self {
            Self::ApiServer => {
                // The Job asks ten times a second whether to go on, so that the API server dies under its
                // next steps; where it did not ask in time, it hears of it when it can ask again.
                job.go_on().await?;
                kill_api_server().await?;
                tokio::time::sleep(AWAY[round % AWAY.len()]).await;
                start_api_server().await?;
                Ok(None)
            }
            Self::Webhook => {
                release.kill_webhook().await?;
                job.go_on().await?;
                Ok(None)
            }
            Self::Leader => {
                let leader = until("somebody leads", STARTED, async || release.leader().await).await?;
                let pod = release.pod(leader);
                let before = release.running(&pod, "etcd").await?;
                kill_container(&before.node, &before.id).await?;
                job.go_on().await?;
                // That there was an outage: another process has its place, or its pod is gone.
                until("the leader's container was started again", STARTED, async || {
                    let gone = ["get", "pod", &pod, "--ignore-not-found", "-o", "name"];
                    if release.kubectl(&gone).await?.is_empty() {
                        return Ok(());
                    }
                    let now = release.running(&pod, "etcd").await?;
                    ensure!(now.id != before.id, "{pod} still runs {}", now.id);
                    Ok(())
                })
                .await?;
                Ok(Some(pod))
            }
        }
    }
}

/// The member that was killed is the same pod, started once more than before; of one that leaves, or
/// whose joining pod it was, there is nothing to say.
async fn once_more_started(release: &Release, staying: &BTreeMap<String, Pod>, name: &str) -> Result {
    let Some(before) = staying.get(name) else { return Ok(()) };
    let now = release.pods().await?;
    let now = now.get(name).with_context(|| format!("{name} is gone"))?;
    ensure!(
        now.uid == before.uid && now.restarts == before.restarts + 1,
        "{name} was {before:?} and is {now:?}, killed once"
    );
    Ok(())
}

/// That no Job is at work: the next round's is to have the Lease.
async fn nobody_works(release: &Release) -> Result {
    let label = format!("etcd-scaler.io/target={}", release.statefulset());
    until("every Job has ended", BY_ITSELF, async || {
        let active = ["get", "jobs", "-l", &label, "-o", "jsonpath={.items[*].status.active}"];
        let active = release.kubectl(&active).await?;
        ensure!(active.is_empty(), "Jobs are at work: {active}");
        Ok(())
    })
    .await
}

async fn nothing_is_lost(release: &Release, load: &Load<'_>, members: usize, during: &Ran) -> Result {
    let counts = load.lost_nothing(members, during).await?;
    release.say(&format!("longest stall {} ms", counts["window"]["longest_stall_ms"]));
    Ok(())
}
