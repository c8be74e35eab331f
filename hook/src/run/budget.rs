//! Keeps the PodDisruptionBudget of etcd's pods at what etcd's own member list needs, not at the count that is wanted.
//!
//! The budget alone protects the quorum while no webhook answers for an eviction. So it is raised before a member is
//! added, and lowered after one has left.

use anyhow::Context;
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Resource;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kubernetes::objects::Objects;
use kubernetes::report::Reports;
use membership::decide::budget::{in_the_way, min_available, others, warning};
use membership::decide::next_step::Step;
use membership::know::names::{TARGET, Target};
use membership::know::observed::Observed;
use serde_json::{Value, json};
use tracing::info;

/// Our field manager.
const FIELD_MANAGER: &str = "etcd-scaler";

/// Whose budget it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// Ours: lets so many pods be evicted at once.
    Ours(usize),
    /// None is wanted: if there is one of ours, it is deleted.
    Unwanted,
    /// That of the StatefulSet's own chart, if it has one: it is only read.
    Theirs,
}

impl Budget {
    /// A number, or `none`.
    ///
    /// # Errors
    /// When it is neither.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::Unwanted),
            number => number.parse().map(Self::Ours).map_err(|_| format!("{number} is neither a number nor none")),
        }
    }
}

/// The budget as this run has left it.
pub struct Kept {
    budget: Budget,
    /// For how many members it was last written; `None`: not yet.
    members: Option<usize>,
}

impl Kept {
    /// Nothing is known yet.
    pub fn new(budget: Budget) -> Self {
        Self { budget, members: None }
    }

    /// Has the budget fit the members that there are or, before one is added, will be.
    ///
    /// # Errors
    /// When the API server did not do it.
    pub async fn follow(
        &mut self,
        objects: &Objects,
        reports: &Reports,
        statefulset: &StatefulSet,
        seen: &Observed,
        step: &Step,
    ) -> anyhow::Result<()> {
        // Without a quorum it is not known how many members there are.
        let Ok(agreed) = seen.agreed() else { return Ok(()) };
        let members = agreed.members.len() + usize::from(matches!(step, Step::Add(..)));
        // A budget of somebody else is looked at once in a run.
        if self.members == Some(members) || (self.members.is_some() && self.budget == Budget::Theirs) {
            return Ok(());
        }
        let target = &seen.target;
        keep(objects, reports, target, statefulset, self.budget, members)
            .await
            .with_context(|| format!("failed to have the PodDisruptionBudget of {target} follow etcd's members"))?;
        self.members = Some(members);
        Ok(())
    }
}

async fn keep(
    objects: &Objects,
    reports: &Reports,
    target: &Target,
    statefulset: &StatefulSet,
    budget: Budget,
    members: usize,
) -> anyhow::Result<()> {
    let listed = objects.budgets.list(&ListParams::default()).await?;
    let all = listed.items.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>()?;
    let live = serde_json::to_value(statefulset)?;
    let name = target.statefulset.as_str();
    let ours = listed.items.iter().find(|budget| budget.metadata.name.as_deref() == Some(name));
    let made_by_us = ours.filter(|it| it.metadata.labels.as_ref().is_some_and(|all| all.contains_key(TARGET)));
    let at_once = match budget {
        Budget::Theirs => {
            if let Some(warning) = warning(target, &others(&all, &live, None), members) {
                reports.trouble("DisruptionBudget", warning).await;
            }
            return Ok(());
        }
        Budget::Unwanted => return remove(objects, made_by_us).await,
        Budget::Ours(at_once) => at_once,
    };
    let others = others(&all, &live, Some(name));
    if !others.is_empty() {
        reports.trouble("DisruptionBudget", in_the_way(target, &others)).await;
        return remove(objects, made_by_us).await;
    }
    let min = min_available(members, at_once);
    let wanted = object(target, statefulset, min);
    let fits = |found: &PodDisruptionBudget| {
        let spec = found.spec.as_ref().map(serde_json::to_value).and_then(Result::ok).unwrap_or_default();
        spec["minAvailable"] == wanted["spec"]["minAvailable"]
            && spec["selector"] == wanted["spec"]["selector"]
            && found.metadata.owner_references == statefulset.owner_ref(&()).map(|owner| vec![owner])
    };
    if made_by_us.is_some_and(fits) {
        return Ok(());
    }
    // An earlier release of the chart made it with maxUnavailable, which Kubernetes does not allow beside minAvailable.
    if ours.is_some_and(|found| found.spec.as_ref().is_some_and(|spec| spec.max_unavailable.is_some())) {
        let released = json!({ "spec": { "maxUnavailable": null, "minAvailable": min } });
        objects.budgets.patch(name, &PatchParams::default(), &Patch::Merge(&released)).await?;
    }
    let params = PatchParams::apply(FIELD_MANAGER).force();
    objects.budgets.patch(name, &params, &Patch::Apply(&wanted)).await?;
    info!("PodDisruptionBudget {name}: of {members} members at least {min} stay Ready");
    Ok(())
}

async fn remove(objects: &Objects, ours: Option<&PodDisruptionBudget>) -> anyhow::Result<()> {
    let Some(name) = ours.and_then(|ours| ours.metadata.name.as_deref()) else { return Ok(()) };
    match objects.budgets.delete(name, &DeleteParams::default()).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        deleted => deleted.map(|_| info!("PodDisruptionBudget {name} is deleted")).map_err(Into::into),
    }
}

/// Our budget. The StatefulSet owns it, so it is deleted with the StatefulSet.
fn object(target: &Target, statefulset: &StatefulSet, min: usize) -> Value {
    let selector = statefulset.spec.as_ref().map(|spec| &spec.selector);
    json!({
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": target.statefulset,
            "labels": { TARGET: target.statefulset },
            "ownerReferences": statefulset.owner_ref(&()).map(|owner| vec![owner]),
        },
        "spec": { "minAvailable": min, "selector": selector },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_or_none() {
        assert_eq!(Budget::parse("1"), Ok(Budget::Ours(1)));
        assert_eq!(Budget::parse("none"), Ok(Budget::Unwanted));
        assert!(Budget::parse("50%").is_err());
    }
}
