//! Many keys in little time, put by the test itself: what the members' size is made of.

use std::time::Instant;

use anyhow::Context;
use etcd_client::{Client, Txn, TxnOp};
use futures::{StreamExt, TryStreamExt, stream};

/// Puts in one transaction; etcd takes 128.
const AT_ONCE: usize = 100;
/// Transactions on their way.
const ON_THE_WAY: usize = 16;

/// Puts so many keys, `PREFIX` and ten digits, each once, through these client URLs.
///
/// # Errors
/// When a put fails.
pub async fn fill(
    members: &[String],
    prefix: &str,
    keys: u64,
    value: impl Fn(&str) -> Vec<u8> + Copy,
) -> anyhow::Result<()> {
    let client = Client::connect(members, None).await.context("failed to connect to the members")?;
    let began = Instant::now();
    let puts = stream::iter((0..keys).step_by(AT_ONCE)).map(|from| {
        let mut client = client.clone();
        let put = |number| {
            let key = format!("{prefix}{number:010}");
            let value = value(&key);
            TxnOp::put(key, value, None)
        };
        let puts: Vec<TxnOp> = (from..keys.min(from + AT_ONCE as u64)).map(put).collect();
        async move { client.txn(Txn::new().and_then(puts)).await.map(drop) }
    });
    puts.buffer_unordered(ON_THE_WAY).try_collect::<()>().await.context("failed to put the keys")?;
    println!("{keys} keys put in {:.0} s", began.elapsed().as_secs_f64());
    Ok(())
}

/// Puts one key so many times, each a revision of its own, through these client URLs.
///
/// # Errors
/// When a put fails.
pub async fn rewrite(members: &[String], key: &str, times: usize) -> anyhow::Result<()> {
    let client = Client::connect(members, None).await.context("failed to connect to the members")?;
    let puts = stream::iter(0..times).map(|number| {
        let mut client = client.clone();
        async move { client.put(key, number.to_string(), None).await.map(drop) }
    });
    puts.buffer_unordered(AT_ONCE).try_collect::<()>().await.context("failed to put the key")
}
