#!/usr/bin/env bash
# Puts what the TensorRT tests need into .tensorrt: NVIDIA's wheels from PyPI (TensorRT-RTX, and the lean runtimes of
# TensorRT 10 and 11, which share file names and so have a folder each) and a Python with onnx. 0.7 GB, x86-64 only.
# The wheels are under NVIDIA's licence: they are installed for tests, never linked, committed or passed on.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh

stamp=.tensorrt/installed
wanted=$(sha256sum < scripts/tensorrt_requirements.txt)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit
[ "$(uname -m)" = x86_64 ] || { say "the wheels for the TensorRT tests are for x86-64, this is $(uname -m)"; exit 1; }
rm -rf .tensorrt/venv .tensorrt/rtx .tensorrt/lean10 .tensorrt/lean11 "$stamp"
mkdir -p .tensorrt
if ! python3 -m venv .tensorrt/venv 2>/dev/null; then
    rm -rf .tensorrt/venv
    apt_install python3-venv
    python3 -m venv .tensorrt/venv
fi
install() { .tensorrt/venv/bin/python -m pip install --quiet --disable-pip-version-check "$@"; }
say "installing the packages of scripts/tensorrt_requirements.txt into .tensorrt (0.7 GB)"
requirement() { sed -n "s/^# $1: //p" scripts/tensorrt_requirements.txt; }
install -r scripts/tensorrt_requirements.txt
for folder in rtx lean10 lean11; do
    install --no-deps --target ".tensorrt/$folder" "$(requirement "$folder")"
done
printf '%s\n' "$wanted" > "$stamp"
