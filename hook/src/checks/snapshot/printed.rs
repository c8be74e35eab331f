//! What `hook snapshot` prints: a table for people, one line of JSON for programs. The fields are a
//! contract: docs/snapshot.md.

use std::path::Path;

use etcd::{Saved, Sha256};
use operate::output::Output;
use serde::Serialize;

use super::name::Name;

/// One snapshot.
#[derive(Debug, Serialize)]
pub struct Printed {
    action: Action,
    file: String,
    namespace: String,
    statefulset: String,
    cluster: String,
    member: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pod: Option<String>,
    time: String,
    revision_at_least: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    revision_at_most: Option<i64>,
    db_size: u64,
    sha256: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    etcd_version: Option<String>,
    deleted: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Action {
    Taken,
    Recent,
}

impl Printed {
    /// One that was just taken.
    pub fn taken(path: &Path, name: &Name, pod: String, saved: &Saved, deleted: Vec<String>) -> Self {
        Self {
            action: Action::Taken,
            pod: Some(pod),
            revision_at_most: saved.revisions.at_most,
            etcd_version: Some(saved.version.clone()),
            deleted,
            ..Self::recent(path, name, saved.db_size, saved.sha256)
        }
    }

    /// One that was there.
    pub fn recent(path: &Path, name: &Name, db_size: u64, sha256: Sha256) -> Self {
        let Name { namespace, statefulset, cluster, taken, member, revision } = name;
        Self {
            action: Action::Recent,
            file: path.display().to_string(),
            namespace: namespace.clone(),
            statefulset: statefulset.clone(),
            cluster: cluster.to_string(),
            member: member.to_string(),
            pod: None,
            time: taken.to_string(),
            revision_at_least: *revision,
            revision_at_most: None,
            db_size,
            sha256: sha256.to_string(),
            etcd_version: None,
            deleted: Vec::new(),
        }
    }

    /// The result, for the log and the pod's status.
    pub fn sentence(&self) -> String {
        let Self { file, member, revision_at_least, db_size, sha256, deleted, time, .. } = self;
        let what = match self.action {
            Action::Taken => "snapshot saved at",
            Action::Recent => "a recent snapshot is there, none was taken:",
        };
        let older = match deleted.len() {
            0 => String::new(),
            1 => "; 1 older one deleted".to_owned(),
            count => format!("; {count} older ones deleted"),
        };
        format!(
            "{what} {file} (member {member}, {time}, revision {revision_at_least} or later, database {db_size} bytes, SHA-256 {sha256} verified){older}"
        )
    }

    /// The result, for standard output.
    ///
    /// # Errors
    /// When it is no JSON, which does not happen.
    pub fn as_text(&self, output: Output) -> serde_json::Result<String> {
        match output {
            Output::Json => serde_json::to_string(self),
            Output::Table => Ok(self.table()),
        }
    }

    fn table(&self) -> String {
        let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".into());
        let most = self.revision_at_most.map_or_else(|| "or later".into(), |most| format!("to {most}"));
        let action = match self.action {
            Action::Taken => "taken and verified",
            Action::Recent => "recent and verified, none was taken",
        };
        let mut rows = vec![
            ("SNAPSHOT", self.file.clone()),
            ("", action.to_owned()),
            ("MEMBER", format!("{} {}", self.member, or_unknown(&self.pod))),
            ("CLUSTER", format!("{} {}/{}", self.cluster, self.namespace, self.statefulset)),
            ("TIME", self.time.clone()),
            ("REVISION", format!("{} {most}", self.revision_at_least)),
            ("DB SIZE", format!("{} bytes", self.db_size)),
            ("SHA-256", self.sha256.clone()),
            ("ETCD VERSION", or_unknown(&self.etcd_version)),
        ];
        rows.extend(self.deleted.iter().map(|file| ("DELETED", file.clone())));
        let lines: Vec<String> = rows.into_iter().map(|(title, value)| format!("{title:<14}{value}")).collect();
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use etcd::Revisions;
    use membership::know::record::Id;

    /// The SHA-256 of 512 zeros, out of a file that has it behind them.
    fn sha256() -> Sha256 {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("snapshot");
        let hash = "076a27c79e5ace2a3d47f9dd2e83e4ff6ea8872b3c2218f66c92b89b55f36560";
        let hash: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&hash[2 * at..2 * at + 2], 16).unwrap()).collect();
        std::fs::write(&file, [vec![0; 512], hash].concat()).unwrap();
        etcd::verify(&file).unwrap().unwrap().1
    }

    fn printed() -> [Printed; 2] {
        let name = "puls8_puls8-etcd_000000000000abcd_20261122T101502.070Z_0000000000000001_r5301.db";
        let path = Path::new("/snapshots").join(name);
        let (name, sha256) = (Name::parse(name).unwrap(), sha256());
        let saved = Saved {
            member: Id(1),
            cluster: Id(0xabcd),
            version: "3.6.16".into(),
            revisions: Revisions { at_least: 5301, at_most: Some(5307) },
            db_size: 512,
            sha256,
        };
        let taken = Printed::taken(&path, &name, "puls8-etcd-2".into(), &saved, vec!["older.db".into()]);
        [taken, Printed::recent(&path, &name, 512, sha256)]
    }

    #[test]
    fn the_docs_name_every_field_and_have_the_table_and_the_sentence() {
        let docs = include_str!("../../../../docs/snapshot.md");
        for printed in printed() {
            let json = serde_json::to_value(&printed).unwrap();
            for field in json.as_object().unwrap().keys() {
                assert!(docs.contains(&format!("| `{field}` |")), "{field}");
            }
            assert!(docs.contains(&printed.as_text(Output::Table).unwrap()), "{}", printed.table());
            assert!(docs.contains(&printed.sentence()), "{}", printed.sentence());
        }
        assert!(
            docs.contains(&printed()[0].as_text(Output::Json).unwrap()),
            "{:?}",
            printed()[0].as_text(Output::Json)
        );
    }
}
