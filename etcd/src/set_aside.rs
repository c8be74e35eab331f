//! Moves an old member's data aside within the data directory, so that etcd starts there as on an empty one and the
//! data can still be looked at.
//!
//! All of the content is moved, not only `member/`: Bitnami's images keep files of the member beside it and read them
//! at the next start (facts-etcd 7). `member/` is moved last: if a move is cut short, the log is still in place and
//! tells whose data it is, so the move is begun again.

use std::fs::{File, create_dir, create_dir_all, read_dir, remove_dir_all, rename};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// The prefix of the directories with data that was set aside; the old member's ID follows.
const PREFIX: &str = "set-aside-";
/// The prefix of the directories with data of an earlier cluster, which are never touched again.
const KEPT: &str = "kept-";
/// A directory that the file system itself keeps at the top of a volume.
const NOT_OURS: &str = "lost+found";
/// The directory of etcd's own data.
const MEMBER: &str = "member";

/// Why a directory's content could not be set aside.
#[derive(Debug, thiserror::Error)]
#[error("failed to {attempt} {path}")]
pub struct SetAsideError {
    attempt: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Moves everything in `data_dir` to `set-aside-<name>` in it and returns that path; `None`: there is nothing to move.
/// Deletes what was set aside before: the latest is enough, and a volume may not have room for more than two databases.
///
/// # Errors
/// When something could not be moved. What was moved stays moved; calling again goes on.
pub fn set_aside(data_dir: &Path, name: &str) -> Result<Option<PathBuf>, SetAsideError> {
    let into = data_dir.join(format!("{PREFIX}{name}"));
    let (content, older) = listed(data_dir)?;
    if content.is_empty() {
        return Ok(None);
    }
    moved(data_dir, content, &into)?;
    for path in older.into_iter().filter(|path| *path != into) {
        remove_dir_all(&path).map_err(failed("remove the older", &path))?;
    }
    Ok(Some(into))
}

/// Moves everything in `data_dir` to `kept-<name>-<n>` in it, before a new cluster begins, and returns that path;
/// `None`: there is nothing to move. Data that was kept before stays: an earlier cluster's data is never deleted here.
///
/// # Errors
/// When something could not be moved. What was moved stays moved; calling again goes on.
pub fn keep_aside(data_dir: &Path, name: &str) -> Result<Option<PathBuf>, SetAsideError> {
    let (content, older) = listed(data_dir)?;
    let content: Vec<PathBuf> = content.into_iter().chain(older).collect();
    if content.is_empty() {
        return Ok(None);
    }
    // `member/` is moved last, so a directory that has it is from a move that is complete, and this is another one.
    let into = (1..).map(|time| data_dir.join(format!("{KEPT}{name}-{time}"))).find(|into| !into.join(MEMBER).exists());
    let into = into.unwrap_or_else(|| data_dir.join(format!("{KEPT}{name}")));
    moved(data_dir, content, &into)?;
    Ok(Some(into))
}

/// Whether [`cleared`] was noted for this bootstrap.
#[must_use]
pub fn is_cleared(data_dir: &Path, bootstrap: &str) -> bool {
    data_dir.join(format!("{KEPT}for-{bootstrap}")).exists()
}

/// Notes in the directory that it was cleared for this bootstrap.
///
/// # Errors
/// When the note could not be written.
pub fn cleared(data_dir: &Path, bootstrap: &str) -> Result<(), SetAsideError> {
    create_dir_all(data_dir).map_err(failed("make", data_dir))?;
    let note = data_dir.join(format!("{KEPT}for-{bootstrap}"));
    File::create(&note).and_then(|file| file.sync_all()).map_err(failed("write", &note))?;
    File::open(data_dir).and_then(|directory| directory.sync_all()).map_err(failed("sync", data_dir))
}

/// What is in the directory, and what was set aside there before.
fn listed(data_dir: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>), SetAsideError> {
    let mut content = Vec::new();
    let mut older = Vec::new();
    match read_dir(data_dir) {
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(failed("list", data_dir))?;
                let called = entry.file_name();
                match called.to_str() {
                    Some(NOT_OURS) => {}
                    Some(called) if called.starts_with(KEPT) => {}
                    Some(called) if called.starts_with(PREFIX) => older.push(entry.path()),
                    _ => content.push(entry.path()),
                }
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed("list", data_dir)(error)),
    }
    Ok((content, older))
}

fn moved(data_dir: &Path, mut content: Vec<PathBuf>, into: &Path) -> Result<(), SetAsideError> {
    match create_dir(into) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(failed("make", into)(error)),
        _ => {}
    }
    content.sort_by_key(|path| path.file_name().is_some_and(|called| called == MEMBER));
    for path in content {
        let target = into.join(path.file_name().unwrap_or_default());
        if target.is_dir() {
            remove_dir_all(&target).map_err(failed("remove the older", &target))?;
        }
        rename(&path, &target).map_err(failed("move aside", &path))?;
    }
    // A power cut must not bring the old log back under the new member.
    for directory in [into, data_dir] {
        File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))?;
    }
    Ok(())
}

fn failed<'a>(attempt: &'static str, path: &'a Path) -> impl Fn(io::Error) -> SetAsideError + use<'a> {
    move |source| SetAsideError { attempt, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::write;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn everything_but_what_is_not_ours_is_moved_and_the_latest_kept() {
        let dir = tempfile::tempdir().unwrap();
        for inner in ["member/wal", "lost+found", "set-aside-1/member"] {
            create_dir_all(dir.path().join(inner)).unwrap();
        }
        write(dir.path().join("member_id"), "2").unwrap();
        let into = set_aside(dir.path(), "2").unwrap().unwrap();
        assert_eq!(names(dir.path()), ["lost+found", "set-aside-2"]);
        assert_eq!(names(&into), ["member", "member_id"]);
    }

    #[test]
    fn a_move_that_was_cut_short_goes_on() {
        let dir = tempfile::tempdir().unwrap();
        create_dir_all(dir.path().join("member")).unwrap();
        create_dir_all(dir.path().join("set-aside-2/member")).unwrap();
        write(dir.path().join("set-aside-2/member_id"), "2").unwrap();
        let into = set_aside(dir.path(), "2").unwrap().unwrap();
        assert_eq!(names(&into), ["member", "member_id"]);
        assert_eq!(names(dir.path()), ["set-aside-2"]);
    }

    #[test]
    fn what_is_kept_of_earlier_clusters_stays() {
        let dir = tempfile::tempdir().unwrap();
        for expected in [vec!["kept-9-2-1"], vec!["kept-9-2-1", "kept-9-2-2"]] {
            for inner in ["member/wal", "set-aside-1/member"] {
                create_dir_all(dir.path().join(inner)).unwrap();
            }
            let into = keep_aside(dir.path(), "9-2").unwrap().unwrap();
            assert_eq!(names(&into), ["member", "set-aside-1"]);
            assert_eq!(names(dir.path()), expected);
        }
        assert_eq!(keep_aside(dir.path(), "9-2").unwrap(), None);
        assert!(!is_cleared(dir.path(), "uid"));
        cleared(dir.path(), "uid").unwrap();
        assert!(is_cleared(dir.path(), "uid") && !is_cleared(dir.path(), "other"));
        std::fs::remove_file(dir.path().join("kept-for-uid")).unwrap();
        create_dir_all(dir.path().join("member")).unwrap();
        set_aside(dir.path(), "5").unwrap();
        assert_eq!(names(dir.path()), ["kept-9-2-1", "kept-9-2-2", "set-aside-5"]);
    }

    #[test]
    fn nothing_to_move_is_nothing_done() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(set_aside(dir.path(), "2").unwrap(), None);
        assert_eq!(set_aside(&dir.path().join("absent"), "2").unwrap(), None);
        create_dir_all(dir.path().join("set-aside-1")).unwrap();
        assert_eq!(set_aside(dir.path(), "2").unwrap(), None);
        assert_eq!(names(dir.path()), ["set-aside-1"]);
    }
}
