//! The PodDisruptionBudget of etcd's pods: what ours must be, and what is wrong with somebody else's.
//!
//! Kubernetes computes `maxUnavailable` from the controller's count, `spec.replicas`. If that is lowered before the
//! members have left, the pods of as many members may be evicted at once, and etcd still counts their votes. An integer
//! `minAvailable` counts the pods that are Ready, whatever `spec.replicas` is.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::know::names::Target;
use crate::know::object::{get, list, text};
use crate::know::quorum::quorum;

/// How many pods must stay Ready of `members`, if at most `at_once` may be evicted at once.
///
/// A single member may always be evicted: while its node is drained it serves nobody, whatever the budget says.
#[must_use]
pub fn min_available(members: usize, at_once: usize) -> usize {
    match (members, at_once) {
        (_, 0) => members,
        (0 | 1, _) => 0,
        _ => quorum(members).max(members.saturating_sub(at_once)),
    }
}

/// The budgets that select the StatefulSet's pods, without the one that is called `ours`.
#[must_use]
pub fn others<'a>(budgets: &'a [Value], statefulset: &Value, ours: Option<&str>) -> Vec<&'a Value> {
    let labels = get(statefulset, &["spec", "template", "metadata", "labels"]).and_then(Value::as_object);
    let labels: BTreeMap<&str, &str> =
        labels.into_iter().flatten().filter_map(|(key, value)| Some((key.as_str(), value.as_str()?))).collect();
    let selects = |budget: &&Value| get(budget, &["spec", "selector"]).is_some_and(|it| selects(it, &labels));
    budgets.iter().filter(|budget| ours.is_none() || Some(name(budget)) != ours).filter(selects).collect()
}

/// Whether a selector matches, as Kubernetes has it: each label and each expression must; an empty selector matches
/// all.
fn selects(selector: &Value, labels: &BTreeMap<&str, &str>) -> bool {
    let exact = get(selector, &["matchLabels"]).and_then(Value::as_object).into_iter().flatten();
    let mut exact = exact.map(|(key, value)| labels.get(key.as_str()).copied() == value.as_str());
    let mut expressions = list(selector, &["matchExpressions"]).iter().map(|expression| {
        let found = text(expression, &["key"]).and_then(|key| labels.get(key));
        let among = found.is_some_and(|found| list(expression, &["values"]).iter().any(|value| value == found));
        match text(expression, &["operator"]) {
            Some("In") => among,
            Some("NotIn") => !among,
            Some("Exists") => found.is_some(),
            Some("DoesNotExist") => found.is_none(),
            _ => false,
        }
    });
    exact.all(|it| it) && expressions.all(|it| it)
}

fn name(budget: &Value) -> &str {
    text(budget, &["metadata", "name"]).unwrap_or_default()
}

/// The warning about somebody else's budgets, for a StatefulSet of another chart.
#[must_use]
pub fn warning(target: &Target, budgets: &[&Value], members: usize) -> Option<String> {
    let needed = min_available(members, 1);
    match budgets {
        [] => Some(format!(
            "no PodDisruptionBudget selects the pods of {target}: while etcd-scaler's webhook does not answer, drains of several nodes may evict several members at once. Make one with minAvailable: {needed}, and change it with the number of members"
        )),
        [budget] => {
            let name = name(budget);
            let min = get(budget, &["spec", "minAvailable"]);
            let found = match min.map(Value::as_u64) {
                Some(Some(min)) if min >= u64::try_from(quorum(members)).unwrap_or(u64::MAX) || members < 2 => {
                    return None;
                }
                Some(Some(min)) => format!("asks for {min} of {members} members, and a quorum is {}", quorum(members)),
                _ => "counts spec.replicas: when that is lowered, it lets members go that etcd still counts".to_owned(),
            };
            Some(format!(
                "PodDisruptionBudget {name} {found}. Give it minAvailable: {needed}, a number, and change it with the number of members"
            ))
        }
        several => Some(format!(
            "{} PodDisruptionBudgets select the pods of {target} ({}): the API server then answers each eviction with an error, so no node with a member can be drained. Keep one",
            several.len(),
            several.iter().map(|budget| name(budget)).collect::<Vec<_>>().join(", ")
        )),
    }
}

/// The warning that there is no budget of ours because of these.
#[must_use]
pub fn in_the_way(target: &Target, budgets: &[&Value]) -> String {
    let names = budgets.iter().map(|budget| name(budget)).collect::<Vec<_>>().join(", ");
    format!(
        "PodDisruptionBudget {names} selects the pods of {target} too. With two of them the API server answers each eviction with an error, so etcd-scaler keeps none of its own, and that one does not follow etcd's members. Delete it, or set etcd.pdb.enabled=false"
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::know::names::tests::puls8;

    #[test]
    fn a_quorum_stays_and_one_may_go_where_one_can_be_spared() {
        let table: Vec<usize> = (0..=7).map(|members| min_available(members, 1)).collect();
        assert_eq!(table, [0, 0, 2, 2, 3, 4, 5, 6]);
        let two: Vec<usize> = (0..=7).map(|members| min_available(members, 2)).collect();
        assert_eq!(two, [0, 0, 2, 2, 3, 3, 4, 5]);
        assert_eq!((min_available(1, 0), min_available(3, 0)), (1, 3), "nobody is to be evicted");
    }

    fn budget(name: &str, selector: Value, spec: &Value) -> Value {
        let mut spec = spec.clone();
        spec["selector"] = selector;
        json!({ "metadata": { "name": name }, "spec": spec })
    }

    #[test]
    fn whom_a_selector_selects() {
        let statefulset =
            json!({ "spec": { "template": { "metadata": { "labels": { "app": "etcd", "tier": "db" } } } } });
        let selects = |selector: Value| !others(&[budget("b", selector, &json!({}))], &statefulset, None).is_empty();
        let expression = |key: &str, operator: &str, values: Value| json!({ "matchExpressions": [{ "key": key, "operator": operator, "values": values }] });
        assert!(selects(json!({})) && selects(json!({ "matchLabels": { "app": "etcd" } })));
        assert!(!selects(json!({ "matchLabels": { "app": "etcd", "tier": "web" } })) && !selects(json!(null)));
        assert!(
            selects(expression("app", "In", json!(["etcd", "x"]))) && !selects(expression("app", "In", json!(["x"])))
        );
        assert!(
            !selects(expression("app", "NotIn", json!(["etcd"]))) && selects(expression("no", "NotIn", json!(["x"])))
        );
        assert!(selects(expression("app", "Exists", json!([]))) && !selects(expression("no", "Exists", json!([]))));
        assert!(selects(expression("no", "DoesNotExist", json!([]))) && !selects(expression("app", "?", json!([]))));
        let two = [budget("ours", json!({}), &json!({})), budget("theirs", json!({}), &json!({}))];
        let names = |ours| others(&two, &statefulset, ours).into_iter().map(name).collect::<Vec<_>>();
        assert_eq!((names(None), names(Some("ours"))), (vec!["ours", "theirs"], vec!["theirs"]));
    }

    #[test]
    fn what_is_said_of_theirs() {
        let budget = |spec: Value| budget("theirs", json!({}), &spec);
        let warned = |spec: Value, members| warning(&puls8(), &[&budget(spec)], members);
        assert_eq!(warned(json!({ "minAvailable": 2 }), 3), None);
        assert_eq!(warned(json!({ "minAvailable": 0 }), 1), None);
        insta::assert_snapshot!(warned(json!({ "minAvailable": 2 }), 5).unwrap(), @"PodDisruptionBudget theirs asks for 2 of 5 members, and a quorum is 3. Give it minAvailable: 4, a number, and change it with the number of members");
        insta::assert_snapshot!(warned(json!({ "minAvailable": "51%" }), 3).unwrap(), @"PodDisruptionBudget theirs counts spec.replicas: when that is lowered, it lets members go that etcd still counts. Give it minAvailable: 2, a number, and change it with the number of members");
        let theirs = budget(json!({ "maxUnavailable": 1 }));
        assert_eq!(warning(&puls8(), &[&theirs], 3), warned(json!({ "minAvailable": "51%" }), 3));
        insta::assert_snapshot!(warning(&puls8(), &[], 3).unwrap(), @"no PodDisruptionBudget selects the pods of StatefulSet puls8/puls8-etcd: while etcd-scaler's webhook does not answer, drains of several nodes may evict several members at once. Make one with minAvailable: 2, and change it with the number of members");
        insta::assert_snapshot!(warning(&puls8(), &[&theirs, &theirs], 3).unwrap(), @"2 PodDisruptionBudgets select the pods of StatefulSet puls8/puls8-etcd (theirs, theirs): the API server then answers each eviction with an error, so no node with a member can be drained. Keep one");
        insta::assert_snapshot!(in_the_way(&puls8(), &[&theirs]), @"PodDisruptionBudget theirs selects the pods of StatefulSet puls8/puls8-etcd too. With two of them the API server answers each eviction with an error, so etcd-scaler keeps none of its own, and that one does not follow etcd's members. Delete it, or set etcd.pdb.enabled=false");
    }
}
