#!/usr/bin/env bash
# build_kernels.sh OUT.so FOLDER [race|plain|address|thread]: compiles the kernels of a folder as C++ for the CPU.
#   race      with the race check on shared memory of simt/race.cpp (the default)
#   address   under AddressSanitizer, thread under ThreadSanitizer: the program that loads it must preload their runtime
set -euo pipefail
rig=$(cd "$(dirname "$0")" && pwd)
out=$(realpath -m "$1") folder=$(realpath "$2") kind=${3:-race}
mkdir -p "$(dirname "$out")"

# One C++ file, in the order of the product's own list (src/cuda/modules.rs has the same), then the registration.
{
    for file in "$folder"/ptx_ops.cuh $(ls "$folder"/*.cuh | grep -v ptx_ops) "$folder"/*.cu; do
        echo "#include \"$file\""
    done
    cat "$folder"/*.cu | tr '\n' ' ' |
        grep -oP 'extern "C" __global__ void\s+(__launch_bounds__\([^)]*\)\s+)?\K\w+' | sed 's/.*/SIMT_KERNEL(&)/'
} > "$out.cpp"

# Of kernels and runtime, and of the kernels only: the runtime, which switches stacks, is never instrumented.
both=(-std=c++17 -O2 -g1 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wno-unknown-pragmas -I"$rig/simt")
kernels=() link=()
case $kind in
    race) both+=(-DSIMT_RACECHECK) kernels+=(-fsanitize=thread -Wno-tsan) ;;
    plain) ;;
    address) both+=(-DSIMT_STATIC_SHARED) kernels+=(-fsanitize=address -fno-omit-frame-pointer) link+=(-fsanitize=address) ;;
    thread) both+=(-DSIMT_STATIC_SHARED -DSIMT_TSAN) kernels+=(-fsanitize=thread -Wno-tsan) link+=(-fsanitize=thread) ;;
    *) echo "no build named $kind" && exit 2 ;;
esac
if grep -qw f16c /proc/cpuinfo 2>/dev/null; then both+=(-mf16c -mavx2); fi
for file in simt_rt race; do g++ "${both[@]}" -c "$rig/simt/$file.cpp" -o "$out.$file.o"; done
g++ "${both[@]}" ${kernels[@]+"${kernels[@]}"} -include "$rig/simt/simt.h" -c "$out.cpp" -o "$out.k.o"
g++ -shared "$out.simt_rt.o" "$out.race.o" "$out.k.o" -o "$out" ${link[@]+"${link[@]}"} -Wl,-z,defs
