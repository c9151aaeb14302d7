#!/usr/bin/env bash
# The node's unit tests, then the installed node against rclpy, each test in a ROS domain of its own. The node is started
# without ROS's environment. With arguments: only the latter, with pytest's options.
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# -gt 0 ] || scripts/ros_cargo.sh test --release --locked --features ros --lib ros::
exec scripts/ros_run.sh -m pytest -q -p no:cacheprovider tests/ros "$@"
