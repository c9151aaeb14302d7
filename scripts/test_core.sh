#!/usr/bin/env bash
# Every Rust test but the node's; `test_core.sh --ros`: the node's too, which needs `scripts/ros_build.sh messages`.
# SPARSE_REFINE_PYTHON and ORT_DYLIB_PATH switch on the tests against outside peers.
set -euo pipefail
cd "$(dirname "$0")/.."
SPARSE_REFINE_PYTHON=$PWD/.venv/bin/python
ORT_DYLIB_PATH=$("$SPARSE_REFINE_PYTHON" -c '
import glob, importlib.util, os
folder = os.path.dirname(importlib.util.find_spec("onnxruntime").origin)
print(glob.glob(os.path.join(folder, "capi", "libonnxruntime.so*"))[0])')
export SPARSE_REFINE_PYTHON ORT_DYLIB_PATH
# Real photos and networks, which may not be part of this repository; without them their tests say so and skip.
if [ -z "${SPARSE_REFINE_DATA:-}" ] && [ -d ../shared/data ]; then
    SPARSE_REFINE_DATA=$(cd ../shared/data && pwd)
    export SPARSE_REFINE_DATA
fi
run=cargo features=onnx-ort
if [ "${1-}" = --ros ]; then
    shift
    run=scripts/ros_cargo.sh features=onnx-ort,ros,fault-injection
fi
"$run" test --locked --features "$features" "$@"
