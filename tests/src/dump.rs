//! What is printed when a scenario fails: everything that tells why, before it is cleaned up.

use std::path::Path;

use anyhow::Context;

use crate::cluster::audit_log;
use crate::referee::Referee;
use crate::release::Release;

/// How many lines of the audit log are shown.
const AUDIT_LINES: usize = 40;
/// How many lines are shown of a log whose pod is gone, and how much of each.
const GONE_LINES: usize = 60;
const GONE_LINE: usize = 500;
/// What etcd says of every slow request: most of its log on a busy machine.
const SLOW: [&str; 2] = ["traceutil/trace.go", "apply request took too long"];

/// Prints the state of a release, and what those said that are gone.
pub async fn dump(release: &Release, referee: &Referee) {
    let set = release.statefulset();
    let first = release.pod(0);
    let target = format!("etcd-scaler.io/target={set}");
    let webhook = format!("app.kubernetes.io/component=webhook,app.kubernetes.io/instance={}", release.name);
    let looks: [(&str, &[&str]); 9] = [
        ("pods", &["get", "pods", "-o", "wide"]),
        ("StatefulSet", &["get", "statefulset", &set, "-o", "yaml"]),
        ("claims and volumes", &["get", "pvc,pv"]),
        ("etcd's pods", &["describe", "pods", "-l", "app=etcd"]),
        ("Events", &["get", "events", "--sort-by=.lastTimestamp"]),
        ("Jobs", &["logs", "-l", &target, "--tail=100", "--prefix"]),
        ("webhook", &["logs", "-l", &webhook, "--tail=60", "--prefix"]),
        ("etcd", &["logs", "-l", "app=etcd", "--all-containers", "--tail=8", "--prefix", "--ignore-errors"]),
        ("members", &["exec", &first, "-c", "etcd", "--", "etcdctl", "member", "list", "-w", "table"]),
    ];
    for (what, command) in looks {
        let found = release.kubectl(command).await.unwrap_or_else(|error| format!("{error:#}"));
        eprintln!("--- {what} of {}\n{found}", release.namespace);
    }
    for (path, log) in referee.logs_of_the_gone() {
        let mut lines: Vec<&str> = log.lines().filter(|line| !SLOW.iter().any(|slow| line.contains(slow))).collect();
        let all = lines.len();
        // One that is said again and again is shown once: what differs is its time, which comes first.
        lines.dedup_by_key(|line| line.split_once("\"caller\"").map_or(*line, |(_, said)| said));
        eprintln!("--- the end of {path}, {all} lines");
        for line in &lines[lines.len().saturating_sub(GONE_LINES)..] {
            eprintln!("{}", line.chars().take(GONE_LINE).collect::<String>());
        }
    }
    if let Some(path) = audit_log().await {
        match audit(&path, &release.namespace) {
            Ok(lines) => eprintln!("--- the last writes to {} (audit log)\n{}", release.namespace, lines.join("\n")),
            Err(error) => eprintln!("--- no audit log: {error:#}"),
        }
    }
}

/// The last writes to a namespace, a line each: when, who, what, and how it was answered.
fn audit(path: &Path, namespace: &str) -> anyhow::Result<Vec<String>> {
    let log = std::fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))?;
    let mut lines: Vec<String> = log
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|event| event["objectRef"]["namespace"] == namespace && event["objectRef"]["resource"] != "leases")
        .take(AUDIT_LINES)
        .map(|event| {
            let text = |pointer: &str| {
                event.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
            };
            format!(
                "{} {} {} {}/{} {} {}",
                text("/stageTimestamp"),
                text("/user/username"),
                text("/verb"),
                text("/objectRef/resource"),
                text("/objectRef/name"),
                event["responseStatus"]["code"],
                text("/responseStatus/message")
            )
        })
        .collect();
    lines.reverse();
    Ok(lines)
}
