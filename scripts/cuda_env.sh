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

# cuda_kernels FOLDER NAME KIND: prints the library of a folder's kernels in a build of build_kernels.sh, up to date.
cuda_kernels() {
    local library=$cuda_cache/emulator/$2_$3.so stamp
    stamp=$(cat "$1"/* src/cuda/kernels/* tests/cuda_emulator/simt/* tests/cuda_emulator/build_kernels.sh | sha256sum)
    if [ "$(cat "$library.stamp" 2>/dev/null)" != "$stamp" ]; then
        tests/cuda_emulator/build_kernels.sh "$library" "$1" "$3" >&2 || return 1
        echo "$stamp" > "$library.stamp"
    fi
    echo "$library"
}
# cuda_sanitizer NAME: prints where g++ has the runtime of a sanitizer, asan or tsan; nothing where it has none.
cuda_sanitizer() {
    local library
    library=$(g++ -print-file-name="lib$1.so")
    [ ! -e "$library" ] || realpath "$library"
}

cargo build --quiet --locked --package cuemu --release
mkdir -p "$cuda_cache/emulator"
cp -u "${CARGO_TARGET_DIR:-target}/release/libcuda.so" "$cuda_cache/emulator/libcuda.so"
CUEMU_KERNELS=$(cuda_kernels src/cuda/kernels kernels race)
export CUEMU_KERNELS
export SPARSE_REFINE_CACHE=$cuda_cache/compiled
export LD_LIBRARY_PATH=$cuda_cache/emulator:$(cuda_nvrtc)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# cuda_test NAME [cargo's arguments]: prints the binary of a test program.
cuda_test() {
    cargo test --locked --no-run "${@:2}" --test "$1" --message-format=json |
        grep -o '"executable":"[^"]*/'"$1"'-[^"]*"' | tail -n 1 | cut -d'"' -f4
}
