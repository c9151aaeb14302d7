#!/usr/bin/env bash
# The node's unit tests, then the node against rclpy, each test in a ROS domain of its own. The node is built as the other
# tests are, to share what they built, and with injected faults; it is started without ROS's environment.
# With arguments: only the latter, with pytest's options.
set -euo pipefail
cd "$(dirname "$0")/.."
features=onnx-ort,ros,fault-injection
[ $# -gt 0 ] || scripts/ros_cargo.sh test --locked --features $features --lib ros::
# Tests of the command line need the programs, so cargo makes them; `cargo build` would make all of it again, since without
# the tests' own dependencies other features of shared ones are on.
scripts/ros_cargo.sh test --no-run --locked --features $features --test cli
install=${SPARSE_REFINE_ROS_INSTALL:-$PWD/.ros}
built=${CARGO_TARGET_DIR:-$PWD/target}/debug
# In the installed tree, though not in the place of what `make ros` installs: programs find libraries and models from there.
export SPARSE_REFINE_PROGRAMS=$install/lib/under_test
mkdir -p "$SPARSE_REFINE_PROGRAMS"
for program in sparse_refine sparse_refine_node; do
    cmp -s "$built/$program" "$SPARSE_REFINE_PROGRAMS/$program" || cp "$built/$program" "$SPARSE_REFINE_PROGRAMS/"
done
exec scripts/ros_run.sh -m pytest -q -p no:cacheprovider tests/ros "$@"
