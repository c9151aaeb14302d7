#!/usr/bin/env bash
# Builds the node and its message without colcon, into .ros/install laid out as ROS expects it.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
build=${SPARSE_REFINE_ROS_BUILD:-$PWD/.ros/build}
install=${SPARSE_REFINE_ROS_INSTALL:-$PWD/.ros}
[ -f "$build/build.ninja" ] || cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DBUILD_TESTING=OFF \
    -DCMAKE_INSTALL_PREFIX="$install" ${CARGO_TARGET_DIR:+-Dcargo_target="$CARGO_TARGET_DIR"} >/dev/null
cmake --build "$build"
cmake --install "$build" >/dev/null
echo "built: $install/lib/sparse_refine/sparse_refine_node"
