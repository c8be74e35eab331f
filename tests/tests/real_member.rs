//! The `etcd` crate against real etcd processes. `ETCD` names the binary; `make test` sets it to each
//! version that the bed has.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd::{CallError, DataDir, Member, Refusal, identify};
use membership::know::record::Id;
use membership::know::version::JoinAs;
use tests::fill::rewrite;
use tests::one_etcd::free_url;

/// One etcd on loopback, killed when dropped.
struct Etcd {
    process: Option<Child>,
    url: String,
    peer: String,
    dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Etcd {
    /// As when its node loses power.
    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn start() -> Etcd {
    let peer = free_url().unwrap();
    run("one", &peer, &format!("one={peer}"), &free_url().unwrap(), tempfile::tempdir().unwrap())
}

fn run(name: &str, peer: &str, initial_cluster: &str, url: &str, dir: tempfile::TempDir) -> Etcd {
    run_as("new", name, peer, initial_cluster, url, dir)
}

/// `state`: of the cluster, `new` or `existing`.
fn run_as(state: &str, name: &str, peer: &str, initial_cluster: &str, url: &str, dir: tempfile::TempDir) -> Etcd {
    let binary = std::env::var("ETCD").expect("ETCD names the etcd binary");
    let process = Command::new(binary)
        .args(["--name", name, "--data-dir"])
        .arg(dir.path())
        .args(["--listen-client-urls", url, "--advertise-client-urls", url])
        .args(["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer])
        .args(["--initial-cluster", initial_cluster, "--initial-cluster-state", state])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd { process: Some(process), url: url.to_owned(), peer: peer.to_owned(), dir }
}

async fn serving(etcd: &Etcd) -> membership::know::observed::Answer {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let member = Member::at(&etcd.url, Duration::from_secs(2)).await.unwrap();
        match member.answer().await {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// etcd's answer to a change, asked again where it did not tell: one that is asked for in the moment in which another was
/// answered may be dropped without a word (etcd issue 14040), and nothing comes before the deadline.
async fn answered<T>(change: impl AsyncFn() -> Result<T, CallError>) -> Result<T, CallError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match change().await {
            Err(error) if error.refusal() == Refusal::Unknown && Instant::now() < deadline => {
                println!("again: {error}");
            }
            answer => return answer,
        }
    }
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_members_answer_and_its_data_directory_tell_the_same_ids() {
    let etcd = start();
    let answer = serving(&etcd).await;
    assert_eq!(answer.leader, Some(answer.member));
    let list = answer.list.unwrap();
    assert_eq!(list.len(), 1);
    assert_eq!(list[0].peer_urls, std::slice::from_ref(&etcd.peer));
    assert!(list[0].started());
    let found = identify(etcd.dir.path()).unwrap();
    assert_eq!(found, DataDir::Member { member: answer.member, cluster: answer.cluster });
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_learner_that_never_starts_is_added_refused_promotion_and_removed() {
    let etcd = start();
    let before = serving(&etcd).await;
    let member = Member::at(&etcd.url, Duration::from_secs(5)).await.unwrap();
    let url = free_url().unwrap();
    let id = member.add(&url, JoinAs::Learner).await.unwrap();
    let list = member.answer().await.unwrap().list.unwrap();
    let added = list.iter().find(|listed| listed.id == id).unwrap();
    assert!(added.learner && !added.started());
    let again = answered(|| member.add(&url, JoinAs::Learner)).await.unwrap_err();
    assert_eq!(again.refusal(), Refusal::AlreadyExists, "{again}");
    let other = free_url().unwrap();
    let other = answered(|| member.add(&other, JoinAs::Learner)).await.unwrap_err();
    assert_eq!(other.refusal(), Refusal::TooManyLearners, "{other}");
    let promoted = answered(|| member.promote(id)).await.unwrap_err();
    assert_eq!(promoted.refusal(), Refusal::LearnerNotReady, "{promoted}");
    let voter = answered(|| member.promote(before.member)).await.unwrap_err();
    assert_eq!(voter.refusal(), Refusal::AlreadyVoter, "{voter}");
    // An answer that came too late is not told twice.
    let removed = answered(|| member.remove(id)).await;
    assert!(
        removed.as_ref().map_or_else(CallError::refusal, |()| Refusal::NotFound) == Refusal::NotFound,
        "{removed:?}"
    );
    for gone in [id, Id(1)] {
        let error = answered(|| member.remove(gone)).await.unwrap_err();
        assert_eq!(error.refusal(), Refusal::NotFound, "{error}");
    }
    assert_eq!(member.answer().await.unwrap().list, before.list);
}

/// Without [`Member::write_down`] it does not: it waits for the vote of the one that was removed.
#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn the_last_of_two_serves_again_though_it_was_killed_right_after_the_removal() {
    let peers = [free_url().unwrap(), free_url().unwrap()];
    let cluster = format!("stays={},goes={}", peers[0], peers[1]);
    let start = |name, peer: &str, url: &str, dir| run(name, peer, &cluster, url, dir);
    let mut stays = start("stays", &peers[0], &free_url().unwrap(), tempfile::tempdir().unwrap());
    let mut goes = start("goes", &peers[1], &free_url().unwrap(), tempfile::tempdir().unwrap());
    let (id, removed) = (serving(&stays).await.member, serving(&goes).await.member);
    let member = Member::at(&stays.url, Duration::from_secs(5)).await.unwrap();
    let other = Member::at(&goes.url, Duration::from_secs(5)).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    // Who stays leads, as in a scale-down. Two that have met a moment ago are not yet healthy to etcd.
    while serving(&stays).await.leader != Some(id) {
        assert!(Instant::now() < deadline, "the leader does not move");
        let _ = other.move_leader(id).await;
    }
    while let Err(error) = member.remove(removed).await {
        assert!(Instant::now() < deadline && error.refusal() == Refusal::Unhealthy, "{error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    member.write_down().await.unwrap();
    stays.kill();
    goes.kill();
    let dir = std::mem::replace(&mut stays.dir, tempfile::tempdir().unwrap());
    let again = start("stays", &peers[0], &stays.url, dir);
    let list = serving(&again).await.list.unwrap();
    assert_eq!(list.iter().map(|member| member.id).collect::<Vec<_>>(), [id]);
}

/// Of 3.6 it does not without [`Member::write_down`]: sent a snapshot, it counts nothing as applied before the next
/// entry, which no client writes here, and refuses its own announcement.
#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn a_learner_of_an_etcd_that_nobody_writes_to_serves() {
    let voter = start();
    serving(&voter).await;
    let member = Member::at(&voter.url, Duration::from_secs(5)).await.unwrap();
    // More than 3.6 keeps in its log, so that the learner is sent a snapshot.
    rewrite(std::slice::from_ref(&voter.url), "key", 13_000).await.unwrap();
    let peer = free_url().unwrap();
    member.add(&peer, JoinAs::Learner).await.unwrap();
    let (cluster, url) = (format!("one={},new={peer}", voter.peer), free_url().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let learner = run_as("existing", "new", &peer, &cluster, &url, dir);
    let deadline = Instant::now() + Duration::from_secs(60);
    let at = Member::at(&learner.url, Duration::from_secs(1)).await.unwrap();
    while let Err(error) = at.answer().await {
        assert!(Instant::now() < deadline, "{error}");
        member.write_down().await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn nobody_there_is_said_at_once_and_a_silent_one_at_the_deadline() {
    let began = Instant::now();
    let error = Member::at(&free_url().unwrap(), Duration::from_secs(20)).await.unwrap().answer().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    // Accepts and says nothing, as a frozen member does.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = Member::at(&url, Duration::from_millis(300)).await.unwrap().answer().await.unwrap_err();
    assert_eq!(error.refusal(), Refusal::Unknown, "{error}");
}
