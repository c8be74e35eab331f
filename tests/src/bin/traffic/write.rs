//! The load.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Client, ConnectOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use membership::know::record::Id;
use tests::journal::Journal;

use crate::keys::{key, value};
use crate::{members, reads};

/// How long one call may take.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether the load is to end, and whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// What the clients share.
pub struct Load {
    stop: AtomicBool,
    /// By client: the numbers 1 to this one are acknowledged.
    acknowledged: Vec<AtomicU64>,
    failed: AtomicU64,
}

/// Puts until `stop` is in the state directory, then waits to be ended: the pod has to live on for
/// the one who reads back.
pub async fn run(endpoint: String, clients: u32, pause: Duration, state: PathBuf) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let acknowledged = (0..clients).map(|_| AtomicU64::new(0)).collect();
    let load = Arc::new(Load { stop: AtomicBool::new(false), acknowledged, failed: AtomicU64::new(0) });
    println!("{clients} clients put to {endpoint}, each every {} ms", pause.as_millis());
    let mut putting = JoinSet::new();
    for client in 0..clients {
        let (journal, last) = Journal::open(&state, client)?;
        load.note(client, last);
        putting.spawn(put_all(client, last, journal, endpoint.clone(), pause, Arc::clone(&load)));
    }
    let (urls, known) = watch::channel(Vec::new());
    let wanted = until_exists(state.join("stop"));
    tokio::select! {
        stop = wanted => stop?,
        () = progress(&load) => {}
        watched = members::watch(&endpoint, &state, urls) => match watched? {},
        read = reads::run(&endpoint, known, &state, &load) => match read? {},
        Some(ended) = putting.join_next() => return ended.context("a client ended")?,
        _ = terminate.recv() => return Ok(()),
    }
    load.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = putting.join_next().await {
        ended.context("a client ended")??;
    }
    std::fs::write(state.join("stopped"), "").context("failed to say that the load has ended")?;
    println!("stopped: {}", load.line());
    terminate.recv().await;
    Ok(())
}

/// Ends the load, and returns when it has ended.
pub async fn stop(state: &Path) -> anyhow::Result<()> {
    std::fs::write(state.join("stop"), "").context("failed to stop the load")?;
    let ended = until_exists(state.join("stopped"));
    // A client may be within its last put.
    timeout(3 * LIMIT, ended).await.context("the load did not end: does `traffic write` run?")?
}

async fn until_exists(file: PathBuf) -> anyhow::Result<()> {
    let mut looks = interval(LOOK);
    while !file.try_exists().with_context(|| format!("failed to look for {}", file.display()))? {
        looks.tick().await;
    }
    Ok(())
}

async fn progress(load: &Load) {
    let mut seconds = interval(Duration::from_secs(1));
    seconds.tick().await;
    let mut before = load.acknowledged();
    loop {
        seconds.tick().await;
        let now = load.acknowledged();
        println!("{} (+{})", load.line(), now - before);
        before = now;
    }
}

impl Load {
    fn note(&self, client: u32, number: u64) {
        if let Some(last) = self.acknowledged.get(client as usize) {
            last.store(number, Ordering::Relaxed);
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|last| last.load(Ordering::Relaxed)).sum()
    }

    /// A client and the last number of its that was acknowledged, another client each time.
    pub fn last_of(&self, turn: usize) -> Option<(u32, u64)> {
        let client = turn % self.acknowledged.len();
        let last = self.acknowledged.get(client)?.load(Ordering::Relaxed);
        Some((u32::try_from(client).ok()?, last)).filter(|&(_, last)| last > 0)
    }

    fn line(&self) -> String {
        format!("{} acknowledged, {} failed attempts", self.acknowledged(), self.failed.load(Ordering::Relaxed))
    }
}

/// One client: the next number only when the one before was acknowledged.
async fn put_all(
    client: u32,
    last: u64,
    mut journal: Journal,
    endpoint: String,
    pause: Duration,
    load: Arc<Load>,
) -> anyhow::Result<()> {
    let mut turns = interval(pause);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut connection = None;
    let mut seq = last + 1;
    while !load.stop.load(Ordering::Relaxed) {
        turns.tick().await;
        match put(&mut connection, &endpoint, client, seq).await {
            Ok((member, cluster, revision)) => {
                journal.acknowledged(seq, member, cluster, revision)?;
                load.note(client, seq);
                seq += 1;
            }
            Err(why) => {
                journal.failed(seq, &why)?;
                load.failed.fetch_add(1, Ordering::Relaxed);
                // The Service chooses a member per connection: this one may be gone for good.
                connection = None;
            }
        }
    }
    Ok(())
}

/// Puts; who acknowledged it, and at which revision.
async fn put(connection: &mut Option<Client>, endpoint: &str, client: u32, seq: u64) -> Result<(Id, Id, i64), String> {
    let connected = match connection {
        Some(connected) => connected,
        None => connection.insert(connect(endpoint).await.map_err(|error| error.to_string())?),
    };
    match timeout(LIMIT, connected.put(key(client, seq), value(client, seq), None)).await {
        Ok(Ok(answer)) => {
            let header = answer.header().ok_or("an answer without a header")?;
            Ok((Id(header.member_id()), Id(header.cluster_id()), header.revision()))
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// A connection; nothing is sent yet.
pub async fn connect(url: &str) -> Result<Client, etcd_client::Error> {
    Client::connect([url], Some(ConnectOptions::new().with_connect_timeout(LIMIT))).await
}
