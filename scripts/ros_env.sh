# To be sourced in the project's folder, by bash: the ROS 2 environment to build and test in. A sourced ROS 2 wins;
# else the wheels that scripts/ros_setup.sh installed. Sourcing it twice is harmless.
_has_rcl() {
    local prefix
    for prefix in $(printf %s "${AMENT_PREFIX_PATH-}" | tr : ' '); do [ -d "$prefix/share/rcl" ] && return; done
    return 1
}
if ! _has_rcl; then
    _venv=${SPARSE_REFINE_ROS_VENV:-$PWD/.ros/venv}
    _site=$(echo "$_venv"/lib/python3*/site-packages)
    _libraries=$(ls -d "$_site"/ros_*.libs | paste -sd:)
    _config() { "$_venv/bin/python" -c "import sysconfig; print(sysconfig.get_config_var('$1'))"; }
    export ROS_DISTRO=jazzy ROS_VERSION=2 ROS_PYTHON_VERSION=3 _ROS_WHEELS_BOOTSTRAP_COMPLETE=1
    export PATH="$_venv/bin:$PATH" AMENT_PREFIX_PATH="$_venv:$_venv/shim" CMAKE_PREFIX_PATH="$_venv"
    # For r2r's build scripts, which load ROS libraries. What they build finds its libraries by its own rpath.
    export LD_LIBRARY_PATH="$_venv/lib:$_libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
    LIBCLANG_PATH="$_site/clang/native" BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"
    export LIBCLANG_PATH BINDGEN_EXTRA_CLANG_ARGS
    # Read by build.rs.
    SPARSE_REFINE_RPATH="\$ORIGIN/..:$_venv/lib:$_libraries:$(_config LIBDIR)"
    SPARSE_REFINE_LIBPYTHON="$(_config LIBDIR)/$(_config LDLIBRARY)"
    export SPARSE_REFINE_RPATH SPARSE_REFINE_LIBPYTHON
fi
