//! Whether all voting members hold the same keys. Only reads: nothing is written to etcd or Kubernetes.

mod answer;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use etcd::{Limits, Verdict};
use membership::know::names::{MOST_MEMBERS, Ordinal, Target};
use membership::know::observed::{Answered, agreed};
use membership::know::record::Record;
use tokio::time::{Instant, timeout_at};

use crate::output::Output;

pub use answer::Answer;
use answer::Voter;
use kubernetes::objects::{Objects, patiently};
use kubernetes::report;
use kubernetes::statefulset::replicas;
use kubernetes::statefulset::{adopt, record};

/// How long one member may take to answer who it is.
const ANSWER: Duration = Duration::from_secs(2);
/// The pause before members that do not all answer are asked again.
const LOOK: Duration = Duration::from_millis(500);
/// How long it is waited until all members answer: an election, or the end of a restart.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long one HashKV may take: it reads every key.
const HASH: Duration = Duration::from_secs(60);
/// How many revisions are tried, if a member lags behind or compacts.
const TRIES: u32 = 20;

/// What was asked for.
pub struct Asked {
    /// Compare key by key at once, without hashes, which would read every key once more.
    pub keys: bool,
    /// How many differing keys are named.
    pub named: usize,
    /// The time for everything.
    pub deadline: Duration,
}

/// Compares and answers; the exit code is the verdict's.
pub async fn run(target: Target, asked: &Asked, output: Output) -> ExitCode {
    let end = Instant::now() + asked.deadline;
    let seconds = asked.deadline.as_secs();
    let compared = async {
        let objects = Objects::connect(&target.namespace).await?;
        compare(&objects, target.clone(), asked, end).await
    };
    let answer = match timeout_at(end, compared).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => Answer::unknown(&target, format!("{error:#}")),
        Err(_) => Answer::unknown(&target, format!("it was not told within {seconds} s; raise --deadline")),
    };
    match output {
        Output::Table => print!("{}", answer.text()),
        // A struct of strings and numbers always serialises.
        Output::Json => println!("{}", serde_json::to_string(&answer).unwrap_or_default()),
    }
    report::last_word(&answer.reason);
    ExitCode::from(answer.verdict.exit_code())
}

/// What the members hold, in one answer.
///
/// # Errors
/// When the StatefulSet cannot be read, or not every voting member is heard.
pub async fn compare(objects: &Objects, mut target: Target, asked: &Asked, end: Instant) -> anyhow::Result<Answer> {
    let statefulset = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&statefulset, &mut target)?;
    let record = record(&statefulset)?;
    let recorded = record.as_ref().and_then(|record| record.members.keys().max().copied());
    let count = replicas(&statefulset).max(recorded.map_or(0, |last| last + 1)).min(MOST_MEMBERS);
    anyhow::ensure!(count > 0, "{target} wants 0 members and its record names none: there is nothing to compare");
    let voters = voters(&target, count, record.as_ref(), end).await?;
    let urls = voters.iter().map(|voter| (voter.ordinal, target.client_url(voter.ordinal))).collect();
    let mut answer = Answer::about(&target, voters);
    let hashed = if asked.keys { None } else { Some(etcd::validate_at(&urls, HASH, TRIES).await) };
    if let Some(hashed) = &hashed {
        answer.hashed(hashed);
    }
    // Also if the hashes are not comparable: members that were compacted at different revisions have different hashes
    // of the same keys.
    if !matches!(hashed, Some(Verdict::Equal(_))) {
        // It ends a little before `end`, so that there is time to say so.
        let limits = Limits { call: HASH, tries: TRIES, end: end - ANSWER, named: asked.named };
        answer.compared(hashed.as_ref(), etcd::diff(&urls, &limits).await);
    }
    Ok(answer)
}

/// Every voting member, after each has answered under its own ID.
async fn voters(target: &Target, count: u32, record: Option<&Record>, end: Instant) -> anyhow::Result<Vec<Voter>> {
    let end = end.min(Instant::now() + PATIENCE);
    loop {
        let why = match all_heard(target, &etcd::observe(target, 0..count, ANSWER).await, record) {
            Ok(voters) => return Ok(voters),
            Err(why) => why,
        };
        anyhow::ensure!(
            Instant::now() + LOOK < end,
            "{why}. Every voting member must answer to be compared: see hook status, repair it, then validate again"
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// The voters of the agreed member list, or which of them did not answer.
fn all_heard(
    target: &Target,
    answers: &BTreeMap<Ordinal, Answered>,
    record: Option<&Record>,
) -> Result<Vec<Voter>, String> {
    let list = agreed(target, answers, record)?;
    let mut voters = Vec::new();
    for member in list.members.iter().filter(|member| !member.learner) {
        let heard = answers.iter().find(|(_, answered)| answered.as_ref().is_ok_and(|it| it.member == member.id));
        let Some((&ordinal, _)) = heard else {
            let silent = answers.iter().filter_map(|(&o, answered)| Some((target.pod(o), answered.as_ref().err()?)));
            let silent: Vec<String> = silent.map(|(pod, why)| format!("{pod}: {why}")).collect();
            let name = if member.name.is_empty() { "a member without a name" } else { &member.name };
            return Err(format!("voting member {} ({name}) was not heard ({})", member.id, silent.join("; ")));
        };
        voters.push(Voter { ordinal, member: member.id });
    }
    voters.sort_by_key(|voter| voter.ordinal);
    Ok(voters)
}

#[cfg(test)]
mod tests {
    use super::*;
    use membership::know::observed::{self, ListedMember};
    use membership::know::record::Id;
    use membership::world::puls8;

    fn listed(id: u64, learner: bool) -> ListedMember {
        let (name, client_urls) = (format!("etcd-{}", id - 1), vec!["http://x".into()]);
        ListedMember { id: Id(id), name, peer_urls: Vec::new(), client_urls, learner }
    }

    fn told(id: u64, list: Option<Vec<ListedMember>>) -> Answered {
        Ok(observed::Answer {
            member: Id(id),
            cluster: Id(9),
            leader: Some(Id(1)),
            learner: list.is_none(),
            version: "3.6.16".into(),
            revision: 1,
            raft_index: 1,
            applied_index: 1,
            errors: Vec::new(),
            alarms: Vec::new(),
            db: observed::Database::default(),
            list,
        })
    }

    #[test]
    fn a_voter_that_is_not_heard_is_named_and_a_learner_is_not_asked() {
        let target = puls8();
        let list = || Some(vec![listed(1, false), listed(2, false), listed(3, false), listed(4, true)]);
        let mut answers = BTreeMap::from([(0, told(1, list())), (1, told(2, list())), (3, told(4, None))]);
        answers.insert(2, Err("connection refused".into()));
        let why = all_heard(&target, &answers, None).unwrap_err();
        assert_eq!(why, "voting member 0000000000000003 (etcd-2) was not heard (puls8-etcd-2: connection refused)");
        answers.insert(2, told(3, list()));
        let ordinals: Vec<Ordinal> = all_heard(&target, &answers, None).unwrap().iter().map(|it| it.ordinal).collect();
        assert_eq!(ordinals, [0, 1, 2]);
        // Another member's data under this name: the recorded voter is not heard.
        answers.insert(2, told(7, list()));
        assert!(all_heard(&target, &answers, None).unwrap_err().contains("0000000000000003"));
    }
}
