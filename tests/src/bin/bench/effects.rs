//! What clients that talk through the Service notice of each step that changes etcd.

use anyhow::{Context, ensure};
use tests::jobs::Event;
use tests::journal::History;
use tests::load::Load;

/// The steps, by the reason of their Events.
const STEPS: [(&str, &str); 4] = [
    ("MemberAdded", "member add"),
    ("MemberPromoted", "member promote"),
    ("LeaderMoved", "leader moved"),
    ("MemberRemoved", "member remove"),
];
/// An Event is written after its step; what clients notice of it shows within an election or two, in milliseconds.
const AROUND: (i64, i64) = (500, 2500);

/// Prints it.
///
/// # Errors
/// When the load's journals cannot be read.
pub async fn told(load: &Load<'_>, events: &[Event]) -> anyhow::Result<()> {
    let mut clients = Vec::new();
    for (name, text) in load.journals().await? {
        if name.starts_with("client-") {
            clients.push(History::parse(&text).with_context(|| format!("{name} is damaged"))?);
        }
    }
    ensure!(!clients.is_empty(), "the load has no client");
    let mut acknowledged: Vec<i64> = clients.iter().flat_map(|client| client.acknowledged_at.iter().copied()).collect();
    acknowledged.sort_unstable();
    let failed: Vec<i64> = clients.iter().flat_map(|client| client.failed_at.iter().copied()).collect();
    println!("\nwhat {} clients that write through the Service notice", clients.len());
    for (reason, step) in STEPS {
        ensure!(events.iter().any(|event| event.reason == reason), "there was no {step}");
        for event in events.iter().filter(|event| event.reason == reason) {
            let (from, to) = (event.at - AROUND.0, event.at + AROUND.1);
            let pairs = acknowledged.windows(2).filter(|pair| pair[1] > from && pair[0] < to);
            let stall = pairs.map(|pair| pair[1] - pair[0]).max().context("no write was acknowledged")?;
            let failed = failed.iter().filter(|&&at| from < at && at < to).count();
            println!(
                "{step:<16} longest stall of writes {stall:>5} ms, failed requests {failed:>3}   ({})",
                event.note
            );
        }
    }
    Ok(())
}
