//! Reading MCAP files in log-time order, a chunk at a time, with every damage reported and read around.

mod chunk;
mod index;
mod records;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub(super) use index::Channel;
use index::{Block, Index, Kind};
use records::{Fields, HEAD, MAGIC, MessageHead, Source, log_time_ns, op};

use super::error::{BagError, Place};

/// Whether a file that begins with these bytes is an MCAP file.
pub(super) fn is_mcap(beginning: &[u8]) -> bool {
    beginning.starts_with(MAGIC)
}

/// One open MCAP file.
#[derive(Debug)]
pub(super) struct McapFile {
    path: PathBuf,
    source: Source,
    index: Index,
}

impl McapFile {
    /// Opens the file; `path` is how errors call it, which is another one for an unpacked file.
    pub(super) fn open(file: &Path, path: &Path) -> Result<Self, BagError> {
        let mut source = Source::open(file).map_err(|error| BagError::unreadable(path, error))?;
        let index = Index::read(&mut source).map_err(|error| BagError::unreadable(path, error))?;
        Ok(Self { path: path.to_owned(), source, index })
    }

    /// Every topic of the file and how many messages it has.
    pub(super) fn channels(&self) -> impl Iterator<Item = (&Channel, u64)> {
        let counts = &self.index.counts;
        self.index.channels.iter().map(move |(id, channel)| (channel, counts.get(id).copied().unwrap_or(0)))
    }

    /// Messages of the topics in log-time order.
    pub(super) fn messages(self, topics: &[String]) -> McapMessages {
        let Self { path, source, index } = self;
        let topic_of = |channel: &u16| {
            let topic = &index.channels.get(channel)?.topic;
            topics.iter().position(|wanted| wanted == topic)
        };
        let wanted: BTreeSet<u16> =
            index.channels.keys().copied().filter(|id| topic_of(id).is_some()).collect();
        let mut blocks = index.blocks.clone();
        // What is in a block of unknown channels is known when it is opened.
        let worth = |channel: &u16| wanted.contains(channel) || !index.channels.contains_key(channel);
        blocks.retain(|block| block.channels.is_empty() || block.channels.iter().any(worth));
        let topic_of_channel = wanted.iter().filter_map(|id| Some((*id, topic_of(id)?))).collect();
        blocks.reverse();
        McapMessages {
            path,
            source,
            blocks,
            damage: index.damage.into_iter().rev().collect(),
            topic_of_channel,
            open: Vec::new(),
            current: None,
            spare: Vec::new(),
            packed: Vec::new(),
            single: Vec::new(),
        }
    }
}

/// A walk over the messages of one file.
#[derive(Debug)]
pub(super) struct McapMessages {
    path: PathBuf,
    source: Source,
    /// Blocks not opened yet, the earliest last.
    blocks: Vec<Block>,
    /// Reported after the messages, the first last.
    damage: Vec<index::Damage>,
    topic_of_channel: Vec<(u16, usize)>,
    /// Blocks that overlap in time at this point: one in most files.
    open: Vec<OpenBlock>,
    /// The block of the message read last, and where its data are in it.
    current: Option<Current>,
    /// Memory of blocks read to their end.
    spare: Vec<Vec<u8>>,
    packed: Vec<u8>,
    /// The data of a message outside a chunk.
    single: Vec<u8>,
}

#[derive(Debug)]
struct OpenBlock {
    /// Unpacked records of a chunk; `None` for a run, whose messages are read one by one.
    data: Option<Vec<u8>>,
    /// Messages of the wanted topics not read yet, the earliest last.
    messages: Vec<Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    log_time: u64,
    topic: usize,
    /// Offset of the data in the unpacked chunk, or in the file for a run.
    offset: u64,
    length: u64,
}

#[derive(Debug)]
struct Current {
    block: usize,
    entry: Entry,
}

impl McapMessages {
    /// Goes to the next message and returns its topic (index into those asked for) and log time. After an error the
    /// walk goes on behind the damage.
    pub(super) fn advance(&mut self) -> Result<Option<(usize, i64)>, BagError> {
        self.close_finished();
        loop {
            let earliest = (0..self.open.len())
                .filter_map(|at| Some((self.open[at].messages.last()?.log_time, at)))
                .min();
            let opens = |block: &Block| earliest.is_none_or(|(time, _)| block.start <= time);
            if self.blocks.last().is_some_and(opens)
                && let Some(block) = self.blocks.pop()
            {
                self.open_block(&block)?;
                continue;
            }
            let Some((_, at)) = earliest else {
                return match self.damage.pop() {
                    Some(damage) => {
                        Err(BagError::damaged(&self.path, Place::Byte(damage.offset), damage.why))
                    }
                    None => Ok(None),
                };
            };
            let block = &mut self.open[at];
            let entry = block.messages.pop().expect("the earliest message was just looked at");
            if block.data.is_none() {
                let read = self.source.read_into(entry.offset, entry.length, &mut self.single);
                read.map_err(|error| BagError::damaged(&self.path, Place::Byte(entry.offset), error))?;
            }
            self.current = Some(Current { block: at, entry });
            return Ok(Some((entry.topic, log_time_ns(entry.log_time))));
        }
    }

    /// The data of the message that [`Self::advance`] went to.
    pub(super) fn data(&self) -> &[u8] {
        let Some(Current { block, entry }) = &self.current else { return &[] };
        match self.open.get(*block).and_then(|block| block.data.as_deref()) {
            Some(data) => &data[entry.offset as usize..][..entry.length as usize],
            None => &self.single,
        }
    }

    fn close_finished(&mut self) {
        self.current = None;
        let spare = &mut self.spare;
        self.open.retain_mut(|block| {
            if block.messages.is_empty() {
                spare.extend(block.data.take());
                return false;
            }
            true
        });
    }

    fn topic(&self, channel: u16) -> Option<usize> {
        self.topic_of_channel.iter().find(|(id, _)| *id == channel).map(|(_, topic)| *topic)
    }

    fn open_block(&mut self, block: &Block) -> Result<(), BagError> {
        let damaged = |path: &Path, why: &dyn std::fmt::Display| {
            BagError::damaged(path, Place::Byte(block.span.start), why)
        };
        let mut messages = Vec::new();
        if matches!(block.kind, Kind::Run { .. }) {
            let mut position = block.span.start;
            while position < block.span.end {
                let (entry, next) = self.run_entry(position).map_err(|error| damaged(&self.path, &error))?;
                messages.extend(entry);
                position = next;
            }
            self.push_block(None, messages);
            return Ok(());
        }
        let mut data = self.spare.pop().unwrap_or_default();
        let unpacked = chunk::unpack(&mut self.source, block, &mut self.packed, &mut data);
        let mut result = match unpacked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(damaged(&self.path, &format_args!("{why}; its messages are lost"))),
            Err(error) => Err(damaged(&self.path, &error)),
        };
        let mut fields = Fields(&data);
        while let Some((opcode, body)) = fields.record() {
            let mut body = Fields(body);
            if opcode == op::MESSAGE
                && let Some(head) = MessageHead::parse(&mut body)
                && let Some(topic) = self.topic(head.channel)
            {
                let end = (data.len() - fields.0.len()) as u64;
                let length = body.0.len() as u64;
                messages.push(Entry { log_time: head.log_time, topic, offset: end - length, length });
            }
        }
        if !fields.0.is_empty() && block.kind == Kind::Chunk && result.is_ok() {
            let left = fields.0.len();
            result =
                Err(damaged(&self.path, &format_args!("the last {left} bytes of the chunk are not records")));
        }
        self.push_block(Some(data), messages);
        result
    }

    /// The message record at `position`, if its topic is wanted, and the offset of the next.
    fn run_entry(&mut self, position: u64) -> std::io::Result<(Option<Entry>, u64)> {
        let (_, length) = self.source.head_at(position)?;
        let body = position + HEAD;
        let mut head = [0; MessageHead::SIZE];
        self.source.read_at(body, &mut head)?;
        let size = head.len() as u64;
        let entry = MessageHead::parse(&mut Fields(&head)).and_then(|head| {
            let topic = self.topic(head.channel)?;
            let length = length.checked_sub(size)?;
            Some(Entry { log_time: head.log_time, topic, offset: body + size, length })
        });
        Ok((entry, body + length))
    }

    fn push_block(&mut self, data: Option<Vec<u8>>, mut messages: Vec<Entry>) {
        // Stable: messages of the same time stay in the order of the file.
        messages.sort_by_key(|entry| entry.log_time);
        messages.reverse();
        self.open.push(OpenBlock { data, messages });
    }
}
