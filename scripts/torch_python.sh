#!/usr/bin/env bash
# Prints the Python that can train: the first with torch, numpy, Pillow and pytest. Fails where there is none.
for candidate in "${TORCH_PYTHON:-}" python3 /usr/bin/python3; do
    [ -n "$candidate" ] || continue
    if "$candidate" -c 'import torch, numpy, PIL, pytest' 2>/dev/null; then
        command -v "$candidate"
        exit 0
    fi
done
echo "no Python with torch, numpy, Pillow and pytest: install Debian's python3-torch python3-pil python3-pytest, \
or pip install -e 'training[test]' and set TORCH_PYTHON" >&2
exit 1
