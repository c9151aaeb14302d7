#!/usr/bin/env bash
# quantized_bundles.sh TOOL OUT: every bundle of engines/ in 16 and 8 bits under OUT, by training/'s quantize command;
# TOOL is sparse_refine. What the last run made is kept while the bundle and the command are the same.
set -euo pipefail
tool=$(realpath "$1")
mkdir -p "$2"
out=$(realpath "$2")
cd "$(dirname "$0")/.."
python=$PWD/.tensorrt/venv/bin/python
wanted=$(cat engines/*/model.toml training/sparse_refine_training/quantize.py "$0" | sha256sum)
[ -f "$out/made_from" ] && [ "$(cat "$out/made_from")" = "$wanted" ] && exit
rm -rf "${out:?}"/*
"$tool" synth "$out/scenes" --format images --scenes 2 --frames 1 --size 960x540 --seed 7000 >/dev/null
for bundle in engines/*/; do
    [ -f "$bundle/segmenter.onnx" ] || continue
    for precision in fp16 int8; do
        name=$(basename "$bundle")_$precision
        (cd training && "$python" -m sparse_refine_training.quantize "../$bundle" "$out/$name" \
            --precision "$precision" --calibrate "$out/scenes")
    done
done
printf '%s\n' "$wanted" > "$out/made_from"
