//! The kernels' machine code: built in (`SPARSE_REFINE_CUBINS`, build.rs), else compiled by NVRTC at the first start and kept
//! in a cache keyed by source, architecture and compiler.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use sha2::{Digest, Sha256};

use super::error::{CudaError, During};

/// The files of `kernels/`, in the order in which they are compiled as one text.
const SOURCES: &[(&str, &str)] = &[
    ("ptx_ops.cuh", include_str!("kernels/ptx_ops.cuh")),
    ("common.cuh", include_str!("kernels/common.cuh")),
    ("gate.cu", include_str!("kernels/gate.cu")),
    ("network.cu", include_str!("kernels/network.cu")),
    ("pixels.cu", include_str!("kernels/pixels.cu")),
    ("select.cu", include_str!("kernels/select.cu")),
    ("sites.cu", include_str!("kernels/sites.cu")),
    ("tensor_cores.cu", include_str!("kernels/tensor_cores.cu")),
    ("tiles.cu", include_str!("kernels/tiles.cu")),
];

/// `--fmad=false`: selection, resize and entropy round each operation as the CPU does. The networks ask for fused
/// operations by name.
const OPTIONS: [&str; 2] = ["--std=c++17", "--fmad=false"];

/// Architecture, ten times its compute capability, and machine code of the kernels compiled with the program.
const BUILT_IN: &[(u32, &[u8])] = include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// The code that runs on a device: made for it, or for the nearest older one of the same generation.
fn built_in<'a>(code: &[(u32, &'a [u8])], capability: u32) -> Option<&'a [u8]> {
    let runs = |&&(made_for, _): &&(u32, &[u8])| made_for / 10 == capability / 10 && made_for <= capability;
    code.iter().filter(runs).max_by_key(|(made_for, _)| *made_for).map(|&(_, code)| code)
}

/// Architectures that need no compiler on the machine they run on, such as `sm_87`.
pub(super) fn built_in_architectures() -> Vec<String> {
    BUILT_IN.iter().map(|(made_for, _)| format!("sm_{made_for}")).collect()
}

/// The one text NVRTC sees.
pub(super) fn source() -> String {
    SOURCES.iter().map(|(name, text)| format!("#line 1 \"{name}\"\n{text}")).collect()
}

/// Names of the kernels, as the sources define them.
pub(super) fn kernel_names() -> Vec<String> {
    let names = SOURCES.iter().flat_map(|(_, text)| text.split("extern \"C\" __global__ void").skip(1));
    names
        .filter_map(|rest| {
            let rest = rest.trim_start();
            let rest = match rest.strip_prefix("__launch_bounds__") {
                Some(rest) => rest.split_once(')')?.1.trim_start(),
                None => rest,
            };
            Some(rest.split('(').next()?.trim().to_owned())
        })
        .collect()
}

/// Where compiled kernels are kept: `SPARSE_REFINE_CACHE`, or the user's cache folder.
pub fn cache_dir() -> PathBuf {
    let named = |key: &str| std::env::var_os(key).filter(|value| !value.is_empty()).map(PathBuf::from);
    named("SPARSE_REFINE_CACHE").unwrap_or_else(|| {
        let base = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
        base.unwrap_or_else(std::env::temp_dir).join("sparse_refine")
    })
}

/// Loads the kernels for the device's architecture, `capability` being ten times its compute capability.
pub(super) fn load(context: &Arc<CudaContext>, capability: u32) -> Result<Arc<CudaModule>, CudaError> {
    if let Some(code) = built_in(BUILT_IN, capability) {
        match context.load_module(Ptx::from_binary(code.to_vec())) {
            Ok(module) => return Ok(module),
            Err(why) => tracing::warn!("the built-in kernels are not for this driver, compiling them: {why}"),
        }
    }
    let architecture = format!("compute_{capability}");
    let folder = cache_dir();
    let compiler = compiler_version();
    let path = cached_path(&folder, &architecture, compiler.as_deref());
    if let Some(ptx) = path.as_deref().and_then(|path| std::fs::read_to_string(path).ok())
        && let Ok(module) = context.load_module(Ptx::from_src(ptx))
    {
        return Ok(module);
    }
    let Some(path) = path.filter(|_| compiler.is_some()) else {
        return Err(CudaError::NoCompiler { cache: folder.display().to_string() });
    };
    let ptx = compile(&architecture)?;
    store(&path, &ptx);
    context.load_module(Ptx::from_src(ptx)).during("loading the compiled kernels")
}

/// NVRTC's version, or `None` where it cannot be loaded.
#[allow(unsafe_code, reason = "cudarc marks the question whether a library is there unsafe")]
fn compiler_version() -> Option<String> {
    // SAFETY: opens and closes a shared library by name, as loading it later would.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return None;
    }
    let (mut major, mut minor) = (0, 0);
    // SAFETY: two places for two numbers.
    let status = unsafe { cudarc::nvrtc::sys::nvrtcVersion(&mut major, &mut minor) };
    (status == cudarc::nvrtc::sys::nvrtcResult::NVRTC_SUCCESS).then(|| format!("{major}.{minor}"))
}

/// With a compiler the file of its version; without one, any version's for the same source and architecture.
fn cached_path(folder: &Path, architecture: &str, compiler: Option<&str>) -> Option<PathBuf> {
    let mut hash = Sha256::new();
    hash.update(source());
    hash.update(OPTIONS.join(" "));
    let key: String = hash.finalize()[..12].iter().map(|byte| format!("{byte:02x}")).collect();
    let prefix = format!("kernels-{key}-{architecture}-");
    if let Some(version) = compiler {
        return Some(folder.join(format!("{prefix}nvrtc{version}.ptx")));
    }
    let entries = std::fs::read_dir(folder).ok()?;
    let names = entries.filter_map(|entry| entry.ok().map(|entry| entry.path()));
    names.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&prefix))).min()
}

/// PTX of the kernels for an architecture such as `compute_87`.
pub fn compile(architecture: &str) -> Result<String, CudaError> {
    let mut options: Vec<String> = OPTIONS.map(String::from).into();
    options.push(format!("--gpu-architecture={architecture}"));
    let options =
        CompileOptions { options, name: Some("sparse_refine.cu".into()), ..CompileOptions::default() };
    compile_ptx_with_opts(source(), options).map(|ptx| ptx.to_src()).map_err(|error| {
        let log = match error {
            CompileError::CompileError { log, .. } => log.to_string_lossy().replace('\n', " "),
            other => format!("{other:?}"),
        };
        CudaError::Compile { architecture: architecture.into(), log }
    })
}

/// Keeps the code for the next start; a cache that cannot be written only costs time. Written beside and renamed, so that
/// nobody reads half a file.
fn store(path: &Path, ptx: &str) {
    let Some(folder) = path.parent() else { return };
    let written = std::fs::create_dir_all(folder).and_then(|()| {
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        std::io::Write::write_all(&mut file, ptx.as_bytes())?;
        file.persist(path).map_err(|error| error.error)
    });
    if let Err(why) = written {
        tracing::warn!("compiled kernels are not kept for the next start: {why}: {}", path.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_compiled_and_names_its_kernels() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cuda/kernels");
        let mut files: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        files.sort();
        let mut listed: Vec<&str> = SOURCES.iter().map(|(name, _)| *name).collect();
        listed.sort_unstable();
        assert_eq!(files, listed);
        let names = kernel_names();
        assert!(
            names.contains(&"gate_fuse".to_owned()) && names.contains(&"to_rgb8".to_owned()),
            "{names:?}"
        );
        assert!(names.iter().all(|name| name.chars().all(|c| c.is_alphanumeric() || c == '_')), "{names:?}");
    }

    #[test]
    fn code_runs_on_its_generation_from_its_architecture_on() {
        let code: &[(u32, &[u8])] = &[(80, b"80"), (86, b"86"), (90, b"90"), (120, b"120")];
        for (capability, wanted) in
            [(75, None), (80, Some("80")), (87, Some("86")), (89, Some("86")), (90, Some("90")), (110, None)]
        {
            assert_eq!(built_in(code, capability), wanted.map(str::as_bytes), "{capability}");
        }
    }

    #[test]
    fn the_cache_tells_architectures_and_compilers_apart() {
        let folder = tempfile::tempdir().unwrap();
        let path = |arch, version| cached_path(folder.path(), arch, version);
        assert_ne!(path("compute_86", Some("12.9")), path("compute_87", Some("12.9")));
        assert_ne!(path("compute_86", Some("12.6")), path("compute_86", Some("12.9")));
        assert_eq!(path("compute_86", None), None, "nothing kept yet");
        let kept = path("compute_86", Some("12.9")).unwrap();
        store(&kept, "code");
        assert_eq!(std::fs::read_to_string(&kept).unwrap(), "code");
        assert_eq!(path("compute_86", None), Some(kept), "a vehicle without a compiler finds it");
    }
}
