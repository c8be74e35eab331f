//! Mayastor's DiskPools. DataCore's page on scaling etcd (docs/facts-etcd.md, section 1) has a person look at them
//! before members change.
//!
//! The columns are those of `kubectl get dsp`. Their fields differ between the served versions (facts-etcd 1.4):
//! POOL_STATUS is `status.pool_status`, in newer ones STATUS from `status.status`; STATE is `status.cr_state`, in the
//! oldest version `status.state`.

use serde_json::Value;

/// One DiskPool, as it prints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// NAME.
    pub name: String,
    /// NODE.
    pub node: String,
    /// STATE: `Created` is what is wanted.
    pub state: Option<String>,
    /// POOL_STATUS, in newer versions STATUS: `Online` is what is wanted.
    pub status: Option<String>,
}

impl Pool {
    /// From the object, in whichever version it was read.
    #[must_use]
    pub fn of(object: &Value) -> Self {
        let text = |places: &[&str]| {
            places
                .iter()
                .find_map(|place| object.pointer(place)?.as_str())
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        Self {
            name: text(&["/metadata/name"]).unwrap_or_default(),
            node: text(&["/spec/node"]).unwrap_or_default(),
            state: text(&["/status/cr_state", "/status/state"]),
            status: text(&["/status/status", "/status/pool_status"]),
        }
    }

    fn is_well(&self) -> bool {
        let is = |said: &Option<String>, wanted: &str| said.as_deref() == Some(wanted);
        is(&self.state, "Created") && is(&self.status, "Online")
    }
}

/// The sentence that keeps members from joining: the pools that are not Created and Online, by name. A pool that does
/// not report a state is not known to be well, and counts as not well.
#[must_use]
pub fn unwell(pools: &[Pool]) -> Option<String> {
    let said = |said: &Option<String>| said.clone().unwrap_or_else(|| "nothing yet".into());
    let each: Vec<String> = pools
        .iter()
        .filter(|pool| !pool.is_well())
        .map(|pool| {
            format!("{} on {}: STATE {}, POOL_STATUS {}", pool.name, pool.node, said(&pool.state), said(&pool.status))
        })
        .collect();
    (!each.is_empty()).then(|| {
        format!(
            "{} of {} DiskPools are not Created and Online ({}). While storage repairs itself it needs its etcd most. See what keeps them (kubectl describe dsp), and upgrade again when all are",
            each.len(),
            pools.len(),
            each.join("; ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pool(name: &str, status: &Value) -> Pool {
        Pool::of(
            &json!({ "metadata": { "name": name }, "spec": { "node": format!("node-of-{name}") }, "status": status }),
        )
    }

    #[test]
    fn each_served_version_is_read() {
        for well in [
            json!({ "cr_state": "Created", "pool_status": "Online" }),
            json!({ "cr_state": "Created", "pool_status": "Unknown", "status": "Online" }),
        ] {
            assert_eq!(unwell(&[pool("a", &well)]), None, "{well}");
        }
    }

    #[test]
    fn who_is_not_well_is_named() {
        let pools = [
            pool("a", &json!({ "cr_state": "Created", "pool_status": "Online" })),
            pool("b", &json!({ "cr_state": "Creating", "pool_status": "Online" })),
            pool("c", &json!({ "cr_state": "Created", "status": "Suspected", "pool_status": "Online" })),
            pool("d", &json!(null)),
        ];
        insta::assert_snapshot!(unwell(&pools).unwrap(), @"3 of 4 DiskPools are not Created and Online (b on node-of-b: STATE Creating, POOL_STATUS Online; c on node-of-c: STATE Created, POOL_STATUS Suspected; d on node-of-d: STATE nothing yet, POOL_STATUS nothing yet). While storage repairs itself it needs its etcd most. See what keeps them (kubectl describe dsp), and upgrade again when all are");
        assert_eq!(unwell(&[]), None, "no pools, none that is not well");
    }
}
