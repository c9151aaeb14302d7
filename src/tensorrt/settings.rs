//! Where TensorRT and the engines are.

use std::path::PathBuf;

use super::error::TensorRtError;

/// Environment variable: TensorRT's library file, or the folder that holds it.
pub const LIBRARY_VARIABLE: &str = "SPARSE_REFINE_TENSORRT";
/// Environment variable: the folder of built engines.
pub const ENGINES_VARIABLE: &str = "SPARSE_REFINE_ENGINES";

/// What the user may set; the variables above, unless given otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// TensorRT's library file or its folder; what the system finds, unless set.
    pub library: Option<PathBuf>,
    /// Folder of the engines; one in the user's cache folder, unless set.
    pub engines: Option<PathBuf>,
    /// CUDA's number of the device.
    pub device: usize,
}

impl Settings {
    /// From the environment.
    pub fn from_environment() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self { library: path(LIBRARY_VARIABLE), engines: path(ENGINES_VARIABLE), device: 0 }
    }

    /// The folder of the engines: as set, else `$XDG_CACHE_HOME/sparse_refine/engines` or its default in the home.
    pub fn engines_folder(&self) -> Result<PathBuf, TensorRtError> {
        if let Some(folder) = &self.engines {
            return Ok(folder.clone());
        }
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = path("XDG_CACHE_HOME").or_else(|| path("HOME").map(|home| home.join(".cache")));
        cache.map(|cache| cache.join("sparse_refine/engines")).ok_or_else(|| {
            TensorRtError::Option(format!("no folder for engines: set {ENGINES_VARIABLE}, HOME is not set"))
        })
    }
}
