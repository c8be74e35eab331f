//! The members' health, asked for every 2 s, so that a decision about a scale reads it here and does not wait for etcd.

pub mod cluster;
pub mod controller;
#[cfg(test)]
pub mod fake_api;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use membership::decide::guard::Seen;
use membership::know::names::Ordinal;
use membership::know::observed::Answered;
use membership::know::statefulset;
use serde_json::Value;
use tokio::sync::watch;
use tracing::{debug, info};

use crate::health::cluster::{Cluster, Live};

/// The time from one round to the next. It is well within [`membership::decide::guard::MAX_AGE`], so that one slow
/// round does not make the health unknown.
const EVERY: Duration = Duration::from_secs(2);
/// How long a member may take to answer.
const DEADLINE: Duration = Duration::from_millis(1500);

/// One round of answers.
#[derive(Clone, Debug)]
struct Round {
    /// When the round began: no answer is older.
    began: Instant,
    answers: Arc<BTreeMap<Ordinal, Answered>>,
    /// When each member was asked for the last answer that it gave.
    answered: Arc<BTreeMap<Ordinal, Timestamp>>,
}

/// The latest round. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    latest: watch::Receiver<Option<Round>>,
    answering: watch::Receiver<BTreeSet<Ordinal>>,
}

impl Health {
    /// Asks the members of the watched StatefulSet from now on.
    pub fn poll(mut live: watch::Receiver<Live>, cluster: Cluster) -> Self {
        let (latest, latest_receiver) = watch::channel(None);
        let (answering, answering_receiver) = watch::channel(BTreeSet::new());
        tokio::spawn(async move {
            let mut answered: BTreeMap<Ordinal, Timestamp> = BTreeMap::new();
            loop {
                let (began, asked) = (Instant::now(), Timestamp::now());
                let object = live.borrow_and_update().object();
                let Some(object) = object else {
                    latest.send_replace(None);
                    if live.changed().await.is_err() {
                        return;
                    }
                    continue;
                };
                let target = cluster.target(&object);
                let mut answers = etcd::observe(&target, ordinals(&object), DEADLINE).await;
                let fell_silent = fell_silent(&answers, &answering.borrow());
                answers.extend(etcd::observe(&target, fell_silent, DEADLINE).await);
                tell_news(&answers, &answering);
                answered.extend(answers.iter().filter(|(_, it)| it.is_ok()).map(|(&ordinal, _)| (ordinal, asked)));
                let (answers, answered) = (Arc::new(answers), Arc::new(answered.clone()));
                let before = latest.send_replace(Some(Round { began, answers, answered }));
                tell_first(before.as_ref(), &answering);
                tokio::time::sleep(EVERY.saturating_sub(began.elapsed())).await;
            }
        });
        Self { latest: latest_receiver, answering: answering_receiver }
    }

    /// Gives the latest round to `use_it`; `None`: before the first round.
    pub fn with_seen<T>(&self, use_it: impl FnOnce(Option<Seen<'_>>) -> T) -> T {
        // Cloned, so that a decision does not keep the next round from being stored.
        let round = self.latest.borrow().clone();
        use_it(round.as_ref().map(|round| Seen { age: round.began.elapsed(), answers: &round.answers }))
    }

    /// When a member was asked for the last answer that it gave to this process: a lower bound of when it answered.
    pub fn answered(&self, ordinal: Ordinal) -> Option<Timestamp> {
        self.latest.borrow().as_ref()?.answered.get(&ordinal).copied()
    }

    /// Waits until another set of members answers, or until it is known for the first time which do.
    pub async fn changed(&mut self) {
        if self.answering.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until a member answers that did not before.
    pub async fn improved(&mut self) {
        loop {
            let before = self.answering.borrow_and_update().clone();
            if self.answering.changed().await.is_err() {
                return std::future::pending().await;
            }
            if !self.answering.borrow().is_subset(&before) {
                return;
            }
        }
    }

    /// With these answers, for tests.
    #[cfg(test)]
    pub fn fixed(answers: Option<BTreeMap<Ordinal, Answered>>) -> Self {
        let round = answers.map(|answers| Round {
            began: Instant::now(),
            answers: Arc::new(answers),
            answered: Arc::default(),
        });
        Self { latest: watch::channel(round).1, answering: watch::channel(BTreeSet::new()).1 }
    }
}

/// Every ordinal that is recorded or wanted.
fn ordinals(object: &Value) -> std::ops::Range<Ordinal> {
    let recorded =
        statefulset::record(object).and_then(Result::ok).and_then(|record| record.members.keys().last().copied());
    let recorded = recorded.map_or(0, |last| last + 1);
    0..recorded.max(statefulset::replicas(object)).min(membership::know::names::MOST_MEMBERS)
}

/// The members that answered in the round before and not in this one. They are asked once more: on a busy machine an
/// answer is late now and then, and a scale that is refused for that would be admitted 2 s later.
fn fell_silent(answers: &BTreeMap<Ordinal, Answered>, before: &BTreeSet<Ordinal>) -> Vec<Ordinal> {
    answers
        .iter()
        .filter(|(ordinal, answered)| answered.is_err() && before.contains(ordinal))
        .map(|(&o, _)| o)
        .collect()
}

/// Reports the first round as a change although nobody answers: else nobody would look for a disk that was lost before
/// this process started.
fn tell_first(before: Option<&Round>, answering: &watch::Sender<BTreeSet<Ordinal>>) {
    if before.is_none() {
        answering.send_modify(|_| ());
    }
}

/// Logs what changed since the round before, not every round.
fn tell_news(answers: &BTreeMap<Ordinal, Answered>, answering: &watch::Sender<BTreeSet<Ordinal>>) {
    let now: BTreeSet<Ordinal> = answers.iter().filter(|(_, answered)| answered.is_ok()).map(|(&o, _)| o).collect();
    answering.send_if_modified(|before| {
        let news = *before != now;
        if news {
            info!(?before, ?now, asked = answers.len(), "the members that answer");
            for (ordinal, why) in answers.iter().filter_map(|(o, answered)| Some((o, answered.as_ref().err()?))) {
                debug!(ordinal, why, "no answer");
            }
            before.clone_from(&now);
        }
        news
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn who_is_asked() {
        let sts = |replicas: u32, record: &str| json!({ "metadata": { "annotations": { "etcd-scaler.io/record": record } }, "spec": { "replicas": replicas } });
        let record =
            r#"{"v":1,"cluster":"1","members":{"0":{"id":"1","state":"member"},"3":{"id":"2","state":"joining"}}}"#;
        assert_eq!(ordinals(&sts(3, record)), 0..4);
        assert_eq!(ordinals(&sts(5, record)), 0..5);
        assert_eq!(ordinals(&sts(2, "")), 0..2);
        assert_eq!(ordinals(&sts(100, "")), 0..7);
    }

    #[test]
    fn only_who_answered_before_is_asked_twice() {
        let answers = [0, 1, 2].map(|o| (o, Err("no answer within 1.5 s".to_owned()))).into();
        assert_eq!(fell_silent(&answers, &BTreeSet::from([1, 3])), [1]);
    }

    #[tokio::test]
    async fn the_first_round_is_news_although_nobody_answers() {
        let (answering, receiver) = watch::channel(BTreeSet::new());
        let mut health = Health { latest: watch::channel(None).1, answering: receiver };
        let answers: BTreeMap<Ordinal, Answered> = [(0, Err("no answer within 1.5 s".to_owned()))].into();
        let soon = Duration::from_millis(20);
        tell_news(&answers, &answering);
        tell_first(None, &answering);
        assert!(tokio::time::timeout(soon, health.changed()).await.is_ok());
        let round = Round { began: Instant::now(), answers: Arc::new(answers.clone()), answered: Arc::default() };
        tell_news(&answers, &answering);
        tell_first(Some(&round), &answering);
        assert!(tokio::time::timeout(soon, health.changed()).await.is_err(), "nobody answers still");
    }

    #[tokio::test]
    async fn only_a_member_that_answers_anew_is_an_improvement() {
        let (answering, receiver) = watch::channel(BTreeSet::from([0, 1]));
        let mut health = Health { latest: watch::channel(None).1, answering: receiver };
        let answers =
            |those: &[Ordinal]| those.iter().map(|&o| (o, Err(String::new()))).collect::<BTreeMap<_, Answered>>();
        tell_news(&answers(&[0, 1]), &answering);
        let improved = tokio::time::timeout(Duration::from_millis(20), health.improved()).await;
        assert!(improved.is_err(), "fewer is none");
        let waits = tokio::spawn(async move { health.improved().await });
        tokio::task::yield_now().await;
        answering.send_replace(BTreeSet::from([2]));
        waits.await.unwrap();
    }
}
