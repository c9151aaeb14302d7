//! One storage file of a bag, whatever its format: recognised by its first bytes, unpacked where it is compressed.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use tempfile::{NamedTempFile, TempPath};

use super::Topic;
use super::error::{BagError, Place};
use super::mcap::{McapFile, McapMessages, is_mcap};
use super::sqlite::{SqliteFile, SqliteMessages, is_sqlite};

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// Whether data that begin with these bytes are compressed with zstd. A CDR message never begins so.
pub(super) fn is_zstd(beginning: &[u8]) -> bool {
    beginning.starts_with(&ZSTD_MAGIC)
}

/// An open storage file.
#[derive(Debug)]
pub(super) struct Storage {
    format: Format,
    unpacked: Option<Unpacked>,
}

#[derive(Debug)]
enum Format {
    Mcap(McapFile),
    Sqlite(SqliteFile),
}

/// A temporary file, removed with this value.
#[derive(Debug)]
struct Unpacked {
    file: TempPath,
    /// Why only a part of it is there.
    damage: Option<BagError>,
}

impl Storage {
    pub(super) fn open(path: &Path) -> Result<Self, BagError> {
        let mut beginning = begin(path, path)?;
        let mut unpacked = None;
        if is_zstd(&beginning) {
            let temporary = unpack(path)?;
            beginning = begin(&temporary.file, path)?;
            unpacked = Some(temporary);
        }
        let file = unpacked.as_ref().map_or(path, |unpacked| &unpacked.file);
        let format = if is_mcap(&beginning) {
            Format::Mcap(McapFile::open(file, path)?)
        } else if is_sqlite(&beginning) {
            Format::Sqlite(SqliteFile::open(file, path)?)
        } else if let Some(damage) = unpacked.and_then(|unpacked| unpacked.damage) {
            return Err(damage);
        } else if beginning.is_empty() {
            return Err(BagError::not_a_bag(path, "the file is empty"));
        } else {
            return Err(BagError::not_a_bag(path, "it begins as neither mcap nor sqlite3 nor zstd does"));
        };
        Ok(Self { format, unpacked })
    }

    /// Topics of the file, with numbers of messages where finding out is cheap. A damaged file without any is an error.
    pub(super) fn into_topics(self) -> Result<Vec<Topic>, BagError> {
        let topics = self.topics();
        if topics.is_empty() {
            self.messages(&[]).advance()?;
        }
        Ok(topics)
    }

    fn topics(&self) -> Vec<Topic> {
        match &self.format {
            Format::Mcap(file) => file
                .channels()
                .map(|(channel, count)| Topic {
                    name: channel.topic.clone(),
                    type_name: channel.type_name.clone(),
                    serialization_format: channel.format.clone(),
                    messages: Some(count),
                })
                .collect(),
            Format::Sqlite(file) => file
                .topics
                .iter()
                .map(|row| Topic {
                    name: row.name.clone(),
                    type_name: row.type_name.clone(),
                    serialization_format: row.format.clone(),
                    messages: None,
                })
                .collect(),
        }
    }

    /// Messages of the topics in log-time order.
    pub(super) fn messages(self, topics: &[String]) -> StorageMessages {
        let walk = match self.format {
            Format::Mcap(file) => Walk::Mcap(file.messages(topics)),
            Format::Sqlite(file) => Walk::Sqlite(file.messages(topics)),
        };
        StorageMessages { walk, unpacked: self.unpacked }
    }
}

/// A walk over the messages of one file.
#[derive(Debug)]
pub(super) struct StorageMessages {
    // Closed before the temporary file under it is removed: fields are dropped in order.
    walk: Walk,
    unpacked: Option<Unpacked>,
}

#[derive(Debug)]
enum Walk {
    Mcap(McapMessages),
    Sqlite(SqliteMessages),
}

impl StorageMessages {
    /// Goes to the next message and returns its topic (index into those asked for) and log time.
    pub(super) fn advance(&mut self) -> Result<Option<(usize, i64)>, BagError> {
        let next = match &mut self.walk {
            Walk::Mcap(walk) => walk.advance(),
            Walk::Sqlite(walk) => walk.advance(),
        };
        // What could not be unpacked explains what the walk then misses.
        let missing = matches!(next, Ok(None) | Err(_));
        match self.unpacked.as_mut().filter(|_| missing).and_then(|unpacked| unpacked.damage.take()) {
            Some(damage) => Err(damage),
            None => next,
        }
    }

    /// The data of the message that [`Self::advance`] went to.
    pub(super) fn data(&self) -> &[u8] {
        match &self.walk {
            Walk::Mcap(walk) => walk.data(),
            Walk::Sqlite(walk) => walk.data(),
        }
    }
}

fn begin(file: &Path, path: &Path) -> Result<Vec<u8>, BagError> {
    let mut beginning = Vec::new();
    File::open(file)
        .and_then(|file| file.take(16).read_to_end(&mut beginning))
        .map_err(|error| BagError::unreadable(path, error))?;
    Ok(beginning)
}

/// Unpacks into a temporary file, since both formats are read at arbitrary offsets.
fn unpack(path: &Path) -> Result<Unpacked, BagError> {
    let folder = std::env::temp_dir();
    let failed = |error: io::Error| BagError::Unpack {
        path: path.to_owned(),
        folder: folder.clone(),
        why: error.to_string(),
    };
    let unreadable = |error: io::Error| BagError::unreadable(path, error);
    let input = File::open(path).map_err(unreadable)?;
    let mut decoder = zstd::stream::read::Decoder::new(BufReader::new(input)).map_err(unreadable)?;
    let mut output = NamedTempFile::with_prefix("sparse_refine-").map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    let mut written = 0;
    let damage = loop {
        match decoder.read(&mut buffer) {
            Ok(0) => break None,
            Ok(count) => {
                output.write_all(&buffer[..count]).map_err(failed)?;
                written += count as u64;
            }
            Err(error) => {
                let why = format!("it cannot be unpacked from here on ({error})");
                break Some(BagError::damaged(path, Place::Byte(written), why));
            }
        }
    };
    Ok(Unpacked { file: output.into_temp_path(), damage })
}
