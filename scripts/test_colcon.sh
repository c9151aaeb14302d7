#!/usr/bin/env bash
# `colcon build` as users run it: a workspace with this repository alone in src/, and nothing built before. Then the tests of
# what it installed, and of the node as installed. SPARSE_REFINE_CARGO_TARGET names a target folder to build in instead.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
workspace=$PWD/.ros/colcon
rm -rf "$workspace/src" "$workspace/install"
mkdir -p "$workspace/src/sparse_refine"
git ls-files -z --cached --others --exclude-standard | tar --null --files-from=- --create \
    | tar --extract --directory="$workspace/src/sparse_refine"
(
    cd "$workspace"
    colcon build --event-handlers console_direct+ ${SPARSE_REFINE_CARGO_TARGET:+--cmake-args \
        "-Dcargo_target=$SPARSE_REFINE_CARGO_TARGET"}
)
# The workspace's own setup file must name the package to everything that comes after it.
bash -c '. "$0/install/setup.bash" && python3 -c "
import ament_index_python.packages as index
print(\"found by its index:\", index.get_package_prefix(\"sparse_refine\"))"' "$workspace"
export SPARSE_REFINE_ROS_INSTALL=$workspace/install/sparse_refine
# Faults cannot be injected into a product.
exec scripts/ros_run.sh -m pytest -q -p no:cacheprovider --ignore=tests/ros/test_faults.py tests/ros "$@"
