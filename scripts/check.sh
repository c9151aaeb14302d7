#!/usr/bin/env bash
# What a change must pass beside its tests.
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '== %s\n' "$*"; "$@"; }
step cargo fmt --all --check
step cargo clippy --locked --all-targets --features onnx-ort -- -D warnings
step cargo check --locked --quiet --no-default-features
if headers=$(scripts/tensorrt_headers.sh rtx 2>/dev/null); then
    TENSORRT_INCLUDE_DIR=$headers CUDA_INCLUDE_DIR=${headers%/*} \
        step cargo clippy --locked --all-targets --features tensorrt -- -D warnings
else
    echo "== TensorRT: its headers cannot be had, the feature tensorrt not checked"
fi
RUSTDOCFLAGS='-D warnings' step cargo doc --locked --quiet --no-deps
if cargo deny --version >/dev/null 2>&1; then
    step cargo deny --locked check bans licenses sources
    if cargo deny fetch db >/dev/null 2>&1; then
        step cargo deny --locked check advisories
    else
        echo "== cargo deny: the advisory database cannot be fetched, advisories not checked"
    fi
else
    echo "== cargo deny: not installed, licences and advisories not checked (cargo install cargo-deny)"
fi
if scripts/setup.sh python 2>/dev/null; then
    step .venv/bin/python -m mypy --config-file training/pyproject.toml --cache-dir .venv/mypy_cache \
        training/sparse_refine_training
else
    echo "== mypy: cannot be installed, the types of training/ not checked (scripts/setup.sh python says why)"
fi
if [ -f .ros/build/stage_path ]; then
    step scripts/ros_cargo.sh clippy --locked --all-targets --features onnx-ort,ros,fault-injection -- -D warnings
else
    echo "== the node: ROS 2 is not set up here, not checked (make ros, or make test)"
fi
echo "check passed"
