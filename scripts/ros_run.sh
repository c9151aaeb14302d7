#!/usr/bin/env bash
# Runs a Python program as an outside peer of the installed node: rclpy, our message, the 8 MP transport profile.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/ros_env.sh
install=${SPARSE_REFINE_ROS_INSTALL:-$PWD/.ros}
export AMENT_PREFIX_PATH=$install:$AMENT_PREFIX_PATH LD_LIBRARY_PATH=$install/lib:${LD_LIBRARY_PATH-}
PYTHONPATH=$(echo "$install"/lib/python3*/site-packages):${PYTHONPATH-}
export PYTHONPATH FASTRTPS_DEFAULT_PROFILES_FILE=${FASTRTPS_DEFAULT_PROFILES_FILE:-$PWD/config/fastdds_8mp.xml}
exec python3 "$@"
