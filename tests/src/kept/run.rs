//! One row, run: installed, written to, uninstalled, some of it lost, installed again; and each way out of a
//! question to its end.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::{By, End, Row, Share};
use crate::cluster::{in_node, nodes};
use crate::process::{Ended, kubectl, run, until};
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
    let (before, after) = row.counts;
    let from = now();
    install(release, row, before).await?;
    ensure!(matches!(became(release, from).await?, Became::Serves), "the first installation asks");
    until("the first cluster is there", SETTLED, async || release.is_settled(before).await).await?;
    for key in 0..9 {
        release.etcdctl(&["put", &format!("{KEYS}{key:010}"), "old"]).await?;
    }
    let old = release.record().await?["cluster"].clone();
    let lay: Vec<String> = nodes_of(release, before).await?;
    again(release, row).await?;
    if row.statefulset {
        return known(release, row, &old).await;
    }
    let from = now();
    install(release, row, after).await?;
    let became = became(release, from).await?;
    let end = match row.must_end_in() {
        End::ByPlaces => over(release, row, &lay).await?,
        end => end,
    };
    let asked = match (became, end) {
        (Became::Serves, End::Restart) => return is(release, after, Share::All, &old).await,
        (Became::Serves, End::Begin) => return is(release, after, Share::None, &old).await,
        (Became::Asks(question), End::AskOrTakeBack | End::AskOnlyAnew) => question,
        (other, _) => bail!("it must end in {end:?}, and it is {other:?}"),
    };
    release.say(&format!("asked {:.1} s after it was installed: {asked}", (now() - from) as f64 / 1000.0));
    let asked = with_its_own_count(release, row, asked, &old).await?;
    let asked = match end {
        End::AskOrTakeBack => {
            say(release, row, after, &word(&asked, "take-back")?).await?;
            is(release, after, Share::All, &old).await?;
            // The other way out, from the same place but for the claims and the count that it has now.
            again(release, row).await?;
            let from = now();
            install(release, row, after).await?;
            let end = row.taken_back().must_end_in();
            match (self::became(release, from).await?, end) {
                (Became::Serves, End::Restart) => return is(release, after, Share::All, &old).await,
                (Became::Asks(question), End::AskOrTakeBack | End::AskOnlyAnew) => question,
                (other, _) => bail!("the second time it must end in {end:?}, and it is {other:?}"),
            }
        }
        // Found are only some of the members.
        End::AskOnlyAnew if row.lease && row.volumes => {
            let from = now();
            say(release, row, after, &word(&asked, "take-back")?).await?;
            // The launcher may ask the same once more before the word is there.
            let refused = said(release, from, "cannot be taken back").await?;
            release.say(&format!("not taken back: {refused}"));
            refused
        }
        _ => asked,
    };
    say(release, row, after, &word(&asked, "anew")?).await?;
    is(release, after, Share::None, &old).await
}

/// The way out that a question about another count has: uninstalled, and installed with the count that it had. Then all of
/// it as before, to the same question.
async fn with_its_own_count(release: &Release, row: &Row, asked: String, old: &Value) -> anyhow::Result<String> {
    let (before, after) = row.counts;
    let itself = row.with_its_own_count();
    let end = itself.must_end_in();
    let offered = asked.contains(&format!("uninstall and install it with --set etcd.replicaCount={before}"));
    ensure!(offered == (row.lease && before != after), "that way out is offered: {offered}");
    if !offered || !matches!(end, End::Restart | End::AskOrTakeBack) {
        return Ok(asked);
    }
    uninstall(release, row).await?;
    let from = now();
    install(release, &itself, before).await?;
    match (became(release, from).await?, end) {
        (Became::Serves, End::Restart) => {}
        (Became::Asks(question), End::AskOrTakeBack) => {
            say(release, &itself, before, &word(&question, "take-back")?).await?;
        }
        (other, _) => bail!("with its own count it must end in {end:?}, and it is {other:?}"),
    }
    is(release, before, Share::All, old).await?;
    again(release, row).await?;
    let from = now();
    install(release, row, after).await?;
    question_since(release, from).await
}

/// The StatefulSet was kept, and with it what is known of its cluster: no question, and nobody starts as new.
async fn known(release: &Release, row: &Row, old: &Value) -> anyhow::Result<()> {
    let (before, after) = row.counts;
    if row.must_end_in() == End::StartFirst {
        let refused = over_known(release, row, after, async |ended| {
            let told = ended.printed();
            ensure!(!ended.success && told.contains(&format!("stopped with {before} members")), "it says: {told}");
            Ok(told)
        });
        release.say(&format!("refused: {}", refused.await?.trim()));
    }
    let itself = row.with_its_own_count();
    let from = now();
    over_known(release, row, before, async |ended| ended.ok()).await?;
    if row.volumes || row.storage == Storage::Provisioned {
        until("its pods are scheduled", SETTLED, async || nodes_of(release, before).await.map(drop)).await?;
    }
    let end = itself.must_end_in();
    match end {
        End::Restart => {
            is(release, before, Share::All, old).await?;
            if before == after {
                return Ok(());
            }
            if row.by == By::Rendered {
                install(release, row, after).await?;
            } else {
                release.upgrade(after, forced(row)).await?;
            }
            return is(release, after, Share::All, old).await;
        }
        End::Without | End::Refuse => {}
        other => bail!("{other:?} is no end of a StatefulSet that is kept"),
    }
    let refused = said(release, from, "replace the member (hook replace").await?;
    release.say(&format!("said {:.1} s after it was installed: {refused}", (now() - from) as f64 / 1000.0));
    let record = release.record().await?;
    ensure!(record["cluster"] == *old, "another cluster is recorded: {record}");
    if end == End::Without {
        return until("the others serve", SETTLED, async || {
            for ordinal in 0..before {
                let found = release.etcdctl_in(ordinal, &["get", KEYS, "--prefix", "--keys-only"]).await;
                if found.is_ok_and(|found| found.lines().filter(|line| !line.is_empty()).count() == 9) {
                    return Ok(());
                }
            }
            bail!("nobody has the keys")
        })
        .await;
    }
    // Nothing serves, and nothing is to come back: without the StatefulSet it is a bootstrap.
    release.kubectl(&["delete", "statefulset", &release.statefulset()]).await?;
    gone(release).await?;
    let from = now();
    if row.by == By::Rendered {
        install(release, row, after).await?;
    } else {
        release.try_upgrade(after, forced(row)).await.map(drop)?;
    }
    if let Became::Asks(asked) = became(release, from).await? {
        release.say(&format!("asked: {asked}"));
        say(release, row, after, &word(&asked, "anew")?).await?;
    }
    is(release, after, Share::None, old).await
}

/// Installs over a StatefulSet that is kept. What is only applied is refused by the API server until the webhook is there,
/// and is applied again by whoever does so.
async fn over_known<T>(
    release: &Release,
    row: &Row,
    count: usize,
    ended: impl AsyncFn(Ended) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    if row.by != By::Rendered {
        let ran = release.try_install(count, &[&["--no-hooks"], forced(row)].concat()).await?;
        return ended(ran.ended).await;
    }
    let all = release.rendered_all(count).await?;
    let apply = ["apply", "-n", &release.namespace, "-f", "-"];
    until("it is applied", SOON, async || ended(run("kubectl", apply, &all, SOON).await?).await).await
}

/// Stopped with kubectl scale, its count has another owner; Helm 3 knows of none.
fn forced(row: &Row) -> &'static [&'static str] {
    if row.by == By::Helm4 { &["--force-conflicts"] } else { &[] }
}

/// The node of each pod up to this count.
async fn nodes_of(release: &Release, count: usize) -> anyhow::Result<Vec<String>> {
    let pods = release.pods().await?;
    let node = |ordinal: usize| {
        let name = release.pod(ordinal);
        let node = pods.get(&name).map(|pod| pod.node.clone()).filter(|node| !node.is_empty());
        node.with_context(|| format!("{name} is on no node"))
    };
    (0..count).map(node).collect()
}

/// What it must end in by where its pods have come to lie.
async fn over(release: &Release, row: &Row, lay: &[String]) -> anyhow::Result<End> {
    let (before, after) = row.counts;
    let lie = nodes_of(release, after).await?;
    let kept = if row.directories == Share::One { 1 } else { before };
    let here = lie.iter().zip(lay).take(kept).filter(|(lies, lay)| lies == lay).count();
    let end = row.must_end_in_over(here);
    release
        .say(&format!("pods lie on {lie:?}, lay on {lay:?}: over {here} of {kept} directories it must end in {end:?}"));
    Ok(end)
}

/// One cluster of this count, with all the old keys or none, and every member says the same.
async fn is(release: &Release, count: usize, keys: Share, old: &Value) -> anyhow::Result<()> {
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

/// What was told since then with these words in it.
async fn said(release: &Release, from: i64, words: &str) -> anyhow::Result<String> {
    until(&format!("it is said: {words}"), SETTLED, async || {
        let events = release.events_since(from).await?;
        let told = events.into_iter().find(|event| event.note.contains(words));
        told.map(|event| event.note).with_context(|| format!("nobody says {words:?}"))
    })
    .await
}

/// Waits for a question.
async fn question_since(release: &Release, from: i64) -> anyhow::Result<String> {
    until("it asks", SOON, async || question(release, from).await).await
}

async fn install(release: &Release, row: &Row, count: usize) -> anyhow::Result<()> {
    if row.by == By::Rendered {
        let all = release.rendered_all(count).await?;
        return run("kubectl", ["apply", "-n", &release.namespace, "-f", "-"], &all, SOON).await?.ok().map(drop);
    }
    // A question fails it; what became of it is looked at.
    release.try_install(count, &[]).await.map(drop)
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

/// Uninstalls; a StatefulSet that outlives it is stopped before.
async fn uninstall(release: &Release, row: &Row) -> anyhow::Result<()> {
    if row.statefulset {
        let set = release.statefulset();
        release.kubectl(&["annotate", "--overwrite", "statefulset", &set, "etcd-scaler.io/stop=true"]).await?;
        release.kubectl(&["scale", "statefulset", &set, "--replicas=0"]).await?;
        gone(release).await?;
        // As an uninstall does with what has the policy to be kept: all goes but this.
        let all = release.rendered_all(1).await?;
        let rest: Vec<&str> = all.split("\n---\n").filter(|it| !it.contains("\nkind: StatefulSet\n")).collect();
        delete(release, &rest.join("\n---\n")).await?;
        release.kubectl(&["delete", "secret", "-l", &format!("owner=helm,name={}", release.name)]).await?;
        return release.kubectl(&["annotate", "statefulset", &set, "etcd-scaler.io/stop-"]).await.map(drop);
    }
    if row.by == By::Rendered {
        delete(release, &release.rendered_all(1).await?).await?;
    } else {
        release.uninstall().await?;
    }
    gone(release).await
}

async fn delete(release: &Release, objects: &str) -> anyhow::Result<()> {
    let command = ["delete", "-n", &release.namespace, "--ignore-not-found", "-f", "-"];
    run("kubectl", command, objects, ENDED).await?.ok().map(drop)
}

async fn gone(release: &Release) -> anyhow::Result<()> {
    until("its pods have ended", ENDED, async || {
        let pods = release.pods().await?;
        ensure!(pods.is_empty(), "there are {:?}", pods.keys());
        Ok(())
    })
    .await
}

/// Uninstalls, and has go what the row has go.
async fn again(release: &Release, row: &Row) -> anyhow::Result<()> {
    uninstall(release, row).await?;
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
