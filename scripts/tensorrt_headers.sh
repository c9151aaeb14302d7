#!/usr/bin/env bash
# Prints the folder of TensorRT's headers for `rtx` (1.7), `11` (11.4) or `10` (10.16). NVIDIA's headers (Apache-2.0) are
# in the packages of the crate trtx-sys; cargo unpacks them, nothing of them is compiled. Its versions cannot be in one
# dependency graph, so each has a manifest of its own.
set -euo pipefail
case ${1:?rtx, 11 or 10} in
    rtx) version='0.9.1' folder=TRT-RTX-1.7 ;;
    11) version='0.9.1' folder=TRT-Enterprise-11.4 ;;
    10) version='0.5.0' folder=TRT-Enterprise-10.16 ;;
    *) echo "tensorrt_headers.sh: rtx, 11 or 10, not $1" >&2; exit 2 ;;
esac
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
mkdir "$dir/src" && : > "$dir/src/lib.rs"
cat > "$dir/Cargo.toml" <<TOML
[package]
name = "headers"
version = "0.0.0"
edition = "2021"
[dependencies]
trtx-sys = { version = "=$version", default-features = false }
[workspace]
TOML
manifest=$(cargo metadata --quiet --manifest-path "$dir/Cargo.toml" --format-version 1 | python3 -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "trtx-sys"))')
echo "$(dirname "$manifest")/TensorRT-Headers/$folder"
