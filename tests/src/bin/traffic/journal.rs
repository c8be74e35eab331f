//! What each client saw, in an append-only file of its own: `ack SEQ MILLISECONDS` and
//! `fail SEQ MILLISECONDS WHY`, a line each.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use jiff::Timestamp;

/// Milliseconds since 1970.
pub fn now() -> i64 {
    Timestamp::now().as_millisecond()
}

/// The file that one client appends to.
pub struct Journal {
    file: File,
}

impl Journal {
    /// Opens a client's file, and tells how far the client had got.
    pub fn open(state: &Path, client: u32) -> anyhow::Result<(Self, u64)> {
        let path = path(state, client);
        let last = History::read(&path)?.map_or(0, |history| history.acknowledged());
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.with_context(|| format!("failed to open {}", path.display()))?;
        Ok((Self { file }, last))
    }

    /// Notes that a put was acknowledged.
    pub fn acknowledged(&mut self, seq: u64) -> anyhow::Result<()> {
        self.line(&format!("ack {seq} {}\n", now()))
    }

    /// Notes that a put was refused, or not answered: it may have been applied or not.
    pub fn failed(&mut self, seq: u64, why: &str) -> anyhow::Result<()> {
        self.line(&format!("fail {seq} {} {}\n", now(), why.replace('\n', " ")))
    }

    fn line(&mut self, line: &str) -> anyhow::Result<()> {
        self.file.write_all(line.as_bytes()).context("failed to write the journal")
    }
}

/// What one client saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct History {
    /// When each put was acknowledged; the first is of number 1.
    pub acknowledged_at: Vec<i64>,
    /// Attempts that were refused or not answered.
    pub failed: u64,
}

impl History {
    /// How many puts were acknowledged: the numbers 1 to this one, none left out.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged_at.len() as u64
    }

    fn read(path: &Path) -> anyhow::Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("failed to open {}", path.display())),
        };
        Self::parse(BufReader::new(file)).with_context(|| format!("{} is damaged", path.display())).map(Some)
    }

    fn parse(mut lines: impl BufRead) -> anyhow::Result<Self> {
        let mut history = Self::default();
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            // The load runs: its last line may be half written.
            if !line.ends_with('\n') {
                break;
            }
            let mut words = line.split_whitespace();
            let (Some(what), Some(seq), Some(at)) = (words.next(), words.next(), words.next()) else {
                bail!("{line:?} is not a line of it");
            };
            let (seq, at): (u64, i64) = (seq.parse()?, at.parse()?);
            let due = history.acknowledged() + 1;
            ensure!(seq == due, "{line:?} comes where number {due} is due");
            match what {
                "ack" => history.acknowledged_at.push(at),
                "fail" => history.failed += 1,
                _ => bail!("{line:?} is not a line of it"),
            }
            line.clear();
        }
        Ok(history)
    }
}

/// What all clients saw, by their number.
pub fn read_all(state: &Path) -> anyhow::Result<Vec<History>> {
    let mut histories = Vec::new();
    for client in 0.. {
        let Some(history) = History::read(&path(state, client))? else { break };
        histories.push(history);
    }
    Ok(histories)
}

fn path(state: &Path, client: u32) -> PathBuf {
    state.join(format!("client-{client}.log"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_read_back_also_while_it_is_written() {
        let text = "ack 1 1000\nfail 2 1010 no leader\nack 2 1020\nack 3 10";
        let history = History::parse(text.as_bytes()).unwrap();
        assert_eq!(history, History { acknowledged_at: vec![1000, 1020], failed: 1 });
    }

    #[test]
    fn a_number_that_is_left_out_is_no_journal() {
        let error = History::parse(&b"ack 1 1000\nack 3 1010\n"[..]).unwrap_err();
        assert!(error.to_string().contains("number 2 is due"), "{error}");
    }
}
