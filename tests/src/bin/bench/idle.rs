//! What an idle webhook, and the launcher in it, asks of the API server.

use std::time::Duration;

use anyhow::Context;
use tests::cluster::audit_log;
use tests::referee::audit::AuditLog;
use tests::release::Release;

use crate::Numbers;

/// How long is listened.
const WINDOW: Duration = Duration::from_secs(30);

/// Counts its requests that are no watch, during a while in which nothing changes.
pub async fn bench(release: &Release, numbers: &mut Numbers) -> anyhow::Result<()> {
    let Some(path) = audit_log().await else {
        println!("requests of the idle launcher: only counted in the test bed");
        return Ok(());
    };
    let user = format!("system:serviceaccount:{}:{}-etcd-scaler-webhook", release.namespace, release.name);
    // That they would be seen: the audit log has what it asked while it started.
    let before = AuditLog::from_start(&path).asked_by(&user)?;
    before
        .iter()
        .find(|(verb, _)| *verb == "list" || *verb == "get")
        .context("the audit log has no reads of the webhook")?;
    let log = AuditLog::from_now(&path)?;
    tokio::time::sleep(WINDOW).await;
    let asked: Vec<_> = log.asked_by(&user)?.into_iter().filter(|(verb, _)| verb != "watch").collect();
    for (verb, path) in &asked {
        println!("    {verb} {path}");
    }
    let what = format!("requests of the idle launcher in {} s", WINDOW.as_secs());
    numbers.told(&what, asked.len() as f64, "", Some(0.0));
    Ok(())
}
