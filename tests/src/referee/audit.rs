//! The API server's audit log: who wrote what, in which order.

use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::Context;
use jiff::Timestamp;
use serde_json::Value;

use super::history::{Micros, RECORD, Request};
use crate::members::text;

/// The audit log from a moment on.
#[derive(Clone, Debug)]
pub struct AuditLog {
    path: PathBuf,
    from: u64,
}

impl AuditLog {
    /// From now on.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_now(path: &Path) -> anyhow::Result<Self> {
        let metadata = path.metadata().with_context(|| format!("failed to look at {}", path.display()))?;
        Ok(Self { path: path.to_owned(), from: metadata.len() })
    }

    /// All that is still there.
    #[must_use]
    pub fn from_start(path: &Path) -> Self {
        Self { path: path.to_owned(), from: 0 }
    }

    /// A user's requests since then, reads too, each as its verb and its path.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn asked_by(&self, user: &str) -> anyhow::Result<Vec<(String, String)>> {
        let mark = format!("\"username\":\"{user}\"");
        let mut asked = Vec::new();
        self.lines(&mark, |event| asked.push((text(&event["verb"]), text(&event["requestURI"]))))?;
        Ok(asked)
    }

    /// The writes to a namespace since then, in the order in which they arrived.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn requests(&self, namespace: &str) -> anyhow::Result<Vec<Request>> {
        let mut requests = Vec::new();
        let mark = format!("\"namespace\":\"{namespace}\"");
        self.lines(&mark, |event| requests.extend(request(&event, namespace)))?;
        requests.sort_by_key(|request: &Request| request.received);
        Ok(requests)
    }

    /// Each line since then that has this mark; most are of others, and are not taken apart.
    fn lines(&self, mark: &str, mut each: impl FnMut(Value)) -> anyhow::Result<()> {
        let mut read = || -> anyhow::Result<()> {
            let mut file = File::open(&self.path)?;
            file.seek(SeekFrom::Start(self.from))?;
            for line in BufReader::new(file).lines() {
                let line = line?;
                // The last line may be half written.
                if let Some(event) = line.contains(mark).then(|| serde_json::from_str(&line).ok()).flatten() {
                    each(event);
                }
            }
            Ok(())
        };
        read().with_context(|| format!("failed to read {}", self.path.display()))
    }
}

/// Those that say something about members and their pods.
fn request(event: &Value, namespace: &str) -> Option<Request> {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    if event["objectRef"]["namespace"] != namespace || ["get", "list", "watch"].contains(&text("/verb").as_str()) {
        return None;
    }
    let mut resource = text("/objectRef/resource");
    if let Some(subresource) = event["objectRef"]["subresource"].as_str() {
        resource = format!("{resource}/{subresource}");
    }
    let looked_at = ["pods", "pods/eviction", "statefulsets", "statefulsets/scale", "jobs", "leases"];
    if !looked_at.contains(&resource.as_str()) {
        return None;
    }
    let sent = event["requestObject"].clone();
    // A Lease is written every few seconds; what is told is the record's copy.
    if resource == "leases" && sent["metadata"]["annotations"][RECORD].is_null() {
        return None;
    }
    // Creations have no name in the reference when they are refused.
    let name = [text("/objectRef/name"), text("/requestObject/metadata/name")];
    Some(Request {
        received: time(&text("/requestReceivedTimestamp"))?,
        done: time(&text("/stageTimestamp"))?,
        user: text("/user/username"),
        verb: text("/verb"),
        resource,
        name: name.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
        code: event["responseStatus"]["code"].as_u64().unwrap_or(0),
        message: text("/responseStatus/message"),
        dry_run: text("/requestURI").contains("dryRun=All") || sent["dryRun"].to_string().contains("All"),
        sent,
        object: event["responseObject"].clone(),
    })
}

/// Microseconds of an RFC 3339 time.
pub(super) fn time(text: &str) -> Option<Micros> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_of_the_log_is_a_request() {
        let event = json!({
            "stage": "ResponseComplete", "verb": "create",
            "requestURI": "/api/v1/namespaces/test-a/pods?dryRun=All",
            "user": { "username": "system:serviceaccount:kube-system:statefulset-controller" },
            "objectRef": { "resource": "pods", "namespace": "test-a", "apiVersion": "v1" },
            "responseStatus": { "code": 403, "message": "no" },
            "requestObject": { "metadata": { "name": "a-r-etcd-3" } },
            "requestReceivedTimestamp": "2026-11-24T19:15:33.123456Z",
            "stageTimestamp": "2026-11-24T19:15:33.200000Z",
        });
        let read = request(&event, "test-a").unwrap();
        assert_eq!((read.name.as_str(), read.code, read.dry_run), ("a-r-etcd-3", 403, true));
        assert_eq!(read.done - read.received, 76_544);
        assert_eq!(request(&event, "test-ab"), None);
    }

    #[test]
    fn of_leases_only_the_record_is_looked_at() {
        let lease = |annotations: Value| {
            json!({
                "verb": "patch", "objectRef": { "resource": "leases", "namespace": "n", "name": "l" },
                "requestObject": { "metadata": { "annotations": annotations } }, "responseStatus": { "code": 200 },
                "requestReceivedTimestamp": "2026-11-24T19:15:33Z", "stageTimestamp": "2026-11-24T19:15:33Z",
            })
        };
        assert_eq!(request(&lease(json!({})), "n"), None);
        assert!(request(&lease(json!({ RECORD: "{}" })), "n").is_some());
    }
}
