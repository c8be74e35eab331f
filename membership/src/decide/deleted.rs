//! Whether an upgrade would delete the etcd of its release: a StatefulSet that the chart made and does not render any
//! more, because its name was changed or `etcd.enabled` is off. For Kubernetes that deletion looks like an uninstall;
//! only before the upgrade is it known that the release stays.

use serde_json::Value;

use crate::know::names::INITIAL_CLUSTER;
use crate::know::object::{annotation, text};

/// The release as it would be after the upgrade.
#[derive(Clone, Copy, Debug)]
pub struct Release<'a> {
    /// Its name.
    pub name: &'a str,
    /// The name of this chart in it; an alias, if a parent chart has it twice.
    pub chart: &'a str,
    /// The StatefulSet that it renders, if the chart's own etcd is enabled.
    pub keeps: Option<&'a str>,
    /// The StatefulSet that a person allows to be deleted (`etcd.deletes`); empty: none.
    pub deletes: &'a str,
}

/// Why an upgrade is refused, given the StatefulSets of the release's namespace.
#[must_use]
pub fn refusal<'a>(release: &Release<'_>, mut live: impl Iterator<Item = &'a Value>) -> Option<String> {
    let goes = live.find(|object| release.deletes(object))?;
    let name = text(goes, &["metadata", "name"]).unwrap_or_default();
    let namespace = text(goes, &["metadata", "namespace"]).unwrap_or_default();
    let then = match release.keeps {
        Some(keeps) => format!("StatefulSet {keeps} in its place, which would begin without any of its keys"),
        None => "no etcd of the chart's own (etcd.enabled=false)".into(),
    };
    Some(format!(
        "this upgrade would delete StatefulSet {namespace}/{name} and stop every member of it: release {} has it now, and would have {then}. Keep it: --set etcd.enabled=true,etcd.fullnameOverride={name}. If it is to go: --set etcd.deletes={name}; its claims stay, and under that name it comes back with its keys",
        release.name
    ))
}

impl Release<'_> {
    fn deletes(&self, object: &Value) -> bool {
        let name = text(object, &["metadata", "name"]).unwrap_or_default();
        let stays = self.keeps == Some(name) || self.deletes == name;
        !stays && self.has(object) && text(object, &["metadata", "deletionTimestamp"]).is_none()
    }

    /// Whether this chart made the StatefulSet for this release. The label `part-of` decides: a parent chart's own
    /// etcd, or that of another alias, may have all other labels too. One made before the chart had that label is known
    /// by our annotation in its template.
    fn has(&self, object: &Value) -> bool {
        let label = |key: &str| text(object, &["metadata", "labels", key]);
        let theirs = annotation(object, "meta.helm.sh/release-name").is_none_or(|owner| owner == self.name);
        let marked = match label("app.kubernetes.io/part-of") {
            Some(chart) => chart == self.chart,
            None => text(object, &["spec", "template", "metadata", "annotations", INITIAL_CLUSTER]).is_some(),
        };
        label("app.kubernetes.io/instance") == Some(self.name)
            && label("app.kubernetes.io/name") == Some("etcd")
            && label("app.kubernetes.io/managed-by") == Some("Helm")
            && theirs
            && marked
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn etcd(name: &str) -> Value {
        json!({
            "metadata": {
                "name": name, "namespace": "puls8",
                "labels": {
                    "app": "etcd", "app.kubernetes.io/instance": "puls8", "app.kubernetes.io/name": "etcd",
                    "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/part-of": "etcd-scaler",
                },
                "annotations": { "meta.helm.sh/release-name": "puls8" },
            },
            "spec": { "template": { "metadata": {} } },
        })
    }

    fn refused(keeps: Option<&str>, deletes: &str, live: &[Value]) -> Option<String> {
        refusal(&Release { name: "puls8", chart: "etcd-scaler", keeps, deletes }, live.iter())
    }

    #[test]
    fn the_etcd_that_would_go_is_named_with_the_one_in_its_place() {
        let live = [etcd("foo"), etcd("puls8-etcd")];
        assert_eq!(refused(Some("puls8-etcd"), "", &live[1..]), None);
        insta::assert_snapshot!(refused(Some("foo"), "", &live).unwrap(), @"this upgrade would delete StatefulSet puls8/puls8-etcd and stop every member of it: release puls8 has it now, and would have StatefulSet foo in its place, which would begin without any of its keys. Keep it: --set etcd.enabled=true,etcd.fullnameOverride=puls8-etcd. If it is to go: --set etcd.deletes=puls8-etcd; its claims stay, and under that name it comes back with its keys");
        insta::assert_snapshot!(refused(None, "", &live[1..]).unwrap(), @"this upgrade would delete StatefulSet puls8/puls8-etcd and stop every member of it: release puls8 has it now, and would have no etcd of the chart's own (etcd.enabled=false). Keep it: --set etcd.enabled=true,etcd.fullnameOverride=puls8-etcd. If it is to go: --set etcd.deletes=puls8-etcd; its claims stay, and under that name it comes back with its keys");
        assert_eq!(refused(Some("foo"), "puls8-etcd", &live), None, "on purpose");
        assert!(refused(None, "puls8-etcd", &live).is_some(), "another one goes too");
    }

    #[test]
    fn what_is_not_the_releases_own_is_none_of_it() {
        let with = |path: &str, value: Value| {
            let mut object = etcd("puls8-etcd");
            let (parent, key) = path.rsplit_once('/').unwrap();
            object.pointer_mut(parent).unwrap()[key.replace("~1", "/")] = value;
            object
        };
        let refuses = |object: Value| refused(Some("foo"), "", &[object]).is_some();
        assert!(!refuses(with("/metadata/annotations/meta.helm.sh~1release-name", json!("another"))));
        assert!(!refuses(with("/metadata/labels/app.kubernetes.io~1instance", json!("another"))));
        assert!(!refuses(with("/metadata/labels/app.kubernetes.io~1managed-by", json!("kubectl"))));
        assert!(!refuses(with("/metadata/deletionTimestamp", json!("2026-11-30T00:00:00Z"))), "it goes already");
        let parents = with("/metadata/labels/app.kubernetes.io~1part-of", json!("another"));
        assert!(!refuses(parents), "a parent chart's, or another alias");
        let mut earlier = etcd("puls8-etcd");
        earlier["metadata"]["labels"]["app.kubernetes.io/part-of"] = Value::Null;
        assert!(!refuses(earlier.clone()), "without a sign of ours");
        earlier["spec"]["template"]["metadata"]["annotations"] = json!({ INITIAL_CLUSTER: "a=b" });
        assert!(refuses(earlier), "made before there was the label");
        assert!(refuses(with("/metadata/annotations", json!({}))), "applied by a program that only renders");
    }
}
