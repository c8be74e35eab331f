//! What must be so before this process reports that it is ready.
//!
//! Ready means that it can really serve. If the API server called it earlier, it would get an error, and the failure
//! policy would refuse every change of the StatefulSet.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tracing::info;

use crate::health::cluster::Live;

/// The pause between two looks whether something is missing.
const LOOK: Duration = Duration::from_millis(500);

/// The conditions, each set by the task that meets it.
#[derive(Default)]
pub struct Readiness {
    /// Both webhook configurations were read back with our certificate authority.
    bundles: AtomicBool,
    /// The watch of the StatefulSet has had its first complete answer.
    watch: AtomicBool,
    /// Our own listener answered over TLS under the Service's name.
    listener: AtomicBool,
    /// SIGTERM came.
    stopping: AtomicBool,
}

impl Readiness {
    /// What is missing, in words; empty: ready.
    pub fn missing(&self) -> Vec<&'static str> {
        let Self { bundles, watch, listener, stopping } = self;
        let all = [
            (bundles.load(Ordering::Relaxed), "the webhook configurations do not have our caBundle yet"),
            (watch.load(Ordering::Relaxed), "the StatefulSet is not watched yet"),
            (listener.load(Ordering::Relaxed), "our own listener has not answered yet"),
            (!stopping.load(Ordering::Relaxed), "stopping"),
        ];
        all.into_iter().filter_map(|(seen, missing)| (!seen).then_some(missing)).collect()
    }

    /// Waits until nothing is missing.
    pub async fn ready(&self) {
        while !self.missing().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
        info!("ready");
    }

    /// Sets whether the configurations have our authority; returns whether that has changed.
    pub fn bundles(&self, verified: bool) -> bool {
        self.bundles.swap(verified, Ordering::Relaxed) != verified
    }

    /// Our own listener answered.
    pub fn listener_answered(&self) {
        self.listener.store(true, Ordering::Relaxed);
    }

    /// From now on not ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Waits for the watch's first complete answer.
    pub async fn watch_synced(self: Arc<Self>, mut live: watch::Receiver<Live>) {
        if live.wait_for(|live| !matches!(live, Live::Unknown)).await.is_ok() {
            self.watch.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_only_when_all_was_seen_and_never_while_stopping() {
        let readiness = Arc::new(Readiness::default());
        assert_eq!(readiness.missing().len(), 3);
        assert!(readiness.bundles(true) && !readiness.bundles(true), "news once");
        readiness.listener_answered();
        let (sender, live) = watch::channel(Live::Unknown);
        let waits = tokio::spawn(readiness.clone().watch_synced(live));
        tokio::task::yield_now().await;
        assert_eq!(readiness.missing(), ["the StatefulSet is not watched yet"]);
        // A StatefulSet that does not exist is known as well: it is about to be created.
        sender.send_replace(Live::Absent);
        waits.await.unwrap();
        assert!(readiness.missing().is_empty());
        readiness.stopping();
        assert_eq!(readiness.missing(), ["stopping"]);
    }
}
