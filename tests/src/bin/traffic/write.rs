//! The load.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use etcd_client::{Client, ConnectOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::journal::Journal;
use crate::keys::{key, value};
use crate::members;

/// How long one call may take.
pub const LIMIT: Duration = Duration::from_secs(2);
/// How often it is looked whether the load is to end, and whether it has.
const LOOK: Duration = Duration::from_millis(100);

/// What the clients share.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    failed: AtomicU64,
}

/// Puts until `stop` is in the state directory, then waits to be ended: the pod has to live on for
/// the one who reads back.
pub async fn run(endpoint: String, clients: u32, pause: Duration, state: PathBuf) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("failed to listen for SIGTERM")?;
    let load = Arc::new(Load::default());
    println!("{clients} clients put to {endpoint}, each every {} ms", pause.as_millis());
    let mut putting = JoinSet::new();
    for client in 0..clients {
        let (journal, last) = Journal::open(&state, client)?;
        load.acknowledged.fetch_add(last, Ordering::Relaxed);
        putting.spawn(put_all(client, last, journal, endpoint.clone(), pause, Arc::clone(&load)));
    }
    let wanted = until_exists(state.join("stop"));
    tokio::select! {
        stop = wanted => stop?,
        () = progress(&load) => {}
        watched = members::watch(&endpoint, &state) => match watched? {},
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
    let mut before = load.acknowledged.load(Ordering::Relaxed);
    loop {
        seconds.tick().await;
        let now = load.acknowledged.load(Ordering::Relaxed);
        println!("{} (+{})", load.line(), now - before);
        before = now;
    }
}

impl Load {
    fn line(&self) -> String {
        let (acknowledged, failed) = (self.acknowledged.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed));
        format!("{acknowledged} acknowledged, {failed} failed attempts")
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
            Ok(()) => {
                journal.acknowledged(seq)?;
                load.acknowledged.fetch_add(1, Ordering::Relaxed);
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

async fn put(connection: &mut Option<Client>, endpoint: &str, client: u32, seq: u64) -> Result<(), String> {
    let connected = match connection {
        Some(connected) => connected,
        None => connection.insert(connect(endpoint).await.map_err(|error| error.to_string())?),
    };
    match timeout(LIMIT, connected.put(key(client, seq), value(client, seq), None)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", LIMIT.as_secs())),
    }
}

/// A connection; nothing is sent yet.
pub async fn connect(url: &str) -> Result<Client, etcd_client::Error> {
    Client::connect([url], Some(ConnectOptions::new().with_connect_timeout(LIMIT))).await
}
