//! MCAP files: round trips, order of time, cuts at every byte, damage in the middle.

use std::collections::BTreeMap;
use std::fs;
use std::io::Cursor;
use std::path::Path;

use mcap::records::MessageHeader;
use proptest::prelude::*;
use tempfile::tempdir;

use super::*;

/// An MCAP file in small chunks (or none), as other writers make them, and its messages on `/a`.
fn small_file(options: mcap::WriteOptions, count: u32) -> (Vec<u8>, Vec<Found>) {
    let mut file = Cursor::new(Vec::new());
    let mut writer = options.chunk_size(Some(100)).create(&mut file).unwrap();
    let schema = writer.add_schema("std_msgs/msg/String", "ros2msg", b"string data").unwrap();
    let channel_id = writer.add_channel(schema, "/a", "cdr", &BTreeMap::new()).unwrap();
    let mut messages = Vec::new();
    for sequence in 0..count {
        let (log_time, data) = (u64::from(sequence) * 10, payload(sequence, 40));
        let header = MessageHeader { channel_id, sequence, log_time, publish_time: log_time };
        writer.write_to_known_channel(&header, &data).unwrap();
        messages.push((0, log_time as i64, data));
    }
    writer.finish().unwrap();
    drop(writer);
    (file.into_inner(), messages)
}

fn plain() -> mcap::WriteOptions {
    mcap::WriteOptions::new().compression(None)
}

/// Every layout that other writers make.
fn layouts() -> Vec<(&'static str, mcap::WriteOptions)> {
    let compressed = |compression| mcap::WriteOptions::new().compression(Some(compression));
    vec![
        ("plain chunks", plain()),
        ("zstd chunks", compressed(mcap::Compression::Zstd)),
        ("lz4 chunks", compressed(mcap::Compression::Lz4)),
        ("no chunks", plain().use_chunks(false)),
        ("no summary", plain().emit_summary_records(false).emit_summary_offsets(false)),
        ("no message index", plain().emit_message_indexes(false)),
        ("no checksums", plain().calculate_chunk_crcs(false).calculate_summary_section_crc(false)),
    ]
}

fn end_of(needle: &[u8], file: &[u8]) -> usize {
    file.windows(needle.len()).position(|window| window == needle).unwrap() + needle.len()
}

#[test]
fn what_is_written_is_read_in_order_of_time() {
    let folder = tempdir().unwrap();
    // Out of order within a chunk and, at 1 MiB a chunk, across chunks; equal times stay as written.
    let times = [50, 10, 40, 40, 20, 90, 60, 30, 95, 1_700_000_000_123_456_789];
    for (compression, length) in
        [(Compression::None, 10), (Compression::None, 600_000), (Compression::Zstd, 600_000)]
    {
        let bag = folder.path().join(format!("{compression:?}{length}"));
        let (file, mut written) = write(&bag, compression, &times, length);
        written.sort_by_key(|message| message.1);
        assert_eq!(read(&bag, &["/a", "/b"]), (written.clone(), vec![]));
        assert_eq!(read(&file, &["/a", "/b"]), (written.clone(), vec![]), "the file alone");
        let only_b: Vec<Found> = written.iter().filter(|m| m.0 == 1).map(|m| (0, m.1, m.2.clone())).collect();
        assert_eq!(read(&bag, &["/b"]), (only_b, vec![]));
        let bag = Bag::open(&bag).unwrap();
        let topics: Vec<_> = bag.topics().iter().map(|t| (t.name.as_str(), t.messages)).collect();
        assert_eq!(topics, [("/a", Some(5)), ("/b", Some(5))]);
        assert!(bag.warnings().is_empty());
    }
}

#[test]
fn every_layout_is_read() {
    let folder = tempdir().unwrap();
    for (name, options) in layouts() {
        let (bytes, messages) = small_file(options, 12);
        let path = folder.path().join("bag.mcap");
        fs::write(&path, bytes).unwrap();
        let bag = Bag::open(&path).unwrap();
        let topic = bag.topic("/a").unwrap();
        let described = (topic.type_name.as_str(), topic.serialization_format.as_str(), topic.messages);
        assert_eq!(described, ("std_msgs/msg/String", "cdr", Some(12)), "{name}");
        assert_eq!(read(&path, &["/a"]), (messages, vec![]), "{name}");
    }
}

#[test]
fn a_file_cut_anywhere_gives_what_is_before_the_cut_and_one_error() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.mcap");
    for (name, options) in layouts() {
        let (bytes, messages) = small_file(options, 5);
        let compressed = name.starts_with("zstd") || name.starts_with("lz4");
        let chunks = mcap::Summary::read(&bytes).unwrap().map_or(vec![], |summary| summary.chunk_indexes);
        // Every byte would be slow; the layouts differ in length, so that fields are met at all their bytes.
        for cut in (8..bytes.len()).step_by(3) {
            fs::write(&path, &bytes[..cut]).unwrap();
            let whole = if compressed {
                let before = |chunk: &&mcap::records::ChunkIndex| {
                    chunk.chunk_start_offset + chunk.chunk_length <= cut as u64
                };
                let last = chunks.iter().filter(before).map(|chunk| chunk.message_end_time).max();
                messages.iter().filter(|message| last.is_some_and(|last| message.1 as u64 <= last)).count()
            } else {
                messages.iter().filter(|message| end_of(&message.2, &bytes) <= cut).count()
            };
            let Ok(bag) = Bag::open(&path) else {
                assert_eq!(whole, 0, "{name} cut at {cut}: unreadable");
                continue;
            };
            assert!(!bag.topics().is_empty(), "{name} cut at {cut}: damage unnoticed");
            let (found, errors) = read_bag(&bag, &["/a"]);
            assert_eq!(found, messages[..found.len()], "{name} cut at {cut}");
            if compressed {
                assert!(found.len() >= whole, "{name} cut at {cut}");
            } else {
                assert_eq!(found.len(), whole, "{name} cut at {cut}");
            }
            assert_eq!(errors.len(), 1, "{name} cut at {cut}: {errors:?}");
            assert!(matches!(place(&errors[0]), Place::Byte(at) if at <= cut as u64), "{errors:?}");
        }
    }
}

#[test]
fn a_tail_of_zeros_is_damage() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.mcap");
    let (bytes, messages) = small_file(plain(), 6);
    let end = end_of(&messages[3].2, &bytes);
    let zeroed = [&bytes[..end], vec![0; 5000].as_slice()].concat();
    fs::write(&path, zeroed).unwrap();
    let (found, errors) = read(&path, &["/a"]);
    assert!(found == messages[..found.len()] && found.len() >= 2, "{}", found.len());
    assert!(!errors.is_empty());
}

/// Flips a byte in the middle of a message and returns what is read, with and without the index at the end.
fn with_flipped_byte(
    path: &Path,
    options: mcap::WriteOptions,
    at: usize,
) -> [(Vec<Found>, Vec<BagError>); 2] {
    let (mut bytes, _) = small_file(options, 12);
    bytes[at] ^= 0x10;
    fs::write(path, &bytes).unwrap();
    let with_index = read(path, &["/a"]);
    fs::write(path, &bytes[..bytes.len() - 20]).unwrap();
    [with_index, read(path, &["/a"])]
}

#[test]
fn a_damaged_chunk_is_reported_and_the_others_are_read() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.mcap");
    for (name, options) in layouts().into_iter().take(3) {
        let (bytes, messages) = small_file(options.clone(), 12);
        let chunks = mcap::Summary::read(&bytes).unwrap().unwrap().chunk_indexes;
        assert!(chunks.len() > 3);
        let chunk = &chunks[2];
        let lost = chunk.message_start_time as i64..=chunk.message_end_time as i64;
        let kept: Vec<Found> =
            messages.iter().filter(|message| !lost.contains(&message.1)).cloned().collect();
        assert!(kept.len() < messages.len());
        let middle = chunk.compressed_data_offset().unwrap() + chunk.compressed_size / 2;
        let [with_index, without] = with_flipped_byte(&path, options, middle as usize);
        for ((found, errors), expected_errors) in [(with_index, 1), (without, 2)] {
            assert_eq!(found, kept, "{name}");
            assert_eq!(errors.len(), expected_errors, "{name}: {errors:?}");
            assert_eq!(place(&errors[0]), Place::Byte(chunk.chunk_start_offset));
            assert!(!errors[0].to_string().contains('\n'));
        }
    }
}

#[test]
fn a_wrong_index_is_not_believed() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.mcap");
    let (mut bytes, messages) = small_file(plain(), 12);
    let summary = bytes.len() - 60;
    bytes[summary] ^= 1;
    fs::write(&path, bytes).unwrap();
    let (found, errors) = read(&path, &["/a"]);
    assert_eq!(found, messages);
    assert!(errors.len() == 1 && errors[0].to_string().contains("checksum"), "{errors:?}");
}

#[test]
fn a_writer_that_is_dropped_leaves_a_bag_without_metadata() {
    let folder = tempdir().unwrap();
    let bag = folder.path().join("half");
    let mut writer = BagWriter::create(&bag, Compression::None).unwrap();
    let topic = writer.add_topic("/a", &STRING, Qos::Reliable).unwrap();
    writer.write(topic, 5, &payload(0, 3)).unwrap();
    drop(writer);
    assert!(!bag.join("metadata.yaml").exists());
    assert_eq!(read(&bag, &["/a"]).0, [(0, 5, payload(0, 3))]);
    assert_eq!(Bag::open(&bag).unwrap().warnings().len(), 1);
}

#[test]
fn a_writer_that_is_killed_leaves_what_it_has_written() {
    let folder = tempdir().unwrap();
    for (compression, least) in [(Compression::None, 8), (Compression::Zstd, 6)] {
        let bag = folder.path().join(format!("{compression:?}"));
        let mut writer = BagWriter::create(&bag, compression).unwrap();
        let topic = writer.add_topic("/a", &IMAGE, Qos::Reliable).unwrap();
        let written: Vec<Found> = (0..10).map(|n| (0, i64::from(n), payload(n, 400_000))).collect();
        for (_, time, data) in &written {
            writer.write(topic, *time, data).unwrap();
        }
        // A killed process runs no destructors: the last chunk keeps its provisional head.
        std::mem::forget(writer);
        let (found, errors) = read(&bag, &["/a"]);
        assert_eq!(found, written[..found.len()], "{compression:?}");
        assert!(found.len() >= least, "{compression:?}: {} messages", found.len());
        assert_eq!(errors.len(), 1, "{errors:?}");
    }
}

#[test]
fn the_writer_refuses_to_overwrite_and_to_add_twice() {
    let folder = tempdir().unwrap();
    let error = BagWriter::create(folder.path(), Compression::None).err().unwrap();
    assert!(matches!(error, BagError::Exists { .. }));
    let mut writer = BagWriter::create(&folder.path().join("bag"), Compression::None).unwrap();
    writer.add_topic("/a", &STRING, Qos::Reliable).unwrap();
    let error = writer.add_topic("/a", &IMAGE, Qos::Reliable).unwrap_err();
    assert!(error.to_string().contains("`/a` was added twice"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn arbitrary_damage_never_panics_and_always_ends(
        layout in 0..7_usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let folder = tempdir().unwrap();
        let path = folder.path().join("bag.mcap");
        let (mut bytes, messages) = small_file(layouts()[layout].1.clone(), 8);
        for (at, value) in changes {
            let at = 8 + at.index(bytes.len() - 8);
            bytes[at] = value;
        }
        fs::write(&path, bytes).unwrap();
        let Ok(bag) = Bag::open(&path) else { return Ok(()) };
        let Some(topic) = bag.topics().first() else { return Ok(()) };
        let Ok(mut walk) = bag.messages(&[&topic.name]) else { return Ok(()) };
        let (mut found, mut errors) = (0, 0);
        loop {
            match walk.read() {
                Ok(Some(_)) => found += 1,
                Ok(None) => break,
                Err(_) => errors += 1,
            }
            prop_assert!(found <= messages.len() && errors < 100);
        }
    }
}
