#!/usr/bin/env bash
# The unit tests of the kernels on NEON: cross-compiled for aarch64, run under QEMU. Needs rustup's aarch64 target, and
# Debian's gcc-aarch64-linux-gnu and qemu-user.
set -euo pipefail
cd "$(dirname "$0")/.."
target=aarch64-unknown-linux-gnu
for tool in aarch64-linux-gnu-gcc qemu-aarch64; do
    command -v "$tool" > /dev/null || { echo "skipped: no $tool; apt-get install gcc-aarch64-linux-gnu qemu-user"; exit 0; }
done
rustup target list --installed 2> /dev/null | grep -qx "$target" || rustup target add "$target" \
    || { echo "skipped: rustup target add $target failed"; exit 0; }
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
# Linker flags for the host's own linker do not fit here.
unset RUSTFLAGS
cargo test --locked --target "$target" --lib -- cpu::fused
