#!/usr/bin/env bash
# The tests of TensorRT that need no GPU, or one line that says why not. What they need is put into .tensorrt.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! scripts/tensorrt_setup.sh; then
    echo "test-tensorrt: SKIPPED, its wheels cannot be had (see above)"
    exit 0
fi
rig=$PWD/.tensorrt
target=$(cargo metadata --format-version 1 --no-deps | python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
# These tests wait for TensorRT, not for our code; without optimisation it compiles in a fraction of the time. Only our code,
# and `cargo test` for the program too: so the dependencies are those of the other tests.
tests=(cargo test --locked --features tensorrt --config profile.test.package.sparse_refine.opt-level=0)
against() { # VERSION COMMAND...: with the headers of a TensorRT
    local headers
    headers=$(scripts/tensorrt_headers.sh "$1")
    shift
    TENSORRT_INCLUDE_DIR=$headers CUDA_INCLUDE_DIR=${headers%/*} "$@"
}

mkdir -p "$rig/bin" "$rig/driver"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$rig/driver/libcuda.so.1" tests/tensorrt/fake_driver.c
program=("${tests[@]}" --no-run --quiet --test tensorrt) # whose tests need it, so cargo makes it
# One program for each major version: their virtual tables differ.
for major in 10 11; do
    against "$major" "${program[@]}"
    install -m 755 "$target/debug/sparse_refine" "$rig/bin/sparse_refine_$major"
done

# Needs no PyTorch, as the other tests of training/ do.
(cd training && PYTHONPATH=. "$rig/venv/bin/python" -m pytest -q -p no:cacheprovider --noconftest tests/test_quantize.py)

# Reduced precision of the bundled networks, so that these exports build too.
against rtx "${program[@]}"
scripts/quantized_bundles.sh "$target/debug/sparse_refine" "$rig/models"

export SPARSE_REFINE_TENSORRT_RIG=$rig
against rtx "${tests[@]}" --test tensorrt "$@"
against rtx "${tests[@]}" --lib tensorrt:: "$@"
