//! Bags on disk: what is written is read back, and what is damaged is reported and read around.

#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod folder;
mod mcap_file;
mod sqlite_file;

use std::path::{Path, PathBuf};

use sparse_refine::bag::definitions::{IMAGE, Qos, STRING};
use sparse_refine::bag::error::Place;
use sparse_refine::bag::write::{BagWriter, Compression};
use sparse_refine::bag::{Bag, BagError, Messages};

/// A replay reads in one thread and computes in others.
const _: fn() = || {
    fn may_be_sent<T: Send>() {}
    may_be_sent::<Messages>();
};

/// Topic, log time and data of a message.
type Found = (usize, i64, Vec<u8>);

/// Data of the n-th message: CDR's first bytes, and then bytes found nowhere else that do not compress away.
fn payload(n: u32, length: usize) -> Vec<u8> {
    let mut state = n.wrapping_mul(0x9e37_79b9) | 1;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    });
    [0, 1, 0, 0].into_iter().chain(noise.take(length)).collect()
}

/// Everything that a bag gives: messages, then errors.
fn read(path: &Path, topics: &[&str]) -> (Vec<Found>, Vec<BagError>) {
    read_bag(&Bag::open(path).unwrap(), topics)
}

fn read_bag(bag: &Bag, topics: &[&str]) -> (Vec<Found>, Vec<BagError>) {
    let mut messages = bag.messages(topics).unwrap();
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    loop {
        match messages.read() {
            Ok(Some(message)) => {
                found.push((message.topic, message.log_time_ns, message.cdr.unwrap().to_vec()));
            }
            Ok(None) => break,
            Err(error) => errors.push(error),
        }
    }
    assert!(messages.read().unwrap().is_none(), "the end stays the end");
    (found, errors)
}

fn place(error: &BagError) -> Place {
    match error {
        BagError::Damaged { place, .. } => *place,
        other => panic!("not damage but {other}"),
    }
}

/// A bag of `times.len()` messages, alternating between `/a` and `/b`; the folder and what was written.
fn write(folder: &Path, compression: Compression, times: &[i64], length: usize) -> (PathBuf, Vec<Found>) {
    let mut writer = BagWriter::create(folder, compression).unwrap();
    let topics = [
        writer.add_topic("/a", &IMAGE, Qos::BestEffort).unwrap(),
        writer.add_topic("/b", &STRING, Qos::Latched).unwrap(),
    ];
    let mut written = Vec::new();
    for (n, &time) in times.iter().enumerate() {
        let (topic, data) = (n % 2, payload(n as u32, length));
        writer.write(topics[topic], time, &data).unwrap();
        written.push((topic, time, data));
    }
    writer.finish().unwrap();
    let name = folder.file_name().unwrap().to_str().unwrap();
    (folder.join(format!("{name}_0.mcap")), written)
}
