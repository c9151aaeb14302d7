//! Folders: several files, files compressed as a whole, metadata of every version, missing and wrong.

use std::fs::{self, File};

use tempfile::tempdir;

use super::*;

/// `metadata.yaml` with what every version has, and more lines at the end.
fn metadata(folder: &Path, storage: &str, files: &[&str], more: &str) {
    let files: String = files.iter().map(|file| format!("    - {file}\n")).collect();
    let text = format!(
        "rosbag2_bagfile_information:
  version: 4
  storage_identifier: {storage}
  relative_file_paths:
{files}  duration:
    nanoseconds: 1
  starting_time:
    nanoseconds_since_epoch: 0
  message_count: 8
  topics_with_message_count:
    - topic_metadata:
        name: /a
        type: sensor_msgs/msg/Image
        serialization_format: cdr
        offered_qos_profiles: \"- history: 3\\n  depth: 0\"
      message_count: 4
    - topic_metadata: {{name: /b, type: std_msgs/msg/String, serialization_format: cdr}}
      message_count: 4
{more}"
    );
    fs::write(folder.join("metadata.yaml"), text).unwrap();
}

/// A folder with the files of bags whose times follow each other, and their messages.
fn several(folder: &Path, names: &[&str]) -> Vec<Found> {
    let mut all = Vec::new();
    for (n, name) in names.iter().enumerate() {
        let made = tempdir().unwrap();
        let times: Vec<i64> = (0..4).map(|k| (n * 4 + k) as i64).collect();
        let (file, messages) = write(&made.path().join("bag"), Compression::None, &times, 100);
        fs::copy(file, folder.join(name)).unwrap();
        all.extend(messages);
    }
    all
}

fn compress(file: &Path) -> PathBuf {
    let packed = PathBuf::from(format!("{}.zstd", file.display()));
    zstd::stream::copy_encode(File::open(file).unwrap(), File::create(&packed).unwrap(), 0).unwrap();
    fs::remove_file(file).unwrap();
    packed
}

#[test]
fn files_follow_each_other_as_metadata_lists_them() {
    let folder = tempdir().unwrap();
    let all = several(folder.path(), &["z.mcap", "a.mcap"]);
    metadata(folder.path(), "mcap", &["bag/z.mcap", "a.mcap"], "  compression_format: \"\"\n");
    assert_eq!(read(folder.path(), &["/a", "/b"]), (all, vec![]));
}

#[test]
fn without_metadata_files_follow_each_other_by_number() {
    let folder = tempdir().unwrap();
    let all = several(folder.path(), &["bag_8.mcap", "bag_9.mcap", "bag_10.mcap"]);
    fs::write(folder.path().join("notes.txt"), "not a bag").unwrap();
    assert_eq!(read(folder.path(), &["/a", "/b"]), (all, vec![]));
    let bag = Bag::open(folder.path()).unwrap();
    assert_eq!(bag.warnings().len(), 1);
    assert_eq!(bag.topic("/a").unwrap().messages, Some(6), "counted over all files");
}

#[test]
fn a_damaged_or_missing_file_does_not_hide_the_others() {
    let folder = tempdir().unwrap();
    let all = several(folder.path(), &["0.mcap", "1.mcap", "2.mcap"]);
    metadata(folder.path(), "mcap", &["0.mcap", "1.mcap", "2.mcap"], "");
    let bytes = fs::read(folder.path().join("0.mcap")).unwrap();
    fs::write(folder.path().join("0.mcap"), &bytes[..bytes.len() - 100]).unwrap();
    fs::remove_file(folder.path().join("1.mcap")).unwrap();
    let (found, errors) = read(folder.path(), &["/a", "/b"]);
    assert_eq!(found, [&all[..4], &all[8..]].concat());
    assert!(matches!(&errors[..], [BagError::Damaged { .. }, BagError::Unreadable { .. }]), "{errors:?}");
}

#[test]
fn whole_files_are_unpacked() {
    let folder = tempdir().unwrap();
    let all = several(folder.path(), &["0.mcap", "1.mcap"]);
    let packed = compress(&folder.path().join("0.mcap"));
    compress(&folder.path().join("1.mcap"));
    let more = "  compression_format: zstd\n  compression_mode: FILE\n";
    // A recorder that is killed leaves the name that the file had before.
    metadata(folder.path(), "mcap", &["0.mcap.zstd", "1.mcap"], more);
    assert_eq!(read(folder.path(), &["/a", "/b"]), (all.clone(), vec![]));
    assert_eq!(read(&packed, &["/a", "/b"]), (all[..4].to_vec(), vec![]), "the file alone");
    fs::remove_file(folder.path().join("metadata.yaml")).unwrap();
    assert_eq!(read(folder.path(), &["/a", "/b"]), (all, vec![]));
}

#[test]
fn whole_databases_are_unpacked_and_removed_again() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("bag.db3");
    super::sqlite_file::database(&path, &[(1, 3, payload(0, 10))]);
    let packed = compress(&path);
    assert_eq!(read(&packed, &["/a"]), (vec![(0, 3, payload(0, 10))], vec![]));
}

#[test]
fn a_cut_compressed_file_gives_what_is_before_the_cut() {
    let folder = tempdir().unwrap();
    let times: Vec<i64> = (0..40).collect();
    let (file, all) = write(&folder.path().join("bag"), Compression::None, &times, 100_000);
    let packed = compress(&file);
    let bytes = fs::read(&packed).unwrap();
    fs::write(&packed, &bytes[..bytes.len() / 2]).unwrap();
    let (found, errors) = read(&packed, &["/a", "/b"]);
    assert_eq!(found, all[..found.len()]);
    assert!((15..=20).contains(&found.len()), "{} messages", found.len());
    assert!(errors[0].to_string().contains("cannot be unpacked"), "{errors:?}");
}

#[test]
fn wrong_metadata_is_one_line_that_says_what_to_do() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    several(path, &["0.mcap"]);
    let refused = |part: &str| {
        let error = Bag::open(path).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains(path.to_str().unwrap()), "{error}");
        assert!(!error.contains('\n'), "{error}");
    };
    fs::write(path.join("metadata.yaml"), "rosbag2_bagfile_information: [").unwrap();
    refused("remove it to read the files");
    fs::write(path.join("metadata.yaml"), "{}").unwrap();
    refused("rosbag2_bagfile_information");
    metadata(path, "mcap", &["other.mcap"], "");
    refused("none of the files it lists exists: other.mcap");
    metadata(path, "bson", &["0.mcap"], "");
    refused("storage `bson` is not supported");
    metadata(path, "mcap", &["0.mcap"], "  compression_format: lz4\n");
    refused("compression `lz4` is not supported");
}

#[test]
fn what_is_not_a_bag_is_refused_with_a_reason() {
    let folder = tempdir().unwrap();
    let path = folder.path();
    let refused = |file: &Path, part: &str| {
        let error = Bag::open(file).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains('\n'), "{error}");
    };
    refused(&path.join("nowhere"), "cannot read the bag");
    refused(path, "no metadata.yaml, no .mcap and no .db3");
    fs::write(path.join("bag.mcap"), "").unwrap();
    refused(&path.join("bag.mcap"), "the file is empty");
    fs::write(path.join("bag.mcap"), "#ROSBAG V2.0\n").unwrap();
    refused(path, "neither mcap nor sqlite3");
    fs::write(path.join("bag.db3"), "").unwrap();
    refused(path, "both .mcap and .db3");
}

#[test]
fn a_wrong_topic_is_told_which_there_are() {
    let folder = tempdir().unwrap();
    let bag = folder.path().join("bag");
    write(&bag, Compression::None, &[1, 2], 10);
    let bag = Bag::open(&bag).unwrap();
    let error = bag.messages(&["/front"]).unwrap_err().to_string();
    assert!(error.contains("no topic `/front`") && error.contains("image topics are: /a;"), "{error}");
    let error = bag.image_kind("/b").unwrap_err().to_string();
    assert!(error.contains("`/b` is std_msgs/msg/String, not an image"), "{error}");
}
