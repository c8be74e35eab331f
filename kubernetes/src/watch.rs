//! Follows a watch.

use std::fmt::Debug;

use futures::{StreamExt, pin_mut};
use kube::Api;
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch_objects};
use serde::de::DeserializeOwned;
use tracing::warn;

/// A change that a watch reports.
pub enum Change<K> {
    /// This object exists as given.
    Is(K),
    /// This object is gone.
    Gone(K),
    /// These are all objects that there are.
    All(Vec<K>),
}

/// Follows a watch for ever, and begins it again after errors.
pub async fn follow<K>(api: Api<K>, config: watcher::Config, what: &'static str, mut tell: impl FnMut(Change<K>))
where
    K: kube::Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let stream = watch_objects(api, config).default_backoff();
    pin_mut!(stream);
    let mut all = Vec::new();
    while let Some(event) = stream.next().await {
        match event {
            Ok(Event::Init) => all.clear(),
            Ok(Event::InitApply(object)) => all.push(object),
            Ok(Event::InitDone) => tell(Change::All(std::mem::take(&mut all))),
            Ok(Event::Apply(object)) => tell(Change::Is(object)),
            Ok(Event::Delete(object)) => tell(Change::Gone(object)),
            Err(error) => warn!(%error, "cannot watch {what}, trying again"),
        }
    }
}
