//! A change of mind while it runs: the newest count wins, nobody is left half-joined or with an ID that
//! is not live.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;
use tests::failpoints::Failpoint;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release};
use tests::scenario;

use crate::kills::{nobody_is_held, stayed, webhook_is_ready};
use crate::said::{by, error, said};
use crate::ways::scale;

type Result = anyhow::Result<()>;

/// The launcher's pause, a Job's start, and 20 s for each of two members on a busy machine.
const BY_ITSELF: Duration = Duration::from_secs(240);
/// Until a pod is asked to end.
const ASKED: Duration = Duration::from_secs(60);

/// While the fourth of five joins, four are wanted, and then three.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn five_then_four_then_three_are_wanted_at_every_failpoint_of_a_join() -> Result {
    at_each("mind-up", async |release| {
        for point in Failpoint::JOIN {
            let (before, wanted) = (release.pods().await?, [5, 4, 3]);
            changed(release, point, &wanted).await.with_context(|| format!("{wanted:?} at {}", point.name()))?;
            stayed(release, &before).await?;
            release.say(&format!("3 → {wanted:?} at {}: three", point.name()));
        }
        Ok(())
    })
    .await
}

/// While the fourth leaves, it is wanted again.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn four_are_wanted_again_at_every_failpoint_of_a_scale_down() -> Result {
    at_each("mind-down", async |release| {
        scale(release, 4).await?.ok()?;
        release.job("four").await?.done().await?;
        // The leader need not be the one to leave, and the controller may be the one to delete the pod.
        let by_chance = [Failpoint::BeforeMovingLeader, Failpoint::LeaderMoved, Failpoint::PodRemoved];
        for point in Failpoint::LEAVE.into_iter().filter(|point| !by_chance.contains(point)) {
            let mut before = release.pods().await?;
            before.remove(&release.pod(3));
            changed(release, point, &[3, 4]).await.with_context(|| format!("3, then 4 at {}", point.name()))?;
            stayed(release, &before).await?;
            release.say(&format!("4 → 3, then 4 at {}: four", point.name()));
        }
        Ok(())
    })
    .await
}

/// Five are wanted, at one failpoint of the fourth's join four, and at the next one three.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn five_then_four_and_one_failpoint_later_three_are_wanted() -> Result {
    at_each("mind-steps", async |release| {
        // A volume is made and tied once: it is kept from round to round.
        let points: Vec<Failpoint> = Failpoint::JOIN.into_iter().filter(|point| !point.is_about_volumes()).collect();
        for pair in points.windows(2) {
            let [first, second] = pair else { continue };
            let before = release.pods().await?;
            step_by_step(release, *first, *second)
                .await
                .with_context(|| format!("4 at {}, 3 at {}", first.name(), second.name()))?;
            stayed(release, &before).await?;
            release.say(&format!("3 → 5, 4 at {}, 3 at {}: three", first.name(), second.name()));
        }
        Ok(())
    })
    .await
}

async fn step_by_step(release: &Release, first: Failpoint, second: Failpoint) -> Result {
    webhook_is_ready(release).await?;
    let name = format!("steps-{}", first.name());
    let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, first, second]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    is_admitted(release, 5).await?;
    for (point, count) in [(first, 4), (second, 3)] {
        if point != Failpoint::LeaseTaken {
            job.go_on().await?;
            job.reached(point).await?;
        }
        is_admitted(release, count).await?;
    }
    job.go_on().await?;
    job.ended().await?;
    release.job(&format!("{name}-again")).await?.done().await?;
    release.is_settled(3).await?;
    release.names_peers(3).await?;
    nobody_is_held(release, 3).await
}

/// Asks for a count. Where it is a scale of its own the webhook decides by what it has seen, which may
/// be a second old.
async fn is_admitted(release: &Release, count: usize) -> Result {
    until("the count is admitted", ASKED, async || scale(release, count).await?.ok().map(drop)).await
}

/// The fifth joins when four, and then three are wanted. Three is then a scale-down in the middle of a
/// join: where it is refused it is asked for again when the join is undone.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn four_then_three_are_wanted_while_the_fifth_joins() -> Result {
    let points = [
        Failpoint::BeforeAdd,
        Failpoint::MemberAdded,
        Failpoint::JoiningRecorded,
        Failpoint::Permitted,
        Failpoint::MemberRecorded,
        Failpoint::PodSwapped,
        Failpoint::Promoted,
    ];
    at_each("mind-fifth", async |release| {
        for point in points {
            let ended = async {
                let before = release.pods().await?;
                is_admitted(release, 4).await?;
                release.job(&format!("four-{}", point.name())).await?.done().await?;
                let name = format!("five-{}", point.name());
                let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, point]).await?;
                job.reached(Failpoint::LeaseTaken).await?;
                is_admitted(release, 5).await?;
                job.go_on().await?;
                job.reached(point).await?;
                is_admitted(release, 4).await?;
                let three = scale(release, 3).await?;
                ensure!(three.success || three.stderr.contains("is refused"), "{}", three.printed());
                job.go_on().await?;
                job.ended().await?;
                release.job(&format!("{name}-again")).await?.done().await?;
                if !three.success {
                    release.say(&format!("three at {}: {}", point.name(), three.stderr.trim()));
                    is_admitted(release, 3).await?;
                    release.job(&format!("{name}-last")).await?.done().await?;
                }
                release.is_settled(3).await?;
                release.names_peers(3).await?;
                nobody_is_held(release, 3).await?;
                stayed(release, &before).await
            };
            ended.await.with_context(|| format!("4, then 3, while the fifth is at {}", point.name()))?;
        }
        Ok(())
    })
    .await
}

/// The fourth is out of etcd, its pod is slow to end, and it is wanted again: it joins anew, when that
/// pod is gone.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn four_are_wanted_again_before_the_removed_pod_is_gone() -> Result {
    at_each("mind-back", async |release| {
        release.upgrade(4, &[]).await?;
        let (mut before, members) = (release.pods().await?, release.members().await?);
        let old = before.remove(&release.pod(3)).context("the fourth has no pod")?;
        release.keep_object(3).await?;
        scale(release, 3).await?.ok()?;
        until("the fourth has left, and its pod ends", ASKED, async || {
            let pod = release.json(&["get", "pod", &release.pod(3)]).await?;
            ensure!(pod["metadata"]["deletionTimestamp"].is_string(), "its pod was not asked to end");
            let now = release.members().await?;
            ensure!(now.len() == 3, "the members are {now:?}");
            Ok(())
        })
        .await?;
        scale(release, 4).await?.ok()?;
        let pods = release.pods().await?;
        ensure!(pods.get(&release.pod(3)).is_some_and(|pod| pod.uid == old.uid), "its pod was gone before");
        release.let_go().await?;
        until("four members again", BY_ITSELF, async || {
            release.is_settled(4).await?;
            nobody_is_held(release, 4).await
        })
        .await?;
        let now = release.members().await?;
        let id = |members: &[tests::members::Member]| members.get(3).map(|member| member.id.clone());
        ensure!(now[..3] == members[..3] && id(&now) != id(&members), "the members were {members:?} and are {now:?}");
        stayed(release, &before).await
    })
    .await
}

/// One of them wins, the other is told; asked for again, its count is the newest.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn two_upgrades_at_once_with_helm_4() -> Result {
    scenario::run("mind-two", Helm::V4, two_upgrades_at_once).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn two_upgrades_at_once_with_helm_3() -> Result {
    scenario::run("mind-two-3", Helm::V3, two_upgrades_at_once).await
}

async fn two_upgrades_at_once(release: &Release) -> Result {
    release.install(3, &[]).await?;
    let load = Load::start(release).await?;
    let before = release.pods().await?;
    let (four, five) = tokio::join!(release.try_upgrade(4, &[]), release.try_upgrade(5, &[]));
    let (four, five) = (four?, five?);
    ensure!(
        four.ended.success != five.ended.success,
        "one of them, not both or none:
{}
{}",
        four.ended.printed(),
        five.ended.printed()
    );
    let (won, lost, refused) = if four.ended.success { (4, 5, &five) } else { (5, 4, &four) };
    let told = error(&refused.refused()?);
    // Which of Helm's own two answers it is depends on which of them was how far.
    let answer = if told.contains("another operation") { "pending-upgrade" } else { "upgrade-lost-the-race" };
    said(release, &format!("{answer}-{}", by(release.helm)), &told);
    release.say(&format!("{won} won: {told}"));
    release.is_settled(won).await?;
    nobody_is_held(release, won).await?;
    let ran = release.upgrade(lost, &[]).await?;
    release.is_settled(lost).await?;
    nobody_is_held(release, lost).await?;
    release.kept(&before).await?;
    load.lost_nothing(lost, &ran).await.map(drop)
}

/// What is asked for while a Job is at work on a join: more members, another template. Refused with
/// what to wait for, and admitted afterwards.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn what_is_asked_for_during_a_join_is_told_to_wait() -> Result {
    at_each("mind-during", async |release| {
        let before = release.pods().await?;
        let job = release.stopping_job("during", &[Failpoint::LeaseTaken, Failpoint::JoiningRecorded]).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        release.upgrade(4, &["--no-hooks"]).await?;
        job.go_on().await?;
        job.reached(Failpoint::JoiningRecorded).await?;
        let more = scale(release, 5).await?;
        ensure!(!more.success && more.stderr.contains("another scale is under way"), "{}", more.printed());
        said(release, "scale-during-a-join", more.stderr.trim());
        let told = error(&release.try_upgrade(5, &[]).await?.refused()?);
        said(release, &format!("scale-during-a-join-{}", by(release.helm)), &told);
        said(release, "scale-during-a-join-by-the-check", &release.job_pod("preflight").await?.message);
        let slower = json!({ "spec": { "template": { "spec": { "terminationGracePeriodSeconds": 31 } } } }).to_string();
        let Err(refused) = release.kubectl(&["patch", "statefulset", &release.statefulset(), "-p", &slower]).await
        else {
            anyhow::bail!("another template was admitted in the middle of a join");
        };
        said(release, "template-during-a-join", &format!("{refused:#}"));
        job.go_on().await?;
        job.done().await?;
        release.is_settled(4).await?;
        release.upgrade(5, &[]).await?;
        release.is_settled(5).await?;
        nobody_is_held(release, 5).await?;
        release.kept(&before).await
    })
    .await
}

/// By hand, twice, and the launcher's beside them: one works at a time, and all of them end well.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_job_started_twice_does_the_work_once() -> Result {
    at_each("mind-twice", async |release| {
        let before = release.pods().await?;
        for (count, [one, two]) in [(4, ["up-one", "up-two"]), (3, ["down-one", "down-two"])] {
            is_admitted(release, count).await?;
            let (one, two) = tokio::join!(release.job(one), release.job(two));
            let (one, two) = (one?, two?);
            let (one, two) = tokio::join!(one.done(), two.done());
            one.and(two)?;
            release.is_settled(count).await?;
            release.names_peers(count).await?;
            nobody_is_held(release, count).await?;
            release.kept(&before).await?;
        }
        Ok(())
    })
    .await
}

/// Going back is always possible: nobody is asked how the members are.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn three_are_wanted_again_while_one_of_them_is_down() -> Result {
    at_each("mind-sick", async |release| {
        let (mut before, members) = (release.pods().await?, release.members().await?);
        before.remove(&release.pod(1));
        let job = release.stopping_job("sick", &[Failpoint::LeaseTaken, Failpoint::Permitted]).await?;
        job.reached(Failpoint::LeaseTaken).await?;
        scale(release, 4).await?.ok()?;
        job.go_on().await?;
        job.reached(Failpoint::Permitted).await?;
        release.take_down(&[1]).await?;
        scale(release, 3).await?.ok()?;
        job.go_on().await?;
        until("the newcomer is taken back", BY_ITSELF, async || {
            let now = release.members().await?;
            ensure!(now == members, "the members are {now:?}");
            Ok(())
        })
        .await?;
        release.bring_back().await?;
        until("all three are well", BY_ITSELF, async || {
            release.is_settled(3).await?;
            nobody_is_held(release, 3).await
        })
        .await?;
        ensure!(release.members().await? == members, "the member list changed");
        stayed(release, &before).await
    })
    .await
}

async fn at_each(name: &str, scenario: impl AsyncFnOnce(&Release) -> Result) -> Result {
    let mut release = Release::of(name, Helm::V4);
    release.images.scaler = release.images.failpoints.clone();
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        Load::start(release).await?;
        scenario(release).await
    })
    .await
}

/// The first count is asked for, and at the failpoint the others, one after the other.
async fn changed(release: &Release, point: Failpoint, wanted: &[usize]) -> Result {
    let (first, others) = wanted.split_first().context("no count")?;
    let last = *others.last().context("no change of mind")?;
    webhook_is_ready(release).await?;
    let name = format!("mind-{}", point.name());
    let job = release.stopping_job(&name, &[Failpoint::LeaseTaken, point]).await?;
    job.reached(Failpoint::LeaseTaken).await?;
    scale(release, *first).await?.ok()?;
    if point != Failpoint::LeaseTaken {
        job.go_on().await?;
        job.reached(point).await?;
    }
    for &count in others {
        // Past the last step the first count is a member's: then it is a scale of its own.
        let asked = scale(release, count).await?;
        ensure!(asked.success || point == Failpoint::BeforeValidation, "{}", asked.printed());
    }
    job.go_on().await?;
    release.job(&format!("{name}-again")).await?.done().await?;
    if point == Failpoint::BeforeValidation {
        scale(release, last).await?.ok()?;
        release.job(&format!("{name}-last")).await?.done().await?;
    }
    release.is_settled(last).await?;
    release.names_peers(last).await?;
    nobody_is_held(release, last).await
}
