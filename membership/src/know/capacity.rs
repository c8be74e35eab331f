//! Whether there is a volume that each newcomer's claim can be bound to, and a node for each newcomer.

use serde_json::Value;

use crate::know::object::{get, list, text};
use crate::know::size::{quantity, size};

/// The label by which pods are kept on nodes of their own.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// The size that a StatefulSet's claims ask for, in bytes, and the class that they name (`None`: the cluster's
/// default).
#[must_use]
pub fn claim(statefulset: &Value) -> Option<(Option<u64>, Option<&str>)> {
    let spec = get(list(statefulset, &["spec", "volumeClaimTemplates"]).first()?, &["spec"])?;
    Some((text(spec, &["resources", "requests", "storage"]).and_then(quantity), text(spec, &["storageClassName"])))
}

/// Why a claim is never bound to a volume that we make with this capacity (a quantity), in a sentence.
#[must_use]
pub fn too_small(capacity: &str, asked: Option<u64>) -> Option<String> {
    let (has, asked) = (quantity(capacity)?, asked?);
    (has < asked).then(|| {
        format!(
            "volumes are made with a capacity of {} ({capacity}), and a newcomer's claim asks for {}: it would never be bound. Set pv.capacity to as much, or leave it out",
            size(has),
            size(asked)
        )
    })
}

/// Why a claim that names no class gets no volume, in a sentence: none of the StorageClasses (JSON, all there are) is
/// the default.
#[must_use]
pub fn no_default(classes: &[Value]) -> Option<String> {
    let keys = ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
    let is_default =
        |class: &&Value| keys.iter().any(|key| text(class, &["metadata", "annotations", key]) == Some("true"));
    classes.iter().find(is_default).is_none().then(|| {
        "the newcomers' claims name no StorageClass, and none is the cluster's default: nothing would make their volumes. Mark one as the default, or name one (etcd.persistence.storageClass)".to_owned()
    })
}

/// The sentence that there are too few nodes for `wanted` members, if the pod template wants a node for each; `nodes`:
/// all there are. It is only a warning: an autoscaler may make nodes when pods wait for them.
#[must_use]
pub fn too_few_nodes(statefulset: &Value, nodes: &[Value], wanted: u32) -> Option<String> {
    let template = get(statefulset, &["spec", "template"])?;
    if !is_one_each(template) {
        return None;
    }
    let against: Vec<(String, String)> = nodes
        .iter()
        .filter_map(|node| Some((text(node, &["metadata", "name"])?.to_owned(), against(template, node)?)))
        .collect();
    let able = nodes.len() - against.len();
    if able >= wanted as usize {
        return None;
    }
    let mut each: Vec<String> = against.iter().map(|(node, why)| format!("{node} {why}")).collect();
    each.sort();
    let not = if each.is_empty() { String::new() } else { format!(" (not: {})", each.join(", ")) };
    Some(format!(
        "{able} of {} nodes can take a member{not}, and {wanted} members want a node each (podAntiAffinity): a newcomer would wait for one",
        nodes.len()
    ))
}

/// Whether the template has a required anti-affinity to pods with its own labels, by node.
fn is_one_each(template: &Value) -> bool {
    let path = ["spec", "affinity", "podAntiAffinity", "requiredDuringSchedulingIgnoredDuringExecution"];
    let own = |term: &&Value| {
        let labels = get(term, &["labelSelector", "matchLabels"]).and_then(Value::as_object);
        let mut labels = labels.into_iter().flatten();
        let expressions = list(term, &["labelSelector", "matchExpressions"]);
        labels.all(|(key, value)| Some(value) == get(template, &["metadata", "labels", key]))
            && expressions.iter().all(|it| matches(it, |key| text(template, &["metadata", "labels", key])))
    };
    list(template, &path).iter().filter(|term| text(term, &["topologyKey"]) == Some(HOSTNAME)).any(|term| own(&term))
}

/// Why a node does not take a pod of this template. What is not known does not speak against it.
fn against(template: &Value, node: &Value) -> Option<String> {
    let ready = list(node, &["status", "conditions"]).iter().find(|it| text(it, &["type"]) == Some("Ready"));
    if ready.is_none_or(|ready| text(ready, &["status"]) != Some("True")) {
        return Some("is not Ready".into());
    }
    if get(node, &["spec", "unschedulable"]) == Some(&Value::Bool(true)) {
        return Some("is cordoned".into());
    }
    let tolerations = list(template, &["spec", "tolerations"]);
    let taint = list(node, &["spec", "taints"]).iter().find(|taint| {
        text(taint, &["effect"]) != Some("PreferNoSchedule") && !tolerations.iter().any(|it| tolerates(it, taint))
    });
    if let Some(taint) = taint {
        return Some(format!("has the taint {}", text(taint, &["key"]).unwrap_or_default()));
    }
    let label = |key: &str| text(node, &["metadata", "labels", key]);
    let wanted = get(template, &["spec", "nodeSelector"]).and_then(Value::as_object).into_iter().flatten();
    if let Some((key, _)) = wanted.clone().find(|(key, value)| label(key) != value.as_str()) {
        return Some(format!("has not the label {key} that is wanted"));
    }
    let path =
        ["spec", "affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"];
    let terms = list(template, &path);
    let fits = |term: &Value| list(term, &["matchExpressions"]).iter().all(|it| matches(it, label));
    (!terms.is_empty() && !terms.iter().any(fits)).then(|| "is not one of those that are wanted (nodeAffinity)".into())
}

fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let same = |field: &str| text(toleration, &[field]).is_none_or(|it| Some(it) == text(taint, &[field]));
    let exists = text(toleration, &["operator"]) == Some("Exists");
    let value = text(toleration, &["value"]).unwrap_or_default() == text(taint, &["value"]).unwrap_or_default();
    same("effect") && same("key") && (exists || value)
}

/// Whether a requirement of a label selector holds. One with an operator that is not known here counts as holding: the
/// scheduler decides.
fn matches<'a>(requirement: &Value, label: impl Fn(&str) -> Option<&'a str>) -> bool {
    let has = label(text(requirement, &["key"]).unwrap_or_default());
    let listed = || has.is_some_and(|has| list(requirement, &["values"]).iter().any(|it| it.as_str() == Some(has)));
    match text(requirement, &["operator"]) {
        Some("In") => listed(),
        Some("NotIn") => !listed(),
        Some("Exists") => has.is_some(),
        Some("DoesNotExist") => has.is_none(),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn statefulset() -> Value {
        let term = json!({ "topologyKey": HOSTNAME, "labelSelector": { "matchLabels": { "app": "etcd" } } });
        json!({ "spec": {
            "template": {
                "metadata": { "labels": { "app": "etcd", "release": "r" } },
                "spec": {
                    "affinity": { "podAntiAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": [term] } },
                    "tolerations": [{ "key": "storage", "operator": "Exists" }],
                },
            },
            "volumeClaimTemplates": [{ "spec": { "storageClassName": "manual", "resources": { "requests": { "storage": "2Gi" } } } }],
        } })
    }

    fn node(name: &str, spec: &Value) -> Value {
        let conditions = json!([{ "type": "Ready", "status": "True" }]);
        let labels = json!({ HOSTNAME: name, "zone": "a" });
        json!({ "metadata": { "name": name, "labels": labels }, "spec": spec, "status": { "conditions": conditions } })
    }

    #[test]
    fn a_node_each_is_counted() {
        let tainted = |key: &str, effect: &str| json!({ "taints": [{ "key": key, "effect": effect }] });
        let mut gone = node("f", &json!({}));
        gone["status"]["conditions"][0]["status"] = json!("Unknown");
        let mut nodes = vec![
            node("a", &json!({})),
            node("b", &tainted("storage", "NoSchedule")),
            node("c", &tainted("slow", "PreferNoSchedule")),
            node("d", &tainted("node-role.kubernetes.io/control-plane", "NoSchedule")),
            node("e", &json!({ "unschedulable": true })),
            gone,
        ];
        assert_eq!(too_few_nodes(&statefulset(), &nodes, 3), None);
        insta::assert_snapshot!(too_few_nodes(&statefulset(), &nodes, 4).unwrap(), @"3 of 6 nodes can take a member (not: d has the taint node-role.kubernetes.io/control-plane, e is cordoned, f is not Ready), and 4 members want a node each (podAntiAffinity): a newcomer would wait for one");
        let mut soft = statefulset();
        soft["spec"]["template"]["spec"]["affinity"] = json!({});
        assert_eq!(too_few_nodes(&soft, &nodes, 7), None, "more than one may be on a node");
        let mut others = statefulset();
        others["spec"]["template"]["metadata"]["labels"]["app"] = json!("x");
        assert_eq!(too_few_nodes(&others, &nodes, 7), None, "kept apart from others only");
        nodes.truncate(3);
        let mut zone = statefulset();
        zone["spec"]["template"]["spec"]["nodeSelector"] = json!({ "zone": "b" });
        assert!(too_few_nodes(&zone, &nodes, 3).unwrap().starts_with("0 of 3 nodes"), "another zone is wanted");
        let required = |operator: &str| {
            json!({ "nodeAffinity": { "requiredDuringSchedulingIgnoredDuringExecution": { "nodeSelectorTerms": [
            { "matchExpressions": [{ "key": HOSTNAME, "operator": operator, "values": ["a", "b"] }] },
        ] } } })
        };
        for (operator, able) in [("In", 2), ("NotIn", 1), ("Exists", 3), ("DoesNotExist", 0), ("Gt", 3)] {
            let mut some = statefulset();
            let mut affinity = required(operator);
            affinity["podAntiAffinity"] = some["spec"]["template"]["spec"]["affinity"]["podAntiAffinity"].clone();
            some["spec"]["template"]["spec"]["affinity"] = affinity;
            let told = too_few_nodes(&some, &nodes, able + 1).unwrap();
            assert!(told.starts_with(&format!("{able} of 3 nodes")), "{operator}: {told}");
            assert_eq!(too_few_nodes(&some, &nodes, able), None, "{operator}");
        }
    }

    #[test]
    fn a_volume_holds_what_its_claim_asks_for() {
        let live = statefulset();
        let (asked, class) = claim(&live).unwrap();
        assert_eq!(class, Some("manual"));
        assert_eq!(too_small("2Gi", asked), None);
        insta::assert_snapshot!(too_small("1Gi", asked).unwrap(), @"volumes are made with a capacity of 1.1 GB (1Gi), and a newcomer's claim asks for 2.1 GB: it would never be bound. Set pv.capacity to as much, or leave it out");
        let class = |default: &str| json!({ "metadata": { "annotations": { "storageclass.kubernetes.io/is-default-class": default } } });
        assert_eq!(no_default(&[class("false"), class("true")]), None);
        assert!(no_default(&[class("false"), json!({})]).is_some() && no_default(&[]).is_some());
        assert_eq!(claim(&json!({ "spec": {} })), None, "no claims");
    }
}
