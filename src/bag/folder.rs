//! Which storage files make up a bag and what `metadata.yaml` says about them.

use std::cmp::Ordering;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::Topic;
use super::error::BagError;

/// Name of the file that describes a bag's folder.
pub(super) const METADATA: &str = "metadata.yaml";
/// The newest version of it that exists, written by Jazzy.
pub(super) const VERSION: u32 = 9;

/// What there is to read.
#[derive(Debug)]
pub(super) struct Folder {
    /// Storage files in order of time.
    pub(super) files: Vec<PathBuf>,
    /// Topics as `metadata.yaml` lists them; empty where it does not.
    pub(super) topics: Vec<Topic>,
    pub(super) warnings: Vec<String>,
}

impl Folder {
    /// What a folder, or a single storage file, consists of.
    pub(super) fn find(path: &Path) -> Result<Self, BagError> {
        let kind = fs::metadata(path).map_err(|error| BagError::unreadable(path, error))?;
        if kind.is_file() {
            return Ok(Self { files: vec![path.to_owned()], topics: Vec::new(), warnings: Vec::new() });
        }
        let metadata = path.join(METADATA);
        if metadata.exists() { Self::described(path, &metadata) } else { Self::undescribed(path) }
    }

    fn described(folder: &Path, path: &Path) -> Result<Self, BagError> {
        let wrong = |why: String| BagError::Metadata { path: path.to_owned(), why };
        let text = fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let options = serde_saphyr::options! { with_snippet: false };
        let document: Document = serde_saphyr::from_str_with_options(&text, options)
            .map_err(|error| wrong(error.to_string().replace('\n', " ")))?;
        let Information { version, storage_identifier, compression_format, .. } = &document.information;
        let unsupported = |what, name: &str, supported| BagError::Unsupported {
            path: path.to_owned(),
            what,
            name: name.to_owned(),
            supported,
        };
        if !matches!(storage_identifier.as_str(), "" | "mcap" | "sqlite3") {
            return Err(unsupported("storage", storage_identifier, "mcap and sqlite3"));
        }
        if !matches!(compression_format.to_lowercase().as_str(), "" | "none" | "zstd") {
            return Err(unsupported("compression", compression_format, "zstd"));
        }
        let mut warnings = Vec::new();
        if *version > VERSION {
            warnings
                .push(format!("version {version} is newer than {VERSION}, reading on: {}", path.display()));
        }
        let names = document.information.relative_file_paths;
        let files: Vec<PathBuf> = names.iter().map(|name| locate(folder, name)).collect();
        if !files.iter().any(|file| file.exists()) {
            return Err(wrong(format!("none of the files it lists exists: {}", names.join(", "))));
        }
        let topics = document.information.topics_with_message_count;
        let topics = topics.into_iter().map(|entry| {
            let TopicMetadata { name, type_name, serialization_format } = entry.topic_metadata;
            Topic { name, type_name, serialization_format, messages: Some(entry.message_count) }
        });
        Ok(Self { files, topics: topics.collect(), warnings })
    }

    fn undescribed(folder: &Path) -> Result<Self, BagError> {
        let mut files = Vec::new();
        for entry in fs::read_dir(folder).map_err(|error| BagError::unreadable(folder, error))? {
            let path = entry.map_err(|error| BagError::unreadable(folder, error))?.path();
            if storage_ending(&path).is_some() {
                files.push(path);
            }
        }
        files.sort_by(|a, b| natural(a.as_os_str(), b.as_os_str()));
        let Some(ending) = files.first().and_then(|file| storage_ending(file)) else {
            return Err(BagError::not_a_bag(
                folder,
                format!("no {METADATA}, no .mcap and no .db3 file in it"),
            ));
        };
        if files.iter().any(|file| storage_ending(file) != Some(ending)) {
            return Err(BagError::not_a_bag(
                folder,
                format!("no {METADATA}, and both .mcap and .db3 files in it"),
            ));
        }
        let warning = format!(
            "no {METADATA}, reading the {} files in order of name: {}",
            files.len(),
            folder.display()
        );
        Ok(Self { files, topics: Vec::new(), warnings: vec![warning] })
    }
}

/// The file of that name. Old versions put the folder's name before it; a recorder that is killed while it compresses
/// leaves a file under its other name.
fn locate(folder: &Path, name: &str) -> PathBuf {
    let name = Path::new(name).file_name().unwrap_or(OsStr::new(name));
    let file = folder.join(name);
    let mut packed = name.to_owned();
    packed.push(".zstd");
    let others = [folder.join(packed), file.with_extension("")];
    let other = others.into_iter().find(|other| other.is_file());
    if file.exists() { file } else { other.unwrap_or(file) }
}

/// `mcap` or `db3`, with or without `.zstd` behind it.
fn storage_ending(path: &Path) -> Option<&'static str> {
    let name = path.file_name()?.to_str()?;
    let name = name.strip_suffix(".zstd").unwrap_or(name);
    ["mcap", "db3"]
        .into_iter()
        .find(|ending| name.strip_suffix(ending).is_some_and(|stem| stem.ends_with('.')))
}

/// Orders `bag_9` before `bag_10`.
fn natural(a: &OsStr, b: &OsStr) -> Ordering {
    let (a, b) = (a.to_string_lossy(), b.to_string_lossy());
    let (mut a, mut b) = (a.as_ref(), b.as_ref());
    loop {
        let number = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
        let (digits_a, digits_b) = (number(a), number(b));
        if digits_a > 0 && digits_b > 0 {
            let (left, right) =
                (a[..digits_a].trim_start_matches('0'), b[..digits_b].trim_start_matches('0'));
            let order = left.len().cmp(&right.len()).then(left.cmp(right));
            if order.is_ne() {
                return order;
            }
            (a, b) = (&a[digits_a..], &b[digits_b..]);
            continue;
        }
        match (a.chars().next(), b.chars().next()) {
            (Some(left), Some(right)) if left == right => {
                (a, b) = (&a[left.len_utf8()..], &b[right.len_utf8()..]);
            }
            (left, right) => return left.cmp(&right),
        }
    }
}

#[derive(Deserialize)]
struct Document {
    #[serde(rename = "rosbag2_bagfile_information")]
    information: Information,
}

/// The keys that versions 1 to 9 have in common; the others are not needed.
#[derive(Deserialize)]
struct Information {
    #[serde(default)]
    version: u32,
    #[serde(default)]
    storage_identifier: String,
    relative_file_paths: Vec<String>,
    #[serde(default)]
    compression_format: String,
    #[serde(default)]
    topics_with_message_count: Vec<TopicEntry>,
}

#[derive(Deserialize)]
struct TopicEntry {
    topic_metadata: TopicMetadata,
    #[serde(default)]
    message_count: u64,
}

#[derive(Deserialize)]
struct TopicMetadata {
    name: String,
    #[serde(rename = "type")]
    type_name: String,
    serialization_format: String,
}
