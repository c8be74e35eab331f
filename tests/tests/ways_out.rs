//! Each command in a message is run by a scenario: `tests/ways_out.md` is held to `docs/messages.md`, which
//! `messages.rs` holds to the code, and to the scenarios.

// clippy.toml lets tests unwrap, and does not count their own helpers as tests.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

use tests::ways_out::{WayOut, of_the_tree, ways_out};

/// What a command in a message begins with.
const BEGINS: [&str; 8] = [
    "kubectl ",
    "helm ",
    "etcdctl ",
    "--set ",
    "hook replace",
    "hook validate --",
    "hook reconcile --",
    "hook forget --",
];

fn scenarios() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster")
}

/// The messages of a document, by its items.
fn messages(docs: &str) -> impl Iterator<Item = &str> {
    docs.lines().filter(|line| line.starts_with("- ")).flat_map(|item| item.split('`').skip(1).step_by(2))
}

/// The commands of a message that are in no row, and the rows that were found.
fn unknown<'a>(message: &'a str, rows: &'a [WayOut]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
    let (mut missing, mut found) = (Vec::new(), BTreeSet::new());
    let mut at = 0;
    while at < message.len() {
        let rest = &message[at..];
        let in_word = message[..at].ends_with(|c: char| c.is_alphanumeric() || c == '-' || c == '/');
        if in_word || !BEGINS.iter().any(|begin| rest.starts_with(begin)) {
            at += rest.chars().next().map_or(1, char::len_utf8);
            continue;
        }
        let row = rows.iter().filter(|row| rest.starts_with(&row.command)).max_by_key(|row| row.command.len());
        match row {
            Some(row) => {
                found.insert(row.command.as_str());
                at += row.command.len();
            }
            None => {
                missing.push(rest);
                at += 1;
            }
        }
    }
    (missing, found)
}

/// Why a row's scenario does not run its command, if so.
fn is_not_run(row: &WayOut) -> Option<String> {
    let Some(scenario) = &row.scenario else { return None };
    let Some((module, name)) = scenario.rsplit_once("::") else { return Some(format!("{scenario} is no scenario")) };
    let file = scenarios().join(format!("{}.rs", module.replace("::", "/")));
    let Ok(source) = read_to_string(&file) else { return Some(format!("{} is not there", file.display())) };
    let runs = source.split(&format!("async fn {name}()")).next().filter(|before| before.len() < source.len());
    if !runs.is_some_and(|before| before.trim_end().ends_with(']') && before.contains("#[tokio::test]")) {
        return Some(format!("{module} has no scenario {name}"));
    }
    let takes_it_from_the_table = row.by.is_empty() && source.contains("of_the_tree()");
    if !takes_it_from_the_table && (row.by.is_empty() || !source.contains(&row.by)) {
        return Some(format!("{module} does not have {:?}", row.by));
    }
    None
}

#[test]
fn each_command_in_a_message_is_run_by_a_scenario() {
    let rows = of_the_tree().unwrap();
    let docs = read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/messages.md")).unwrap();
    let (mut missing, mut found) = (Vec::new(), BTreeSet::new());
    for message in messages(&docs) {
        let (unknown, known) = unknown(message, &rows);
        missing.extend(unknown);
        found.extend(known);
    }
    assert!(missing.is_empty(), "commands that no scenario runs (tests/ways_out.md):\n{}", missing.join("\n"));
    let stale: Vec<_> =
        rows.iter().map(|row| row.command.as_str()).filter(|command| !found.contains(command)).collect();
    assert!(stale.is_empty(), "in tests/ways_out.md, and in no message:\n{}", stale.join("\n"));
    let not_run: Vec<_> =
        rows.iter().filter_map(|row| Some(format!("{}: {}", row.command, is_not_run(row)?))).collect();
    assert!(not_run.is_empty(), "not run:\n{}", not_run.join("\n"));
}

#[test]
fn a_command_without_a_row_is_found_and_a_row_without_its_scenario() {
    let rows = ways_out("| `kubectl get x` | `a::b` | |\n| `kubectl scale` |\n| `kubectl get x -o <y>` | `a::b` | |\n");
    let none: [&str; 0] = [];
    assert_eq!(unknown("look (kubectl get x -o <y>), set with kubectl scale", &rows).0, none);
    assert_eq!(
        unknown("look (kubectl get z), then helm rollback", &rows).0,
        ["kubectl get z), then helm rollback", "helm rollback"]
    );
    assert_eq!(unknown("mykubectl get z", &rows).0, none);
    assert!(unknown("kubectl get x -o <y>", &rows).1.contains("kubectl get x -o <y>"), "the longest");
    let run = |scenario: &str, by: &str| {
        is_not_run(&WayOut { command: String::new(), scenario: Some(scenario.into()), by: by.into() })
    };
    assert_eq!(run("recreated::a_statefulset_created_again_over_living_members_has_its_record_back", "orphan"), None);
    assert!(
        run("recreated::a_statefulset_created_again_over_living_members_has_its_record_back", "not in it").is_some()
    );
    assert!(run("recreated::a_statefulset_created_again_over_living_members_has_its_record_back", "").is_some());
    assert!(run("recreated::is_theirs_again", "orphan").is_some(), "a helper");
    assert!(run("nowhere::a_scenario", "x").is_some());
}
