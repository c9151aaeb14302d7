#!/usr/bin/env bash
# The CUDA tests on a real GPU: the driver and NVRTC 12 must be installed. Nobody has run this yet.
set -euo pipefail
cd "$(dirname "$0")/.."
unset CUEMU_KERNELS
cargo run --quiet --locked -- doctor | grep -q '^cuda  *yes' ||
    { cargo run --quiet --locked -- doctor | grep '^cuda'; echo "no GPU to test on"; exit 1; }
tests=$(cargo test --locked --no-run --test cuda --message-format=json |
    grep -o '"executable":"[^"]*/cuda-[^"]*"' | tail -n 1 | cut -d'"' -f4)
"$tests" --ignored --test-threads 1 --nocapture
if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
        compute-sanitizer --tool $tool --error-exitcode 1 "$tests" --ignored --test-threads 1 two_slots
    done
else
    echo "compute-sanitizer is not installed: not run"
fi
