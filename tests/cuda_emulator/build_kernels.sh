#!/usr/bin/env bash
# build_kernels.sh OUT.so FOLDER [extra g++ flags]: compiles the kernels of a folder as C++ for the CPU.
#   plain     build_kernels.sh out/kernels.so src/cuda/kernels
#   ASan      ... -DSIMT_STATIC_SHARED -fsanitize=address -fno-omit-frame-pointer
#   TSan      ... -DSIMT_STATIC_SHARED -DSIMT_TSAN -fsanitize=thread
set -euo pipefail
rig=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "$1") folder=$(realpath "$2")
shift 2
mkdir -p "$(dirname "$out")"

# One C++ file, in the order of the product's own list (src/cuda/modules.rs has the same), then the registration.
{
    for file in "$folder"/ptx_ops.cuh $(ls "$folder"/*.cuh | grep -v ptx_ops) "$folder"/*.cu; do
        echo "#include \"$file\""
    done
    cat "$folder"/*.cu | tr '\n' ' ' |
        grep -oP 'extern "C" __global__ void\s+(__launch_bounds__\([^)]*\)\s+)?\K\w+' | sed 's/.*/SIMT_KERNEL(&)/'
} > "$out.cpp"

flags=(-std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wno-unknown-pragmas -I"$rig/simt")
if grep -qw f16c /proc/cpuinfo 2>/dev/null; then flags+=(-mf16c -mavx2); fi
defines=()
for flag in "$@"; do case $flag in -D*) defines+=("$flag") ;; esac; done # the runtime is never sanitized
g++ "${flags[@]}" ${defines[@]+"${defines[@]}"} -c "$rig/simt/simt_rt.cpp" -o "$out.rt.o"
g++ "${flags[@]}" "$@" -include "$rig/simt/simt.h" -c "$out.cpp" -o "$out.k.o"
g++ -shared "$out.rt.o" "$out.k.o" -o "$out" "$@"
