//! A member's claim is deleted by hand: it is noticed within seconds, and mended where the data is still there.

use std::time::Duration;

use anyhow::{Context, ensure};
use jiff::Timestamp;
use tests::jobs::Event;
use tests::load::Load;
use tests::process::until;
use tests::release::{Helm, Release, now};
use tests::scenario;

use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// What is promised, in milliseconds.
const NOTICED: i64 = 10_000;
/// The look for it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The volume is kept for the claim that is gone, and with it the data: the launcher's Job gives it to the new claim.
#[tokio::test]
#[ignore = "needs a cluster: make test"]
async fn a_member_whose_claim_was_deleted_has_its_volume_back() -> Result {
    scenario::run("claimless", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let members = release.members().await?;
        let mut during = from_now();
        without_its_claim(release, 1).await?;
        noticed(release, 1, "ScaleStarted", "kept for a claim that was deleted", during.from).await?;
        until("it is a member again", PATIENCE, async || release.is_settled(3).await).await?;
        release.say(&format!("it serves again {} ms after its claim was deleted", now() - during.from));
        ensure!(release.members().await? == members, "the member list changed");
        release.bound_volume(1).await?;
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// Deletes a member's claim, which goes when its pod does.
pub async fn without_its_claim(release: &Release, ordinal: usize) -> Result {
    release.kubectl(&["delete", "pvc", &release.claim(ordinal), "--wait=false"]).await?;
    release.kubectl(&["delete", "pod", &release.pod(ordinal), "--wait=false"]).await.map(drop)
}

/// Waits for an Event of this reason with these words, which has to come in time: from when there is a claim without its
/// volume. Before, the pod still ends, which takes as long as it may.
pub async fn noticed(release: &Release, ordinal: usize, reason: &str, words: &str, from: i64) -> anyhow::Result<Event> {
    let told = until(&format!("an Event {reason}"), PATIENCE, async || {
        let events = release.events_since(from).await?;
        let told = events.into_iter().find(|event| event.reason == reason && event.note.contains(words));
        told.with_context(|| format!("no Event {reason} with {words:?}"))
    })
    .await?;
    let claim = release.json(&["get", "pvc", &release.claim(ordinal)]).await?;
    let made: Timestamp = claim["metadata"]["creationTimestamp"].as_str().unwrap_or_default().parse()?;
    let (all, since) = (told.at - from, told.at - made.as_millisecond());
    release.say(&format!("noticed after {since} ms ({all} in all): {} {}: {}", told.kind, told.reason, told.note));
    ensure!(since <= NOTICED, "it was noticed only after {since} ms");
    Ok(told)
}
