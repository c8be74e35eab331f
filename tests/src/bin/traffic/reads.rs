//! Reads while the load runs: through the Service, and from each member by its own URL. What was
//! answered is noted, and judged by whoever reads it: at which revision, by whom, of which cluster.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;

use etcd_client::{Client, GetOptions};
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use jiff::Timestamp;
use membership::know::record::Id;
use tests::journal::{Answer, Call, Journal, SERVICE};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::keys::{key, value};
use crate::write::{LIMIT, Load, connect};

/// How often each reader reads.
const PAUSE: Duration = Duration::from_millis(100);
/// Every so many reads of a member are linearizable: what the leader is asked about each time.
const LINEARIZABLE: usize = 4;
/// After so many reads a reader of the Service connects again: the Service chooses a member for it.
const CONNECTION: usize = 5;

/// Reads for ever.
pub async fn run(
    service: &str,
    mut members: watch::Receiver<Vec<String>>,
    state: &Path,
    load: &Load,
) -> anyhow::Result<Infallible> {
    let reader = |url: String, via: String| Reader { url, via, state, load };
    let mut readers: FuturesUnordered<LocalBoxFuture<'_, anyhow::Result<()>>> = FuturesUnordered::new();
    readers.push(Box::pin(reader(service.to_owned(), SERVICE.to_owned()).run(None)));
    // The readers of members that are gone end by themselves.
    let mut reading: BTreeMap<String, watch::Sender<()>> = BTreeMap::new();
    loop {
        let urls = members.borrow_and_update().clone();
        reading.retain(|url, _| urls.contains(url));
        for url in urls {
            reading.entry(url.clone()).or_insert_with(|| {
                let (keep, kept) = watch::channel(());
                readers.push(Box::pin(reader(url.clone(), url).run(Some(kept))));
                keep
            });
        }
        tokio::select! {
            changed = members.changed() => changed?,
            Some(ended) = readers.next() => ended?,
        }
    }
}

/// One of those that read.
struct Reader<'a> {
    url: String,
    via: String,
    state: &'a Path,
    load: &'a Load,
}

impl Reader<'_> {
    /// Reads until nobody wants it any more.
    async fn run(self, wanted: Option<watch::Receiver<()>>) -> anyhow::Result<()> {
        let mut journal = Journal::of_reads(self.state)?;
        let mut turns = interval(PAUSE);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        for turn in 0.. {
            turns.tick().await;
            if wanted.as_ref().is_some_and(|wanted| wanted.has_changed().is_err()) {
                break;
            }
            if self.via == SERVICE && turn % CONNECTION == 0 {
                connection = None;
            }
            let call = if turn % LINEARIZABLE == 0 { Call::Linearizable } else { Call::Serializable };
            // Who does not answer says nothing.
            if self.read(&mut connection, call, turn / LINEARIZABLE, &mut journal).await?.is_none() {
                connection = None;
            }
        }
        Ok(())
    }

    /// Reads a key of the load; nothing, if there was no answer.
    async fn read(
        &self,
        connection: &mut Option<Client>,
        call: Call,
        turn: usize,
        journal: &mut Journal,
    ) -> anyhow::Result<Option<()>> {
        let Some((client, number)) = self.load.last_of(turn) else { return Ok(Some(())) };
        let connected = match connection {
            Some(connected) => connected,
            None => match connect(&self.url).await {
                Ok(connected) => connection.insert(connected),
                Err(_) => return Ok(None),
            },
        };
        let key = key(client, number);
        let options = (call == Call::Serializable).then(|| GetOptions::new().with_serializable());
        let sent = Timestamp::now().as_microsecond();
        let Ok(Ok(answer)) = timeout(LIMIT, connected.get(key.as_str(), options)).await else { return Ok(None) };
        let got = Timestamp::now().as_microsecond();
        let Some(header) = answer.header() else { return Ok(None) };
        let found = answer.kvs().first().is_some_and(|kv| kv.value() == value(client, number).as_bytes());
        if call == Call::Linearizable && !found {
            journal.missing(&key, &self.via)?;
        }
        journal.read(&Answer {
            sent,
            got,
            call,
            via: self.via.clone(),
            member: Id(header.member_id()),
            cluster: Id(header.cluster_id()),
            revision: header.revision(),
        })?;
        Ok(Some(()))
    }
}
