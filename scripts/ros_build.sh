#!/usr/bin/env bash
# Builds the node and its message without colcon, into .ros/install laid out as ROS expects it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
build=${SPARSE_REFINE_ROS_BUILD:-$PWD/.ros/build}
install=${SPARSE_REFINE_ROS_INSTALL:-$PWD/.ros}
generator=$(command -v ninja >/dev/null && echo Ninja || echo "Unix Makefiles")
# The prefix holds the wheels' folder: CMake refuses to export include paths of the source tree that are outside of it.
[ -f "$build/CMakeCache.txt" ] || cmake -S . -B "$build" -G "$generator" -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    -DCMAKE_INSTALL_PREFIX="$install" ${CARGO_TARGET_DIR:+-Dcargo_target="$CARGO_TARGET_DIR"} >/dev/null
cmake --build "$build"
cmake --install "$build" >/dev/null
echo "built: $install/lib/sparse_refine/sparse_refine_node"
