//! Engines on disk: `KEY.engine` and `KEY.json`, written so that whatever stops a writer leaves no half engine.
//!
//! A writer holds a lock on `KEY.lock`, which the system frees when the process ends. It writes both files under
//! temporary names, then renames the engine, then the sidecar. An engine without a sidecar does not exist, and a sidecar
//! has the hash of its engine.

use std::fs::{File, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use super::error::TensorRtError;
use super::sidecar::{Sidecar, sha256};

/// A folder of engines.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
}

/// The right to write one engine.
#[derive(Debug)]
pub struct Lock {
    id: String,
    _file: File,
}

/// An engine in the folder.
#[derive(Debug)]
pub struct Stored {
    /// File of the engine.
    pub path: PathBuf,
    /// What its sidecar says, or what is wrong with it.
    pub sidecar: Result<Sidecar, TensorRtError>,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> TensorRtError {
    move |why| TensorRtError::Cache { what, why, path: path.into() }
}

impl Store {
    /// A folder, which need not be there yet.
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// File of the engine called `id`.
    pub fn engine_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.engine"))
    }

    fn sidecar_path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    /// Waits for the right to write the engine called `id`; `waiting` is called first if another process has it.
    pub fn lock(&self, id: &str, waiting: impl FnOnce()) -> Result<Lock, TensorRtError> {
        std::fs::create_dir_all(&self.folder).map_err(failed("make the folder", &self.folder))?;
        let path = self.folder.join(format!("{id}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.map_err(failed("open the lock", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                waiting();
                file.lock().map_err(failed("lock", &path))?;
            }
            Err(TryLockError::Error(why)) => return Err(failed("lock", &path)(why)),
        }
        self.remove_left_over(id);
        Ok(Lock { id: id.to_owned(), _file: file })
    }

    /// Temporary files of a writer that was killed: nobody else writes under this name while we hold the lock.
    fn remove_left_over(&self, id: &str) {
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.starts_with(id) && name.ends_with(".tmp") {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    /// Writes an engine, replacing one of the same name.
    pub fn publish(&self, lock: &Lock, sidecar: &Sidecar, engine: &[u8]) -> Result<PathBuf, TensorRtError> {
        let id = sidecar.key.id();
        assert_eq!(id, lock.id, "the lock is for this engine");
        let json = serde_json::to_vec_pretty(sidecar).expect("plain data");
        let (engine_path, sidecar_path) = (self.engine_path(&id), self.sidecar_path(&id));
        match std::fs::remove_file(&sidecar_path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                return Err(failed("replace", &sidecar_path)(why));
            }
            _ => {}
        }
        write_whole(&engine_path, engine)?;
        write_whole(&sidecar_path, &json)?;
        Ok(engine_path)
    }

    /// Every engine in the folder, by name; none if there is no folder.
    pub fn list(&self) -> Result<Vec<Stored>, TensorRtError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(why) => return Err(failed("read the folder", &self.folder)(why)),
        };
        let mut ids = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed("read the folder", &self.folder))?;
            if let Some(id) = entry.file_name().to_str().and_then(|name| name.strip_suffix(".json")) {
                ids.push(id.to_owned());
            }
        }
        ids.sort();
        Ok(ids.iter().map(|id| self.stored(id)).collect())
    }

    /// The engine of that name, as its sidecar says.
    pub fn stored(&self, id: &str) -> Stored {
        Stored { path: self.engine_path(id), sidecar: self.sidecar(id) }
    }

    fn sidecar(&self, id: &str) -> Result<Sidecar, TensorRtError> {
        let path = self.sidecar_path(id);
        let wrong = |why: String| TensorRtError::Sidecar { why, path: path.clone() };
        let text = std::fs::read(&path).map_err(|why| wrong(format!("it cannot be read: {why}")))?;
        let sidecar: Sidecar = serde_json::from_slice(&text).map_err(|why| wrong(why.to_string()))?;
        let named = sidecar.key.id();
        if named != id {
            return Err(wrong(format!("its fields give the name {named}; it was changed or renamed")));
        }
        Ok(sidecar)
    }

    /// Reads an engine and compares it with its sidecar.
    pub fn read(&self, sidecar: &Sidecar) -> Result<Vec<u8>, TensorRtError> {
        let path = self.engine_path(&sidecar.key.id());
        let damaged = |why: String| TensorRtError::EngineDamaged { why, path: path.clone() };
        let engine = std::fs::read(&path).map_err(|why| damaged(why.to_string()))?;
        if engine.len() as u64 != sidecar.engine_bytes {
            let (has, says) = (engine.len(), sidecar.engine_bytes);
            return Err(damaged(format!("it has {has} bytes, its sidecar says {says}")));
        }
        let found = sha256(&engine);
        if found != sidecar.engine_sha256 {
            let says = &sidecar.engine_sha256;
            return Err(damaged(format!("its sha256 is {found}, its sidecar says {says}")));
        }
        Ok(engine)
    }

    /// A file that only makes things faster, such as a timing cache: what is not there is empty.
    pub fn read_hint(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.folder.join(name)).unwrap_or_default()
    }

    /// Writes such a file; that it cannot be written is worth a warning only.
    pub fn write_hint(&self, name: &str, bytes: &[u8]) {
        if let Err(error) = write_whole(&self.folder.join(name), bytes) {
            tracing::warn!("{error}; the next start or build takes longer");
        }
    }
}

/// All of a file or nothing: under a temporary name first, synced, renamed, and the folder synced.
fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), TensorRtError> {
    let temporary = path.with_extension(format!(
        "{}.{}.tmp",
        path.extension().and_then(|ending| ending.to_str()).unwrap_or_default(),
        std::process::id()
    ));
    let write = || {
        let mut file = File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        // The rename itself is on disk only when the folder is.
        path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    };
    write().map_err(|why| {
        let _ = std::fs::remove_file(&temporary);
        failed("write", path)(why)
    })
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    use super::super::sidecar::tests::key;
    use super::*;

    fn sidecar(engine: &[u8]) -> Sidecar {
        Sidecar {
            key: key(),
            model: "tiny".into(),
            engine_sha256: sha256(engine),
            engine_bytes: engine.len() as u64,
            built_at: 1,
            build_ms: 2,
            built_by: "test".into(),
        }
    }

    fn publish(store: &Store, engine: &[u8]) -> PathBuf {
        let lock = store.lock(&key().id(), || panic!("nobody else is here")).unwrap();
        store.publish(&lock, &sidecar(engine), engine).unwrap()
    }

    fn only(store: &Store) -> Result<Sidecar, TensorRtError> {
        let mut list = store.list().unwrap();
        assert_eq!(list.len(), 1, "{list:?}");
        list.remove(0).sidecar
    }

    #[test]
    fn an_engine_is_read_back_and_replaced_whole() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("engines"));
        assert!(store.list().unwrap().is_empty());
        for engine in [b"first".as_slice(), b"the second"] {
            publish(&store, engine);
            assert_eq!(store.read(&only(&store).unwrap()).unwrap(), engine);
        }
        let names: Vec<_> = std::fs::read_dir(store.folder()).unwrap().flatten().collect();
        assert_eq!(names.len(), 3, "engine, sidecar, lock: {names:?}");
    }

    #[test]
    fn damage_names_the_file_and_what_differs() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        let path = publish(&store, b"engine");
        let sidecar = only(&store).unwrap();
        std::fs::write(&path, b"engi").unwrap();
        let error = store.read(&sidecar).unwrap_err().to_string();
        assert!(error.contains("4 bytes, its sidecar says 6") && error.contains(".engine"), "{error}");
        std::fs::write(&path, b"enginE").unwrap();
        assert!(store.read(&sidecar).unwrap_err().to_string().contains("sha256"));
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(store.read(&sidecar), Err(TensorRtError::EngineDamaged { .. })));
    }

    #[test]
    fn a_sidecar_that_was_changed_or_renamed_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        let path = publish(&store, b"engine").with_extension("json");
        let text = std::fs::read_to_string(&path).unwrap();
        for (old, new) in [("10.16.1.11", "10.16.1.12"), ("\"key\"", "\"kez\""), ("{", "")] {
            std::fs::write(&path, text.replace(old, new)).unwrap();
            let error = only(&store).unwrap_err();
            assert!(matches!(error, TensorRtError::Sidecar { .. }), "{error}");
            assert!(error.to_string().contains(".json"));
        }
        let foreign = store.engine_path("0123456789abcdef0123456789abcdef").with_extension("json");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(foreign, text).unwrap();
        assert!(only(&store).unwrap_err().to_string().contains("changed or renamed"));
    }

    /// Set in the child process of the test below: the folder in which it is to be killed.
    const KILLED_HERE: &str = "SPARSE_REFINE_TEST_KILLED_HERE";

    #[test]
    fn a_writer_that_is_killed_leaves_its_lock_and_nothing_to_load() {
        let name = "tensorrt::store::tests::a_writer_that_is_killed_leaves_its_lock_and_nothing_to_load";
        if let Some(folder) = std::env::var_os(KILLED_HERE) {
            let store = Store::new(folder.into());
            let _lock = store.lock(&key().id(), || ()).unwrap();
            // As far as `write_whole` comes before its rename, for the sidecar: the engine is in place already.
            write_whole(&store.engine_path(&key().id()), b"engine").unwrap();
            let temporary = store.folder().join(format!("{}.json.1.tmp", key().id()));
            std::fs::write(temporary, b"{ \"key\": {").unwrap();
            std::fs::write(store.folder().join("ready"), b"").unwrap();
            std::thread::sleep(Duration::from_secs(600));
        }
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().into());
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(KILLED_HERE, folder.path())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        while !folder.path().join("ready").exists() {
            assert!(writer.try_wait().unwrap().is_none(), "the writer ended early");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(store.list().unwrap().is_empty(), "no sidecar, no engine");
        let mut waited = false;
        let lock = std::thread::scope(|threads| {
            let other = threads.spawn(|| store.lock(&key().id(), || waited = true).unwrap());
            std::thread::sleep(Duration::from_millis(100));
            assert!(!other.is_finished(), "the writer still holds the lock");
            writer.kill().unwrap();
            other.join().unwrap()
        });
        writer.wait().unwrap();
        assert!(waited);
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert!(left.iter().all(|entry| !entry.path().to_string_lossy().ends_with(".tmp")), "{left:?}");
        store.publish(&lock, &sidecar(b"whole"), b"whole").unwrap();
        assert_eq!(store.read(&only(&store).unwrap()).unwrap(), b"whole");
    }
}
