#!/usr/bin/env python3
"""Counts the instructions of the hot stages under valgrind and compares them with benches/instructions.json.

    bench_instructions.py            status 1 if a stage takes over 3 % more or less than the table says
    bench_instructions.py --write    writes the table

Another compiler makes other instructions: then the counts are printed and nothing fails. Valgrind knows no AVX-512; the AVX2
kernels are counted. Without valgrind, or on another architecture than x86-64, it says so and is left out.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "benches/instructions.json"
STAGES = ("preprocess", "select_nearest", "select_bilinear", "refine", "fuse")
TIMES = (1, 3)
TOLERANCE = 0.03


def run(*command):
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False,
                          env=os.environ | {"SPARSE_REFINE_ISA": "avx2"})
    if done.returncode:
        sys.exit(f"bench_instructions: {command[0]} ended with {done.returncode}: {done.stderr[-500:]}")
    return done


def program():
    built = run("cargo", "bench", "--locked", "--features", "onnx-ort", "--bench", "instructions", "--no-run", "--message-format",
                "json")
    messages = (json.loads(line) for line in built.stdout.splitlines() if line.startswith("{"))
    return next(m["executable"] for m in messages if m.get("executable") and m["target"]["name"] == "instructions")


def count(path, stage, times):
    said = run("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", path, stage, str(times)).stderr
    return int(re.search(r"Collected : (\d+)", said)[1])


def main():
    if not shutil.which("valgrind") or platform.machine() != "x86_64":
        print("bench_instructions: left out, needs valgrind on x86-64 (apt-get install valgrind)")
        return 0
    path = program()
    compiler = run("rustc", "--version").stdout.strip()
    found = {}
    for stage in STAGES:
        few, many = (count(path, stage, times) for times in TIMES)
        found[stage] = (many - few) // (TIMES[1] - TIMES[0])
    if "--write" in sys.argv:
        TABLE.write_text(json.dumps({"compiler": compiler, "instructions": found}, indent=2) + "\n")
    if not TABLE.exists():
        print("\n".join(f"{stage:<16} {instructions:>12}" for stage, instructions in found.items()))
        print(f"no {TABLE.relative_to(ROOT)} to compare with: --write makes it")
        return 0
    table = json.loads(TABLE.read_text())
    wrong = 0
    for stage, instructions in found.items():
        change = instructions / table["instructions"][stage] - 1
        wrong += abs(change) > TOLERANCE
        print(f"{stage:<16} {instructions:>12}  {change:+.2%}")
    if table["compiler"] != compiler:
        print(f"the table is of {table['compiler']}, this is {compiler}: nothing is concluded")
        return 0
    if wrong:
        print(f"{wrong} stages are more than {TOLERANCE:.0%} off benches/instructions.json; if that is meant, --write")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
