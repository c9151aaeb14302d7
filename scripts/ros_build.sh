#!/usr/bin/env bash
# Builds without colcon, into .ros laid out as ROS expects an install: everything, or `ros_build.sh messages` all but the
# programs. Those share the target folder of every other build here.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
build=${SPARSE_REFINE_ROS_BUILD:-$PWD/.ros/build}
install=${SPARSE_REFINE_ROS_INSTALL:-$PWD/.ros}
generator=$(command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")
# The prefix holds the wheels' folder: CMake refuses to export include paths of the source tree that are outside of it.
[ -f "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    -DCMAKE_INSTALL_PREFIX="$install" -Dcargo_target="${CARGO_TARGET_DIR:-$PWD/target}" >/dev/null
if [ "${1-}" = messages ]; then
    cmake --build "$build" --target messages
    cmake --install "$build" --component Unspecified >/dev/null
else
    cmake --build "$build"
    cmake --install "$build" >/dev/null
    echo "built: $install/lib/sparse_refine/sparse_refine_node"
fi
