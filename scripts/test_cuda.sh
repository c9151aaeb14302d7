#!/usr/bin/env bash
# The CUDA backend on an emulated driver: every schedule, injected faults, sanitizers; and the driver's own tests. No GPU, no
# driver, no toolkit is needed.
#   test_cuda.sh [quick]   `quick` leaves out the repetitions with other seeds
#   test_cuda.sh full      one 8 MP frame, and nothing else
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/cuda_env.sh || exit 0 # says why

# step NAME COMMAND..: in the background, as many at once as there are processors; one line, the output only where it fails.
step() {
    while [ "$(jobs -rp | wc -l)" -ge "$(nproc)" ]; do wait -n || true; done
    run "$@" &
}
run() {
    local name=$1 log start=$SECONDS
    shift
    log=$(mktemp)
    if "$@" > "$log" 2>&1; then
        echo "ok    $name ($((SECONDS - start)) s)"
    else
        echo "$name" >> "$failed"
        printf 'FAIL  %s\n%s\n' "$name" "$(tail -n 40 "$log")"
    fi
    rm -f "$log"
}
tests=$(cuda_test cuda)
if [ "${1:-}" = full ]; then
    # Without the race check, which takes about three times as long.
    CUEMU_KERNELS=$(cuda_kernels src/cuda/kernels kernels plain)
    CUEMU_SCHED=lazy exec "$tests" --ignored --exact --nocapture full::an_8_mp_frame_of_the_shipped_bundle_equals_the_cpu
fi
frames=("$tests" --ignored --skip full)
failed=$(mktemp) # names of the steps that failed
trap 'rm -f "$failed"' EXIT

# Sanitizers look at the kernels, which are built with them; the test program only carries their runtime.
planted=(env PLANTED_race="$(cuda_kernels tests/cuda_emulator/planted planted race)")
sanitized() { # asan|tsan address|thread TEST SETTINGS..
    local runtime kernels
    runtime=$(cuda_sanitizer "$1")
    [ -n "$runtime" ] || { echo "SKIPPED $2 sanitizer: g++ has no lib$1.so"; return; }
    kernels=$(cuda_kernels src/cuda/kernels kernels "$2")
    planted+=("PLANTED_$2=$(cuda_kernels tests/cuda_emulator/planted planted "$2")" "PLANTED_$2_RUNTIME=$runtime")
    step "$2 sanitizer, $3" env CUEMU_KERNELS="$kernels" LD_PRELOAD="$runtime" "${@:4}" "$tests" --ignored "$3"
}

# One multiprocessor: launches that loop over their work do loop.
CUEMU_SCHED=lazy CUEMU_PROCESSORS=1 step "schedule lazy, with injected faults" "${frames[@]}"
for seed in 1 2 3; do
    CUEMU_SCHED=prio CUEMU_SEED=$seed step "schedule prio, seed $seed" "${frames[@]}" --skip faults
    [ "${1:-}" != quick ] || break
done
CUEMU_SCHED=threads step "schedule threads" "${frames[@]}" --skip faults
sanitized asan address two_slots_and_two_cameras CUEMU_SCHED=lazy CUEMU_MALLOC=1 ASAN_OPTIONS=detect_leaks=0:use_sigaltstack=0
sanitized tsan thread a_frame_the_network_refuses CUEMU_SCHED=threads TSAN_OPTIONS=ignore_noninstrumented_modules=1
step "the driver finds each planted bug" "${planted[@]}" "$(cuda_test planted --package cuemu)" --ignored
wait
echo "test-cuda: $(wc -l < "$failed") failures"
[ ! -s "$failed" ]
