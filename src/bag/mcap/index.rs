//! What is where in an MCAP file: from its summary where that is sound, otherwise by walking over the record heads.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use super::chunk;
use super::records::{ChunkHead, Fields, HEAD, MAGIC, MessageHead, Source, op};

/// Messages outside chunks are read in runs of this many, which bounds what a reader remembers of them.
const RUN: u32 = 1024;
/// Footer record and closing magic.
const TAIL: u64 = HEAD + 20 + MAGIC.len() as u64;
/// Records other than messages and chunks are small; a longer one is damage.
const RECORD_LIMIT: u64 = 1 << 26;

/// A topic as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Channel {
    pub(in super::super) topic: String,
    pub(in super::super) type_name: String,
    pub(in super::super) format: String,
}

/// A stretch of file that is read at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Offset of its first record in the file, and of what follows.
    pub(super) span: Range<u64>,
    pub(super) kind: Kind,
    /// Log time of the earliest message.
    pub(super) start: u64,
    /// Channels of its messages; empty where unknown.
    pub(super) channels: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Chunk,
    /// A chunk that the end of the file cuts off.
    CutChunk,
    /// Message records one after the other.
    Run {
        messages: u32,
    },
}

/// A place where the file is not what it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Damage {
    pub(super) offset: u64,
    pub(super) why: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    schemas: BTreeMap<u16, String>,
    pub(super) channels: BTreeMap<u16, Channel>,
    /// Messages of each channel, where the file says or a walk has counted.
    pub(super) counts: BTreeMap<u16, u64>,
    /// Sorted by their earliest message.
    pub(super) blocks: Vec<Block>,
    pub(super) damage: Vec<Damage>,
}

impl Index {
    pub(super) fn read(source: &mut Source) -> io::Result<Self> {
        let data = MAGIC.len() as u64..source.len;
        let mut index = Self::default();
        match summary(source) {
            Ok(Some((start, bytes))) => match Self::adopt(&bytes, data.start..start) {
                Some((adopted, gaps)) => {
                    index = adopted;
                    let counts = index.counts.clone();
                    for gap in gaps {
                        index.walk(source, gap)?;
                    }
                    index.counts = counts;
                }
                None => index.walk(source, data.start..start)?,
            },
            Ok(None) => index.walk(source, data.start..source.len - TAIL)?,
            Err(why) => {
                index.walk(source, data)?;
                if index.damage.is_empty() {
                    index.damage.push(Damage { offset: source.len, why });
                }
            }
        }
        let unknown =
            |(channel, count): (&u16, &u64)| (!index.channels.contains_key(channel)).then_some(*count);
        let lost: u64 = index.counts.iter().filter_map(unknown).sum();
        if lost > 0 {
            let why = format!("the description of the topics of {lost} messages is lost, and they with it");
            index.damage.push(Damage { offset: MAGIC.len() as u64, why });
        }
        // A cut chunk has no times of its own and is the last.
        index.blocks.sort_by_key(|block| (block.kind == Kind::CutChunk, block.start, block.span.start));
        Ok(index)
    }

    /// Takes channels, counts and chunks from the summary of a file with its records in `data`, and says which
    /// stretches it does not describe. `None` where it is not sound.
    fn adopt(summary: &[u8], data: Range<u64>) -> Option<(Self, Vec<Range<u64>>)> {
        let mut index = Self::default();
        let mut fields = Fields(summary);
        let mut statistics = None;
        let mut described = Vec::new();
        while let Some((opcode, body)) = fields.record() {
            let mut body = Fields(body);
            match opcode {
                op::SCHEMA | op::CHANNEL => index.learn(opcode, body.0)?,
                op::CHUNK_INDEX => {
                    let (block, with_message_index) = chunk_index(&mut body)?;
                    index.blocks.push(block);
                    described.push(with_message_index);
                }
                op::STATISTICS => statistics = Some(body),
                _ => {}
            }
        }
        let mut statistics = statistics?;
        statistics.bytes(8 + 2)?; // messages, schemas
        let channels = statistics.u32()?;
        statistics.bytes(4 + 4)?; // attachments, metadata
        let chunks = statistics.u32()?;
        statistics.bytes(8 + 8)?; // first and last message's time
        let mut counts = Fields(statistics.block()?);
        while let (Some(channel), Some(count)) = (counts.u16(), counts.u64()) {
            index.counts.insert(channel, count);
        }
        if index.channels.len() != channels as usize || index.blocks.len() != chunks as usize {
            return None;
        }
        described.sort_by_key(|span| span.start);
        let mut gaps = Vec::new();
        let mut position = data.start;
        for span in described {
            (position <= span.start && span.end <= data.end).then_some(())?;
            gaps.push(position..span.start);
            position = span.end;
        }
        gaps.push(position..data.end);
        gaps.retain(|gap| !gap.is_empty());
        Some((index, gaps))
    }

    /// Takes note of a schema or channel record.
    fn learn(&mut self, opcode: u8, body: &[u8]) -> Option<()> {
        let mut fields = Fields(body);
        let id = fields.u16()?;
        if opcode == op::SCHEMA {
            self.schemas.insert(id, fields.text()?.to_owned());
        } else {
            let type_name = self.schemas.get(&fields.u16()?).cloned().unwrap_or_default();
            let channel =
                Channel { type_name, topic: fields.text()?.to_owned(), format: fields.text()?.to_owned() };
            self.channels.insert(id, channel);
        }
        Some(())
    }

    /// Walks over the records of a stretch of file, reading their heads only.
    fn walk(&mut self, source: &mut Source, span: Range<u64>) -> io::Result<()> {
        let mut position = span.start;
        let mut buffer = Vec::new();
        let first_block = self.blocks.len();
        let mut run_ends = None;
        while position < span.end {
            let damage = |why: String| Damage { offset: position, why };
            let left = span.end - position;
            if left < HEAD {
                self.damage.push(damage(format!("the file ends {left} bytes into a record")));
                break;
            }
            let (opcode, length) = source.head_at(position)?;
            let body = position + HEAD;
            let next = body.checked_add(length).filter(|&next| next <= span.end);
            if opcode == 0 {
                self.damage.push(damage("no record starts here".to_owned()));
                break;
            }
            let Some(next) = next else {
                if opcode == op::CHUNK {
                    let (start, kind) = (u64::MAX, Kind::CutChunk);
                    self.blocks.push(Block { span: position..span.end, kind, start, channels: Vec::new() });
                }
                let why = format!("a record of {length} bytes is cut off after {}", span.end - body);
                self.damage.push(damage(why));
                break;
            };
            let count = match opcode {
                op::MESSAGE => MessageHead::SIZE as u64,
                op::CHUNK => ChunkHead::LIMIT,
                op::MESSAGE_INDEX => 6,
                op::SCHEMA | op::CHANNEL => length,
                op::DATA_END | op::FOOTER => break,
                _ => 0,
            };
            if count > RECORD_LIMIT {
                self.damage.push(damage(format!("a record of type {opcode} cannot be {length} bytes long")));
                break;
            }
            source.read_into(body, count.min(length), &mut buffer)?;
            let mut fields = Fields(&buffer);
            let understood = match opcode {
                op::SCHEMA | op::CHANNEL => self.learn(opcode, &buffer),
                op::MESSAGE => MessageHead::parse(&mut fields).map(|head| {
                    *self.counts.entry(head.channel).or_default() += 1;
                    self.extend_run(run_ends == Some(position), head, position..next);
                    run_ends = Some(next);
                }),
                op::CHUNK => ChunkHead::parse(&mut fields).map(|head| {
                    let (kind, start) = (Kind::Chunk, head.start);
                    self.blocks.push(Block { span: position..next, kind, start, channels: Vec::new() });
                }),
                op::MESSAGE_INDEX => fields.u16().zip(fields.u32()).map(|(channel, bytes)| {
                    *self.counts.entry(channel).or_default() += u64::from(bytes / 16);
                    if let Some(block) = self.blocks.last_mut().filter(|block| block.kind == Kind::Chunk) {
                        block.channels.push(channel);
                    }
                }),
                _ => Some(()),
            };
            if understood.is_none() {
                self.damage.push(damage(format!("a record of type {opcode} cannot be understood")));
            }
            position = next;
        }
        self.learn_from_chunks(source, first_block)
    }

    fn extend_run(&mut self, adjoins: bool, head: MessageHead, span: Range<u64>) {
        if adjoins
            && let Some(block) = self.blocks.last_mut()
            && let Kind::Run { messages } = &mut block.kind
            && *messages < RUN
        {
            *messages += 1;
            block.span.end = span.end;
            block.start = block.start.min(head.log_time);
            return;
        }
        let (kind, start) = (Kind::Run { messages: 1 }, head.log_time);
        self.blocks.push(Block { span, kind, start, channels: Vec::new() });
    }

    /// Without a summary, channels are described inside chunks. Opens those chunks that may hold an unknown one.
    fn learn_from_chunks(&mut self, source: &mut Source, first_block: usize) -> io::Result<()> {
        let (mut packed, mut unpacked) = (Vec::new(), Vec::new());
        for at in first_block..self.blocks.len() {
            let block = &self.blocks[at];
            let known = block.channels.iter().all(|channel| self.channels.contains_key(channel));
            if matches!(block.kind, Kind::Run { .. }) || (known && !block.channels.is_empty()) {
                continue;
            }
            let counted = !block.channels.is_empty();
            // Damage inside is reported when the messages are read.
            let _ = chunk::unpack(source, block, &mut packed, &mut unpacked)?;
            let mut fields = Fields(&unpacked);
            while let Some((opcode, body)) = fields.record() {
                match opcode {
                    op::SCHEMA | op::CHANNEL => {
                        self.learn(opcode, body);
                    }
                    op::MESSAGE if !counted => {
                        if let Some(head) = MessageHead::parse(&mut Fields(body)) {
                            *self.counts.entry(head.channel).or_default() += 1;
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

/// A chunk, and its stretch of file together with the message index records that follow it.
fn chunk_index(fields: &mut Fields<'_>) -> Option<(Block, Range<u64>)> {
    let start = fields.u64()?;
    fields.u64()?; // last message's time
    let offset = fields.u64()?;
    let length = fields.u64()?;
    let mut channels = Vec::new();
    let mut offsets = Fields(fields.block()?);
    while let (Some(channel), Some(_)) = (offsets.u16(), offsets.u64()) {
        channels.push(channel);
    }
    let end = offset.checked_add(length)?;
    let described = offset..end.checked_add(fields.u64()?)?;
    (length >= HEAD).then_some((Block { span: offset..end, kind: Kind::Chunk, start, channels }, described))
}

/// Offset and bytes of the summary section; `None` where the file is whole but has none, an error where it is cut off.
fn summary(source: &mut Source) -> Result<Option<(u64, Vec<u8>)>, String> {
    let unfinished = || "the end of the file is missing, the recorder was interrupted".to_owned();
    let tail_start = source.len.checked_sub(TAIL).ok_or_else(unfinished)?;
    let mut tail = [0; TAIL as usize];
    source.read_at(tail_start, &mut tail).map_err(|error| error.to_string())?;
    let mut fields = Fields(&tail);
    let footer = fields.record().filter(|(opcode, body)| *opcode == op::FOOTER && body.len() == 20);
    let (Some((_, footer)), true) = (footer, fields.0 == MAGIC) else {
        return Err(unfinished());
    };
    let mut footer = Fields(footer);
    let (Some(start), Some(_), Some(crc)) = (footer.u64(), footer.u64(), footer.u32()) else {
        return Err(unfinished());
    };
    if start == 0 {
        return Ok(None);
    }
    let wrong = |what| format!("the index at the end of the file {what}, all of the file was read instead");
    let length = tail_start.checked_sub(start).ok_or_else(|| wrong("starts behind its end"))?;
    let mut bytes = Vec::new();
    source.read_into(start, length, &mut bytes).map_err(|error| error.to_string())?;
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(&tail[..TAIL as usize - MAGIC.len() - 4]);
    if crc != 0 && hasher.finalize() != crc {
        return Err(wrong("has a wrong checksum"));
    }
    Ok(Some((start, bytes)))
}
