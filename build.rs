//! For the feature `ros`: whether the ROS environment has our message, and how to find its libraries at run time.
//! For the feature `cuda`: compiles the kernels ahead of time for the architectures that are asked for.
//! For the feature `tensorrt`: compiles the C++ shim against TensorRT's headers; nothing of TensorRT is linked.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cubins::compile();
    #[cfg(feature = "tensorrt")]
    tensorrt::compile();
    if std::env::var_os("CARGO_FEATURE_ROS").is_none() {
        return;
    }
    for variable in ["AMENT_PREFIX_PATH", "SPARSE_REFINE_RPATH", "SPARSE_REFINE_LIBPYTHON"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    if !has_interfaces("sparse_refine") {
        println!(
            "cargo::error=the message sparse_refine/FrameTiming is not in AMENT_PREFIX_PATH; cargo alone cannot \
             generate it: build with `make ros`, or `colcon build` in a ROS 2 workspace"
        );
    }
    // The variables are set for the PyPI wheels only (scripts/ros_env.sh). DT_RPATH, unlike DT_RUNPATH, also serves
    // the libraries that libraries load; some of the wheels' libraries need Python's symbols.
    if let Ok(rpath) = std::env::var("SPARSE_REFINE_RPATH") {
        println!("cargo:rustc-link-arg=-Wl,--disable-new-dtags,-rpath,{rpath}");
    }
    if let Ok(library) = std::env::var("SPARSE_REFINE_LIBPYTHON") {
        println!("cargo:rustc-link-arg=-Wl,--no-as-needed,{library}");
    }
}

fn has_interfaces(package: &str) -> bool {
    let prefixes = std::env::var("AMENT_PREFIX_PATH").unwrap_or_default();
    let marker = Path::new("share/ament_index/resource_index/rosidl_interfaces").join(package);
    prefixes.split(':').any(|prefix| Path::new(prefix).join(&marker).exists())
}

/// Machine code of the kernels, for vehicles without NVRTC. Nothing is compiled unless it is asked for.
#[cfg(feature = "cuda")]
mod cubins {
    use std::path::{Path, PathBuf};
    use std::process::Command;

    /// Architectures, such as `87` or `86 89 90`; the compiler, where it is not `nvcc` in the path.
    const ARCHITECTURES: &str = "SPARSE_REFINE_CUBINS";
    const COMPILER: &str = "NVCC";
    const KERNELS: &str = "src/cuda/kernels";

    pub(super) fn compile() {
        for variable in [ARCHITECTURES, COMPILER] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it"));
        let wanted = std::env::var(ARCHITECTURES).unwrap_or_default();
        let mut rows = String::new();
        for architecture in wanted.split([' ', ',']).filter(|word| !word.is_empty()) {
            println!("cargo:rerun-if-changed={KERNELS}");
            match cubin(architecture, &out) {
                Ok(path) => rows += &format!("({architecture}, include_bytes!({path:?})),"),
                Err(why) => println!("cargo::error={ARCHITECTURES}: {why}"),
            }
        }
        std::fs::write(out.join("cubins.rs"), format!("&[{rows}]")).expect("OUT_DIR can be written");
    }

    fn cubin(architecture: &str, out: &Path) -> Result<PathBuf, String> {
        if architecture.parse::<u32>().is_err() {
            return Err(format!("{architecture} is no architecture; write 87 for sm_87"));
        }
        let text = out.join("kernels.cu");
        let source = source().map_err(|why| format!("{KERNELS}: {why}"))?;
        std::fs::write(&text, source).map_err(|why| format!("{}: {why}", text.display()))?;
        let cubin = out.join(format!("sm_{architecture}.cubin"));
        let compiler = std::env::var_os(COMPILER).unwrap_or_else(|| "nvcc".into());
        // The options of src/cuda/modules.rs.
        let mut command = Command::new(&compiler);
        command.args(["-cubin", "--std=c++17", "--fmad=false", &format!("-arch=sm_{architecture}"), "-o"]);
        let name = compiler.to_string_lossy();
        let output = command.arg(&cubin).arg(&text).output().map_err(|why| {
            format!("{name} does not run ({why}); install CUDA's nvcc, set {COMPILER}, or leave {ARCHITECTURES} empty")
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).replace('\n', " ");
            return Err(format!("{name} fails for sm_{architecture}: {said}"));
        }
        Ok(cubin)
    }

    /// One text, in the order of src/cuda/modules.rs: what all use, then the kernels by name.
    fn source() -> std::io::Result<String> {
        let mut names: Vec<String> = std::fs::read_dir(KERNELS)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<std::io::Result<_>>()?;
        let rank = |name: &str| (name != "ptx_ops.cuh", !name.ends_with(".cuh"));
        names.sort_by_key(|name| (rank(name), name.clone()));
        let read = |name: &String| {
            let text = std::fs::read_to_string(Path::new(KERNELS).join(name))?;
            Ok(format!("#line 1 \"{name}\"\n{text}"))
        };
        names.iter().map(read).collect()
    }
}

#[cfg(feature = "tensorrt")]
mod tensorrt {
    use std::path::{Path, PathBuf};

    const SHIM: &str = "src/tensorrt/native/shim.cpp";
    /// Set to the folders of headers that are not where the distribution's packages put them.
    const HEADERS: &str = "TENSORRT_INCLUDE_DIR";
    const CUDA_HEADERS: &str = "CUDA_INCLUDE_DIR";

    pub(super) fn compile() {
        println!("cargo:rerun-if-changed={SHIM}");
        for variable in [HEADERS, CUDA_HEADERS] {
            println!("cargo:rerun-if-env-changed={variable}");
        }
        let (headers, cuda) = match (headers(), cuda_headers()) {
            (Ok(headers), Ok(cuda)) => (headers, cuda),
            (Err(why), _) | (_, Err(why)) => {
                println!("cargo::error=feature tensorrt: {why}");
                return;
            }
        };
        let mut build = cc::Build::new();
        build.cpp(true).std("c++17").file(SHIM).include(&headers).include(&cuda);
        // Both from NVIDIA's headers.
        build.flag("-Wno-deprecated-declarations").flag("-Wno-unused-parameter");
        if let Err(error) = build.try_compile("sparse_refine_tensorrt") {
            let why = error.to_string().lines().next().unwrap_or_default().to_owned();
            println!(
                "cargo::error=feature tensorrt: {SHIM} does not compile against {} (TensorRT 10, 11 and TensorRT-RTX \
                 1.5 to 1.7 are known to do): {why}",
                headers.display()
            );
        }
    }

    fn headers() -> Result<PathBuf, String> {
        find(
            HEADERS,
            &["NvInfer.h", "NvOnnxParser.h"],
            &packaged(),
            "TensorRT's headers (libnvinfer-headers-dev, \
             libnvonnxparsers-dev; on Jetson they come with JetPack)",
        )
    }

    fn cuda_headers() -> Result<PathBuf, String> {
        let mut places = packaged();
        places.extend(["/usr/local/cuda/include".into(), "/usr/include".into()]);
        // The header sets of some packages hold a small copy beside them.
        if let Some(headers) = std::env::var_os(HEADERS).map(PathBuf::from) {
            places.insert(0, headers.clone());
            places.extend(headers.parent().map(Path::to_path_buf));
        }
        find(CUDA_HEADERS, &["cuda_runtime_api.h"], &places, "CUDA's headers (cuda-cudart-dev)")
    }

    fn packaged() -> Vec<PathBuf> {
        let arch = std::env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
        vec![format!("/usr/include/{arch}-linux-gnu").into()]
    }

    fn find(variable: &str, files: &[&str], places: &[PathBuf], what: &str) -> Result<PathBuf, String> {
        let missing = |folder: &Path| files.iter().find(|file| !folder.join(file).is_file()).copied();
        if let Some(folder) = std::env::var_os(variable).map(PathBuf::from) {
            return match missing(&folder) {
                None => Ok(folder),
                Some(file) => Err(format!("{variable}={} has no {file}", folder.display())),
            };
        }
        places.iter().find(|folder| missing(folder).is_none()).cloned().ok_or_else(|| {
            let tried: Vec<_> = places.iter().map(|folder| folder.display().to_string()).collect();
            format!("no {} in {}: install {what}, or set {variable}", files[0], tried.join(", "))
        })
    }
}
