//! sqlite3 storage: order of time, messages compressed one by one, damage.

use std::fs;

use rusqlite::Connection;
use sparse_refine::types::FrameError;
use tempfile::tempdir;

use super::*;

/// A database as rosbag2 makes it, with one row for each message in the order given.
pub(crate) fn database(path: &Path, rows: &[(i64, i64, Vec<u8>)]) {
    let connection = Connection::open(path).unwrap();
    connection
        .execute_batch(
            "CREATE TABLE topics(id INTEGER PRIMARY KEY, name TEXT NOT NULL, type TEXT NOT NULL,
                 serialization_format TEXT NOT NULL, offered_qos_profiles TEXT NOT NULL);
             CREATE TABLE messages(id INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL,
                 timestamp INTEGER NOT NULL, data BLOB NOT NULL);
             CREATE INDEX timestamp_idx ON messages (timestamp ASC);
             INSERT INTO topics VALUES (1, '/a', 'sensor_msgs/msg/Image', 'cdr', ''),
                 (2, '/b', 'std_msgs/msg/String', 'cdr', ''), (3, '/c', 'std_msgs/msg/String', 'cbor', '');
             BEGIN;",
        )
        .unwrap();
    for row in rows {
        connection
            .execute("INSERT INTO messages(topic_id, timestamp, data) VALUES (?, ?, ?)", row.clone())
            .unwrap();
    }
    connection.execute_batch("COMMIT;").unwrap();
}

fn rows(count: u32, length: usize) -> Vec<(i64, i64, Vec<u8>)> {
    (0..count).map(|n| (i64::from(n % 2) + 1, i64::from(n) * 10, payload(n, length))).collect()
}

fn expected(rows: &[(i64, i64, Vec<u8>)]) -> Vec<Found> {
    rows.iter().map(|(topic, time, data)| (*topic as usize - 1, *time, data.clone())).collect()
}

#[test]
fn rows_come_in_order_of_time() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.db3");
    let mut rows = rows(9, 20_000);
    rows.swap(0, 7);
    database(&path, &rows);
    rows.swap(0, 7);
    assert_eq!(read(&path, &["/a", "/b"]), (expected(&rows), vec![]));
    let bag = Bag::open(&path).unwrap();
    assert_eq!(bag.topics().len(), 3);
    assert_eq!(bag.topic("/a").unwrap().type_name, "sensor_msgs/msg/Image");
    let error = bag.messages(&["/a", "/c"]).unwrap_err();
    assert!(error.to_string().contains("`/c` is serialized as `cbor`"), "{error}");
}

#[test]
fn a_message_that_cannot_be_unpacked_does_not_stop_the_others() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.db3");
    let mut packed = rows(6, 500);
    for row in &mut packed {
        row.2 = zstd::encode_all(row.2.as_slice(), 0).unwrap();
    }
    let broken = packed[2].2.len() / 2;
    packed[2].2.truncate(broken);
    database(&path, &packed);
    let mut messages = Bag::open(&path).unwrap().messages(&["/a", "/b"]).unwrap();
    for (n, (topic, time, data)) in expected(&rows(6, 500)).into_iter().enumerate() {
        let message = messages.read().unwrap().unwrap();
        assert_eq!((message.topic, message.log_time_ns), (topic, time));
        match message.cdr {
            Ok(cdr) => assert_eq!(cdr, data),
            Err(error) => assert!(n == 2 && matches!(error, FrameError::Damaged { .. }), "{n}: {error}"),
        }
    }
    assert!(messages.read().unwrap().is_none());
}

#[test]
fn a_cut_database_gives_what_is_before_the_cut() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.db3");
    let rows = rows(40, 20_000);
    database(&path, &rows);
    let bytes = fs::read(&path).unwrap();
    let all = expected(&rows);
    let mut most = 0;
    for tenth in 1..10 {
        fs::write(&path, &bytes[..bytes.len() * tenth / 10]).unwrap();
        let (found, errors) = read(&path, &["/a", "/b"]);
        assert_eq!(found, all[..found.len()]);
        assert!(found.len() < all.len());
        assert!((1..=2).contains(&errors.len()), "{errors:?}");
        assert!(errors.iter().all(|error| matches!(error, BagError::Damaged { .. })), "{errors:?}");
        most = most.max(found.len());
    }
    assert!(most >= 30, "of 40 messages {most} were before a cut at nine tenths");
    fs::write(&path, &bytes[..2000]).unwrap();
    assert!(matches!(Bag::open(&path).unwrap_err(), BagError::Damaged { .. }));
}

#[test]
fn damage_in_the_middle_of_a_database_never_panics() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.db3");
    let rows = rows(20, 5_000);
    database(&path, &rows);
    let bytes = fs::read(&path).unwrap();
    for page in 1..bytes.len() / 4096 {
        let mut damaged = bytes.clone();
        damaged[page * 4096..][..64].fill(0xff);
        fs::write(&path, damaged).unwrap();
        let Ok(bag) = Bag::open(&path) else { continue };
        let mut messages = bag.messages(&["/a", "/b"]).unwrap();
        let mut steps = 0;
        while !matches!(messages.read(), Ok(None)) {
            steps += 1;
            assert!(steps < 100, "page {page} has no end");
        }
    }
}
