//! A model bundle on disk: the manifest, the files it names, and their hashes. No arithmetic.

use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

pub mod manifest;
pub mod refiner;
pub mod sparsity;

pub use manifest::Manifest;

/// Why a bundle cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum BundleError {
    #[error(
        "{what} cannot be read ({why}); a bundle is a folder with model.toml and the files it names: {path}"
    )]
    Unreadable { what: &'static str, why: io::Error, path: PathBuf },
    #[error("the manifest is wrong: {why}: {path}")]
    Manifest { why: String, path: PathBuf },
    #[error(
        "sha256 is {found}, model.toml says {expected}; copy the bundle again, or export it again: {path}"
    )]
    Hash { found: String, expected: String, path: PathBuf },
}

/// A checked bundle: the manifest is sound and every file it names is there with the hash it should have.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// Its folder.
    pub dir: PathBuf,
    /// Its `model.toml`.
    pub manifest: Manifest,
    /// SHA-256 of `model.toml`, lower-case hex; through the hashes in it, of the whole bundle.
    pub sha256: String,
}

impl Bundle {
    /// Opens a folder and checks the manifest and the hash of every file named in it.
    pub fn load(dir: &Path) -> Result<Self, BundleError> {
        let path = dir.join("model.toml");
        let text = std::fs::read_to_string(&path).map_err(|why| BundleError::Unreadable {
            what: "model.toml",
            why,
            path: path.clone(),
        })?;
        let manifest = Manifest::parse(&text).map_err(|why| BundleError::Manifest { why, path })?;
        let bundle = Self { dir: dir.to_path_buf(), manifest, sha256: sha256(text.as_bytes()) };
        let manifest = &bundle.manifest;
        bundle.check_hash(&manifest.segmenter.file, &manifest.segmenter.sha256)?;
        if let Some(refiner) = &manifest.refiner {
            bundle.check_hash(&refiner.file, &refiner.sha256)?;
        }
        if let Some(fine) = &manifest.fine {
            bundle.check_hash(&fine.file, &fine.sha256)?;
        }
        if let Some(dense) = &manifest.dense {
            bundle.check_hash(&dense.file, &dense.sha256)?;
        }
        Ok(bundle)
    }

    /// Path of a file the manifest names.
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn check_hash(&self, file: &str, expected: &str) -> Result<(), BundleError> {
        let path = self.path(file);
        let bytes = std::fs::read(&path).map_err(|why| BundleError::Unreadable {
            what: "a file of the bundle",
            why,
            path: path.clone(),
        })?;
        let found = sha256(&bytes);
        if found.eq_ignore_ascii_case(expected) {
            Ok(())
        } else {
            Err(BundleError::Hash { found, expected: expected.to_owned(), path })
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_bundle_says_what_a_bundle_is() {
        let error = Bundle::load(Path::new("no/such/bundle")).unwrap_err().to_string();
        assert!(error.contains("model.toml") && error.contains("no/such/bundle"), "{error}");
    }

    #[test]
    fn a_changed_file_is_refused_with_both_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let manifest = r#"
schema = 1
name = "tiny"
method = "sparse_refine"
classes = [{ name = "a", colour = [0, 0, 0] }, { name = "b", colour = [1, 1, 1] }]
[segmenter]
file = "segmenter.onnx"
sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
size = [64, 32]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
"#;
        std::fs::write(dir.path().join("model.toml"), manifest).unwrap();
        std::fs::write(dir.path().join("segmenter.onnx"), "hello").unwrap();
        assert_eq!(Bundle::load(dir.path()).unwrap().manifest.name, "tiny");
        std::fs::write(dir.path().join("segmenter.onnx"), "hullo").unwrap();
        let error = Bundle::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("2cf24dba") && error.contains("segmenter.onnx"), "{error}");
    }
}
