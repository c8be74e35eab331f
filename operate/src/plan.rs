//! What a scale would do, and whether it would be admitted. Only reads, with the rights of the webhook's pod, because
//! it is run there (`kubectl exec`).

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use kube::api::ListParams;
use kubernetes::objects::{Objects, patiently};
use kubernetes::statefulset::{adopt, record, replicas};
use membership::decide::guard::{self, Change, Decision, Request, Seen};
use membership::decide::outline::{self, Scale};
use membership::know::names::{MOST_MEMBERS, Target};
use membership::know::observed::agreed;
use membership::know::volume::OnScaleDown;
use membership::know::{start, statefulset};
use serde::Serialize;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use crate::output::Output;

/// How long one member may take to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// The exit code if it would be refused.
const REFUSED: u8 = 3;

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// The count.
    pub replicas: u32,
    /// What becomes of the claims of those that leave.
    pub on_scale_down: OnScaleDown,
}

/// The answer of `hook plan`. Its fields are a contract (docs/commands.md).
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Answer {
    from: u32,
    to: u32,
    admitted: bool,
    refusal: Option<String>,
    warnings: Vec<String>,
    lifted: Vec<String>,
    steps: Vec<String>,
}

/// Looks once and answers: exit code 0 where it would be admitted, 3 where it would be refused, 1 where
/// the StatefulSet could not be read.
pub async fn run(target: Target, asked: Asked, deadline: Duration, output: Output) -> ExitCode {
    let end = Instant::now() + deadline;
    let answer = match timeout_at(end, look(target, asked, end)).await {
        Ok(answer) => answer,
        Err(_) => Err(anyhow::anyhow!("the API server did not answer within {} s; try again", deadline.as_secs())),
    };
    match answer {
        Ok(answer) => {
            match output {
                Output::Table => print!("{}", answer.text()),
                // A struct of strings and numbers always serialises.
                Output::Json => println!("{}", serde_json::to_string(&answer).unwrap_or_default()),
            }
            if answer.admitted { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) }
        }
        Err(error) => {
            // Not written as the pod's termination message, because this runs in the webhook's pod.
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn look(mut target: Target, asked: Asked, end: Instant) -> anyhow::Result<Answer> {
    let Asked { replicas: to, on_scale_down } = asked;
    let objects = Objects::connect(&target.namespace).await?;
    let live = patiently(end, || objects.statefulset(&target)).await?;
    adopt(&live, &mut target)?;
    let from = replicas(&live);
    let recorded = record(&live).ok().flatten();
    let last = recorded.as_ref().and_then(|record| record.members.keys().max().copied());
    let count = from.max(last.map_or(0, |last| last + 1)).min(MOST_MEMBERS);
    let began = Instant::now();
    let answers = etcd::observe(&target, 0..count, ANSWER).await;
    let object = serde_json::to_value(&live).context("a StatefulSet that cannot be written as JSON")?;
    let first = statefulset::first_ordinal(&object);
    let decision = guard::decide(&Change {
        target: &target,
        request: Request::StatefulSet,
        old: from,
        new: to,
        first_ordinal: (first, first),
        record: statefulset::record(&object),
        not_understood: start::of_statefulset(&object, &target).err(),
        changes_template: false,
        may_stop: statefulset::may_stop(&object),
        deletes_claims: statefulset::deletes_claims(&object),
        controller: statefulset::controller(&object),
        rollout: statefulset::rollout(&object),
        canary: statefulset::canary(&object),
        strategy: statefulset::unknown_strategy(&object, from.max(to)),
        room: statefulset::room(&object, &target),
        diverged: statefulset::diverged(&object),
        override_: statefulset::override_of(&object),
        seen: Some(Seen { age: began.elapsed(), answers: &answers }),
    });
    let told = || answers.values().filter_map(|answered| answered.as_ref().ok());
    let leader = agreed(&target, &answers, recorded.as_ref()).ok().and_then(|agreed| agreed.leader);
    let scale = Scale {
        from: recorded.as_ref().map_or(from, membership::know::record::Record::count),
        to,
        version: told().filter_map(|answer| answer.version.parse().ok()).min(),
        leader: answers.iter().find_map(|(&ordinal, answered)| {
            answered.as_ref().ok().filter(|answer| Some(answer.member) == leader).map(|_| ordinal)
        }),
        on_scale_down,
    };
    let steps = outline::steps(&target, scale);
    Ok(match decision {
        Decision::Admit { mut warnings, lifted } => {
            warnings.extend(budget(&objects, &target, &object, scale.from).await);
            Answer { from, to, admitted: true, refusal: None, warnings, lifted, steps }
        }
        Decision::Refuse(why) => Answer {
            from,
            to,
            admitted: false,
            refusal: Some(why),
            warnings: Vec::new(),
            lifted: Vec::new(),
            steps: Vec::new(),
        },
    })
}

/// The warning about the PodDisruptionBudget, for the members that there are.
async fn budget(objects: &Objects, target: &Target, statefulset: &Value, members: u32) -> Option<String> {
    let listed = match objects.budgets.list(&ListParams::default()).await {
        Ok(listed) => listed.items,
        Err(error) => {
            return Some(format!("whether a PodDisruptionBudget selects the pods of {target} is not known: {error}"));
        }
    };
    let all: Vec<Value> = listed.iter().filter_map(|it| serde_json::to_value(it).ok()).collect();
    let members = usize::try_from(members).unwrap_or(usize::MAX);
    membership::decide::budget::warning(target, &membership::decide::budget::others(&all, statefulset, None), members)
}

impl Answer {
    /// For people.
    fn text(&self) -> String {
        let Self { from, to, refusal, warnings, lifted, steps, .. } = self;
        let mut text = match refusal {
            Some(why) => format!("{why}\n"),
            None => format!("{from} → {to} would be admitted\n"),
        };
        for warning in warnings {
            text += &format!("warning: {warning}\n");
        }
        for lifted in lifted {
            text += &format!("lifted: {lifted}\n");
        }
        for (number, step) in (1..).zip(steps) {
            text += &format!("{number:>3}. {step}\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documented::documented;

    fn answer() -> Answer {
        Answer {
            from: 3,
            to: 4,
            admitted: true,
            refusal: None,
            warnings: vec!["4 etcd members tolerate 1 failure".into()],
            lifted: vec!["etcd has the alarm NOSPACE".into()],
            steps: vec!["its pod is made".into(), "member add".into()],
        }
    }

    #[test]
    fn for_people() {
        let refused = Answer { admitted: false, refusal: Some("it is refused: why".into()), ..answer() };
        let refused = Answer { warnings: vec![], lifted: vec![], steps: vec![], ..refused };
        assert_eq!(
            answer().text(),
            "3 → 4 would be admitted\nwarning: 4 etcd members tolerate 1 failure\nlifted: etcd has the alarm NOSPACE\n  1. its pod is made\n  2. member add\n"
        );
        assert_eq!(refused.text(), "it is refused: why\n");
    }

    #[test]
    fn each_field_is_documented() {
        documented("## `hook plan`", &serde_json::to_value(answer()).unwrap());
    }
}
