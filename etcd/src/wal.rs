//! Whose data a directory holds, from the first records of its write-ahead log. [`Records`] reads all of a segment; the
//! tests judge the order of membership changes by that.
//!
//! A segment is a sequence of frames: a length of 8 bytes, little-endian, whose upper 8 bits tell the padding; then a
//! `walpb.Record {type = 1, crc = 2, data = 3}`. Every segment begins with a CRC record and a metadata record, whose
//! data is `Metadata {NodeID = 1, ClusterID = 2}`.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use membership::know::record::Id;

/// What a data directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// There is no write-ahead log, so etcd would start as new.
    Empty,
    /// A member's data.
    Member {
        /// The member's ID.
        member: Id,
        /// Its cluster's ID.
        cluster: Id,
    },
}

/// Why a directory's data could not be told.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Reading failed.
    #[error("failed to read {path}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The log does not begin as etcd's logs do.
    #[error("{path} is not the beginning of an etcd write-ahead log: {why}")]
    Unknown {
        /// The file.
        path: PathBuf,
        /// What was found.
        why: &'static str,
    },
}

/// The record type that carries the IDs.
const METADATA: u64 = 1;
/// How many records are searched for the metadata record, which is among the first.
const SEARCHED: usize = 4;
/// The most bytes that a record among the first may have. A larger length is no record, and nothing is allocated for
/// it.
const LARGEST: u64 = 4096;
/// The most bytes that any record may have: a request has at most 1.5 MiB by default.
const LARGEST_OF_ALL: u64 = 64 << 20;
/// The error where etcd has not written yet: the file is longer than what is in it.
const NOTHING: &str = "nothing where a record is expected";

/// Tells whose data `data_dir` (etcd's `--data-dir`) holds.
///
/// # Errors
/// When there is a log and it cannot be read: unknown is not empty.
pub fn identify(data_dir: &Path) -> Result<DataDir, WalError> {
    let logs = data_dir.join("member").join("wal");
    let entries = match logs.read_dir() {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(DataDir::Empty),
        Err(source) => return Err(WalError::Read { path: logs, source }),
    };
    let mut segments = Vec::new();
    for entry in entries {
        let path = entry.map_err(|source| WalError::Read { path: logs.clone(), source })?.path();
        if path.extension().is_some_and(|extension| extension == "wal") {
            segments.push(path);
        }
    }
    // Names begin with a sequence number of fixed width, so the first is the oldest.
    segments.sort();
    let Some(first) = segments.into_iter().next() else {
        return Ok(DataDir::Empty);
    };
    let file = File::open(&first).map_err(|source| WalError::Read { path: first.clone(), source })?;
    read_metadata(file).map_err(|fault| match fault {
        Fault::Read(source) => WalError::Read { path: first, source },
        Fault::Form(why) => WalError::Unknown { path: first, why },
    })
}

/// Whose data a log is (member and cluster), by the first bytes of its oldest segment; `None`: they do not tell.
#[must_use]
pub fn whose(segment: &[u8]) -> Option<(Id, Id)> {
    match read_metadata(segment) {
        Ok(DataDir::Member { member, cluster }) => Some((member, cluster)),
        _ => None,
    }
}

enum Fault {
    Read(io::Error),
    Form(&'static str),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

impl From<&'static str> for Fault {
    fn from(why: &'static str) -> Self {
        Self::Form(why)
    }
}

fn read_metadata(mut log: impl Read) -> Result<DataDir, Fault> {
    for _ in 0..SEARCHED {
        let record = read_record(&mut log, LARGEST)?;
        if record.kind == METADATA {
            let metadata = Fields::of(&record.data)?;
            return match (metadata.number(1), metadata.number(2)) {
                (Some(member), Some(cluster)) => Ok(DataDir::Member { member: Id(member), cluster: Id(cluster) }),
                _ => Err(Fault::Form("metadata without member and cluster ID")),
            };
        }
    }
    Err(Fault::Form("no metadata record"))
}

/// One record of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its type, as etcd numbers them: 1 metadata, 2 entry, 3 hard state, 4 CRC, 5 snapshot.
    pub kind: u64,
    /// The message in it.
    pub data: Vec<u8>,
}

/// The records of one segment, up to where etcd has not written yet: it allocates space ahead.
#[derive(Debug)]
pub struct Records<R>(R);

impl<R: Read> Records<R> {
    /// Of a segment from its beginning.
    pub fn of(segment: R) -> Self {
        Self(segment)
    }
}

impl<R: Read> Iterator for Records<R> {
    type Item = io::Result<Record>;
    fn next(&mut self) -> Option<Self::Item> {
        match read_record(&mut self.0, LARGEST_OF_ALL) {
            Ok(record) => Some(Ok(record)),
            // The end of the file, or of a record that is being written.
            Err(Fault::Read(error)) if error.kind() == io::ErrorKind::UnexpectedEof => None,
            Err(Fault::Form(NOTHING)) => None,
            Err(Fault::Read(error)) => Some(Err(error)),
            Err(Fault::Form(why)) => Some(Err(io::Error::new(io::ErrorKind::InvalidData, why))),
        }
    }
}

fn read_record(log: &mut impl Read, largest: u64) -> Result<Record, Fault> {
    let mut length = [0; 8];
    log.read_exact(&mut length)?;
    let length = u64::from_le_bytes(length);
    let size = length & 0x00ff_ffff_ffff_ffff;
    // The top bit says that the low 3 bits of the top byte count padding bytes.
    let padding = if length >> 63 == 1 { (length >> 56) & 0x7 } else { 0 };
    if length == 0 {
        return Err(Fault::Form(NOTHING));
    }
    if size == 0 || size > largest {
        return Err(Fault::Form("a record of impossible length"));
    }
    let mut frame = vec![0; usize::try_from(size + padding).unwrap_or_default()];
    log.read_exact(&mut frame)?;
    frame.truncate(usize::try_from(size).unwrap_or_default());
    let record = Fields::of(&frame)?;
    let kind = record.number(1).ok_or("a record without a type")?;
    Ok(Record { kind, data: record.bytes(3).unwrap_or_default().to_vec() })
}

/// The fields of a protobuf message, as far as etcd's log needs them: numbers and byte strings.
#[derive(Debug)]
pub struct Fields<'a>(Vec<(u64, Value<'a>)>);

#[derive(Clone, Copy, Debug)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Fields<'a> {
    /// Takes a message apart.
    ///
    /// # Errors
    /// Why it is none.
    pub fn of(mut message: &'a [u8]) -> Result<Self, &'static str> {
        let mut fields = Vec::new();
        while !message.is_empty() {
            let key = varint(&mut message)?;
            let value = match key & 7 {
                0 => Value::Number(varint(&mut message)?),
                2 => {
                    let length = usize::try_from(varint(&mut message)?).unwrap_or(usize::MAX);
                    let (bytes, rest) = message.split_at_checked(length).ok_or("a field longer than its record")?;
                    message = rest;
                    Value::Bytes(bytes)
                }
                _ => return Err("a field of unknown type"),
            };
            fields.push((key >> 3, value));
        }
        Ok(Self(fields))
    }

    /// A field that is a number.
    #[must_use]
    pub fn number(&self, field: u64) -> Option<u64> {
        self.0.iter().find_map(|&(number, value)| match value {
            Value::Number(value) if number == field => Some(value),
            _ => None,
        })
    }

    /// A field that is a string or a message.
    #[must_use]
    pub fn bytes(&self, field: u64) -> Option<&'a [u8]> {
        self.all(field).next()
    }

    /// A field that is there several times.
    pub fn all(&self, field: u64) -> impl Iterator<Item = &'a [u8]> {
        self.0.iter().filter_map(move |&(number, value)| match value {
            Value::Bytes(value) if number == field => Some(value),
            _ => None,
        })
    }

    /// The numbers of all fields that are there.
    pub fn numbers(&self) -> impl Iterator<Item = u64> {
        self.0.iter().map(|&(number, _)| number)
    }
}

fn varint(message: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = message.split_first().ok_or("a record that ends early")?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number that does not end")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of a log that etcd 3.6 wrote: CRC record, then metadata.
    fn log(member: u64, cluster: u64) -> Vec<u8> {
        let number = |field: u8, mut value: u64, out: &mut Vec<u8>| {
            out.push(field << 3);
            while value >= 0x80 {
                out.push((value & 0x7f) as u8 | 0x80);
                value >>= 7;
            }
            out.push(value as u8);
        };
        let frame = |record: Vec<u8>| {
            let padding = (8 - record.len() % 8) % 8;
            let mut length = record.len() as u64;
            if padding > 0 {
                length |= (0x80 | padding as u64) << 56;
            }
            let mut out = length.to_le_bytes().to_vec();
            out.extend(record);
            out.extend(vec![0; padding]);
            out
        };
        let mut crc = Vec::new();
        number(1, 4, &mut crc);
        number(2, 0, &mut crc);
        let mut ids = Vec::new();
        number(1, member, &mut ids);
        number(2, cluster, &mut ids);
        let mut metadata = Vec::new();
        number(1, METADATA, &mut metadata);
        number(2, 77, &mut metadata);
        metadata.extend([3 << 3 | 2, ids.len() as u8]);
        metadata.extend(ids);
        [frame(crc), frame(metadata)].concat()
    }

    fn directory(segments: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("member/wal");
        std::fs::create_dir_all(&logs).unwrap();
        for (name, bytes) in segments {
            std::fs::write(logs.join(name), bytes).unwrap();
        }
        dir
    }

    #[test]
    fn nothing_and_a_directory_without_segments_are_empty() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(identify(dir.path()).unwrap(), DataDir::Empty);
        assert_eq!(identify(&dir.path().join("absent")).unwrap(), DataDir::Empty);
        assert_eq!(identify(directory(&[("0.tmp", b"x")]).path()).unwrap(), DataDir::Empty);
    }

    #[test]
    fn the_oldest_segment_tells() {
        let dir = directory(&[
            ("0000000000000001-0000000000000010.wal", b"later"),
            ("0000000000000000-0000000000000000.wal", &log(0x8e9e_05c5_2164_694d, 0xcdf8_181e_3255_01cc)),
        ]);
        let expected = DataDir::Member { member: Id(0x8e9e_05c5_2164_694d), cluster: Id(0xcdf8_181e_3255_01cc) };
        assert_eq!(identify(dir.path()).unwrap(), expected);
    }

    #[test]
    fn the_first_bytes_of_a_segment_tell_as_well() {
        let segment = log(7, 9);
        assert_eq!(whose(&[&segment[..], &[0; 64]].concat()), Some((Id(7), Id(9))));
        assert_eq!(whose(&segment[..20]), None);
        assert_eq!(whose(b""), None);
    }

    #[test]
    fn a_segment_ends_where_nothing_was_written_yet() {
        let mut segment = log(1, 2);
        segment.extend([0; 64]);
        let kinds: Vec<u64> = Records::of(&segment[..]).map(|record| record.unwrap().kind).collect();
        assert_eq!(kinds, [4, METADATA]);
        let half = Records::of(&segment[..30]).map(|record| record.unwrap().kind).collect::<Vec<_>>();
        assert_eq!(half, [4], "a record that is being written is not there yet");
        assert!(Records::of(&[0xff; 64][..]).any(|record| record.is_err()), "garbage is not an end");
    }

    #[test]
    fn a_log_that_cannot_be_told_is_not_empty() {
        let whole = log(1, 2);
        for bytes in [&b""[..], b"short", &whole[..20], &[0xff; 64], &[0; 64]] {
            let dir = directory(&[("0000000000000000-0000000000000000.wal", bytes)]);
            assert!(identify(dir.path()).is_err(), "{bytes:?}");
        }
    }
}
