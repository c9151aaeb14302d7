//! The MCAP records that a reader needs (mcap.dev/spec), read at their offsets in the file and borrowed from a buffer.
//!
//! The `mcap` crate's own readers stop at the first damaged byte. A recording cut off by a power failure is the one
//! that somebody wants to look at, so records are walked here, and each problem keeps its offset.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

pub(super) const MAGIC: &[u8; 8] = b"\x89MCAP0\r\n";
/// Opcode and length before each record's fields.
pub(super) const HEAD: u64 = 9;

pub(super) mod op {
    pub(in super::super) const FOOTER: u8 = 0x02;
    pub(in super::super) const SCHEMA: u8 = 0x03;
    pub(in super::super) const CHANNEL: u8 = 0x04;
    pub(in super::super) const MESSAGE: u8 = 0x05;
    pub(in super::super) const CHUNK: u8 = 0x06;
    pub(in super::super) const MESSAGE_INDEX: u8 = 0x07;
    pub(in super::super) const CHUNK_INDEX: u8 = 0x08;
    pub(in super::super) const STATISTICS: u8 = 0x0b;
    pub(in super::super) const DATA_END: u8 = 0x0f;
}

/// An open file and how far it reaches.
#[derive(Debug)]
pub(super) struct Source {
    file: File,
    pub(super) len: u64,
}

impl Source {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { file, len })
    }

    /// Fills `buffer` from `offset` on.
    pub(super) fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(offset))?;
        self.file.read_exact(buffer)
    }

    /// Replaces the contents of `buffer` with `count` bytes from `offset` on.
    pub(super) fn read_into(&mut self, offset: u64, count: u64, buffer: &mut Vec<u8>) -> io::Result<()> {
        // A length beyond the file must not become an allocation.
        if offset.checked_add(count).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer.clear();
        buffer.reserve_exact(count as usize);
        self.file.seek(SeekFrom::Start(offset))?;
        let read = (&mut self.file).take(count).read_to_end(buffer)?;
        if read as u64 == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// Opcode and body length of the record at `offset`.
    pub(super) fn head_at(&mut self, offset: u64) -> io::Result<(u8, u64)> {
        let mut head = [0; HEAD as usize];
        self.read_at(offset, &mut head)?;
        let mut fields = Fields(&head);
        fields.u8().zip(fields.u64()).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Little-endian fields, one after the other; `None` where the bytes end too early.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn block(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.bytes(count as usize)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.block()?).ok()
    }

    /// The next whole record of a chunk or summary: its opcode and fields.
    pub(super) fn record(&mut self) -> Option<(u8, &'a [u8])> {
        let mut ahead = *self;
        let opcode = ahead.u8()?;
        let length = usize::try_from(ahead.u64()?).ok()?;
        let body = ahead.bytes(length)?;
        *self = ahead;
        Some((opcode, body))
    }
}

/// The fields of a chunk before its records.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkHead<'a> {
    pub(super) start: u64,
    pub(super) uncompressed_size: u64,
    /// 0 where the writer did not calculate it.
    pub(super) crc: u32,
    pub(super) compression: &'a str,
    pub(super) compressed_size: u64,
}

impl<'a> ChunkHead<'a> {
    /// Most bytes a chunk's head may take: its numbers and a compression name no longer than known ones.
    pub(super) const LIMIT: u64 = 8 * 4 + 4 + 4 + 64;

    /// Leaves `fields` at the chunk's records.
    pub(super) fn parse(fields: &mut Fields<'a>) -> Option<Self> {
        let start = fields.u64()?;
        fields.u64()?; // last message's time
        Some(Self {
            start,
            uncompressed_size: fields.u64()?,
            crc: fields.u32()?,
            compression: fields.text()?,
            compressed_size: fields.u64()?,
        })
    }
}

/// The fields of a message before its data.
#[derive(Clone, Copy, Debug)]
pub(super) struct MessageHead {
    pub(super) channel: u16,
    pub(super) log_time: u64,
}

impl MessageHead {
    /// Bytes of channel, sequence number, log time and publish time.
    pub(super) const SIZE: usize = 2 + 4 + 8 + 8;

    /// Leaves `fields` at the message's data.
    pub(super) fn parse(fields: &mut Fields<'_>) -> Option<Self> {
        let channel = fields.u16()?;
        fields.u32()?;
        let log_time = fields.u64()?;
        fields.u64()?;
        Some(Self { channel, log_time })
    }
}

/// Nanoseconds of a log time; beyond the year 2262 all times are the last one.
pub(super) fn log_time_ns(log_time: u64) -> i64 {
    i64::try_from(log_time).unwrap_or(i64::MAX)
}
