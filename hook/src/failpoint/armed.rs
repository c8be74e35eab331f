//! A run that stops where a test asked it to.
//!
//! It says so in an annotation of its Lease, which it does not renew meanwhile, and goes on when
//! the annotation is another one: whoever kills it then kills it there and nowhere else.

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use kubernetes::lease::Lease;
use membership::know::record::{Record, State};
use tracing::info;

use super::Failpoint;
use super::names::{ANNOTATION, VARIABLE};

/// How often is looked whether to go on.
const LOOK: Duration = Duration::from_millis(100);

/// The names that were asked for and not yet reached.
static ARMED: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(|| {
    let names = std::env::var(VARIABLE).unwrap_or_default();
    Mutex::new(names.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect())
});

/// Stops here if a test asked for it; each failpoint once.
pub async fn at(point: Failpoint, lease: &Lease) {
    let name = point.name();
    if !ARMED.lock().unwrap_or_else(PoisonError::into_inner).remove(name) {
        return;
    }
    let said = format!("{name} {}", lease.holder());
    info!("failpoint {name}: stopped until the Lease's annotation {ANNOTATION} is another one");
    // A test waits for this: it must be said, whatever the API server does meanwhile.
    while let Err(error) = lease.annotate(ANNOTATION, &said).await {
        info!("failpoint {name}: {error:#}");
        tokio::time::sleep(LOOK).await;
    }
    loop {
        tokio::time::sleep(LOOK).await;
        match lease.annotation(ANNOTATION).await {
            Ok(now) if now.as_deref() == Some(said.as_str()) => {}
            Ok(_) => break,
            Err(error) => info!("failpoint {name}: {error:#}"),
        }
    }
    info!("failpoint {name}: going on");
}

/// Stops where this record was copied to the Lease and not yet written.
pub async fn copied(before: Option<&Record>, after: &Record, lease: &Lease) {
    match change(before, after) {
        Some(Change::Joining) => at(Failpoint::JoiningCopied, lease).await,
        Some(Change::Member) => at(Failpoint::MemberCopied, lease).await,
        Some(Change::Leaving) => at(Failpoint::LeavingCopied, lease).await,
        Some(Change::Gone) => at(Failpoint::GoneCopied, lease).await,
        None => {}
    }
}

/// Stops where this record was written.
pub async fn recorded(before: Option<&Record>, after: &Record, lease: &Lease) {
    match change(before, after) {
        Some(Change::Joining) => at(Failpoint::JoiningRecorded, lease).await,
        Some(Change::Member) => at(Failpoint::MemberRecorded, lease).await,
        Some(Change::Leaving) => at(Failpoint::LeavingRecorded, lease).await,
        Some(Change::Gone) => at(Failpoint::GoneRecorded, lease).await,
        None => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Change {
    Joining,
    Member,
    Leaving,
    Gone,
}

/// What a record says of a newcomer, or of one that goes, that the one before did not. The first record of a cluster
/// is no step of a join.
fn change(before: Option<&Record>, after: &Record) -> Option<Change> {
    let before = before?;
    if before.members.keys().any(|ordinal| after.state(*ordinal).is_none()) {
        return Some(Change::Gone);
    }
    let (_, changed) = after.members.iter().find(|(ordinal, now)| before.members.get(ordinal) != Some(now))?;
    match changed.state {
        State::Joining => Some(Change::Joining),
        State::Member => Some(Change::Member),
        State::Leaving => Some(Change::Leaving),
        State::Bootstrapping => None,
    }
}

#[cfg(test)]
mod tests {
    use membership::know::record::Id;

    use super::*;

    #[test]
    fn a_records_failpoint_is_what_it_says_of_the_newcomer() {
        let three = Record::new(Id(9)).with(0, Id(1), State::Member);
        let joining = three.clone().with(1, Id(2), State::Joining);
        let member = three.clone().with(1, Id(2), State::Member);
        assert_eq!(change(None, &three), None);
        assert_eq!(change(Some(&three), &three), None);
        assert_eq!(change(Some(&three), &joining), Some(Change::Joining));
        assert_eq!(change(Some(&joining), &member), Some(Change::Member));
        assert_eq!(change(Some(&member), &joining), Some(Change::Joining));
        assert_eq!(change(Some(&joining), &three), Some(Change::Gone));
        let leaving = three.clone().with(1, Id(2), State::Leaving);
        assert_eq!(change(Some(&member), &leaving), Some(Change::Leaving));
        assert_eq!(change(Some(&leaving), &three), Some(Change::Gone));
    }
}
