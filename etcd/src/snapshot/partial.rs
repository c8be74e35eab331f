//! The file of a snapshot while it is written.
//!
//! It has a name that nobody takes for a snapshot, and is locked by the run that writes it. When it is whole and on the
//! disk it gets its own name; if it never is, it is removed. A file that a killed run has left is not locked, so the
//! next run removes it.

use std::fs::{DirEntry, File, OpenOptions, TryLockError, read_dir, remove_file, rename};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with, statvfs};
use rustix::io::Errno;

use super::{RESERVE, SnapshotError};

/// The end of its name. Hidden, so that no pattern for snapshots finds it.
const SUFFIX: &str = ".partial";
/// A snapshot holds all secrets of etcd; the group may read it, so that it can be restored by a pod
/// of another user.
const MODE: u32 = 0o640;
/// How many names are tried; fewer runs write at once.
const MOST_NAMES: u32 = 100;

/// A file that is being written; removed when dropped before it was published.
#[derive(Debug)]
pub struct Partial {
    file: File,
    dir: PathBuf,
    path: PathBuf,
    published: bool,
}

impl Partial {
    /// Begins a file in `dir`, the directory in which it will be published. `prefix` says whose it
    /// is, for [`sweep`].
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn create(dir: &Path, prefix: &str) -> Result<Self, SnapshotError> {
        for number in 0..MOST_NAMES {
            let path = dir.join(format!(".{prefix}.{number}{SUFFIX}"));
            match OpenOptions::new().write(true).create_new(true).mode(MODE).open(&path) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(SnapshotError::file("make", &path)(error)),
                Ok(file) => {
                    let partial = Self { file, dir: dir.to_owned(), path, published: false };
                    match partial.file.try_lock() {
                        // Another run saw it before it was locked, and has removed it.
                        Ok(()) if !is_this(&partial.path, &partial.file) => {}
                        Err(TryLockError::WouldBlock) => {}
                        // The file system has no locks. [`sweep`] leaves files there alone.
                        Ok(()) | Err(TryLockError::Error(_)) => return Ok(partial),
                    }
                }
            }
        }
        let error = io::Error::other(format!("{MOST_NAMES} unfinished ones are there already; remove .*{SUFFIX}"));
        Err(SnapshotError::file("make a file in", dir)(error))
    }

    /// Appends.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.file.write_all(bytes).map_err(SnapshotError::file("write", &self.path))
    }

    /// Whether so much more may be written.
    ///
    /// # Errors
    /// When not, or when it is not known.
    pub fn has_room_for(&self, bytes: u64) -> Result<(), SnapshotError> {
        has_room(&self.dir, bytes)
    }

    /// Writes everything to the disk, gives the file its name, and writes that to the disk too. Never replaces a file
    /// of that name.
    ///
    /// # Errors
    /// When it is not there under its name.
    pub fn publish(mut self, name: &str) -> Result<PathBuf, SnapshotError> {
        let to = self.dir.join(name);
        self.file.sync_all().map_err(SnapshotError::file("sync", &self.path))?;
        match renameat_with(CWD, &self.path, CWD, &to, RenameFlags::NOREPLACE) {
            // File systems that do not know the flag, NFS among them.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) if !to.exists() => {
                rename(&self.path, &to).map_err(SnapshotError::file("rename", &self.path))?;
            }
            renamed => renamed.map_err(|error| SnapshotError::file("make", &to)(error.into()))?,
        }
        self.published = true;
        File::open(&self.dir).and_then(|dir| dir.sync_all()).map_err(SnapshotError::file("sync", &self.dir))?;
        Ok(to)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.published && is_this(&self.path, &self.file) {
            // An error here has no reader; a file that stays is removed by the next run.
            let _ = remove_file(&self.path);
        }
    }
}

/// Whether this path is still this file.
fn is_this(path: &Path, file: &File) -> bool {
    let id = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    path.metadata().is_ok_and(|there| file.metadata().is_ok_and(|open| id(there) == id(open)))
}

/// Removes the files with this prefix that killed runs have left; those that are being written stay.
///
/// # Errors
/// When the directory cannot be read, or a file not removed.
pub fn sweep(dir: &Path, prefix: &str) -> Result<Vec<PathBuf>, SnapshotError> {
    let mut swept = Vec::new();
    let entries = read_dir(dir).map_err(SnapshotError::file("list", dir))?;
    for entry in entries {
        let entry = entry.map_err(SnapshotError::file("list", dir))?;
        let path = entry.path();
        if !is_partial(&entry, prefix) {
            continue;
        }
        // The lock is held until the file is removed, so that a run that has just made it sees that.
        if let Some(_held) = abandoned(&path) {
            remove_file(&path).map_err(SnapshotError::file("remove the unfinished", &path))?;
            swept.push(path);
        }
    }
    Ok(swept)
}

fn is_partial(entry: &DirEntry, prefix: &str) -> bool {
    let name = entry.file_name();
    let name = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_prefix(prefix)?.strip_suffix(SUFFIX));
    name.and_then(|number| number.strip_prefix('.')).is_some_and(|number| number.parse::<u32>().is_ok())
}

/// The file, locked, if no run is writing it; `None` also if that is not known.
fn abandoned(path: &Path) -> Option<File> {
    File::open(path).ok().filter(|file| file.try_lock().is_ok() && is_this(path, file))
}

/// Whether so much may be written into `dir` and a reserve stays free.
///
/// # Errors
/// When not, or when it is not known.
fn has_room(dir: &Path, bytes: u64) -> Result<(), SnapshotError> {
    let of = statvfs(dir).map_err(|error| SnapshotError::file("ask for the free space of", dir)(error.into()))?;
    // The space that is free for users without privileges.
    let (free, needed) = (of.f_bavail.saturating_mul(of.f_frsize), bytes.saturating_add(RESERVE));
    if free < needed { Err(SnapshotError::NoRoom { dir: dir.to_owned(), free, needed }) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> =
            read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn it_has_its_name_when_it_is_published_and_is_gone_when_it_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let mut partial = Partial::create(dir.path(), "ours").unwrap();
        partial.write(b"whole").unwrap();
        assert_eq!(listed(dir.path()), [".ours.0.partial"]);
        assert_eq!(std::fs::read(partial.publish("a.db").unwrap()).unwrap(), b"whole");
        assert_eq!(listed(dir.path()), ["a.db"]);
        drop(Partial::create(dir.path(), "ours").unwrap());
        assert_eq!(listed(dir.path()), ["a.db"]);
    }

    #[test]
    fn two_at_a_time_do_not_meet_and_none_takes_anothers_name() {
        let dir = tempfile::tempdir().unwrap();
        let (mut one, mut two) =
            (Partial::create(dir.path(), "ours").unwrap(), Partial::create(dir.path(), "ours").unwrap());
        assert_eq!(sweep(dir.path(), "ours").unwrap(), Vec::<PathBuf>::new());
        one.write(b"one").unwrap();
        two.write(b"two").unwrap();
        let published = one.publish("a.db").unwrap();
        let error = two.publish("a.db").unwrap_err();
        assert!(matches!(&error, SnapshotError::File { attempt: "make", .. }), "{error}");
        assert_eq!(std::fs::read(published).unwrap(), b"one");
        assert_eq!(listed(dir.path()), ["a.db"]);
    }

    #[test]
    fn what_a_killed_run_left_is_swept_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let living = Partial::create(dir.path(), "ours").unwrap();
        let others =
            [".ours.1.partial.db", ".ours.x.partial", ".ours-too.1.partial", ".theirs.0.partial", "ours.1.partial"];
        for name in others.iter().chain(&[".ours.7.partial"]) {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(sweep(dir.path(), "ours").unwrap(), [dir.path().join(".ours.7.partial")]);
        assert_eq!(listed(dir.path()).len(), others.len() + 1);
        drop(living);
        assert_eq!(listed(dir.path()).len(), others.len());
    }

    #[test]
    fn more_than_there_is_room_for_is_refused_with_both_numbers() {
        let dir = tempfile::tempdir().unwrap();
        has_room(dir.path(), 0).unwrap();
        let error = has_room(dir.path(), u64::MAX).unwrap_err();
        assert!(matches!(error, SnapshotError::NoRoom { free, needed: u64::MAX, .. } if free > RESERVE), "{error}");
        assert!(has_room(&dir.path().join("absent"), 0).is_err());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let absent = dir.path().join("absent");
        let error = Partial::create(&absent, "ours").unwrap_err();
        assert!(error.to_string().contains("absent"), "{error}");
    }
}
