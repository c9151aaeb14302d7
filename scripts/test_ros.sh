#!/usr/bin/env bash
# The installed node against rclpy, each test in a ROS domain of its own; the node is started without ROS's environment.
set -euo pipefail
cd "$(dirname "$0")/.."
exec scripts/ros_run.sh -m pytest -q -p no:cacheprovider tests/ros "$@"
