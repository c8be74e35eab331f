//! Reads every acknowledged key back, from every member by its own URL.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use etcd_client::{Client, GetOptions, KeyValue};
use tokio::time::timeout;

use crate::keys::{key, value};
use crate::write::connect;

/// Keys per page: bounds what is held in memory.
const PAGE: u64 = 1000;
/// How long a page may take: the member first catches up with everything acknowledged.
const LIMIT: Duration = Duration::from_secs(10);
/// How often a page is asked for (an election may come in between).
const TRIES: u32 = 3;
/// How many keys are named where keys are lost or wrong.
const EXAMPLES: usize = 5;

/// A member and its own client URL.
#[derive(Clone, Debug)]
pub struct Member {
    name: String,
    url: String,
}

impl FromStr for Member {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, url) = text.split_once('=').ok_or_else(|| format!("{text:?} is not NAME=URL"))?;
        Ok(Self { name: name.to_owned(), url: url.to_owned() })
    }
}

/// What a member holds of what was acknowledged.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Read {
    /// The member.
    pub member: String,
    /// Keys that hold what they must.
    pub read: u64,
    /// Keys that are not there.
    pub lost: u64,
    /// Keys that hold something else.
    pub wrong: u64,
    /// Some of the lost and wrong ones.
    pub examples: Vec<String>,
}

/// Reads back, one member after another, so that the numbers of one do not depend on the others.
pub async fn read_back(members: &[Member], acknowledged: &[u64]) -> anyhow::Result<Vec<Read>> {
    let mut reads = Vec::new();
    for member in members {
        let read = read_from(member, acknowledged).await;
        reads.push(read.with_context(|| format!("failed to read back from {} ({})", member.name, member.url))?);
    }
    Ok(reads)
}

async fn read_from(member: &Member, acknowledged: &[u64]) -> anyhow::Result<Read> {
    let mut client = connect(&member.url).await?;
    let mut read = Read { member: member.name.clone(), ..Read::default() };
    for (number, &last) in (0..).zip(acknowledged) {
        let mut from = 1;
        while from <= last {
            let after = (from + PAGE).min(last + 1);
            let page = page(&mut client, &key(number, from), &key(number, after)).await?;
            read.compare(number, from..after, &page);
            from = after;
        }
    }
    Ok(read)
}

/// The keys of a range, by a linearizable read: everything acknowledged before it is in it, if the
/// member has it.
async fn page(client: &mut Client, from: &str, to: &str) -> anyhow::Result<Vec<KeyValue>> {
    let mut why = String::new();
    for _ in 0..TRIES {
        match timeout(LIMIT, client.get(from, Some(GetOptions::new().with_range(to)))).await {
            Ok(Ok(mut answer)) => return Ok(answer.take_kvs()),
            Ok(Err(error)) => why = error.to_string(),
            Err(_) => why = format!("no answer within {} s", LIMIT.as_secs()),
        }
    }
    bail!("get {from} {to}: {why}")
}

impl Read {
    fn compare(&mut self, client: u32, numbers: std::ops::Range<u64>, page: &[KeyValue]) {
        let mut found = page.iter().peekable();
        for seq in numbers {
            let key = key(client, seq);
            // Both are in key order.
            match found.next_if(|kv| kv.key() == key.as_bytes()) {
                Some(kv) if kv.value() == value(client, seq).as_bytes() => self.read += 1,
                Some(_) => {
                    self.wrong += 1;
                    self.example(format!("{} {key} holds another value", self.member));
                }
                None => {
                    self.lost += 1;
                    self.example(format!("{} {key} is not there", self.member));
                }
            }
        }
    }

    fn example(&mut self, example: String) {
        if self.examples.len() < EXAMPLES {
            self.examples.push(example);
        }
    }
}
