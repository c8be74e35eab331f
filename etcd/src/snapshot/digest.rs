//! The SHA-256 behind a snapshot's database, computed while the database comes, or from a file.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::SnapshotError;

/// The size of etcd's pages is a multiple of this, so a file of n × 512 + 32 bytes has a hash behind its database.
/// `etcdutl` tells it in the same way (`hasChecksum` in snapshot/v3_snapshot.go).
const BLOCK: u64 = 512;
const HASH: usize = SHA256_OUTPUT_LEN;
/// How many bytes of a file are read at a time.
const CHUNK: usize = 256 << 10;

/// The SHA-256 of a database.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Sha256([u8; HASH]);

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a file is no whole snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The size is no multiple of a page, nor that and a hash.
    #[error(
        "it has {0} bytes, which is no database with a SHA-256 behind it: it was cut short, or something was added"
    )]
    Size(u64),
    /// The size is a multiple of a page, so there is no hash.
    #[error("it has {0} bytes and so no SHA-256 behind its database (etcd 3.4 to 3.7 send one): it cannot be verified")]
    NoHash(u64),
    /// The hash is not that of the database.
    #[error("the SHA-256 behind the database is {behind}, that of the database is {computed}")]
    Hash {
        /// What the last 32 bytes say.
        behind: Sha256,
        /// What was computed.
        computed: Sha256,
    },
}

/// Verifies a snapshot that is given piece by piece. The last 32 bytes are the hash of those before them. Which bytes
/// are the last is known only at the end, so 32 bytes are always held back.
pub struct Digest {
    context: Context,
    tail: [u8; HASH],
    held: usize,
    bytes: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), tail: [0; HASH], held: 0, bytes: 0 }
    }
}

impl Digest {
    /// How many bytes were given, the hash included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if let Some((body, last)) = piece.split_last_chunk::<HASH>() {
            self.context.update(&self.tail[..self.held]);
            self.context.update(body);
            self.tail = *last;
            self.held = HASH;
            return;
        }
        let spill = (self.held + piece.len()).saturating_sub(HASH);
        self.context.update(&self.tail[..spill]);
        self.tail.copy_within(spill..self.held, 0);
        self.held -= spill;
        self.tail[self.held..self.held + piece.len()].copy_from_slice(piece);
        self.held += piece.len();
    }

    /// The database's size and hash, if what was given is a database and its hash.
    ///
    /// # Errors
    /// What it is instead.
    pub fn finish(self) -> Result<(u64, Sha256), Damage> {
        let Self { context, tail, bytes, .. } = self;
        let size = bytes.checked_sub(HASH as u64).filter(|size| *size > 0).ok_or(Damage::Size(bytes))?;
        if bytes % BLOCK == 0 {
            return Err(Damage::NoHash(bytes));
        }
        if size % BLOCK != 0 {
            return Err(Damage::Size(bytes));
        }
        let mut computed = Sha256([0; HASH]);
        computed.0.copy_from_slice(context.finish().as_ref());
        let behind = Sha256(tail);
        if behind == computed { Ok((size, computed)) } else { Err(Damage::Hash { behind, computed }) }
    }
}

/// Reads a snapshot's file and verifies it; the database's size and hash.
///
/// # Errors
/// `Ok(Err)`: it is damaged. `Err`: it could not be read.
pub fn verify(path: &Path) -> Result<Result<(u64, Sha256), Damage>, SnapshotError> {
    let mut file = File::open(path).map_err(SnapshotError::file("open", path))?;
    let (mut digest, mut chunk) = (Digest::default(), vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk).map_err(SnapshotError::file("read", path))?;
        if read == 0 {
            return Ok(digest.finish());
        }
        digest.feed(&chunk[..read]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn snapshot(database: &[u8]) -> Vec<u8> {
        let hash = ring::digest::digest(&SHA256, database);
        [database, hash.as_ref()].concat()
    }

    fn judged<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(u64, Sha256), Damage> {
        let mut digest = Digest::default();
        pieces.into_iter().for_each(|piece| digest.feed(piece));
        digest.finish()
    }

    /// A database of whole blocks, and where its file is cut into pieces.
    fn pieces() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
        let database = (1..6_usize).prop_flat_map(|blocks| prop::collection::vec(any::<u8>(), blocks * BLOCK as usize));
        (database, prop::collection::vec(0..100_usize, 0..40))
    }

    fn cut<'a>(mut file: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
        let mut cut = Vec::new();
        for &size in sizes {
            let (piece, rest) = file.split_at(size.min(file.len()));
            cut.push(piece);
            file = rest;
        }
        cut.push(file);
        cut
    }

    proptest! {
        #[test]
        fn a_whole_one_passes_however_it_comes((database, sizes) in pieces()) {
            let (size, hash) = judged(cut(&snapshot(&database), &sizes)).unwrap();
            prop_assert_eq!(size, database.len() as u64);
            let expected = ring::digest::digest(&SHA256, &database);
            prop_assert_eq!(hash.0.as_slice(), expected.as_ref());
        }

        #[test]
        fn cut_short_anywhere_it_is_refused((database, sizes) in pieces(), at in any::<prop::sample::Index>()) {
            let file = snapshot(&database);
            let short = &file[..at.index(file.len())];
            prop_assert!(judged(cut(short, &sizes)).is_err());
        }

        #[test]
        fn with_one_bit_another_it_is_refused(
            (database, sizes) in pieces(), at in any::<prop::sample::Index>(), bit in 0..8_u32,
        ) {
            let mut file = snapshot(&database);
            let at = at.index(file.len());
            file[at] ^= 1 << bit;
            let refused = matches!(judged(cut(&file, &sizes)), Err(Damage::Hash { .. }));
            prop_assert!(refused);
        }
    }

    #[test]
    fn what_is_no_snapshot_is_told_apart() {
        let block = [7; BLOCK as usize];
        for (file, damage) in [
            (Vec::new(), Damage::Size(0)),
            (vec![0; HASH], Damage::Size(HASH as u64)),
            (block.to_vec(), Damage::NoHash(BLOCK)),
            ([&snapshot(&block)[..], b"x"].concat(), Damage::Size(BLOCK + 33)),
        ] {
            assert_eq!(judged([file.as_slice()]), Err(damage));
        }
    }

    #[test]
    fn a_file_is_verified_as_a_stream_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("snapshot");
        let database = vec![3; CHUNK + BLOCK as usize];
        std::fs::write(&path, snapshot(&database)).unwrap();
        assert_eq!(verify(&path).unwrap().unwrap().0, database.len() as u64);
        std::fs::write(&path, &snapshot(&database)[..CHUNK]).unwrap();
        assert_eq!(verify(&path).unwrap(), Err(Damage::NoHash(CHUNK as u64)));
        assert!(matches!(verify(&dir.path().join("absent")), Err(SnapshotError::File { attempt: "open", .. })));
    }
}
