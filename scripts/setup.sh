#!/usr/bin/env bash
# Installs what the targets of the Makefile need: `setup.sh [system] [python] [torch]`, all three by default.
#   system  a C compiler (SQLite and zstd are compiled in) and Python's venv module
#   python  .venv with the pinned packages of tests/python/requirements.txt
#   torch   PyTorch for training/: Debian's small CPU build, unless one is installed already
set -euo pipefail
cd "$(dirname "$0")/.."

. scripts/packages.sh

setup_system() {
    command -v cargo >/dev/null || { say "Rust is missing: install it from https://rustup.rs and try again"; return 1; }
    command -v cc >/dev/null || apt_install build-essential
    command -v python3 >/dev/null || apt_install python3
}

setup_python() {
    local stamp=.venv/requirements.sha256 wanted
    wanted=$(sha256sum < tests/python/requirements.txt)
    [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && return
    rm -rf .venv
    if ! python3 -m venv .venv 2>/dev/null; then
        rm -rf .venv
        apt_install python3-venv
        python3 -m venv .venv
    fi
    say "installing tests/python/requirements.txt into .venv"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r tests/python/requirements.txt
    printf '%s\n' "$wanted" > "$stamp"
}

setup_torch() {
    scripts/torch_python.sh >/dev/null 2>&1 && return
    apt_install python3-torch python3-numpy python3-pil python3-pytest libopenblas0-pthread
    scripts/torch_python.sh >/dev/null
}

for part in "${@:-system python torch}"; do
    for one in $part; do "setup_$one"; done
done
