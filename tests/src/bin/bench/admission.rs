//! How long the webhook takes to decide about a change of the StatefulSet, by its own log: while etcd answers, and while
//! the network has taken all of it away. Then every change is refused, because nothing is known.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::cluster::nodes;
use tests::faults::{cut_node, join_node};
use tests::process::{Ended, run, until};
use tests::release::Release;

use crate::Numbers;

/// Of 100 decisions, 99 take at most so long, in ms.
const DECIDED: f64 = 2.0;
/// Enough for the 99th of a hundred to be more than one call.
const CALLS: usize = 300;
/// The webhook's pods, and how many the chart has.
const WEBHOOK: &str = "app.kubernetes.io/component=webhook";
const REPLICAS: usize = 2;
/// An answer is known for 10 s, a node's network comes back within a minute.
const SEEN: Duration = Duration::from_secs(120);

/// Asks [`CALLS`] times each, with dry runs: nothing changes.
pub async fn bench(release: &Release, numbers: &mut Numbers) -> anyhow::Result<()> {
    println!("\nthe webhook's decisions, {CALLS} each");
    let away = apart(release).await?;
    warm(release).await?;
    decided(release, numbers, "to decide, 99 of 100, etcd answers", true).await?;
    for node in &away {
        cut_node(node).await?;
    }
    let refused = async {
        until("nothing is known of etcd", SEEN, async || {
            let asked = ask(release).await?;
            ensure!(!asked.success && asked.printed().contains("no answer within"), "{}", asked.printed());
            println!("{}", asked.printed().trim());
            Ok(())
        })
        .await?;
        decided(release, numbers, "to decide, 99 of 100, etcd is cut off", false).await
    };
    let refused = refused.await;
    for node in &away {
        join_node(node).await?;
    }
    refused?;
    until("etcd is back", SEEN, async || release.is_settled(3).await).await
}

/// Installs, with the webhook on a node where no etcd is; gives etcd's nodes.
async fn apart(release: &Release) -> anyhow::Result<BTreeSet<String>> {
    release.install(3, &[]).await?;
    let away: BTreeSet<String> = release.pods().await?.into_values().map(|pod| pod.node).collect();
    let free = nodes().await?.into_iter().find(|node| !away.contains(node)).context("no node without etcd")?;
    let there = format!("webhook.nodeSelector.kubernetes\\.io/hostname={free}");
    release.upgrade(3, &["--set-string", &there]).await?;
    release.webhook_is_whole().await?;
    // One that is ending still decides, and its log goes with it.
    until("the webhook before it is gone", SEEN, async || {
        let pods = release.json(&["get", "pods", "-l", WEBHOOK]).await?;
        let pods = pods["items"].as_array().map_or(0, Vec::len);
        ensure!(pods == REPLICAS, "it has {pods} pods");
        Ok(())
    })
    .await?;
    Ok(away)
}

async fn warm(release: &Release) -> anyhow::Result<()> {
    until("a change is admitted", SEEN, async || {
        let asked = ask(release).await?;
        ensure!(asked.success, "{}", asked.printed());
        Ok(())
    })
    .await
}

async fn ask(release: &Release) -> anyhow::Result<Ended> {
    let patch = "{\"spec\":{\"replicas\":4}}";
    let set = release.statefulset();
    let words =
        ["-n", &release.namespace, "patch", "statefulset", &set, "--type=merge", "-p", patch, "--dry-run=server"];
    run("kubectl", words, "", Duration::from_secs(30)).await
}

/// Asks, and reads in the log how long it took.
async fn decided(release: &Release, numbers: &mut Numbers, what: &str, admitted: bool) -> anyhow::Result<()> {
    let since = tests::release::now();
    for _ in 0..CALLS {
        let asked = ask(release).await?;
        ensure!(asked.success == admitted, "{}", asked.printed());
    }
    // The longest of the log's seconds; what was asked before them is told apart by its time.
    let log = ["logs", "-l", WEBHOOK, "--tail=-1", "--since=10m", "--timestamps"];
    let log = release.kubectl(&log).await?;
    let mut took: Vec<u64> = log.lines().filter_map(|line| took_us(line, since)).collect();
    took.sort_unstable();
    ensure!(took.len() >= CALLS, "the log has {} of {CALLS} decisions", took.len());
    let at = |percent: usize| took[(took.len() * percent).div_ceil(100) - 1] as f64 / 1000.0;
    numbers.told(&format!("{what} (median {:.2} ms)", at(50)), at(99), "ms", Some(DECIDED));
    Ok(())
}

/// What a log line says of a decision about the StatefulSet that was made since then.
fn took_us(line: &str, since: i64) -> Option<u64> {
    let (at, rest) = line.split_once(' ')?;
    let at: jiff::Timestamp = at.parse().ok()?;
    let field = |name: &str| rest.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let ours = at.as_millisecond() >= since && field("kind") == Some("\"StatefulSet\"");
    ours.then(|| field("took_us"))??.parse().ok()
}
