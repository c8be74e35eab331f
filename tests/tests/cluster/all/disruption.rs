//! Roll-outs and evictions that only a longer look shows: a bad image, a cure, a drain, and the budget alone.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use tests::cluster::{audit_log, is_bed};
use tests::faults::{api_server_with, controllers_with, freeze_container, kill_node, start_node, thaw_container};
use tests::load::Load;
use tests::process::{apply, kubectl, run, until};
use tests::referee::audit::AuditLog;
use tests::referee::judge::Rule;
use tests::release::{Helm, Release, now};
use tests::rolls::{Watch, made_again};
use tests::scenario;

use crate::disruption::{
    ANOTHER_TEMPLATE, HELD, ROLLED, STAYS, evict, is_held, jobs, load_goes_on, no_jobs, rolled, run_to_the_letter,
};
use crate::ways::{ends_with, only_these, scale};
use crate::webhook_down::from_now;

type Result = anyhow::Result<()>;

/// As whom all controllers work without accounts of their own.
const SHARED: &str = "system:kube-controller-manager";
/// A StatefulSet may say that two pods roll at once.
const TWO_AT_ONCE: [&str; 1] = ["--feature-gates=MaxUnavailableStatefulSet=true"];
/// A drain that waits for a member, and a member that starts again.
const DRAINED: Duration = Duration::from_secs(150);

/// At 93d759c the third was deleted and its image was nowhere: no quorum until somebody rolled back.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_bad_image_takes_no_quorum_while_a_node_is_away() -> Result {
    let release = Release::of("bad-roll", Helm::V4);
    // Not of this: what is rolled back to differs in the managed environment from what the pods were made from, as it does
    // without a sick member.
    let excused = [(Rule::RestartsNobody, "a rollback of a template rolls the pods that were never made from it")];
    scenario::run_alone_excused(release, &excused, async |release| {
        if !is_bed() {
            release.say("not the test bed: no node can be killed");
            return Ok(());
        }
        release.install(3, &[]).await?;
        let before = release.pods().await?;
        let node = before[&release.pod(0)].node.clone();
        let load = Load::start(release).await?;
        let mut during = from_now();
        kill_node(&node).await?;
        let nowhere = ["--set", "etcd.image.tag=3.6.16-nowhere", "--no-hooks"];
        release.try_upgrade(3, &nowhere).await?.ended.ok()?;
        release.say(&is_held(release, 2).await?);
        tokio::time::sleep(STAYS).await;
        let others = [1, 2].map(|ordinal| release.pod(ordinal));
        let now_there = release.pods().await?;
        ensure!(others.iter().all(|name| now_there.get(name) == before.get(name)), "{before:?} became {now_there:?}");
        load_goes_on(&load).await?;
        release.try_rollback(1, &["--no-hooks"]).await?.ended.ok()?;
        start_node(&node).await?;
        until("all are back", ROLLED, async || release.is_settled(3).await).await?;
        rolled(release, 3).await?;
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// The sentence's own way out where the new template is the cure.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn the_sick_pod_is_made_from_the_new_template_first() -> Result {
    scenario::run("cure-roll", Helm::V4, async |release| {
        if !is_bed() {
            release.say("not the test bed: no member can be made to stand still");
            return Ok(());
        }
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        let sick = release.running(&release.pod(0), "etcd").await?;
        freeze_container(&sick.node, &sick.id).await?;
        release.try_upgrade(3, &[&ANOTHER_TEMPLATE[..], &["--no-hooks"]].concat()).await?.ended.ok()?;
        let said = is_held(release, 2).await?;
        run_to_the_letter(&said, "kubectl delete pod ", ". Or take").await?;
        let cured = ["get", "pod", &release.pod(0), "-o", "jsonpath={.metadata.annotations.rolled}"];
        until("it is made from the new template", ROLLED, async || {
            let rolled = release.kubectl(&cured).await?;
            ensure!(rolled == "once", "it has {rolled:?}");
            Ok(())
        })
        .await?;
        rolled(release, 3).await?;
        during.to = now();
        release.is_settled(3).await?;
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_drain_goes_on_trying_and_ends_when_the_others_are_well() -> Result {
    let release = Release::of("drain", Helm::V4);
    scenario::run_alone(release, async |release| {
        if !is_bed() {
            release.say("not the test bed: no member can be made to stand still");
            return Ok(());
        }
        release.install(3, &[]).await?;
        let load = Load::start(release).await?;
        let before = release.pods().await?;
        let mut during = from_now();
        let sick = release.running(&release.pod(0), "etcd").await?;
        freeze_container(&sick.node, &sick.id).await?;
        let node = before[&release.pod(1)].node.clone();
        let members = format!("--pod-selector=app=etcd,app.kubernetes.io/instance={}", release.name);
        let drain = ["drain", &node, "--ignore-daemonsets", "--delete-emptydir-data", &members, "--timeout=120s"];
        let (drained, stayed) = tokio::join!(run("kubectl", drain, "", DRAINED), async {
            tokio::time::sleep(2 * STAYS).await;
            let stayed = release.pods().await? == before;
            thaw_container(&sick.node, &sick.id).await?;
            anyhow::Ok(stayed)
        });
        let drained = drained?;
        release.say(drained.printed().trim());
        kubectl(["uncordon", &node]).await?;
        ensure!(stayed?, "somebody went while the first stood still");
        let printed = drained.printed();
        for part in ["will retry after 5s", "evict.etcd-scaler.io", "evicted"] {
            ensure!(printed.contains(part), "{part:?} is not in {printed}");
        }
        drained.ok()?;
        until("it is back", ROLLED, async || release.is_settled(3).await).await?;
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// At 93d759c three of five were let go within eight seconds.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn five_lowered_to_three_keep_a_quorum_until_the_job_can_run() -> Result {
    scenario::run("evict-five", Helm::V4, async |release| {
        release.install(5, &[]).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        no_jobs(release).await?;
        scale(release, 3).await?.ok()?;
        evict(release, 4).await?.ok()?;
        until("it is gone", HELD, async || only_these(release, 4).await).await?;
        for ordinal in [3, 2, 1, 0] {
            let asked = evict(release, ordinal).await?;
            ensure!(!asked.success && asked.printed().contains("TooManyRequests"), "{}", asked.printed());
            release.say(asked.printed().trim());
        }
        load_goes_on(&load).await?;
        jobs(release).await?;
        until("three are left", ROLLED, async || ends_with(release, 3).await).await?;
        budget_is(release, 2).await?;
        during.to = now();
        load.lost_nothing(3, &during).await.map(drop)
    })
    .await
}

/// Each change of members, no webhook, a budget of an earlier release, and one of a person's.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn the_budget_follows_the_members_and_is_right_alone() -> Result {
    scenario::run("budget", Helm::V4, async |release| {
        release.install(3, &[]).await?;
        budget_is(release, 2).await?;
        release.upgrade(4, &[]).await?;
        budget_is(release, 3).await?;
        release.upgrade(3, &[]).await?;
        budget_is(release, 2).await?;
        let load = Load::start(release).await?;
        let mut during = from_now();
        release.stop_webhook().await?;
        evict(release, 2).await?.ok()?;
        let asked = evict(release, 1).await?;
        ensure!(!asked.success && asked.printed().contains("disruption budget"), "{}", asked.printed());
        until("it is back", ROLLED, async || release.is_settled(3).await).await?;
        release.start_webhook().await?;
        release.webhook_is_whole().await?;
        during.to = now();
        load.lost_nothing(3, &during).await?;
        an_earlier_releases_is_taken_over(release).await?;
        a_persons_is_left_alone(release).await
    })
    .await
}

async fn an_earlier_releases_is_taken_over(release: &Release) -> Result {
    let set = release.statefulset();
    release.kubectl(&["delete", "poddisruptionbudget", &set]).await?;
    apply(&theirs(release, &set, &json!({ "maxUnavailable": 1 }))).await?;
    release.upgrade(3, &[]).await?;
    budget_is(release, 2).await
}

async fn a_persons_is_left_alone(release: &Release) -> Result {
    apply(&theirs(release, "theirs", &json!({ "minAvailable": 2 }))).await?;
    let from = now();
    release.upgrade(3, &[]).await?;
    let budgets = budgets(release).await?;
    ensure!(budgets.len() == 1 && budgets[0]["metadata"]["name"] == "theirs", "{budgets:?}");
    let events = release.events_since(from).await?;
    let told = events.iter().find(|event| event.reason == "DisruptionBudget").context("no Event")?;
    release.say(&told.note);
    // Its own way out.
    release.kubectl(&["delete", "poddisruptionbudget", "theirs"]).await?;
    release.upgrade(3, &[]).await?;
    budget_is(release, 2).await
}

/// A StatefulSet of another chart: its budget is read.
#[tokio::test]
#[ignore = "needs a cluster: make test-all"]
async fn of_another_charts_statefulset_the_budget_is_read() -> Result {
    scenario::run("budget-theirs", Helm::V4, async |release| {
        release.apply_foreign().await?;
        let from = now();
        release.adopt_foreign().await?;
        let told = async |part: &str, from: i64| {
            until("an Event tells of the budget", HELD, async || {
                let events = release.events_since(from).await?;
                let mut about = events.iter().filter(|event| event.reason == "DisruptionBudget");
                about.find(|event| event.note.contains(part)).map(|event| event.note.clone()).context("no such Event")
            })
            .await
        };
        release.say(&told("no PodDisruptionBudget selects", from).await?);
        apply(&theirs(release, "theirs", &json!({ "maxUnavailable": 1 }))).await?;
        let from = now();
        let cronjob = format!("cronjob/{}-etcd-scaler", release.name);
        release.kubectl(&["create", "job", "look", "--from", &cronjob]).await?;
        release.say(&told("counts spec.replicas", from).await?);
        ensure!(budgets(release).await?.len() == 1, "one of ours beside it: {:?}", budgets(release).await?);
        Ok(())
    })
    .await
}

fn theirs(release: &Release, name: &str, spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["selector"] = json!({ "matchLabels": { "app": "etcd" } });
    let metadata = json!({ "name": name, "namespace": release.namespace });
    json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec })
}

/// The budgets that select etcd's pods: the webhook has one of its own.
async fn budgets(release: &Release) -> anyhow::Result<Vec<Value>> {
    let list = release.json(&["get", "poddisruptionbudgets"]).await?;
    let all = list["items"].as_array().context("a list without items")?;
    Ok(all.iter().filter(|it| it["spec"]["selector"]["matchLabels"]["app"] == "etcd").cloned().collect())
}

/// That there is exactly one, and asks for so many.
async fn budget_is(release: &Release, min: u64) -> Result {
    let budgets = budgets(release).await?;
    ensure!(budgets.len() == 1, "there are {budgets:?}");
    let (name, spec) = (&budgets[0]["metadata"]["name"], &budgets[0]["spec"]);
    let asks = spec["minAvailable"] == min && spec["maxUnavailable"].is_null();
    ensure!(asks && name == &json!(release.statefulset()), "{}", budgets[0]);
    Ok(())
}

/// Where all controllers are one user, its deletes are held back too. At 93d759c the guard was off without a word.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn where_all_controllers_are_one_user_a_member_leaves_before_its_pod() -> Result {
    with_one_user("one-user", as_one_user).await
}

/// The garbage collector and the namespace controller are that user as well.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn a_namespace_ends_without_a_webhook_where_all_controllers_are_one_user() -> Result {
    with_one_user("one-user-ends", async |release| {
        release.install(3, &[]).await?;
        controller_is(release, SHARED).await?;
        release.stop_webhook().await?;
        let left = release.cluster_objects().await?;
        let audit = AuditLog::from_now(&audit_log().await.context("the bed has no audit log")?)?;
        let namespace = ["delete", "namespace", &release.namespace, "--timeout=90s"];
        run("kubectl", namespace, "", Duration::from_secs(100)).await?.ok()?;
        // Refused and tried again it may end all the same: by the garbage collector, when that is first.
        let requests = audit.requests(&release.namespace)?;
        let deletes = || requests.iter().filter(|it| it.resource == "pods" && it.verb.starts_with("delete"));
        let refused: Vec<_> = deletes().filter(|it| it.code == 403).collect();
        ensure!(refused.is_empty(), "{refused:?}");
        let all_at_once = deletes().any(|it| it.user == SHARED && it.verb == "deletecollection");
        ensure!(all_at_once, "the namespace controller was not seen: {requests:?}");
        // What the uninstall would have taken along.
        let kinds = "mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,\
                     validatingadmissionpolicybindings,clusterroles,clusterrolebindings";
        for name in left {
            kubectl(["delete", kinds, &name, "--ignore-not-found"]).await?;
        }
        Ok(())
    })
    .await
}

async fn with_one_user(name: &str, scenario: impl AsyncFnOnce(&Release) -> Result) -> Result {
    scenario::run_alone(Release::of(name, Helm::V4), async |release| {
        if !is_bed() {
            release.say("not the test bed: the controllers cannot be started otherwise");
            return Ok(());
        }
        // What an administrator gives it there.
        let rights = ["create", "clusterrolebinding", "one-user", "--clusterrole=cluster-admin", "--user", SHARED];
        kubectl(["delete", "clusterrolebinding", "one-user", "--ignore-not-found"]).await?;
        kubectl(rights).await?;
        controllers_with(&["--use-service-account-credentials=false"]).await?;
        let done = scenario(release).await;
        let as_before = controllers_with(&[]).await;
        kubectl(["delete", "clusterrolebinding", "one-user"]).await?;
        done.and(as_before)
    })
    .await
}

async fn as_one_user(release: &Release) -> Result {
    release.install(4, &[]).await?;
    controller_is(release, SHARED).await?;
    let load = Load::start(release).await?;
    let mut during = from_now();
    // With no Job nobody takes members out, and no pod goes.
    no_jobs(release).await?;
    let before = release.pods().await?;
    scale(release, 3).await?.ok()?;
    until("the controller is refused", HELD, async || {
        let events = ["get", "events", "--field-selector", "reason=FailedDelete", "-o", "jsonpath={.items[*].message}"];
        let said = release.kubectl(&events).await?;
        ensure!(said.contains("is still in etcd's member list"), "{said:?}");
        Ok(())
    })
    .await?;
    tokio::time::sleep(STAYS).await;
    ensure!(release.pods().await? == before, "a member's pod went before it");
    jobs(release).await?;
    until("three are left", ROLLED, async || ends_with(release, 3).await).await?;
    // Somebody else as the controller, of whom the rule knows nothing.
    let note = ["annotate", "--overwrite", "statefulset", &release.statefulset(), "etcd-scaler.io/controller=somebody"];
    release.kubectl(&note).await?;
    let refused = scale(release, 2).await?;
    ensure!(!refused.success && refused.printed().contains("works as somebody"), "{}", refused.printed());
    release.say(refused.printed().trim());
    // The next write of the status tells better.
    release.kubectl(&["delete", "pod", &release.pod(2), "--wait=false"]).await?;
    controller_is(release, SHARED).await?;
    until("it is back", ROLLED, async || release.is_settled(3).await).await?;
    during.to = now();
    load.lost_nothing(3, &during).await.map(drop)
}

/// The user as which the webhook has seen the controller.
async fn controller_is(release: &Release, user: &str) -> Result {
    until("the controller is known", HELD, async || {
        let set = release.json(&["get", "statefulset", &release.statefulset()]).await?;
        let seen = &set["metadata"]["annotations"]["etcd-scaler.io/controller"];
        ensure!(seen == user, "it is {seen}");
        Ok(())
    })
    .await
}

/// More than one at once, and more than one is never taken.
#[tokio::test]
#[ignore = "needs the test bed: make test-all"]
async fn where_two_may_roll_at_once_one_does_and_no_member_joins() -> Result {
    let release = Release::of("two-at-once", Helm::V4);
    scenario::run_alone(release, async |release| {
        if !is_bed() {
            release.say("not the test bed: the API server's features are as they are");
            return Ok(());
        }
        api_server_with(&TWO_AT_ONCE).await?;
        controllers_with(&TWO_AT_ONCE).await?;
        release.install(3, &[]).await?;
        let two = json!({ "spec": { "updateStrategy": { "rollingUpdate": { "partition": 0, "maxUnavailable": 2 } } } });
        let (set, two) = (release.statefulset(), two.to_string());
        release.kubectl(&["patch", "statefulset", &set, "--type=merge", "-p", &two]).await?;
        for count in [4, 2] {
            let refused = scale(release, count).await?;
            ensure!(!refused.success && refused.printed().contains("maxUnavailable is 2"), "{}", refused.printed());
            release.say(refused.printed().trim());
        }
        let load = Load::start(release).await?;
        let watch = Watch::start(release, 3).await?;
        let mut during = from_now();
        let template =
            json!({ "spec": { "template": { "metadata": { "annotations": { "rolled": "once" } } } } }).to_string();
        release.kubectl(&["patch", "statefulset", &set, "--type=merge", "-p", &template]).await?;
        rolled(release, 3).await?;
        during.to = now();
        let looks = watch.stop().await?;
        let order: Vec<String> = made_again(&looks).into_iter().map(|(_, name)| name).collect();
        ensure!(order == [2, 1, 0].map(|ordinal| release.pod(ordinal)), "made again were {order:?}");
        // The controller asked for two, and was told of the one that was not back: by etcd, before the kubelet knows.
        for ordinal in [1, 0] {
            release.say(&is_held(release, ordinal).await?);
        }
        release.is_settled(3).await?;
        let counts = load.lost_nothing(3, &during).await?;
        release.say(&format!("rolled: {}", counts["window"]));
        Ok(())
    })
    .await
}
