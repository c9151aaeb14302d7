#!/usr/bin/env bash
# Every table of docs/PERFORMANCE.md, one after the other, into $OUT/bench: `scripts/bench.sh [BUNDLE]`.
# BENCH_FRAMES (default 10) frames a mode. Quiet the machine first. Parts whose tools are missing say so and are left out.
set -euo pipefail
cd "$(dirname "$0")/.."
bundle=${1:-engines/streets}
out=${OUT:-out}/bench
frames=${BENCH_FRAMES:-10}
tool=${CARGO_TARGET_DIR:-target}/release/sparse_refine
size=${BENCH_SIZE:-3840x2160}
mkdir -p "$out"

heading() { printf '\n== %s\n' "$*"; }
{
    heading "machine"
    date -u +%F
    git rev-parse --short HEAD 2> /dev/null || true
    grep -m1 'model name' /proc/cpuinfo || uname -m
    echo "$(nproc) cores; load $(cut -d' ' -f1-3 /proc/loadavg)"
    "$tool" doctor --model "$bundle" | grep -i -E 'thread|cpu' || true

    heading "kernels against the processor's peak (cargo bench --bench kernels)"
    cargo bench --locked --bench kernels 2> /dev/null

    heading "modes: bench --size $size --frames $frames"
    if command -v /usr/bin/time > /dev/null; then
        /usr/bin/time -f 'peak memory of the process: %M kB' \
            "$tool" bench --model "$bundle" --size "$size" --frames "$frames" 2>&1
    else
        "$tool" bench --model "$bundle" --size "$size" --frames "$frames"
    fi

    heading "instruction sets (SPARSE_REFINE_ISA)"
    for isa in avx512 avx2 portable; do
        echo "$isa:"
        SPARSE_REFINE_ISA=$isa "$tool" bench --model "$bundle" --size "$size" --frames 4 --compare refined \
            | grep -E 'select|refine |fuse|p50'
    done

    heading "pixels refined (--alpha)"
    for alpha in 0.3 0.5 0.7 0.9 1.2; do
        echo "alpha $alpha:"
        "$tool" bench --model "$bundle" --size "$size" --frames 4 --compare refined --alpha "$alpha" \
            | grep -E 'refine|fuse|p50'
    done

    heading "image size"
    for other in 960x540 1920x1080 3840x2160; do
        echo "$other:"
        "$tool" bench --model "$bundle" --size "$other" --frames 4 --compare coarse,refined | grep -E 'refine|p50'
    done

    heading "threads"
    for threads in $(seq 1 "$(nproc)"); do
        echo "$threads:"
        "$tool" bench --model "$bundle" --size "$size" --frames 4 --compare coarse,refined --threads "$threads" \
            | grep -E 'segment|refine|fuse|p50'
    done

    heading "accuracy against budget (--curve)"
    "$tool" bench --model "$bundle" --size "$size" --frames "$frames" --curve "$out/curve.html"

    heading "what one would write instead (scripts/bench_baselines.py)"
    if [ -x .venv/bin/python ]; then
        [ -x "$out/venv/bin/python" ] || python3 -m venv "$out/venv" || true
        if "$out/venv/bin/python" -m pip install --quiet --disable-pip-version-check onnx==1.22.0 2> "$out/pip.log" \
            && "$out/venv/bin/python" scripts/bench_baselines.py prepare "$bundle" "$out/dense_bundle"; then
            "$tool" bench --model "$out/dense_bundle" --size "$size" --frames 3 --compare coarse,refined,dense
        else
            echo "no dense network: $(tail -1 "$out/pip.log")"
        fi
        .venv/bin/python scripts/bench_baselines.py run "$bundle" "$out/dense_bundle"
    else
        echo "skipped: scripts/setup.sh python makes .venv"
    fi
} | tee "$out/tables.txt"
