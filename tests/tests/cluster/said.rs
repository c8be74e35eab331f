//! What a person is told, word for word: by kubectl, by Helm, by a Job's last line. Each text is held by
//! a file in `snapshots/`; what differs from run to run is taken out first.
//!
//! After a change of a text: `INSTA_UPDATE=always tests/on-cluster NAME`, and a look at the difference.

use insta::Settings;
use tests::release::{Helm, Release};

/// Where the files are. Absolute, so that it does not depend on from where a test is run.
const SNAPSHOTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/snapshots");

/// What differs from run to run, as regular expressions, and what stands for it.
const DIFFERS: [(&str, &str); 17] = [
    (r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "[uid]"),
    (r"\b[0-9a-f]{16}\b", "[id]"),
    (r"\b\d{4}-\d{2}-\d{2}T[0-9:.]+Z", "[time]"),
    (r"\b\d+\.\d+\.\d+\.\d+(:\d+)?\b", "[address]"),
    (r"\b\d+ s are left\b", "[n] s are left"),
    // A join's time grows with the database.
    (r"\bwithin \d+ s\b", "within [n] s"),
    (r"\bReady: \d+/\d+", "Ready: [n]/[n]"),
    (r#"/[^ "]*/chart\b"#, "CHART"),
    // How a member that is away is met by those who ask it, and the kubelet's words about an image.
    (r"not healthy \(.*\)\. ", "not healthy ([who and why]). "),
    (r"cannot start: .*?\. It was not added", "cannot start: [why]. It was not added"),
    (r"\bnode-\d\b", "[node]"),
    (r"\bat revision \d+", "at revision [n]"),
    (r"\blast seen \d+ s ago", "last seen [n] s ago"),
    // Two others are where the furthest is.
    (r"\d+ revisions behind \S+ \(\d+ and \d+\)", "[n] revisions behind [pod] ([n] and [n])"),
    (r"has applied \d+ entries", "has applied [n] entries"),
    // Where in the chart a template fails.
    (r"execution error at \([^)]*\)", "execution error at ([place])"),
    // The largest of several that were filled alike, to a page of it.
    (r"the database of \S+ is [0-9.]+ MB(, \d+ %)?", "the database of [pod] is [size]"),
];

/// That this is what it was when it was last looked at.
///
/// # Panics
/// When it is not; the difference is printed.
pub fn said(release: &Release, name: &str, text: &str) {
    settings().bind(|| insta::assert_snapshot!(name, plain(release, text)));
}

/// Helm's own last words: its `Error:` and what follows. What the hooks logged comes before, and is
/// never twice the same.
#[must_use]
pub fn error(printed: &str) -> String {
    let from = printed.lines().skip_while(|line| !line.starts_with("Error:"));
    let lines: Vec<&str> = from.map(str::trim_end).collect();
    if lines.is_empty() { printed.to_owned() } else { lines.join("\n") }
}

/// A part of a snapshot's name.
#[must_use]
pub fn by(helm: Helm) -> &'static str {
    match helm {
        Helm::V4 => "helm-4",
        Helm::V3 => "helm-3",
    }
}

/// Without the names that only this scenario has.
fn plain(release: &Release, text: &str) -> String {
    text.replace(&release.namespace, "NAMESPACE").replace(&release.name, "RELEASE")
}

fn settings() -> Settings {
    let mut settings = Settings::new();
    settings.set_snapshot_path(SNAPSHOTS);
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for (pattern, with) in DIFFERS {
        settings.add_filter(pattern, with);
    }
    settings
}

#[test]
fn only_what_differs_from_run_to_run_is_taken_out() {
    let release = Release::of("words", Helm::V4);
    let text = "scaling StatefulSet test-words/words-r-etcd from 3 to 4 is refused: 1 of 3 members not healthy (words-r-etcd-2: \
        does not answer (refused). It is away). 4 members need 3. member 8e9e05c52164694d of \
        1b0d2c6e-6f0a-4d5c-9a53-0d7e6a3c1f22 on node-3 at 10.244.1.7:2379, 2026-11-25T15:56:32.123456Z; 29 s are left \
        until the deadline and a join may need 60 s, --set etcd.replicaCount=4, etcd 3.6.16";
    settings().bind(|| {
        insta::assert_snapshot!(plain(&release, text), @"scaling StatefulSet NAMESPACE/RELEASE-etcd from 3 to 4 is refused: 1 of 3 members not healthy ([who and why]). 4 members need 3. member [id] of [uid] on [node] at [address], [time]; [n] s are left until the deadline and a join may need 60 s, --set etcd.replicaCount=4, etcd 3.6.16");
    });
}

#[test]
fn of_what_helm_prints_its_error_is_held() {
    let printed =
        "level=INFO msg=\"a hook's log\"\nError: UPGRADE FAILED: hooks failed: 1 error occurred:\n\t* job failed\n\n";
    assert_eq!(error(printed), "Error: UPGRADE FAILED: hooks failed: 1 error occurred:\n\t* job failed\n");
    assert_eq!(error("nothing of that kind"), "nothing of that kind");
}
