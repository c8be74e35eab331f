//! How the member list changes while the load runs: looked at from inside the cluster many times a
//! second, and every change noted with its time.

use std::convert::Infallible;
use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use etcd_client::Client;
use serde_json::{Value, json};
use tests::journal::now;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use crate::write::{LIMIT, connect};

/// How often is looked: what was there for less may be missed.
const LOOK: Duration = Duration::from_millis(25);

/// Looks, for ever; tells the readers the members' own client URLs.
pub async fn watch(endpoint: &str, state: &Path, urls: watch::Sender<Vec<String>>) -> anyhow::Result<Infallible> {
    let path = path(state);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = file.with_context(|| format!("failed to open {}", path.display()))?;
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut client = None;
    let mut last = Value::Null;
    loop {
        looks.tick().await;
        // A member that does not answer says nothing about the list.
        let Some(list) = list(&mut client, endpoint).await else {
            client = None;
            continue;
        };
        if list != last {
            writeln!(file, "{}", json!({ "at": now(), "members": list })).context("failed to note the member list")?;
            let members = list.as_array().into_iter().flatten();
            let own = members.filter_map(|member| member["client_urls"][0].as_str().map(str::to_owned));
            urls.send_replace(own.collect());
            last = list;
        }
    }
}

/// The member list as one member holds it. It applies the same changes in the same order as every
/// other, so none is out of order here.
async fn list(client: &mut Option<Client>, endpoint: &str) -> Option<Value> {
    let connected = match client {
        Some(connected) => connected,
        None => client.insert(connect(endpoint).await.ok()?),
    };
    let answer = tokio::time::timeout(LIMIT, connected.member_list()).await.ok()?.ok()?;
    let mut members: Vec<&etcd_client::Member> = answer.members().iter().collect();
    members.sort_by_key(|member| member.peer_urls().to_vec());
    let members = members.iter().map(|member| {
        json!({
            "id": format!("{:016x}", member.id()),
            "peer_urls": member.peer_urls(),
            "client_urls": member.client_urls(),
            // A bootstrapped member has a name before it ever ran; client URLs come from itself.
            "started": !member.client_urls().is_empty(),
            "learner": member.is_learner(),
        })
    });
    Some(members.collect())
}

/// Every change so far.
pub fn read(state: &Path) -> anyhow::Result<String> {
    let path = path(state);
    match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(String::new()),
        read => read.with_context(|| format!("failed to read {}", path.display())),
    }
}

fn path(state: &Path) -> PathBuf {
    state.join("members.log")
}
