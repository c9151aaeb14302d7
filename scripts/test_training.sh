#!/usr/bin/env bash
# The tests of training/, or one line that says why not.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! python=$(scripts/torch_python.sh); then
    echo "test-training: skipped"
    exit 0
fi
cd training
exec "$python" -m pytest -q -p no:cacheprovider tests "$@"
