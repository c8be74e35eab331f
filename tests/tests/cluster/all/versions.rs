//! The main job on each etcd version that it is promised for, and on both kinds of volumes. 3.6 on
//! hand-made volumes is main_job.rs.

use anyhow::ensure;
use serde_json::Value;
use tests::load::Load;
use tests::release::{Helm, Release, Storage};
use tests::scenario;

use crate::main_job::{changes_nothing, leaves_nothing_but_volumes, scales};

type Result = anyhow::Result<()>;

/// How etcd's member list shows a newcomer while it joins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Joins {
    /// First as a learner.
    Learner,
    /// As a voter from the start.
    Voter,
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn three_become_five_on_etcd_3_4() -> Result {
    let release = Release::of("etcd34", Helm::V4).with_etcd("3.4.23").on(Storage::Provisioned);
    three_become_five(release, "3.4.23").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn three_become_five_on_etcd_3_5_with_helm_3() -> Result {
    three_become_five(Release::of("etcd35", Helm::V3).with_etcd("3.5.35"), "3.5.35").await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn three_become_five_on_etcd_3_6_and_provisioned_volumes() -> Result {
    let release = Release::of("etcd36", Helm::V4).with_etcd("3.6.16").on(Storage::Provisioned);
    three_become_five(release, "3.6.16").await
}

/// 3.5.1 to 3.5.19 do not persist a promotion where 3.6 looks for it: with three members or more a
/// newcomer joins as a voter there. A second member must not, and a third need not.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn where_a_promotion_is_not_persisted_the_fourth_joins_as_a_voter() -> Result {
    let release = Release::of("etcd35-early", Helm::V4).with_etcd("3.5.16");
    scenario::run_on(release, async |release| {
        release.install(1, &[]).await?;
        all_run(release, 1, "3.5.16").await?;
        let load = Load::busy(release).await?;
        for (from, joins) in [(1, Joins::Learner), (2, Joins::Learner), (3, Joins::Voter), (4, Joins::Voter)] {
            let began = scales(release, &load, from, from + 1, &[]).await?;
            joined(release, &load, began, from, joins).await?;
        }
        all_run(release, 5, "3.5.16").await
    })
    .await
}

async fn three_become_five(release: Release, version: &str) -> Result {
    scenario::run_on(release, async |release| {
        release.install(3, &[]).await?;
        let load = Load::busy(release).await?;
        let began = scales(release, &load, 3, 4, &[]).await?;
        joined(release, &load, began, 3, Joins::Learner).await?;
        changes_nothing(release, 4, &[]).await?;
        let began = scales(release, &load, 4, 5, &["--wait"]).await?;
        joined(release, &load, began, 4, Joins::Learner).await?;
        all_run(release, 5, version).await?;
        leaves_nothing_but_volumes(release, 5).await
    })
    .await
}

/// Each member says itself that it is this version.
async fn all_run(release: &Release, members: usize, version: &str) -> Result {
    let printed = release.etcdctl(&["endpoint", "status", "--cluster", "-w", "json"]).await?;
    let answers: Vec<Value> = serde_json::from_str(&printed)?;
    let versions: Vec<&str> = answers.iter().filter_map(|answer| answer["Status"]["version"].as_str()).collect();
    ensure!(versions == vec![version; members], "the members run {versions:?}");
    Ok(())
}

/// A member that joined since `from` did so as it must on this version.
async fn joined(release: &Release, load: &Load<'_>, from: i64, ordinal: usize, joins: Joins) -> Result {
    for join in load.joins(from, ordinal..ordinal + 1).await? {
        release.say(&format!(
            "member {}: {} ms unstarted, {} ms to a voter",
            join.ordinal,
            join.unstarted,
            join.took()
        ));
    }
    let url = release.peer_url(ordinal);
    let lists = load.member_lists(from).await?;
    let seen = if lists.iter().any(|list| list.learners.contains(&url)) { Joins::Learner } else { Joins::Voter };
    ensure!(seen == joins, "member {ordinal} joined as {seen:?}: {lists:#?}");
    Ok(())
}
