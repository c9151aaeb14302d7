//! TensorRT's libraries, opened at run time and compared with the headers of this build before any call.

use std::ffi::{CStr, c_void};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use super::driver::with_causes;
use super::ffi;
use super::log::Log;
use crate::tensorrt::error::TensorRtError;
use crate::tensorrt::version::{Flavour, Version};

/// TensorRT, of the version this build was compiled for.
pub struct Library {
    /// Never unloaded: TensorRT leaves threads and per-thread data behind.
    handle: ManuallyDrop<libloading::Library>,
    path: PathBuf,
    version: Version,
    log: Log,
}

/// The version of the headers this build was compiled with.
pub fn built_for() -> Option<(Flavour, Version)> {
    let mut numbers = [0; 4];
    let [major, minor, patch, build] = &mut numbers;
    // SAFETY: writes four integers, reads a constant.
    let rtx = unsafe {
        ffi::shim_header_version(major, minor, patch, build);
        ffi::shim_is_rtx() != 0
    };
    let flavour = if rtx { Flavour::Rtx } else { Flavour::Full };
    Some((flavour, Version(numbers.map(|number| u32::try_from(number).unwrap_or_default()))))
}

fn headers() -> (Flavour, Version) {
    built_for().expect("the shim is in this build")
}

/// Where a library may be: at the configured file, in the configured folder, or on the system's search path.
fn candidates(configured: Option<&Path>, names: &[String]) -> Vec<PathBuf> {
    match configured {
        None => names.iter().map(PathBuf::from).collect(),
        Some(folder) if folder.is_dir() => names.iter().map(|name| folder.join(name)).collect(),
        Some(file) => vec![file.to_path_buf()],
    }
}

fn open(candidates: Vec<PathBuf>) -> Result<(libloading::Library, PathBuf), TensorRtError> {
    let mut tried = Vec::new();
    for path in candidates {
        // SAFETY: the initialisers of NVIDIA's libraries ask nothing of their caller.
        match unsafe { libloading::Library::new(&path) } {
            Ok(library) => return Ok((library, path)),
            Err(why) => tried.push(format!("{} ({})", path.display(), with_causes(&why))),
        }
    }
    Err(TensorRtError::NoLibrary { tried: tried.join(", ") })
}

/// A number that a library's function without arguments returns.
fn number(library: &libloading::Library, name: &CStr) -> Option<i32> {
    // SAFETY: the version functions of TensorRT have had this signature since version 5.
    unsafe { library.get::<unsafe extern "C" fn() -> i32>(name.to_bytes_with_nul()).ok().map(|get| get()) }
}

fn version_of(library: &libloading::Library) -> Option<Version> {
    let whole = number(library, c"getInferLibVersion")?;
    let mut version = Version::from_number(u32::try_from(whole).ok()?);
    let part = |name| number(library, name).and_then(|part| u32::try_from(part).ok());
    if let (Some(major), Some(minor), Some(patch)) =
        (part(c"getInferLibMajorVersion"), part(c"getInferLibMinorVersion"), part(c"getInferLibPatchVersion"))
    {
        version = Version([major, minor, patch, part(c"getInferLibBuildVersion").unwrap_or_default()]);
    }
    Some(version)
}

impl Library {
    /// Opens the runtime library: a file, a folder that holds it, or what the system finds.
    pub fn open(configured: Option<&Path>) -> Result<Self, TensorRtError> {
        let (flavour, built_for) = headers();
        let name = match flavour {
            Flavour::Full => format!("libnvinfer.so.{}", built_for.major()),
            Flavour::Rtx => format!("libtensorrt_rtx.so.{}", built_for.major()),
        };
        let (library, path) = open(candidates(configured, &[name]))?;
        let handle = ManuallyDrop::new(library);
        let version = version_of(&handle).ok_or_else(|| TensorRtError::NotTensorRt { path: path.clone() })?;
        if !version.flavour().same_calls(version, flavour, built_for) {
            return Err(TensorRtError::VersionMismatch {
                library: format!("{} {version}", version.flavour()),
                built_for: format!("{flavour} {built_for}"),
                path,
            });
        }
        Ok(Self { handle, path, version, log: Log::new() })
    }

    /// Opens the ONNX parser that belongs to this library: beside it first.
    pub(super) fn parser(&self) -> Result<Parser, TensorRtError> {
        let name = match self.flavour() {
            Flavour::Full => format!("libnvonnxparser.so.{}", self.version.major()),
            Flavour::Rtx => format!("libtensorrt_onnxparser_rtx.so.{}", self.version.major()),
        };
        let beside = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut places: Vec<PathBuf> = beside.map(|folder| folder.join(&name)).into_iter().collect();
        places.push(name.into());
        let (library, _) = open(places)?;
        Ok(Parser { handle: ManuallyDrop::new(library) })
    }

    /// Full TensorRT or TensorRT-RTX.
    pub fn flavour(&self) -> Flavour {
        self.version.flavour()
    }

    /// Its own version, which may differ from the headers' in what does not change the calls.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Where it was found.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    /// The address of one of its factory functions.
    pub(super) fn factory(&self, name: &CStr) -> Result<ffi::Factory, TensorRtError> {
        symbol(&self.handle, name).ok_or_else(|| TensorRtError::NoFactory {
            name: name.to_string_lossy().into_owned(),
            path: self.path.clone(),
        })
    }
}

/// The library that reads ONNX.
pub(super) struct Parser {
    handle: ManuallyDrop<libloading::Library>,
}

impl Parser {
    pub(super) fn factory(&self) -> Result<ffi::Factory, TensorRtError> {
        let name = c"createNvOnnxParser_INTERNAL";
        symbol(&self.handle, name).ok_or_else(|| TensorRtError::NoFactory {
            name: name.to_string_lossy().into_owned(),
            path: "the ONNX parser".into(),
        })
    }
}

fn symbol(library: &libloading::Library, name: &CStr) -> Option<*const c_void> {
    // SAFETY: only the address is taken; who calls it knows the signature.
    unsafe { library.get::<*const c_void>(name.to_bytes_with_nul()) }.ok().map(|symbol| *symbol)
}
