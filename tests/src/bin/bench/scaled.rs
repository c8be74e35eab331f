//! `kubectl scale`, up and down, on empty data and under load.

use std::time::Duration;

use anyhow::{Context, ensure};
use tests::jobs::Event;
use tests::load::Load;
use tests::process::{Ended, run, until};
use tests::release::{Ran, Release, now};

use crate::{Numbers, STALL_UP, effects, idle, seconds};

/// From the change of the count to the first `member add`, on empty data, images present.
const FIRST_ADD: f64 = 4.0;
/// Of each further member, beside its pod's start and its swap; etcd asks for 5 s of health.
const FURTHER: f64 = 6.0;
/// Of writes, during a scale-down: one election, which with etcd's default of 1000 ms begins within two
/// of them.
const STALL_DOWN: f64 = 2.0;
/// A Job's start and 20 s for each member.
const SETTLED: Duration = Duration::from_secs(180);

/// What the change 3 → 4 under load took.
pub struct Scaled {
    /// Until four voters serve the same.
    pub seconds: f64,
    /// The longest time without an acknowledged write, in seconds.
    pub stall: f64,
}

/// Scales 3 → 5 on empty data, and 5 → 3 → 4 under load; gives the last.
pub async fn bench(release: &Release, numbers: &mut Numbers) -> anyhow::Result<Scaled> {
    release.install(3, &[]).await?;
    println!();
    idle::bench(release, numbers).await?;
    println!("\nkubectl scale 3 → 5 on empty data");
    let ran = scale(release, 3, 5).await?;
    let events = release.events_since(ran.from).await?;
    for event in &events {
        println!("{:>8.2}  {:<20}  {}", seconds(event.at - ran.from), event.reason, event.note);
    }
    let at = |reason: &str, ordinal: usize| at(&events, reason, &release.pod(ordinal));
    let first = seconds(at("MemberAdded", 3)? - ran.from);
    numbers.told("from the change to the first member add", first, "s", Some(FIRST_ADD));
    let further = seconds(at("MemberPromoted", 4)? - at("MemberPromoted", 3)?);
    // Scheduled, mounted, image there; and etcd itself.
    let made = at("MemberAdded", 4)? - at("SchedulingPermitted", 4)?;
    let start = seconds(made + at("Recorded", 4)? - at("StartPermitted", 4)?);
    let swap = seconds(at("MemberPromoted", 4)? - at("JoiningPodSwapped", 4)?);
    numbers.told("the further member", further, "s", None);
    numbers.told("of that its pod's start", start, "s", None);
    numbers.told("of that the swap for its ordinary pod", swap, "s", None);
    numbers.told("of that everything else", further - start - swap, "s", Some(FURTHER));

    println!("\nkubectl scale 5 → 3 and 3 → 4 under 300 writes a second");
    let load = Load::busy(release).await?;
    // So that the leader moves, too.
    release.make_lead(4).await?;
    let down = scale(release, 5, 3).await?;
    numbers.told("5 → 3", down.seconds(), "s", None);
    numbers.told("longest stall of writes", stall(&load, 3, &down).await?, "s", Some(STALL_DOWN));
    let up = scale(release, 3, 4).await?;
    let scaled = Scaled { seconds: up.seconds(), stall: stall(&load, 4, &up).await? };
    numbers.told("3 → 4", scaled.seconds, "s", None);
    numbers.told("longest stall of writes", scaled.stall, "s", Some(STALL_UP));
    effects::told(&load, &release.events_since(down.from).await?).await?;
    Ok(scaled)
}

/// When our first Event of this reason about a pod was written. `Recorded` is that it serves.
fn at(events: &[Event], reason: &str, pod: &str) -> anyhow::Result<i64> {
    let about = |event: &&Event| {
        event.reason == reason && event.note.contains(pod) && (reason != "Recorded" || event.note.contains("serves"))
    };
    let event = events.iter().find(about).with_context(|| format!("no Event {reason} about {pod}"))?;
    Ok(event.at)
}

async fn scale(release: &Release, from: usize, to: usize) -> anyhow::Result<Ran> {
    let before = release.pods().await?;
    let staying = before.into_iter().take(from.min(to)).collect();
    let (set, replicas) = (format!("statefulset/{}", release.statefulset()), format!("--replicas={to}"));
    let from = now();
    let ended: Ended =
        run("kubectl", ["-n", &release.namespace, "scale", &set, &replicas], "", Duration::from_secs(30)).await?;
    ensure!(ended.success, "{}", ended.printed());
    until("the cluster has the new count", SETTLED, async || {
        let pods = release.pods().await?.len();
        ensure!(pods == to, "there are {pods} pods");
        release.is_settled(to).await
    })
    .await?;
    let ran = Ran { ended, from, to: now() };
    release.kept(&staying).await?;
    Ok(ran)
}

/// The longest stall while something ran; everything acknowledged is on each member.
pub async fn stall(load: &Load<'_>, members: usize, ran: &Ran) -> anyhow::Result<f64> {
    let counts = load.lost_nothing(members, ran).await?;
    let stall = counts["window"]["longest_stall_ms"].as_i64().context("no longest stall")?;
    Ok(seconds(stall))
}
