//! What can go wrong with a recording, one line each: what, why, what to do, and where.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a bag, or a part of it, could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum BagError {
    #[error("cannot read the bag ({why}); check the path and its permissions: {}", path.display())]
    Unreadable { path: PathBuf, why: String },
    #[error("not a rosbag2 ({why}); give a bag folder, a .mcap or a .db3 file: {}", path.display())]
    NotABag { path: PathBuf, why: String },
    #[error("bad metadata ({why}); correct it, or remove it to read the files beside it: {}", path.display())]
    Metadata { path: PathBuf, why: String },
    #[error("{what} `{name}` is not supported, only {supported} can be read; convert the bag: {}", path.display())]
    Unsupported { path: PathBuf, what: &'static str, name: String, supported: &'static str },
    #[error(
        "topic `{topic}` is serialized as `{format}`, only cdr can be read; choose another topic: {}",
        path.display()
    )]
    Serialization { path: PathBuf, topic: String, format: String },
    #[error("no topic `{topic}` in the bag; image topics are: {present}; choose one: {}", path.display())]
    NoSuchTopic { path: PathBuf, topic: String, present: String },
    #[error(
        "topic `{topic}` is {type_name}, not an image; image topics are: {present}; choose one: {}",
        path.display()
    )]
    NotAnImage { path: PathBuf, topic: String, type_name: String, present: String },
    #[error("cannot unpack into {} ({why}); set TMPDIR to a folder with room: {}", folder.display(), path.display())]
    Unpack { path: PathBuf, folder: PathBuf, why: String },
    #[error("the bag is damaged at {place}: {why}: {}", path.display())]
    Damaged { path: PathBuf, place: Place, why: String },
    #[error("the bag exists already; remove it or choose another folder: {}", path.display())]
    Exists { path: PathBuf },
    #[error("cannot write the bag ({why}); check permissions and free space: {}", path.display())]
    Unwritable { path: PathBuf, why: String },
    #[error("topic `{topic}` was added twice to the bag; add each topic once: {}", path.display())]
    DuplicateTopic { path: PathBuf, topic: String },
}

/// Where in a storage file the damage is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Offset in bytes from the start of the file (after unpacking, where the file is compressed as a whole).
    Byte(u64),
    /// Row id in the `messages` table of an sqlite3 file.
    Row(i64),
    /// Number of messages read before it.
    Message(u64),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(offset) => write!(f, "byte {offset}"),
            Self::Row(id) => write!(f, "row {id}"),
            Self::Message(count) => write!(f, "message {count}"),
        }
    }
}

impl BagError {
    pub(super) fn unreadable(path: &Path, why: impl fmt::Display) -> Self {
        Self::Unreadable { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn not_a_bag(path: &Path, why: impl fmt::Display) -> Self {
        Self::NotABag { path: path.to_owned(), why: why.to_string() }
    }

    pub(super) fn damaged(path: &Path, place: Place, why: impl fmt::Display) -> Self {
        Self::Damaged { path: path.to_owned(), place, why: why.to_string() }
    }

    pub(super) fn unwritable(path: &Path, why: impl fmt::Display) -> Self {
        Self::Unwritable { path: path.to_owned(), why: why.to_string() }
    }
}
