# Source it from the repository's root: builds the emulated driver and the kernels for it, finds NVRTC, and sets the
# environment in which a CUDA program runs on them. Returns 1, with a message, where something cannot be had.
cuda_cache=$PWD/.cache/cuda
nvrtc_version=12.9.86

cuda_skip() { echo "SKIPPED test-cuda: $*"; }

# NVRTC's wheel from PyPI: 217 MB unpacked, once.
cuda_nvrtc() {
    ls -d "$cuda_cache"/venv/lib/python3*/site-packages/nvidia/cuda_nvrtc/lib 2>/dev/null | head -n 1
}
if [ -z "$(cuda_nvrtc)" ]; then
    echo "installing NVRTC $nvrtc_version from PyPI into .cache/cuda (217 MB)"
    mkdir -p "$cuda_cache"
    { [ -x "$cuda_cache/venv/bin/python" ] || python3 -m venv "$cuda_cache/venv"; } &&
        "$cuda_cache/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
            "nvidia-cuda-nvrtc-cu12==$nvrtc_version" || true
fi
[ -n "$(cuda_nvrtc)" ] || { cuda_skip "NVRTC cannot be had: no Python with venv, or no PyPI"; return 1; }
command -v g++ >/dev/null || { cuda_skip "no g++ for the emulated kernels"; return 1; }
[ "$(uname -sm)" = "Linux x86_64" ] || { cuda_skip "the emulated driver is for x86-64 Linux"; return 1; }

cargo build --quiet --locked --package cuemu --release
mkdir -p "$cuda_cache/emulator"
cp -u "${CARGO_TARGET_DIR:-target}/release/libcuda.so" "$cuda_cache/emulator/libcuda.so"
stamp=$(cat src/cuda/kernels/* tests/cuda_emulator/simt/* tests/cuda_emulator/build_kernels.sh | sha256sum)
if [ "$(cat "$cuda_cache/emulator/stamp" 2>/dev/null)" != "$stamp" ]; then
    tests/cuda_emulator/build_kernels.sh "$cuda_cache/emulator/kernels.so" src/cuda/kernels
    echo "$stamp" > "$cuda_cache/emulator/stamp"
fi
export CUEMU_KERNELS=$cuda_cache/emulator/kernels.so
export SPARSE_REFINE_CACHE=$cuda_cache/compiled
export LD_LIBRARY_PATH=$cuda_cache/emulator:$(cuda_nvrtc)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export SPARSE_REFINE_CUDA_TESTS=emulated
