//! For the feature `ros`: which interfaces the ROS environment has, and how to find its libraries at run time.

use std::path::Path;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(has_vision_msgs)");
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
    if has_interfaces("vision_msgs") {
        println!("cargo:rustc-cfg=has_vision_msgs");
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
