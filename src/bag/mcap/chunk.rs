//! One chunk of an MCAP file, unpacked and checked.

use std::io::{self, Read};

use super::index::{Block, Kind};
use super::records::{ChunkHead, Fields, HEAD, Source};

/// More than any camera's frame, and still an allocation that cannot take a machine down.
const LIMIT: u64 = 1 << 30;

/// Replaces the contents of `unpacked` with the chunk's records. `packed` is scratch memory.
///
/// The inner error says what is wrong with the chunk, of which nothing is then trusted. Of a chunk that the end of the
/// file cuts off, `unpacked` is what there is; that it is cut has been noticed before.
pub(super) fn unpack(
    source: &mut Source,
    block: &Block,
    packed: &mut Vec<u8>,
    unpacked: &mut Vec<u8>,
) -> io::Result<Result<(), String>> {
    unpacked.clear();
    let cut = block.kind == Kind::CutChunk;
    let body = block.span.start + HEAD;
    let length = block.span.end - body;
    source.read_into(body, length.min(ChunkHead::LIMIT), packed)?;
    let mut fields = Fields(packed);
    let Some(head) = ChunkHead::parse(&mut fields) else {
        return Ok(if cut { Ok(()) } else { Err("the head of the chunk cannot be understood".to_owned()) });
    };
    let data = body + (packed.len() - fields.0.len()) as u64;
    let left = block.span.end - data;
    // The writer fills in the sizes last: a cut chunk may not have them.
    let (size, count) = if cut { (LIMIT, left) } else { (head.uncompressed_size, head.compressed_size) };
    if size > LIMIT || count > left {
        return Ok(Err(format!(
            "the chunk claims {size} bytes out of {count}, at most {LIMIT} out of {left} can be"
        )));
    }
    let (crc, compression) = (head.crc, head.compression.to_owned());
    let result = if compression.is_empty() {
        source.read_into(data, count, unpacked)?;
        Ok(())
    } else {
        source.read_into(data, count, packed)?;
        decompress(&compression, packed, size, unpacked)
    };
    if cut {
        return Ok(Ok(()));
    }
    let result = result.and_then(|()| check(unpacked, size, crc));
    if result.is_err() {
        unpacked.clear();
    }
    Ok(result)
}

fn decompress(compression: &str, packed: &[u8], size: u64, unpacked: &mut Vec<u8>) -> Result<(), String> {
    let read = match compression {
        "zstd" => zstd::stream::read::Decoder::with_buffer(packed)
            .and_then(|decoder| decoder.take(size + 1).read_to_end(unpacked)),
        "lz4" => lz4::Decoder::new(packed).and_then(|decoder| decoder.take(size + 1).read_to_end(unpacked)),
        other => return Err(format!("the chunk's compression `{other}` is not lz4 or zstd")),
    };
    read.map(|_| ()).map_err(|error| format!("the chunk cannot be unpacked ({error})"))
}

fn check(unpacked: &[u8], size: u64, crc: u32) -> Result<(), String> {
    if unpacked.len() as u64 != size {
        return Err(format!("the chunk unpacks to {} bytes instead of {size}", unpacked.len()));
    }
    let found = crc32fast::hash(unpacked);
    if crc != 0 && found != crc {
        return Err(format!("the chunk's checksum is {found:08x} instead of {crc:08x}"));
    }
    Ok(())
}
