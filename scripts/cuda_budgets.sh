#!/usr/bin/env bash
# Compiles the kernels for every supported architecture, without a GPU, and holds registers, spills and shared memory
# against tests/cuda_emulator/budgets.tsv; looks for tensor-core and asynchronous-copy instructions in the convolution.
# `cuda_budgets.sh --write` writes the table anew. NVIDIA's compilers come from PyPI into .cache/cuda.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=.cache/cuda/venv
[ -x $venv/bin/python ] || { mkdir -p .cache/cuda && python3 -m venv $venv; }
need() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
need nvidia-cuda-nvrtc-cu12==12.9.86 nvidia-cuda-nvcc-cu12==12.9.86 ||
    { echo "SKIPPED cuda-budgets: NVIDIA's compilers cannot be had from PyPI"; exit 0; }
# CUDA 13: Thor as sm_110, and the disassembler. Without them the rest is still checked.
need nvidia-cuda-nvdisasm nvidia-cuda-nvrtc nvidia-cuda-nvcc || echo "the CUDA 13 wheels cannot be had"
exec $venv/bin/python tests/cuda_emulator/budgets.py "$@"
