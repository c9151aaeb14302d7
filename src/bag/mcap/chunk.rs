//! One chunk of an MCAP file, unpacked and checked.

use std::io::{self, Read};

use super::index::{Block, Kind};
use super::records::{ChunkHead, Fields, HEAD, Source};

/// More than any camera's frame, and still an allocation that cannot take a machine down.
const LIMIT: u64 = 1 << 30;

/// Replaces the contents of `unpacked` with the chunk's records. `packed` is scratch memory.
///
/// The inner error says what is wrong with the chunk; `unpacked` is then what can be trusted: nothing, or of a chunk that
/// the end of the file cuts off, what there is of it.
pub(super) fn unpack(
    source: &mut Source,
    block: &Block,
    packed: &mut Vec<u8>,
    unpacked: &mut Vec<u8>,
) -> io::Result<Result<(), String>> {
    unpacked.clear();
    let body = block.span.start + HEAD;
    source.read_into(body, block.span.end - body, packed)?;
    let mut result = fill(packed, block.kind == Kind::CutChunk, unpacked);
    if block.kind == Kind::CutChunk {
        result = result.or(Ok(()));
    } else if result.is_err() {
        unpacked.clear();
    }
    Ok(result)
}

fn fill(packed: &[u8], cut: bool, unpacked: &mut Vec<u8>) -> Result<(), String> {
    let mut fields = Fields(packed);
    let head = ChunkHead::parse(&mut fields).ok_or("the head of the chunk cannot be understood")?;
    let data = match usize::try_from(head.compressed_size) {
        Ok(size) if !cut => fields.bytes(size).ok_or("the chunk is longer than its record")?,
        _ => fields.0,
    };
    let size = head.uncompressed_size;
    // The writer fills in the size last: a cut chunk may not have it.
    let limit = if cut { LIMIT } else { size };
    if limit > LIMIT {
        return Err(format!("the chunk claims {size} bytes, more than {LIMIT}"));
    }
    let failed = |error: io::Error| format!("the chunk cannot be unpacked ({error})");
    match head.compression {
        "" => unpacked.extend_from_slice(data),
        "zstd" => {
            let decoder = zstd::stream::read::Decoder::with_buffer(data).map_err(failed)?;
            decoder.take(limit + 1).read_to_end(unpacked).map_err(failed)?;
        }
        "lz4" => {
            let decoder = lz4::Decoder::new(data).map_err(failed)?;
            decoder.take(limit + 1).read_to_end(unpacked).map_err(failed)?;
        }
        other => return Err(format!("the chunk's compression `{other}` is not lz4 or zstd")),
    }
    if unpacked.len() as u64 != size {
        return Err(format!("the chunk unpacks to {} bytes instead of {size}", unpacked.len()));
    }
    let found = crc32fast::hash(unpacked);
    if head.crc != 0 && found != head.crc {
        return Err(format!("the chunk's checksum is {found:08x} instead of {:08x}", head.crc));
    }
    Ok(())
}
