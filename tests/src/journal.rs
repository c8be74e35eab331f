//! What each client of the load saw, in append-only files: `client-N.log` has a line for each put,
//! `ack NUMBER MILLISECONDS MEMBER CLUSTER REVISION` or `fail NUMBER MILLISECONDS WHY`; `reads.log`
//! one for each read, `read CALL VIA MEMBER CLUSTER REVISION SENT GOT` (microseconds), or
//! `missing KEY VIA` for one that did not find what was acknowledged before it was sent.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;
use membership::know::record::Id;

/// The file of all reads.
pub const READS: &str = "reads.log";

/// Milliseconds since 1970.
#[must_use]
pub fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// How a call of the load was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// When it was sent, or earlier: microseconds since 1970.
    pub sent: i64,
    /// When it was answered, or later.
    pub got: i64,
    /// Which call.
    pub call: Call,
    /// Where it was sent: `service`, or the member's own client URL.
    pub via: String,
    /// Who answered.
    pub member: Id,
    /// Its cluster.
    pub cluster: Id,
    /// At which revision.
    pub revision: i64,
}

/// A call of the load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// A put.
    Put,
    /// A read that every earlier acknowledgement must be seen by.
    Linearizable,
    /// A read of what the asked member has.
    Serializable,
}

/// Through the Service: any member.
pub const SERVICE: &str = "service";

/// The file that one client appends to.
#[derive(Debug)]
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens a client's file, and tells how far the client had got.
    ///
    /// # Errors
    /// When it cannot be opened, or is damaged.
    pub fn open(state: &Path, client: u32) -> anyhow::Result<(Self, u64)> {
        let path = path(state, client);
        let text = read(&path)?.unwrap_or_default();
        let last = History::parse(&text).with_context(|| format!("{} is damaged", path.display()))?.acknowledged();
        let mut journal = Self::append_to(&path)?;
        // What was being written when a node was lost.
        if !text.is_empty() && !text.ends_with('\n') {
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            journal.file.set_len(whole as u64).context("failed to cut the half line off a journal")?;
            journal = Self::append_to(&path)?;
        }
        Ok((journal, last))
    }

    /// Opens the file of all reads.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn of_reads(state: &Path) -> anyhow::Result<Self> {
        Self::append_to(&state.join(READS))
    }

    fn append_to(path: &Path) -> anyhow::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path);
        Ok(Self { file: file.with_context(|| format!("failed to open {}", path.display()))? })
    }

    /// Notes that a put was acknowledged: by which member of which cluster, at which revision.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn acknowledged(&mut self, number: u64, member: Id, cluster: Id, revision: i64) -> anyhow::Result<()> {
        self.line(&format!("ack {number} {} {member} {cluster} {revision}\n", now()))
    }

    /// Notes that a put was refused, or not answered: it may have been applied or not.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn failed(&mut self, number: u64, why: &str) -> anyhow::Result<()> {
        self.line(&format!("fail {number} {} {}\n", now(), why.replace('\n', " ")))
    }

    /// Notes a read.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn read(&mut self, answer: &Answer) -> anyhow::Result<()> {
        let Answer { sent, got, call, via, member, cluster, revision } = answer;
        let call = if *call == Call::Serializable { "serializable" } else { "linearizable" };
        self.line(&format!("read {call} {via} {member} {cluster} {revision} {sent} {got}\n"))
    }

    /// Notes that a linearizable read did not find a key that was acknowledged before.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn missing(&mut self, key: &str, via: &str) -> anyhow::Result<()> {
        self.line(&format!("missing {key} {via}\n"))
    }

    /// In one piece: several append to the file of all reads.
    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.file.write_all(line.as_bytes()).context("failed to write the journal")
    }
}

/// What one client saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When each put was acknowledged, in milliseconds; the first is of number 1.
    pub acknowledged_at: Vec<i64>,
    /// When attempts were refused, or given up unanswered, in milliseconds.
    pub failed_at: Vec<i64>,
    /// How the puts were answered.
    pub answers: Vec<Answer>,
}

/// What all readers saw.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// How the reads were answered.
    pub answers: Vec<Answer>,
    /// Keys that a read did not find although they were acknowledged before, and where.
    pub missing: Vec<String>,
}

/// Whole lines: the load runs, its last line may be half written.
fn whole_lines(text: &str) -> impl Iterator<Item = &str> {
    text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'))
}

impl History {
    /// How many puts were acknowledged: the numbers 1 to this one, none left out.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged_at.len() as u64
    }

    /// Reads a client's file.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut history = Self::default();
        // A client sends the next put when the one before was answered.
        let mut before = i64::MIN;
        for line in whole_lines(text) {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [what, number, at, rest @ ..] = &words[..] else { bail!("{line:?} is not a line of it") };
            let (number, at): (u64, i64) = (number.parse()?, at.parse()?);
            let due = history.acknowledged() + 1;
            ensure!(number == due, "{line:?} comes where number {due} is due");
            match (*what, rest) {
                ("ack", [member, cluster, revision]) => {
                    history.acknowledged_at.push(at);
                    history.answers.push(Answer {
                        sent: before.saturating_mul(1000),
                        got: at * 1000 + 999,
                        call: Call::Put,
                        via: SERVICE.to_owned(),
                        member: member.parse()?,
                        cluster: cluster.parse()?,
                        revision: revision.parse()?,
                    });
                }
                ("fail", _) => history.failed_at.push(at),
                _ => bail!("{line:?} is not a line of it"),
            }
            before = at;
        }
        Ok(history)
    }
}

impl Reads {
    /// Reads the file of all reads.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reads = Self::default();
        for line in whole_lines(text) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["read", call, via, member, cluster, revision, sent, got] => reads.answers.push(Answer {
                    sent: sent.parse()?,
                    got: got.parse()?,
                    call: if call == "serializable" { Call::Serializable } else { Call::Linearizable },
                    via: via.to_owned(),
                    member: member.parse()?,
                    cluster: cluster.parse()?,
                    revision: revision.parse()?,
                }),
                ["missing", key, via] => reads.missing.push(format!("{key} at {via}")),
                _ => bail!("{line:?} is not a line of it"),
            }
        }
        Ok(reads)
    }
}

fn read(path: &Path) -> anyhow::Result<Option<String>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("failed to read {}", path.display())),
    }
}

/// What all clients saw, by their number.
///
/// # Errors
/// When a file is damaged.
pub fn read_all(state: &Path) -> anyhow::Result<Vec<History>> {
    let mut histories = Vec::new();
    for client in 0.. {
        let path = path(state, client);
        let Some(text) = read(&path)? else { break };
        histories.push(History::parse(&text).with_context(|| format!("{} is damaged", path.display()))?);
    }
    Ok(histories)
}

/// All files, each with a line `== NAME` before it.
///
/// # Errors
/// When one cannot be read.
pub fn print(state: &Path) -> anyhow::Result<String> {
    let mut printed = String::new();
    let entries = state.read_dir().with_context(|| format!("failed to read {}", state.display()))?;
    for entry in entries {
        let path = entry.with_context(|| format!("failed to read {}", state.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let (true, Some(text)) = (name.ends_with(".log"), read(&path)?) {
            let whole = text.rfind('\n').map_or(0, |end| end + 1);
            printed.push_str(&format!("== {name}\n{}", &text[..whole]));
        }
    }
    Ok(printed)
}

/// The files that [`print`] printed: names and texts.
#[must_use]
pub fn files(printed: &str) -> Vec<(String, String)> {
    let files = printed.split("== ").filter_map(|file| file.split_once('\n'));
    files.map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

fn path(state: &Path, client: u32) -> PathBuf {
    state.join(format!("client-{client}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_back_also_while_it_is_written() {
        let text = "ack 1 1000 a b 2\nfail 2 1010 no leader\nack 2 1020 a b 3\nack 3 10";
        let history = History::parse(text).unwrap();
        assert_eq!((history.acknowledged_at, history.failed_at), (vec![1000, 1020], vec![1010]));
        let spans: Vec<_> = history.answers.iter().map(|put| (put.sent, put.got, put.revision)).collect();
        assert_eq!(spans[1], (1_010_000, 1_020_999, 3), "sent after the answer before");
    }

    #[test]
    fn a_number_that_is_left_out_is_no_journal() {
        let error = History::parse("ack 1 1000 a b 2\nack 3 1010 a b 3\n").unwrap_err();
        assert!(error.to_string().contains("number 2 is due"), "{error}");
    }

    #[test]
    fn a_client_goes_on_where_its_node_was_lost() {
        let state = tempfile::tempdir().unwrap();
        std::fs::write(path(state.path(), 0), "ack 1 1000 a b 2\nack 2 10").unwrap();
        let (mut journal, last) = Journal::open(state.path(), 0).unwrap();
        assert_eq!(last, 1);
        journal.acknowledged(2, Id(1), Id(2), 3).unwrap();
        assert_eq!(read_all(state.path()).unwrap()[0].acknowledged(), 2);
    }

    #[test]
    fn reads_are_read_back() {
        let state = tempfile::tempdir().unwrap();
        let answer = Answer {
            sent: 1,
            got: 2,
            call: Call::Serializable,
            via: "http://a:2379".to_owned(),
            member: Id(3),
            cluster: Id(4),
            revision: 5,
        };
        let mut journal = Journal::of_reads(state.path()).unwrap();
        journal.read(&answer).unwrap();
        journal.missing("traffic/0/1", SERVICE).unwrap();
        let printed = files(&print(state.path()).unwrap());
        assert_eq!(printed.len(), 1, "{printed:?}");
        assert_eq!(printed[0].0, READS);
        let reads = Reads::parse(&printed[0].1).unwrap();
        assert_eq!(reads, Reads { answers: vec![answer], missing: vec!["traffic/0/1 at service".to_owned()] });
    }
}
