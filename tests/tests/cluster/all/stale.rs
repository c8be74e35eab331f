//! What the webhook has seen of the members is old, or nothing yet, or of a member that has fallen behind: each made on the
//! real webhook and the real etcd by stopping their processes where they are.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::json;
use tests::cluster::is_bed;
use tests::faults::{Running, freeze_container, thaw_container};
use tests::fill::rewrite;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

use super::commands::{COUNTS, SEEN, admitted, ask};
use crate::said::said;

type Result = anyhow::Result<()>;

/// Twice what makes a member one that is behind (`membership::decide::guard::condition::MOST_APART`): it catches up while it is
/// looked at.
const APART: usize = 20_000;
/// Of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEY: &str = "traffic/908/0000000000";
/// The moment that is looked for is a second or two long; whether a call falls into it is nobody's promise.
const TRIES: usize = 12;
/// The webhook looks every two seconds, and an answer may take one and a half, twice.
const MOMENT: Duration = Duration::from_secs(6);
/// How often it is asked then.
const ASKED: Duration = Duration::from_millis(150);
/// How often the webhook looks, and parts of that, in milliseconds.
const LOOKS: u64 = 2000;
const PART: u64 = 600;
/// A pod of the webhook, made again, and the moment after it.
const RESTART: Duration = Duration::from_secs(40);

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn what_was_seen_too_long_ago_or_never_is_unknown_and_refused() -> Result {
    if !is_bed() {
        println!("not the test bed: no process can be stopped where it is");
        return Ok(());
    }
    // Helm 4 leaves nobody else a field of the Deployment.
    scenario::run("guard-stale", Helm::V3, async |release| {
        release.install(3, &[]).await?;
        // Its probe each second: what is looked for is over after one and a half.
        let container = json!([{ "name": "webhook", "readinessProbe": { "periodSeconds": 1 } }]);
        let often = json!({ "spec": { "template": { "spec": { "containers": container } } } }).to_string();
        release.kubectl(&["patch", "deployment", &release.webhook(), "-p", &often]).await?;
        release.webhook_is_whole().await?;
        let replica = release.one_webhook().await?;
        admitted(release, 4).await?;
        let old = sought(release, "last seen", MOMENT, async || {
            until("it is admitted", SEEN, async || ask(release, 4).await?.ok().map(drop)).await?;
            let webhook = [release.running(&replica, "webhook").await?];
            freeze(&webhook).await?;
            // The time itself, and not for want of a better sign.
            tokio::time::sleep(COUNTS).await;
            // Nobody answers the next look, or it would be over before the call comes.
            let members = members(release).await?;
            let frozen = freeze(&members).await;
            thaw(&webhook).await?;
            frozen.map(|()| members)
        })
        .await?;
        said(release, "guard-health-is-old", &old);
        let none = sought(release, "not known yet", RESTART, async || {
            until("it is admitted", SEEN, async || ask(release, 4).await?.ok().map(drop)).await?;
            release.one_webhook().await?;
            let members = members(release).await?;
            freeze(&members).await?;
            match release.kill_webhook().await {
                Ok(()) => Ok(members),
                Err(error) => thaw(&members).await.and(Err(error)),
            }
        })
        .await?;
        said(release, "guard-health-is-not-known-yet", &none);
        admitted(release, 4).await?;
        release.upgrade(4, &[]).await?;
        release.is_settled(4).await
    })
    .await
}

/// A member that has come back from a standstill answers, and has yet to apply what was written meanwhile.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_member_that_is_thousands_of_revisions_behind_refuses() -> Result {
    if !is_bed() {
        println!("not the test bed: no process can be stopped where it is");
        return Ok(());
    }
    // It keeps so much of its log that a member that was away needs no snapshot.
    let release = Release::of("guard-behind", Helm::V4).with_etcd("3.5.35");
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let behind = 1;
        let pause = Cell::new(PART);
        let others: Vec<String> = [0, 2].map(|ordinal| format!("http://{}:2379", release.host(ordinal))).into();
        let refused = sought(release, "revisions behind", MOMENT, async || {
            until("it is admitted", SEEN, async || ask(release, 4).await?.ok().map(drop)).await?;
            if release.leader().await? == behind {
                release.make_lead(0).await?;
            }
            let member = vec![release.running(&release.pod(behind), "etcd").await?];
            freeze(&member).await?;
            let written = async {
                rewrite(&others, KEY, APART).await?;
                until("the webhook has looked since", SEEN, async || {
                    let told = ask(release, 4).await?.printed();
                    ensure!(told.contains("no answer within"), "{told}");
                    Ok(())
                })
                .await
            };
            let written = written.await;
            // It looks every two seconds, for one and a half: another part of them each time.
            let part = pause.get();
            pause.set((part + PART) % LOOKS);
            tokio::time::sleep(Duration::from_millis(part)).await;
            thaw(&member).await?;
            // Nothing is left to thaw.
            written.map(|()| vec![])
        })
        .await?;
        said(release, "guard-behind", &refused);
        admitted(release, 4).await?;
        release.upgrade(4, &[]).await?;
        release.is_settled(4).await
    })
    .await
}

/// What kubectl is told when a refusal says this: `make_it` brings the moment about, and gives what is to be thawed
/// behind it. In that moment, and however often it is missed, nothing is admitted that was not seen.
async fn sought(
    release: &Release,
    says: &str,
    moment: Duration,
    make_it: impl AsyncFn() -> anyhow::Result<Vec<Running>>,
) -> anyhow::Result<String> {
    let mut told = Vec::new();
    for _ in 0..TRIES {
        let frozen = make_it().await?;
        let found = in_the_moment(release, says, moment, !frozen.is_empty(), &mut told).await;
        thaw(&frozen).await?;
        if let Some(printed) = found? {
            return Ok(printed);
        }
    }
    bail!("no answer says {says:?}; they were {told:#?}")
}

/// Asks again and again until it is told, or the moment is over. An answer is not waited for: one that a replica which is
/// gone was asked for takes five seconds, and the moment is shorter.
async fn in_the_moment(
    release: &Release,
    says: &str,
    moment: Duration,
    silent: bool,
    told: &mut Vec<String>,
) -> anyhow::Result<Option<String>> {
    let end = Instant::now() + moment;
    let (mut asks, mut asked) = (tokio::time::interval(ASKED), FuturesUnordered::new());
    while Instant::now() < end {
        let answer = tokio::select! {
            _ = asks.tick() => {
                asked.push(ask(release, 4));
                continue;
            }
            Some(answer) = asked.next() => answer?,
        };
        let printed = answer.printed();
        if printed.contains(says) {
            return Ok(Some(printed));
        }
        ensure!(!silent || !answer.success, "it was admitted while no member answers");
        let over = silent && printed.contains("no answer within");
        if told.last() != Some(&printed) {
            told.push(printed);
        }
        if over {
            break;
        }
    }
    Ok(None)
}

async fn members(release: &Release) -> anyhow::Result<Vec<Running>> {
    let mut members = Vec::new();
    for ordinal in 0..3 {
        members.push(release.running(&release.pod(ordinal), "etcd").await.context("a member that does not run")?);
    }
    Ok(members)
}

async fn freeze(all: &[Running]) -> Result {
    for one in all {
        freeze_container(&one.node, &one.id).await?;
    }
    Ok(())
}

async fn thaw(all: &[Running]) -> Result {
    for one in all {
        thaw_container(&one.node, &one.id).await?;
    }
    Ok(())
}
