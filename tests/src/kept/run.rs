//! One row, run: installed, written to, uninstalled, some of it lost, installed again; and each way out of a
//! question to its end.

use std::time::Duration;

use anyhow::{Context, bail, ensure};

use super::{By, End, Row, Share};
use crate::cluster::{in_node, nodes};
use crate::process::{kubectl, run, until};
use crate::release::{Release, Storage, now};

/// Keys of the load's kind, of a client that the load does not have: to the referee, a client's.
const KEYS: &str = "traffic/902/";
/// Until a question is asked, or a cluster serves.
const SOON: Duration = Duration::from_secs(60);
/// Until all members are there.
const SETTLED: Duration = Duration::from_secs(120);
/// Until pods that end have ended.
const ENDED: Duration = Duration::from_secs(60);

/// What became of an installation.
#[derive(Debug)]
enum Became {
    Serves,
    Asks(String),
}

/// Runs a row.
///
/// # Errors
/// What did not end as it must.
pub async fn row(release: &Release, row: &Row) -> anyhow::Result<()> {
    release.say(&format!("row: {row}"));
    let end = row.must_end_in();
    let (before, after) = row.counts;
    let from = now();
    install(release, row, before, "").await?;
    ensure!(matches!(became(release, from).await?, Became::Serves), "the first installation asks");
    until("the first cluster is there", SETTLED, async || release.is_settled(before).await).await?;
    for key in 0..9 {
        release.etcdctl(&["put", &format!("{KEYS}{key:010}"), "old"]).await?;
    }
    let old = release.record().await?["cluster"].clone();
    again(release, row).await?;
    let from = now();
    install(release, row, after, "").await?;
    let asked = match (became(release, from).await?, end) {
        (Became::Serves, End::Restart) => return is(release, after, Share::All, &old).await,
        (Became::Serves, End::Begin | End::BeginOrAsk) => return is(release, after, Share::None, &old).await,
        (Became::Asks(question), End::AskOrTakeBack | End::AskOnlyAnew | End::BeginOrAsk) => question,
        (other, _) => bail!("it must end in {end:?}, and it is {other:?}"),
    };
    release.say(&format!("asked {:.1} s after it was installed: {asked}", (now() - from) as f64 / 1000.0));
    let asked = match end {
        End::AskOrTakeBack => {
            say(release, row, after, &word(&asked, "take-back")?).await?;
            is(release, after, Share::All, &old).await?;
            // The other way out, from the same place; with claims of all it has now, it is not the same any more.
            again(release, row).await?;
            let from = now();
            install(release, row, after, "").await?;
            if row.claims {
                return is(release, after, Share::All, &old).await;
            }
            let Became::Asks(question) = became(release, from).await? else { bail!("it does not ask a second time") };
            question
        }
        // Found are only some of the members.
        End::AskOnlyAnew if row.lease && row.volumes => {
            let from = now();
            say(release, row, after, &word(&asked, "take-back")?).await?;
            let Became::Asks(refused) = became(release, from).await? else { bail!("no quorum was taken back") };
            release.say(&format!("not taken back: {refused}"));
            ensure!(refused.contains("cannot be taken back"), "{refused}");
            refused
        }
        _ => asked,
    };
    say(release, row, after, &word(&asked, "anew")?).await?;
    is(release, after, Share::None, &old).await
}

/// One cluster of this count, with all the old keys or none, and every member says the same.
async fn is(release: &Release, count: usize, keys: Share, old: &serde_json::Value) -> anyhow::Result<()> {
    until("it is one cluster", SETTLED, async || release.is_settled(count).await).await?;
    let cluster = release.record().await?["cluster"].clone();
    ensure!((cluster == *old) == (keys == Share::All), "the cluster is {cluster}, the old one is {old}");
    for ordinal in 0..count {
        let own = format!("--endpoints=http://{}:2379", release.host(ordinal));
        let found = release.etcdctl_in(ordinal, &[&own, "get", KEYS, "--prefix", "--keys-only"]).await?;
        let found = found.lines().filter(|line| !line.is_empty()).count();
        let expected = if keys == Share::All { 9 } else { 0 };
        ensure!(found == expected, "{} has {found} of {expected} keys", release.pod(ordinal));
    }
    release.say(&format!("one cluster of {count} members, {cluster}, with {keys:?} of the old keys"));
    Ok(())
}

/// The word of this kind that a question names.
///
/// # Errors
/// When it names none.
pub fn word(question: &str, kind: &str) -> anyhow::Result<String> {
    let words = question.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-'));
    let mut words = words.filter(|word| word.strip_prefix(kind).is_some_and(|rest| rest.len() == 9));
    words.next().map(str::to_owned).with_context(|| format!("no {kind} in: {question}"))
}

/// What a person was asked since then, in an Event of the StatefulSet.
///
/// # Errors
/// When nothing was asked, or the API server did not answer.
pub async fn question(release: &Release, from: i64) -> anyhow::Result<String> {
    let events = release.events_since(from).await?;
    let asks = events.into_iter().find(|event| event.note.contains("is not started"));
    asks.map(|event| event.note).context("nobody asks")
}

/// Waits until etcd serves, or a person is asked.
async fn became(release: &Release, from: i64) -> anyhow::Result<Became> {
    until("it serves or asks", SOON, async || {
        if let Ok(asks) = question(release, from).await {
            return Ok(Became::Asks(asks));
        }
        release.record().await.map(|_| Became::Serves)
    })
    .await
}

async fn install(release: &Release, row: &Row, count: usize, word: &str) -> anyhow::Result<()> {
    if row.by == By::Rendered {
        let all = release.rendered_all(count).await?;
        return run("kubectl", ["apply", "-n", &release.namespace, "-f", "-"], &all, SOON).await?.ok().map(drop);
    }
    let set = format!("etcd.bootstrap={word}");
    // A question fails it; what became of it is looked at.
    release.try_install(count, &["--set", &set]).await.map(drop)
}

/// Says what is meant: by the value, or by the annotation.
async fn say(release: &Release, row: &Row, count: usize, word: &str) -> anyhow::Result<()> {
    if row.by == By::Rendered {
        let said = format!("etcd-scaler.io/bootstrap={word}");
        release.kubectl(&["annotate", "--overwrite", "statefulset", &release.statefulset(), &said]).await.map(drop)
    } else {
        release.try_upgrade(count, &["--set", &format!("etcd.bootstrap={word}")]).await.map(drop)
    }
}

/// Uninstalls, and has go what the row has go.
async fn again(release: &Release, row: &Row) -> anyhow::Result<()> {
    if row.by == By::Rendered {
        let all = release.rendered_all(1).await?;
        run("kubectl", ["delete", "-n", &release.namespace, "--ignore-not-found", "-f", "-"], &all, ENDED)
            .await?
            .ok()?;
    } else {
        release.uninstall().await?;
    }
    until("its pods have ended", ENDED, async || {
        let pods = release.pods().await?;
        ensure!(pods.is_empty(), "there are {:?}", pods.keys());
        Ok(())
    })
    .await?;
    if !row.namespace {
        let namespace = ["delete", "namespace", &release.namespace, "--timeout=60s"];
        run("kubectl", namespace, "", ENDED * 2).await?.ok()?;
        release.make_namespace().await?;
    } else if !row.claims {
        release.kubectl(&["delete", "pvc", "--all", "--timeout=25s"]).await?;
    }
    if row.namespace && !row.lease {
        release.kubectl(&["delete", "lease", &release.lease_name(), "--ignore-not-found"]).await?;
    }
    if row.storage == Storage::Provisioned {
        return Ok(());
    }
    if !row.volumes {
        let volumes: Vec<String> = (0..7).map(|ordinal| release.volume(ordinal)).collect();
        let volumes: Vec<&str> = volumes.iter().map(String::as_str).collect();
        kubectl([&["delete", "pv", "--ignore-not-found", "--timeout=25s"], &*volumes].concat()).await?;
    }
    let first_gone = match row.directories {
        Share::All => return Ok(()),
        Share::One => 1,
        Share::None => 0,
    };
    let gone: Vec<String> = (first_gone..7).map(|ordinal| release.directory(ordinal)).collect();
    for node in nodes().await? {
        let gone = gone.iter().map(String::as_str);
        in_node(&node, &["rm", "-rf"].into_iter().chain(gone).collect::<Vec<_>>()).await?;
    }
    Ok(())
}
