#!/usr/bin/env bash
# Runs cargo as the CMake build does, after `make ros`: `scripts/ros_cargo.sh clippy --all-targets --features ros`.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
build=${SPARSE_REFINE_ROS_BUILD:-$PWD/.ros/build}
[ -f "$build/stage_path" ] || { echo "ros_cargo: nothing staged in $build; run \`make ros\` first" >&2; exit 1; }
stage=$(cat "$build/stage_path")
unset CMAKE_PREFIX_PATH
export AMENT_PREFIX_PATH=$stage:$AMENT_PREFIX_PATH LD_LIBRARY_PATH=$stage/lib:${LD_LIBRARY_PATH-}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
exec cargo "$@"
