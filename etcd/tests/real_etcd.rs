//! The crate against real etcd processes. `ETCD` names the binary; `make test` sets it to each
//! version that the bed has.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use etcd::{DataDir, Member, Refusal, identify};
use membership::record::Id;
use membership::version::JoinAs;

/// One etcd on loopback, killed when dropped.
struct Etcd {
    process: Child,
    url: String,
    peer: String,
    dir: tempfile::TempDir,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

fn start() -> Etcd {
    let binary = std::env::var("ETCD").expect("ETCD names the etcd binary");
    let dir = tempfile::tempdir().unwrap();
    let (url, peer) = (free_url(), free_url());
    let process = Command::new(binary)
        .args(["--name", "one", "--data-dir"])
        .arg(dir.path())
        .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &format!("one={peer}")])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    Etcd { process, url, peer, dir }
}

async fn serving(etcd: &Etcd) -> membership::observed::Answer {
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
    let url = free_url();
    let id = member.add(&url, JoinAs::Learner).await.unwrap();
    let list = member.answer().await.unwrap().list.unwrap();
    let added = list.iter().find(|listed| listed.id == id).unwrap();
    assert!(added.learner && !added.started());
    assert_eq!(member.add(&url, JoinAs::Learner).await.unwrap_err().refusal(), Refusal::AlreadyExists);
    let other = member.add(&free_url(), JoinAs::Learner).await.unwrap_err();
    assert_eq!(other.refusal(), Refusal::TooManyLearners, "{other}");
    let promoted = member.promote(id).await.unwrap_err();
    assert_eq!(promoted.refusal(), Refusal::LearnerNotReady, "{promoted}");
    assert_eq!(member.promote(before.member).await.unwrap_err().refusal(), Refusal::AlreadyVoter);
    member.remove(id).await.unwrap();
    assert_eq!(member.remove(id).await.unwrap_err().refusal(), Refusal::NotFound);
    assert_eq!(member.remove(Id(1)).await.unwrap_err().refusal(), Refusal::NotFound);
    assert_eq!(member.answer().await.unwrap().list, before.list);
}

#[tokio::test]
#[ignore = "needs etcd: make test"]
async fn nobody_there_is_said_at_once_and_a_silent_one_at_the_deadline() {
    let began = Instant::now();
    let error = Member::at(&free_url(), Duration::from_secs(20)).await.unwrap().answer().await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    // Accepts and says nothing, as a frozen member does.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let error = Member::at(&url, Duration::from_millis(300)).await.unwrap().answer().await.unwrap_err();
    assert_eq!(error.refusal(), Refusal::Unknown, "{error}");
}
