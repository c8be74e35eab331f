//! `make bench`: how long a scale takes and where the time goes, how long writes stall, and what
//! the programs need. Each number stands beside its bound; one over its bound fails the bench.

mod admission;
mod effects;
mod idle;
mod keys;
mod page;
mod scaled;

use std::process::ExitCode;

use anyhow::{Context, ensure};
use serde_json::Value;
use tests::cluster::is_bed;
use tests::load::Load;
use tests::memory;
use tests::process::kubectl_json;
use tests::release::{Helm, Ran, Release};
use tests::scenario;

/// From `member add` until the member has started.
const UNSTARTED: f64 = 3.0;
/// From `member add` to promotion, on empty data.
const JOIN: f64 = 10.0;
/// The Job of an upgrade that changes nothing, from its first line to its last.
const AGAIN: f64 = 2.0;
/// Of writes, during a scale-up.
const STALL_UP: f64 = 1.0;
/// Of the Job, in MiB.
const JOB: f64 = 32.0;
/// Of the idle webhook, in MiB.
const WEBHOOK: f64 = 16.0;
/// Of the image, in MB.
const IMAGE: f64 = 20.0;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match all().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The scales, then the comparison and the snapshot of many keys; with an argument that one alone.
async fn all() -> anyhow::Result<()> {
    let mut numbers = Numbers::default();
    match std::env::args().nth(1).as_deref() {
        None => {
            scales(&mut numbers).await?;
            keys::bench(&mut numbers).await?;
        }
        Some("scales") => scales(&mut numbers).await?,
        Some("keys") => keys::bench(&mut numbers).await?,
        Some(other) => anyhow::bail!("there is no bench {other}"),
    }
    ensure!(numbers.over.is_empty(), "over the bound: {}", numbers.over.join(", "));
    Ok(())
}

/// One after the other: they are not to take each other's time.
async fn scales(numbers: &mut Numbers) -> anyhow::Result<()> {
    scenario::run("bench", Helm::V4, async |release| bench(release, numbers).await).await?;
    let mut ours = None;
    scenario::run("bench-scale", Helm::V4, async |release| {
        ours = Some(scaled::bench(release, numbers).await?);
        Ok(())
    })
    .await?;
    if is_bed() {
        let unheard = Release::of("bench-unheard", Helm::V4);
        scenario::run_alone(unheard, async |release| admission::bench(release, numbers).await).await?;
    } else {
        println!("admission while etcd is away: only measured in the test bed");
    }
    page::bench(&ours.context("nothing was measured")?, numbers).await
}

/// The numbers, as they come.
#[derive(Default)]
struct Numbers {
    over: Vec<String>,
}

impl Numbers {
    fn told(&mut self, what: &str, number: f64, unit: &str, bound: Option<f64>) {
        let bounded = bound.map_or_else(String::new, |bound| format!("   (at most {bound} {unit})"));
        println!("{what:<44} {number:>7.2} {unit}{bounded}");
        if bound.is_some_and(|bound| number > bound) {
            self.over.push(what.to_owned());
        }
    }
}

async fn bench(release: &Release, numbers: &mut Numbers) -> anyhow::Result<()> {
    let installed = release.install(3, &[]).await?;
    numbers.told("install: three members, validated", installed.seconds(), "s", None);
    let namespace = format!("--namespace={}", release.namespace);
    let job = ["/hook", "scale", &namespace];

    let (upgraded, peak) = memory::peak_during(&job, release.upgrade(4, &[])).await;
    let log = steps(release, &upgraded?, "3 → 4 on empty data").await?;
    let at = |said: &str| {
        let line = log.iter().find(|(_, line)| line.contains(said));
        line.map(|(at, _)| *at).with_context(|| format!("the Job did not say {said:?}"))
    };
    let added = at("is added to etcd")?;
    numbers.told("from member add until it serves", seconds(at("serves as member")? - added), "s", Some(UNSTARTED));
    numbers.told("from member add to promotion", seconds(at("is promoted")? - added), "s", Some(JOIN));
    release.is_settled(4).await?;
    let log = steps(release, &release.upgrade(4, &[]).await?, "of the same once more").await?;
    let took = log.last().zip(log.first()).map(|(last, first)| seconds(last.0 - first.0));
    numbers.told("the same again: the Job", took.context("the Job said nothing")?, "s", Some(AGAIN));

    // Under load a newcomer may answer 7 s late (docs/decisions/0052-a-newcomer-may-answer-late.md), so its seconds have
    // no bound here.
    let load = Load::busy(release).await?;
    let (upgraded, under_load) = memory::peak_during(&job, release.upgrade(5, &[])).await;
    let upgraded = upgraded?;
    steps(release, &upgraded, "4 → 5 under 300 writes a second").await?;
    release.is_settled(5).await?;
    let counts = load.lost_nothing(5, &upgraded).await?;
    for join in load.joins(upgraded.from, 4..5).await? {
        numbers.told("unstarted", seconds(join.unstarted), "s", Some(UNSTARTED));
        numbers.told("from member add to promotion", seconds(join.took()), "s", None);
    }
    let stall = counts["window"]["longest_stall_ms"].as_i64().unwrap_or_default();
    numbers.told("longest stall of writes", seconds(stall), "s", Some(STALL_UP));
    println!();
    let peak = peak.max(under_load);
    match (peak, memory::now(&["/webhook", &namespace])) {
        (Some(job), Some(webhook)) => {
            numbers.told("resident memory of the Job, peak", mib(job), "MiB", Some(JOB));
            numbers.told("resident memory of the webhook, idle", mib(webhook), "MiB", Some(WEBHOOK));
        }
        seen => {
            ensure!(!is_bed(), "no process was seen: {seen:?}");
            println!("resident memory: only measured in the test bed");
        }
    }
    numbers.told("image", image_size(&release.images.scaler).await?, "MB", Some(IMAGE));
    Ok(())
}

/// Prints what the Jobs said and when, and gives the lines of the one that scaled.
async fn steps(release: &Release, upgraded: &Ran, what: &str) -> anyhow::Result<Vec<(i64, String)>> {
    println!("\nhelm upgrade {what}, seconds since its start");
    let mut log = Vec::new();
    for kind in ["preflight", "post"] {
        log = release.job_log(kind).await?;
        for (at, said) in &log {
            println!("{:>8.2}  {kind:<9}  {said}", seconds(at - upgraded.from));
        }
    }
    println!("{:>8.2}  helm is back\n", upgraded.seconds());
    Ok(log)
}

fn seconds(milliseconds: i64) -> f64 {
    milliseconds as f64 / 1000.0
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// As the nodes tell it, in MB; the largest of all nodes.
async fn image_size(image: &str) -> anyhow::Result<f64> {
    let nodes = kubectl_json(["get", "nodes"]).await?;
    let images = nodes["items"].as_array().into_iter().flatten().filter_map(|node| node["status"]["images"].as_array());
    let sizes =
        images.flatten().filter(|known| known["names"].as_array().is_some_and(|names| names.contains(&image.into())));
    let largest = sizes.filter_map(|known: &Value| known["sizeBytes"].as_u64()).max();
    ensure!(largest.is_some(), "no node knows image {image}");
    Ok(largest.unwrap_or_default() as f64 / 1e6)
}
