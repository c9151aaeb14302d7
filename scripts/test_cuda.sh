#!/usr/bin/env bash
# The CUDA backend on an emulated driver: every schedule, injected faults. No GPU, no driver, no toolkit is needed.
# test_cuda.sh [quick]: `quick` leaves the repetitions with other seeds out.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/cuda_env.sh || exit 0 # says why

failures=0
step() { # NAME COMMAND..: one line, the output only where it fails
    local name=$1 log
    shift
    log=$(mktemp)
    local start=$SECONDS
    if "$@" > "$log" 2>&1; then
        echo "ok    $name ($((SECONDS - start)) s)"
    else
        echo "FAIL  $name"
        tail -n 40 "$log"
        failures=$((failures + 1))
    fi
    rm -f "$log"
}
tests=$(cargo test --locked --no-run --test cuda --message-format=json 2>/dev/null |
    grep -o '"executable":"[^"]*/cuda-[^"]*"' | tail -n 1 | cut -d'"' -f4) || tests=
# Once more, to be seen, where that failed.
[ -n "$tests" ] || { cargo test --locked --no-run --test cuda; exit 1; }

# One multiprocessor: launches that loop over their work do loop.
CUEMU_SCHED=lazy CUEMU_PROCESSORS=1 step "schedule lazy, with injected faults" "$tests"
for seed in 1 2 3; do
    CUEMU_SCHED=prio CUEMU_SEED=$seed step "schedule prio, seed $seed" "$tests" --skip faults
    [ "${1:-}" != quick ] || break
done
CUEMU_SCHED=threads step "schedule threads" "$tests" --skip faults
echo "test-cuda: $failures failures"
exit $((failures > 0))
