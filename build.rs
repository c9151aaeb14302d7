//! For the feature `ros`: whether the ROS environment has our message, and how to find its libraries at run time.
//! For the feature `tensorrt`: compiles the C++ shim against TensorRT's headers; nothing of TensorRT is linked.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
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
