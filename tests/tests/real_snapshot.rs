//! Snapshots of real etcd processes, restored by etcd's own program. `ETCD` names the etcd binary,
//! `ETCDUTL` the program that restores (etcdutl; etcd 3.4 has none, there etcdctl does it); `make
//! test` sets both to each version that the bed has.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::OpenOptions;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use etcd::{Damage, Member, Partial, Saved, verify};
use etcd_client::{Client, GetOptions};
use tests::one_etcd::{OneEtcd, free_url};
use tests::process::until;

/// Until etcd serves.
const START: Duration = Duration::from_secs(60);
/// For each answer and each part of a snapshot.
const ANSWER: Duration = Duration::from_secs(20);
/// The same where it is to pass.
const SHORT: Duration = Duration::from_millis(300);

fn program(variable: &str) -> Command {
    Command::new(std::env::var(variable).expect("ETCD and ETCDUTL name programs"))
}

/// etcd on this directory, which may be empty; its peer URL is in the data where there is some.
async fn start(data_dir: &Path, peer: &str) -> (OneEtcd, Client) {
    let etcd = OneEtcd::start(data_dir, &free_url().unwrap(), peer).unwrap();
    let client = Client::connect([&etcd.url], None).await.unwrap();
    until("etcd serves", START, async || Ok(client.clone().get("x", None).await?)).await.unwrap();
    (etcd, client)
}

fn etcdutl(arguments: &[&str], more: &[&Path]) -> Output {
    program("ETCDUTL").args(arguments).args(more).output().unwrap()
}

fn key(number: u64) -> String {
    format!("key/{number:08}")
}

fn value(number: u64) -> Vec<u8> {
    // Of many sizes, so that parts of the stream end anywhere in them.
    vec![b'a' + (number % 26) as u8; (number * 37 % 9000) as usize]
}

async fn save(etcd: &OneEtcd, dir: &Path, name: &str) -> (Saved, std::path::PathBuf) {
    let member = Member::at(&etcd.url, ANSWER).await.unwrap();
    let mut partial = Partial::create(dir, "test").unwrap();
    let saved = member.snapshot(&mut partial).await.unwrap();
    (saved, partial.publish(name).unwrap())
}

fn copy(from: &Path, name: &str) -> std::path::PathBuf {
    let to = from.with_file_name(name);
    std::fs::copy(from, &to).unwrap();
    to
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_snapshot_taken_under_writes_is_verified_and_restored_by_etcds_own_program() {
    let run = tempfile::tempdir().unwrap();
    let peer = free_url().unwrap();
    let (etcd, client) = start(&run.path().join("data"), &peer).await;
    let (acknowledged, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let write = async {
        let mut client = client.clone();
        for number in 1.. {
            client.put(key(number), value(number), None).await.unwrap();
            acknowledged.store(number, Ordering::SeqCst);
            if over.load(Ordering::SeqCst) {
                break;
            }
        }
    };
    let take = async {
        until("there is something to save", START, async || {
            anyhow::ensure!(acknowledged.load(Ordering::SeqCst) >= 1000);
            Ok(())
        })
        .await
        .unwrap();
        let before = acknowledged.load(Ordering::SeqCst);
        let (saved, file) = save(&etcd, run.path(), "snapshot.db").await;
        let after = acknowledged.load(Ordering::SeqCst);
        over.store(true, Ordering::SeqCst);
        (before, after, saved, file)
    };
    let ((), (before, after, saved, file)) = tokio::join!(write, take);

    assert_eq!(verify(&file).unwrap(), Ok((saved.db_size, saved.sha256)));
    assert_eq!(file.metadata().unwrap().len(), saved.db_size + 32);
    // One put is one revision, and the first is 2.
    let (at_least, at_most) = (saved.revisions.at_least, saved.revisions.at_most.unwrap());
    assert!(at_least > i64::try_from(before).unwrap(), "{saved:?}, {before} were acknowledged before");
    assert!(at_most <= i64::try_from(after).unwrap() + 2, "{saved:?}, {after} were acknowledged after");

    let status = etcdutl(&["snapshot", "status", "--write-out=json"], &[&file]);
    assert!(status.status.success(), "{status:?}");
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let revision = status["revision"].as_i64().unwrap();
    assert!((at_least..=at_most).contains(&revision), "{status}, {saved:?}");

    // Cut short it is refused, by us and by etcd's own program.
    let size = file.metadata().unwrap().len();
    for (cut, damage) in [(32, Damage::NoHash(size - 32)), (1, Damage::Size(size - 1))] {
        let short = copy(&file, &format!("short-{cut}"));
        OpenOptions::new().write(true).open(&short).unwrap().set_len(size - cut).unwrap();
        assert_eq!(verify(&short).unwrap(), Err(damage));
        assert!(!restore(&short, &run.path().join(format!("short-{cut}-data")), &peer).status.success());
    }
    let short = copy(&file, "short-page");
    OpenOptions::new().write(true).open(&short).unwrap().set_len(size - 4096).unwrap();
    assert!(matches!(verify(&short).unwrap(), Err(Damage::Hash { .. })));
    assert!(!restore(&short, &run.path().join("short-page-data"), &peer).status.success());

    drop(etcd);
    let restored = run.path().join("restored");
    let output = restore(&file, &restored, &peer);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let (_etcd, mut client) = start(&restored, &peer).await;
    let back = client.get("key/", Some(GetOptions::new().with_prefix().with_keys_only())).await.unwrap();
    let back = u64::try_from(back.kvs().len()).unwrap();
    assert!(back >= before, "{back} keys are back, {before} were acknowledged before the snapshot");
    for number in 1..=back {
        let found = client.get(key(number), None).await.unwrap();
        assert_eq!(found.kvs().first().map(etcd_client::KeyValue::value), Some(&*value(number)), "{}", key(number));
    }
}

fn restore(file: &Path, data_dir: &Path, peer: &str) -> Output {
    let cluster = format!("one={peer}");
    let arguments = ["snapshot", "restore", "--name=one", "--initial-cluster", &cluster];
    let arguments =
        [&arguments[..], &["--initial-advertise-peer-urls", peer, "--initial-cluster-token=restored"]].concat();
    let data_dir = format!("--data-dir={}", data_dir.display());
    etcdutl(&[&arguments[..], &[&data_dir]].concat(), &[file])
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_member_that_dies_in_the_middle_leaves_no_file() {
    let run = tempfile::tempdir().unwrap();
    let (mut etcd, mut client) = start(&run.path().join("data"), &free_url().unwrap()).await;
    for number in 0..200 {
        client.put(key(number), vec![b'x'; 500_000], None).await.unwrap();
    }
    let files = tempfile::tempdir().unwrap();
    let (url, dir) = (etcd.url.clone(), files.path().to_owned());
    let taking = tokio::spawn(async move {
        let member = Member::at(&url, Duration::from_secs(5)).await.unwrap();
        let mut partial = Partial::create(&dir, "test").unwrap();
        member.snapshot(&mut partial).await
    });
    // Both are one thread's: it is looked at between two parts.
    let (file, end) = (files.path().join(".test.0.partial"), Instant::now() + START);
    while !file.metadata().is_ok_and(|file| file.len() > 0) {
        assert!(Instant::now() < end && !taking.is_finished(), "nothing came");
        tokio::task::yield_now().await;
    }
    etcd.process.kill().unwrap();
    let error = taking.await.unwrap().unwrap_err();
    assert!(error.to_string().starts_with(&format!("snapshot save on {}", etcd.url)), "{error}");
    assert_eq!(std::fs::read_dir(files.path()).unwrap().count(), 0);
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_silent_member_is_given_up_at_the_deadline() {
    let run = tempfile::tempdir().unwrap();
    let (etcd, _) = start(&run.path().join("data"), &free_url().unwrap()).await;
    let member = Member::at(&etcd.url, SHORT).await.unwrap();
    let mut partial = Partial::create(run.path(), "test").unwrap();
    let began = Instant::now();
    signal("STOP", &etcd);
    let error = member.snapshot(&mut partial).await.unwrap_err();
    assert!(error.to_string().contains("endpoint status on"), "{error}");
    assert!(began.elapsed() < ANSWER, "{error}");
    signal("CONT", &etcd);
    until("it serves again", START, async || {
        let mut partial = Partial::create(run.path(), "test")?;
        Ok(member.snapshot(&mut partial).await?)
    })
    .await
    .unwrap();
}

fn signal(name: &str, etcd: &OneEtcd) {
    let id = etcd.process.id().to_string();
    assert!(Command::new("kill").args([&format!("-{name}"), &id]).status().unwrap().success());
}
