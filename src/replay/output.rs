//! The files a replay leaves: `summary.json`, `frames.csv`, `report.html`, and perhaps `bag/`.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use super::ReplayError;
use super::compare::LABEL_BAG as BAG;
use crate::eval::{FrameRow, FramesCsv, Summary};

const FILES: [&str; 3] = ["summary.json", "frames.csv", "report.html"];

/// The output folder. `frames.csv` grows as frames are done; the others are written at the end.
pub(super) struct OutputFolder {
    path: PathBuf,
    frames: FramesCsv<BufWriter<File>>,
}

impl OutputFolder {
    /// Makes the folder. One that is not empty is refused without `force`; with it, an earlier replay's files go.
    pub(super) fn prepare(path: &Path, force: bool) -> Result<Self, ReplayError> {
        let unwritable = |why| ReplayError::Unwritable { why, path: path.to_owned() };
        fs::create_dir_all(path).map_err(unwritable)?;
        let occupied = fs::read_dir(path).map_err(unwritable)?.next().is_some();
        if occupied && !force {
            return Err(ReplayError::NotEmpty { path: path.to_owned() });
        }
        for name in FILES {
            remove(&path.join(name), |path| fs::remove_file(path))?;
        }
        remove(&path.join(BAG), |path| fs::remove_dir_all(path))?;
        let file = path.join("frames.csv");
        let frames = File::create(&file).and_then(|file| FramesCsv::new(BufWriter::new(file)));
        let frames = frames.map_err(|why| ReplayError::Unwritable { why, path: file })?;
        Ok(Self { path: path.to_owned(), frames })
    }

    /// Where a bag with the labels goes.
    pub(super) fn bag_path(&self) -> PathBuf {
        self.path.join(BAG)
    }

    /// Adds a frame to `frames.csv`.
    pub(super) fn row(&mut self, row: &FrameRow<'_>) -> Result<(), ReplayError> {
        self.frames
            .write(row)
            .map_err(|why| ReplayError::Unwritable { why, path: self.path.join("frames.csv") })
    }

    /// Writes what is known only at the end; answers with the path of the report.
    pub(super) fn finish(mut self, summary: &Summary, report: &str) -> Result<PathBuf, ReplayError> {
        let write = |name: &str, text: &str| {
            let path = self.path.join(name);
            fs::write(&path, text).map_err(|why| ReplayError::Unwritable { why, path: path.clone() })?;
            Ok::<_, ReplayError>(path)
        };
        write("summary.json", &summary.to_json())?;
        let report = write("report.html", report)?;
        let frames = self.path.join("frames.csv");
        self.frames.flush().map_err(|why| ReplayError::Unwritable { why, path: frames })?;
        Ok(report)
    }
}

/// Whether a recording lies in the part of an output folder that a replay clears.
pub(super) fn holds(out: &Path, recording: &Path) -> bool {
    match (out.join(BAG).canonicalize(), recording.canonicalize()) {
        (Ok(cleared), Ok(recording)) => recording.starts_with(cleared),
        _ => false,
    }
}

fn remove(path: &Path, how: impl Fn(&Path) -> io::Result<()>) -> Result<(), ReplayError> {
    match how(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(ReplayError::Unwritable { why, path: path.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_folder_is_refused_and_force_keeps_what_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("a/b");
        drop(OutputFolder::prepare(&out, false).unwrap());
        fs::create_dir(out.join("bag")).unwrap();
        fs::write(out.join("notes.txt"), "mine").unwrap();
        assert!(matches!(OutputFolder::prepare(&out, false), Err(ReplayError::NotEmpty { .. })));
        drop(OutputFolder::prepare(&out, true).unwrap());
        assert!(!out.join("bag").exists());
        assert_eq!(fs::read_to_string(out.join("notes.txt")).unwrap(), "mine");
    }

    #[test]
    fn a_folder_that_cannot_be_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = OutputFolder::prepare(&file.join("out"), false).err().unwrap().to_string();
        assert!(error.contains("file") && error.contains("cannot write"), "{error}");
    }
}
