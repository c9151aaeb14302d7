#!/usr/bin/env bash
# Every table of docs/PERFORMANCE.md, into $OUT/bench/tables.md: `scripts/bench.sh [prepare] [BUNDLE]`. `prepare` only builds and
# installs, so that nothing of that falls into a quiet machine's time; what is there already is not made again.
# What can be set is described in scripts/bench_tables.py. A part whose tools are missing says so and is left out.
set -euo pipefail
cd "$(dirname "$0")/.."
only=
[ "${1-}" != prepare ] || { only=yes; shift; }
bundle=${1:-engines/streets}
out=${OUT:-out}/bench
mkdir -p "$out"

# A part of the preparation: what fails is left out later.
part() {
    local what=$1; shift
    echo "== $what" >> "$out/prepare.log"
    "$@" >> "$out/prepare.log" 2>&1 || echo "bench: no $what: $(tail -1 "$out/prepare.log")" >&2
}
dense() {
    cmp -s "$bundle/model.toml" "$out/dense_bundle.of" && return # its hashes name the networks
    [ -x "$out/onnx/bin/python" ] || python3 -m venv "$out/onnx"
    "$out/onnx/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.22.0
    rm -rf "$out/dense_bundle"
    "$out/onnx/bin/python" scripts/bench_baselines.py prepare "$bundle" "$out/dense_bundle"
    cp "$bundle/model.toml" "$out/dense_bundle.of"
}
# spconv's CPU build beside the PyTorch that trains here; numpy below 2 because Debian's PyTorch was built with it.
spconv() {
    local torch
    "$out/spconv/bin/python" -c 'import spconv.pytorch' 2> /dev/null && return
    torch=$(scripts/torch_python.sh)
    rm -rf "$out/spconv"
    "$torch" -m venv --system-site-packages "$out/spconv"
    "$out/spconv/bin/python" -m pip install --quiet --disable-pip-version-check spconv==2.3.8 'numpy<2'
    "$out/spconv/bin/python" -c 'import spconv.pytorch'
}

: > "$out/prepare.log"
scripts/setup.sh system
# The programs are built with them: the library is compiled once.
cargo bench --locked --features onnx-ort --bench kernels --bench instructions --no-run
part "Python environment" scripts/setup.sh python
part "dense network" dense
part "spconv" spconv
[ -z "$only" ] || exit 0

python3 scripts/bench_tables.py "${CARGO_TARGET_DIR:-target}/release/sparse_refine" "$bundle" "$out"
