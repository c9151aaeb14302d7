//! Writing rosbag2: a folder with one mcap file and `metadata.yaml`, as the recorder of ROS 2 Jazzy leaves it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};

use mcap::records::MessageHeader;

use super::definitions::{MessageType, Qos};
use super::error::BagError;
use super::folder::{METADATA, VERSION};

/// Compression of the messages in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// Raw 8 MP images come faster than they can be compressed.
    #[default]
    None,
    /// Label images become far smaller.
    Zstd,
}

/// A topic of the bag being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicId(usize);

#[derive(Debug)]
struct TopicEntry {
    name: String,
    type_name: String,
    hash: String,
    qos: Qos,
    channel: u16,
    messages: u32,
}

/// Writes a bag. The folder has no `metadata.yaml` until [`BagWriter::finish`]; without it, it is a bag cut off.
pub struct BagWriter {
    folder: PathBuf,
    file_name: String,
    writer: mcap::Writer<BufWriter<File>>,
    topics: Vec<TopicEntry>,
    /// First and last log time.
    times: Option<(u64, u64)>,
}

impl BagWriter {
    /// Makes the folder, which must not exist, and the file in it.
    pub fn create(folder: &Path, compression: Compression) -> Result<Self, BagError> {
        if folder.exists() {
            return Err(BagError::Exists { path: folder.to_owned() });
        }
        let unwritable = |error: &dyn std::fmt::Display| BagError::unwritable(folder, error);
        fs::create_dir_all(folder).map_err(|error| unwritable(&error))?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        let file_name = format!("{name}_0.mcap");
        let file = File::create_new(folder.join(&file_name)).map_err(|error| unwritable(&error))?;
        let compression = match compression {
            Compression::None => None,
            Compression::Zstd => Some(mcap::Compression::Zstd),
        };
        let options = mcap::WriteOptions::new()
            .profile("ros2")
            .library(concat!("sparse_refine ", env!("CARGO_PKG_VERSION")))
            .compression(compression)
            // A second checksum over what the chunks' checksums cover.
            .calculate_data_section_crc(false)
            // The same bytes on every machine, and the cores are busy with other things.
            .compression_threads(0);
        let writer = options.create(BufWriter::new(file)).map_err(|error| unwritable(&error))?;
        Ok(Self { folder: folder.to_owned(), file_name, writer, topics: Vec::new(), times: None })
    }

    /// Adds a topic. Each name can be added once.
    pub fn add_topic(&mut self, name: &str, kind: &MessageType<'_>, qos: Qos) -> Result<TopicId, BagError> {
        if self.topics.iter().any(|topic| topic.name == name) {
            return Err(BagError::DuplicateTopic { path: self.folder.clone(), topic: name.to_owned() });
        }
        let metadata = BTreeMap::from([
            ("offered_qos_profiles".to_owned(), qos.yaml(0)),
            ("topic_type_hash".to_owned(), kind.hash.to_owned()),
        ]);
        let schema = self.writer.add_schema(kind.name, "ros2msg", kind.definition.as_bytes());
        let channel = schema.and_then(|schema| self.writer.add_channel(schema, name, "cdr", &metadata));
        let channel = channel.map_err(|error| BagError::unwritable(&self.folder, error))?;
        self.topics.push(TopicEntry {
            name: name.to_owned(),
            type_name: kind.name.to_owned(),
            hash: kind.hash.to_owned(),
            qos,
            channel,
            messages: 0,
        });
        Ok(TopicId(self.topics.len() - 1))
    }

    /// Appends a serialized message. Times before the epoch are written as the epoch: mcap has no others.
    pub fn write(&mut self, topic: TopicId, log_time_ns: i64, cdr: &[u8]) -> Result<(), BagError> {
        let entry = &mut self.topics[topic.0];
        let log_time = u64::try_from(log_time_ns).unwrap_or(0);
        let (channel_id, sequence) = (entry.channel, entry.messages);
        let header = MessageHeader { channel_id, sequence, log_time, publish_time: log_time };
        let written = self.writer.write_to_known_channel(&header, cdr);
        written.map_err(|error| BagError::unwritable(&self.folder, error))?;
        entry.messages += 1;
        let (first, last) = self.times.unwrap_or((log_time, log_time));
        self.times = Some((first.min(log_time), last.max(log_time)));
        Ok(())
    }

    /// Writes the index and `metadata.yaml`, which make the bag complete.
    pub fn finish(mut self) -> Result<(), BagError> {
        let (folder, metadata) = (self.folder.clone(), self.metadata());
        let unwritable = |error: &dyn std::fmt::Display| BagError::unwritable(&folder, error);
        self.writer.finish().map_err(|error| unwritable(&error))?;
        self.writer.into_inner().flush().map_err(|error| unwritable(&error))?;
        // Under another name first: half a description must never be taken for a whole one.
        let temporary = folder.join("metadata.yaml.tmp");
        fs::write(&temporary, metadata).map_err(|error| unwritable(&error))?;
        fs::rename(&temporary, folder.join(METADATA)).map_err(|error| unwritable(&error))
    }

    fn metadata(&self) -> String {
        let (first, last) = self.times.unwrap_or((0, 0));
        let (duration, file) = (last - first, quoted(&self.file_name));
        let count: u64 = self.topics.iter().map(|topic| u64::from(topic.messages)).sum();
        let mut topics = String::new();
        for TopicEntry { name, type_name, hash, qos, messages, .. } in &self.topics {
            let (name, type_name, hash) = (quoted(name), quoted(type_name), quoted(hash));
            let profiles = qos.yaml(10);
            // Writing to a string cannot fail.
            let _ = write!(
                topics,
                "
    - topic_metadata:
        name: {name}
        type: {type_name}
        serialization_format: cdr
        offered_qos_profiles:
{profiles}        type_description_hash: {hash}
      message_count: {messages}"
            );
        }
        let topics = if topics.is_empty() { " []" } else { &topics };
        format!(
            "rosbag2_bagfile_information:
  version: {VERSION}
  storage_identifier: mcap
  duration:
    nanoseconds: {duration}
  starting_time:
    nanoseconds_since_epoch: {first}
  message_count: {count}
  topics_with_message_count:{topics}
  compression_format: \"\"
  compression_mode: \"\"
  relative_file_paths:
    - {file}
  files:
    - path: {file}
      starting_time:
        nanoseconds_since_epoch: {first}
      duration:
        nanoseconds: {duration}
      message_count: {count}
  custom_data: ~
  ros_distro: jazzy
"
        )
    }
}

/// A YAML string: names come from users.
fn quoted(text: &str) -> String {
    let mut quoted = String::from('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => {
                let _ = write!(quoted, "\\u{:04x}", u32::from(control));
            }
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}
