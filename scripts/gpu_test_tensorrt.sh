#!/usr/bin/env bash
# TensorRT on a machine with an NVIDIA GPU, its driver, and TensorRT with headers (docs/tensorrt.md): builds the engine of
# engines/streets, runs it, and compares its labels with the CPU's.
set -euo pipefail
cd "$(dirname "$0")/.."
engines=$(mktemp -d)
trap 'rm -rf "$engines"' EXIT
export SPARSE_REFINE_ENGINES=$engines
cargo run --locked --quiet --release --features tensorrt --bin sparse_refine -- doctor
cargo test --locked --release --features tensorrt --test tensorrt -- --ignored --nocapture gpu::
