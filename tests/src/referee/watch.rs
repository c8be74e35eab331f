//! Keeps hold of files that the bed's nodes write during a scenario. A pod that is deleted takes
//! its logs with it, an emptied disk its write-ahead log: an open file outlives both.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;

use super::history::Micros;

/// How often is looked for new files: what was there for less is missed.
const LOOK: Duration = Duration::from_millis(300);
/// How deep in a node's volumes a data directory may lie.
const DEEPEST: usize = 8;

/// An open file.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where it was first seen.
    pub path: PathBuf,
    /// When.
    pub seen: Micros,
    file: Arc<File>,
}

impl Held {
    /// Reads it from its beginning, wherever it is by now.
    #[must_use]
    pub fn reader(&self) -> impl Read + '_ {
        BufReader::new(At { file: &self.file, offset: 0 })
    }

    /// What is in it now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn text(&self) -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        let read = self.reader().read_to_end(&mut bytes);
        read.with_context(|| format!("failed to read {}", self.path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }
}

struct At<'a> {
    file: &'a File,
    offset: u64,
}

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Where the files of one release are.
#[derive(Clone, Debug)]
pub struct Places {
    /// The bed's own directory: its nodes' disks are in it.
    pub run: PathBuf,
    /// The release's namespace.
    pub namespace: String,
    /// Names of directories that only hold the release's data; with a `-` at the end, their beginnings.
    pub directories: Vec<String>,
}

/// Files by device and number, in the order in which they were found.
type Found = BTreeMap<(u64, u64), (usize, Held)>;

/// A thread that looks for files, until this is dropped.
#[derive(Debug)]
pub struct Watch {
    places: Places,
    found: Arc<Mutex<Found>>,
    /// The thread ends when this does.
    _end: Sender<()>,
}

impl Watch {
    /// Starts to look.
    #[must_use]
    pub fn start(places: Places) -> Self {
        let (end, ended) = channel();
        let found = Arc::new(Mutex::new(Found::new()));
        let (its, seen) = (Arc::clone(&found), places.clone());
        thread::spawn(move || {
            while ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                look(&seen, &mut its.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Self { places, found, _end: end }
    }

    /// Every file that was there until now, in the order in which they were found.
    #[must_use]
    pub fn held(&self) -> Vec<Held> {
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        look(&self.places, &mut found);
        let mut held: Vec<(usize, Held)> = found.values().cloned().collect();
        held.sort_by_key(|&(order, _)| order);
        held.into_iter().map(|(_, held)| held).collect()
    }
}

/// Opens what is new. What cannot be read now is looked at again next time: files come and go.
fn look(places: &Places, found: &mut Found) {
    let nodes = entries(&places.run).filter(|path| file_name(path).starts_with("node-"));
    // A node's copy of /var/local is node-0/var-local, or node-0-var-local.
    for copy in nodes.flat_map(|node| entries(&node).chain([node])) {
        let name = file_name(&copy);
        if name.ends_with("var-local") {
            data(&copy, places, false, 0, found);
        } else if name.ends_with("var-log-pods") {
            let its = format!("{}_", places.namespace);
            for pod in entries(&copy).filter(|pod| file_name(pod).starts_with(&its)) {
                entries(&pod.join("etcd")).for_each(|log| hold(log, found));
            }
        } else if name.ends_with("var-lib-kubelet") {
            let state = Path::new("volumes/kubernetes.io~empty-dir").join(state_volume(&places.namespace));
            for pod in entries(&copy.join("pods")) {
                let logs = entries(&pod.join(&state)).filter(|file| file.extension().is_some_and(|it| it == "log"));
                logs.for_each(|log| hold(log, found));
            }
        }
    }
}

/// The name of the load's volume: from outside the cluster it is found by it.
#[must_use]
pub fn state_volume(namespace: &str) -> String {
    format!("state-{namespace}")
}

/// Looks for write-ahead logs below a directory of volumes.
fn data(directory: &Path, places: &Places, ours: bool, depth: usize, found: &mut Found) {
    if ours && directory.ends_with("member/wal") {
        let segments = entries(directory).filter(|file| file.extension().is_some_and(|it| it == "wal"));
        return segments.for_each(|segment| hold(segment, found));
    }
    if depth == DEEPEST {
        return;
    }
    for inner in entries(directory).filter(|inner| inner.is_dir() && !inner.is_symlink()) {
        let name = file_name(&inner);
        let is =
            |wanted: &String| if wanted.ends_with('-') { name.starts_with(wanted.as_str()) } else { name == *wanted };
        let ours = ours || places.directories.iter().any(is);
        data(&inner, places, ours, depth + 1, found);
    }
}

fn hold(path: PathBuf, found: &mut Found) {
    let Ok(file) = File::open(&path) else { return };
    let Ok(metadata) = file.metadata() else { return };
    let order = found.len();
    // While a file is held, no other gets its number.
    if metadata.is_file() {
        found
            .entry((metadata.dev(), metadata.ino()))
            .or_insert_with(|| (order, Held { path, seen: Timestamp::now().as_microsecond(), file: Arc::new(file) }));
    }
}

fn entries(directory: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let mut paths: Vec<PathBuf> = directory.read_dir().into_iter().flatten().flatten().map(|it| it.path()).collect();
    // Segments are named by their number.
    paths.sort();
    paths.into_iter()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_removed_is_still_read() {
        let run = tempfile::tempdir().unwrap();
        let directories = vec!["17".to_owned(), "test-a-data-".to_owned()];
        let places = Places { run: run.path().into(), namespace: "test-a".to_owned(), directories };
        let write = |path: &str, text: &str| {
            let path = run.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("node-0-var-local/tests/a-r/17/pod-0/data/member/wal/0-0.wal", "segment");
        write("node-0-var-local/tests/a-r/16/pod-0/data/member/wal/0-0.wal", "an earlier run's");
        write("node-0/var-local/provisioned/test-a-data-a-r-etcd-0-uid/data/member/wal/0-0.wal", "of a class");
        write("node-0/var-local/provisioned/test-b-data-a-r-etcd-0-uid/data/member/wal/0-0.wal", "another release's");
        write("node-1-var-log-pods/test-a_a-r-etcd-0_uid/etcd/0.log", "log");
        write("node-1-var-log-pods/test-ab_x_uid/etcd/0.log", "another namespace's");
        write("node-1-var-lib-kubelet/pods/uid/volumes/kubernetes.io~empty-dir/state-test-a/client-0.log", "ack");
        let mut found = Found::new();
        look(&places, &mut found);
        std::fs::remove_dir_all(run.path().join("node-0-var-local")).unwrap();
        std::fs::remove_dir_all(run.path().join("node-1-var-log-pods")).unwrap();
        write("node-1-var-lib-kubelet/pods/uid/volumes/kubernetes.io~empty-dir/state-test-a/client-0.log", "ack more");
        look(&places, &mut found);
        let texts: Vec<String> = found.values().map(|(_, held)| held.text().unwrap()).collect();
        assert_eq!(texts.len(), 4, "{texts:?}");
        for text in ["segment", "of a class", "log", "ack more"] {
            assert!(texts.contains(&text.to_owned()), "{text}: {texts:?}");
        }
    }
}
