//! rosbag2 recordings without ROS: reading mcap and sqlite3 bags, writing mcap bags, and the few messages in them.
//!
//! [`Bag`] reads, [`write::BagWriter`] writes, [`cdr`] turns bytes into messages, [`decode`] messages into frames and
//! label images, [`topics`] finds out which topics are cameras and which are their labels.

pub mod cdr;
pub mod decode;
pub mod definitions;
pub mod error;
mod folder;
pub mod frame_timing;
pub mod label_info;
mod mcap;
mod sqlite;
mod storage;
pub mod topics;
pub mod write;

use std::path::{Path, PathBuf};

pub use error::BagError;
use folder::Folder;
use storage::{Storage, StorageMessages, is_zstd};
use topics::ImageKind;

use crate::types::FrameError;

/// A message that claims more than this is damaged: four times what the largest camera sends.
const MESSAGE_LIMIT_BYTES: u64 = 1 << 30;

/// A topic of a bag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Such as `/camera/front/image_raw`.
    pub name: String,
    /// Such as `sensor_msgs/msg/Image`.
    pub type_name: String,
    /// `cdr` in every bag that ROS 2 records by default.
    pub serialization_format: String,
    /// Number of messages as the bag claims it, where it does.
    pub messages: Option<u64>,
}

/// A recording: a bag folder with one or several files, or a single storage file.
#[derive(Debug)]
pub struct Bag {
    path: PathBuf,
    files: Vec<PathBuf>,
    topics: Vec<Topic>,
    warnings: Vec<String>,
}

impl Bag {
    /// Opens a bag folder, or a bare `.mcap` or `.db3` file, with or without zstd compression of whole files.
    ///
    /// Without `metadata.yaml` every file is opened to find its topics, which means unpacking compressed ones.
    pub fn open(path: &Path) -> Result<Self, BagError> {
        let Folder { files, mut topics, warnings } = Folder::find(path)?;
        if topics.is_empty() {
            let mut first_error = None;
            for file in &files {
                match Storage::open(file).and_then(Storage::into_topics) {
                    Ok(found) => merge(&mut topics, found),
                    Err(error) => {
                        first_error.get_or_insert(error);
                    }
                }
            }
            // Among files with topics, a file without will be reported when its turn to be read comes.
            if let Some(error) = first_error.filter(|_| topics.is_empty()) {
                return Err(error);
            }
        }
        Ok(Self { path: path.to_owned(), files, topics, warnings })
    }

    /// Where the bag is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Every topic, in the order of the recording.
    pub fn topics(&self) -> &[Topic] {
        &self.topics
    }

    /// What was odd but did not keep the bag from being opened, a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The topic of that name, or an error that lists the image topics there are.
    pub fn topic(&self, name: &str) -> Result<&Topic, BagError> {
        self.topics.iter().find(|topic| topic.name == name).ok_or_else(|| BagError::NoSuchTopic {
            path: self.path.clone(),
            topic: name.to_owned(),
            present: self.image_topics(),
        })
    }

    /// How the images of a topic are stored, or an error where they are not images.
    pub fn image_kind(&self, name: &str) -> Result<ImageKind, BagError> {
        let topic = self.topic(name)?;
        ImageKind::of(&topic.type_name).ok_or_else(|| BagError::NotAnImage {
            path: self.path.clone(),
            topic: name.to_owned(),
            type_name: topic.type_name.clone(),
            present: self.image_topics(),
        })
    }

    /// Messages of the named topics in log-time order, read as they are asked for.
    pub fn messages<S: AsRef<str>>(&self, topics: &[S]) -> Result<Messages, BagError> {
        let mut names = Vec::with_capacity(topics.len());
        for name in topics {
            let topic = self.topic(name.as_ref())?;
            if topic.serialization_format != "cdr" {
                return Err(BagError::Serialization {
                    path: self.path.clone(),
                    topic: topic.name.clone(),
                    format: topic.serialization_format.clone(),
                });
            }
            names.push(topic.name.clone());
        }
        let mut files = self.files.clone();
        files.reverse();
        Ok(Messages { files, topics: names, walk: None, unpacked: Vec::new() })
    }

    fn image_topics(&self) -> String {
        let images = self.topics.iter().filter(|topic| ImageKind::of(&topic.type_name).is_some());
        let names: Vec<&str> = images.map(|topic| topic.name.as_str()).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }
}

fn merge(topics: &mut Vec<Topic>, more: Vec<Topic>) {
    for topic in more {
        match topics.iter_mut().find(|known| known.name == topic.name) {
            Some(known) => known.messages = known.messages.zip(topic.messages).map(|(a, b)| a + b),
            None => topics.push(topic),
        }
    }
}

/// A walk over the messages of a bag in log-time order, one file after the other. Holds the messages of one moment
/// only, and may be sent to another thread.
#[derive(Debug)]
pub struct Messages {
    /// Files not opened yet, the next last.
    files: Vec<PathBuf>,
    topics: Vec<String>,
    walk: Option<StorageMessages>,
    unpacked: Vec<u8>,
}

/// A message of a bag, borrowed until the next one is read.
#[derive(Debug)]
pub struct Message<'a> {
    /// Index into the topics that were asked for.
    pub topic: usize,
    /// When the recorder received it, nanoseconds since the epoch.
    pub log_time_ns: i64,
    /// The serialized message, or why this one could not be unpacked.
    pub cdr: Result<&'a [u8], FrameError>,
}

impl Messages {
    /// The next message; `None` at the end.
    ///
    /// An error says what is damaged. It comes once, and the next call goes on behind the damage: with the next
    /// readable chunk, the next file, or the end.
    pub fn read(&mut self) -> Result<Option<Message<'_>>, BagError> {
        let (topic, log_time_ns) = loop {
            let Some(walk) = &mut self.walk else {
                let Some(file) = self.files.pop() else { return Ok(None) };
                self.walk = Some(Storage::open(&file)?.messages(&self.topics));
                continue;
            };
            match walk.advance()? {
                Some(next) => break next,
                None => self.walk = None,
            }
        };
        let data = self.walk.as_ref().map(StorageMessages::data).unwrap_or_default();
        let cdr = if is_zstd(data) { unpack(data, &mut self.unpacked) } else { Ok(data) };
        Ok(Some(Message { topic, log_time_ns, cdr }))
    }
}

/// Unpacks a message that the recorder compressed by itself.
fn unpack<'a>(data: &[u8], unpacked: &'a mut Vec<u8>) -> Result<&'a [u8], FrameError> {
    use std::io::Read as _;
    unpacked.clear();
    let damaged = |why: String| FrameError::Damaged { why: format!("it cannot be unpacked ({why})") };
    let decoder =
        zstd::stream::read::Decoder::with_buffer(data).map_err(|error| damaged(error.to_string()))?;
    let read = decoder.take(MESSAGE_LIMIT_BYTES).read_to_end(unpacked);
    match read.map_err(|error| damaged(error.to_string()))? as u64 {
        MESSAGE_LIMIT_BYTES => Err(damaged(format!("it is more than {MESSAGE_LIMIT_BYTES} bytes"))),
        _ => Ok(unpacked),
    }
}
