#!/usr/bin/env python3
"""Measures every table of docs/PERFORMANCE.md, one section after the other, and writes them as markdown.

    bench_tables.py TOOL BUNDLE OUT     run by scripts/bench.sh, which prepares what the sections need

BENCH_SIZE (3840x2160), BENCH_FRAMES (10 a mode), BENCH_PUNCTUAL_FRAMES (100 a budget), BENCH_MINUTES (15: sections that would
start later are left out, and say so), BENCH_ONLY (names of sections, separated by commas). A section that fails says why
and the others go on.
"""

import datetime
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZE = os.environ.get("BENCH_SIZE", "3840x2160")
FRAMES = int(os.environ.get("BENCH_FRAMES", "10"))
PUNCTUAL_FRAMES = int(os.environ.get("BENCH_PUNCTUAL_FRAMES", "100"))
MINUTES = float(os.environ.get("BENCH_MINUTES", "15"))
ONLY = [name for name in os.environ.get("BENCH_ONLY", "").split(",") if name]
FEW = max(2, FRAMES // 2)  # frames of a point of a curve
THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
STAGES = ("upload", "preprocess", "segment", "select", "refine", "fuse", "download")
STARTED = time.monotonic()
CLASS_OPERATIONS = 33  # of a class of a cell in cpu/evaluate.rs: argmax 2, finiteness 2, exp 22, sums and clamp 7


def last_json(text):
    """What a program printed in its last line."""
    return json.loads(text.strip().splitlines()[-1])


class Left(Exception):
    """A part that cannot be measured here, and why."""


class Bench:
    def __init__(self, tool, bundle, out):
        self.tool, self.bundle, self.out = Path(tool), Path(bundle), Path(out)
        self.dense_bundle, self.python = self.out / "dense_bundle", ROOT / ".venv/bin/python"
        self.peaks = {}
        self.kernels = {}
        self.targets = []

    def target(self, what, goal, measured, reached):
        """A line of the table of targets."""
        self.targets.append([what, goal, measured, "yes" if reached else "**no**"])

    def call(self, command, environment=None, limit_s=300):
        command = [str(word) for word in command]
        try:
            done = subprocess.run(command, env=os.environ | (environment or {}), cwd=ROOT, text=True, timeout=limit_s,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False)
        except subprocess.TimeoutExpired:
            raise Left(f"not done within {limit_s} s: {' '.join(command)}") from None
        except OSError as error:
            raise Left(f"{error}: {command[0]}") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing said").splitlines()[-1]
            raise Left(f"`{Path(command[0]).name} {' '.join(command[1:3])} …` ended with {done.returncode}: {said[:300]}")
        return done.stdout

    def bench(self, *options, frames=None, bundle=None, size=None, environment=None, limit_s=300):
        command = [self.tool, "bench", "--json", "--backend", "cpu", "--model", bundle or self.bundle,
                   "--size", size or SIZE, "--frames", frames or FRAMES, *options]
        return last_json(self.call(command, environment, limit_s))

    def onnx_runtime(self):
        """Environment in which the tool finds the ONNX Runtime of .venv."""
        found = sorted((ROOT / ".venv").glob("lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so*"))
        if not found:
            raise Left("no ONNX Runtime in .venv: scripts/setup.sh python")
        return {"ORT_DYLIB_PATH": str(found[-1])}


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]


def ms(value):
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def modes(result):
    return {mode["mode"]: mode for mode in result["modes"]}


def machine(b):
    """What everything below was measured on."""
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.machine())
    commit = b.call(["git", "rev-parse", "--short", "HEAD"]).strip()
    dirty = " and changes" if b.call(["git", "status", "--porcelain", "--untracked-files=no"]).strip() else ""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return [f"{datetime.datetime.now(datetime.timezone.utc):%Y-%m-%d}, commit {commit}{dirty}; {cpu}, {THREADS} cores; load "
            f"before the run {load}; frames of {SIZE}, bundle {b.bundle.name}. Milliseconds are medians."]


def kernels(b):
    """Kernels beside the processor's peak: `cargo bench --bench kernels` (criterion)."""
    home = b.out / "criterion"
    shutil.rmtree(home, ignore_errors=True)
    b.call(["cargo", "bench", "--locked", "--features", "onnx-ort", "--bench", "kernels"],
           {"CRITERION_HOME": str(home.resolve())}, limit_s=420)
    for path in home.glob("**/new/benchmark.json"):
        entry = json.loads(path.read_text())
        estimates = json.loads((path.parent / "estimates.json").read_text())
        kind, amount = next(iter(entry["throughput"].items()))
        ns = estimates["median"]["point_estimate"]
        b.kernels[entry["full_id"]] = (ns / 1e6, kind, amount / ns)
    if not b.kernels:
        raise Left(f"criterion wrote nothing below {home}")
    for name, (_, _, rate) in b.kernels.items():
        if name.startswith("peak/"):
            b.peaks[name.removeprefix("peak/")] = rate
    lines = table(["peak, measured", *(f"{n} threads" if n > 1 else "1 thread" for n in threads())], [
        ["multiply-add, GFLOP/s", *(f"{b.peaks[f'multiply-add/{n}']:.0f}" for n in threads())],
        ["copy, GB/s", *(f"{b.peaks[f'copy/{n}']:.1f}" for n in threads())],
        ["triad, GB/s", *(f"{b.peaks[f'triad/{n}']:.1f}" for n in threads())],
    ])
    rows = []
    for name, (time_ms, kind, rate) in sorted(b.kernels.items()):
        if name.startswith("peak/"):
            continue
        n = THREADS if f" {THREADS}/" in name else 1
        top = b.peaks[f"multiply-add/{n}"] if kind == "Elements" else b.peaks[f"triad/{n}"]
        unit, of = ("GFLOP/s", "multiply-add") if kind == "Elements" else ("GB/s", "triad")
        rows.append([name, ms(time_ms), f"{rate:.1f} {unit}", f"{100 * rate / top:.0f} % of {of}"])
    for channels in (32, 64):
        share, direct = (100 * b.kernels[f"convolution/{which}/{channels}"][2] / b.peaks["multiply-add/1"]
                         for which in ("refiner", "reference"))
        b.target(f"sparse 3x3 convolution, {channels} channels, its definition's operations against the multiply-add peak",
                 "at least 60 %", f"{share:.0f} % (Winograd, which executes fewer); direct, as reference: {direct:.0f} %",
                 share >= 60)
    return [*lines, "", *table(["kernel", "ms", "rate", "of the peak"], rows)]


def threads():
    return [1] if THREADS == 1 else [1, THREADS]


def multiply_adds(b):
    """Per frame: the segmenter's and the dense network's by their ONNX; the refiner's with every neighbour present, so an
    upper bound, per site of each level; gate and fuser per site."""
    dense = json.loads((b.dense_bundle / "multiply_adds.json").read_text())
    raw = (b.bundle / "refiner.safetensors").read_bytes()
    shapes = {name: entry["shape"] for name, entry in json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")]).items()
              if name != "__metadata__"}
    per_level, gate = [0] * 8, 0
    for name, shape in shapes.items():
        if len(shape) < 2:
            continue
        found = re.match(r"levels\.(\d+)\.(\w+)", name)
        # Strided convolutions have their nine pairs at the coarser site.
        level = int(found[1]) + (found[2] in ("down", "up")) if found else 0
        size = 1
        for length in shape:
            size *= length
        per_level[level] += size
        gate += size if name.startswith(("gate.", "fuser.")) else 0
    return dense, per_level, gate


def side_by_side(b):
    """What one would use instead, on the same frames: dense at camera resolution, coarse with plain upsampling, Python."""
    if not (b.dense_bundle / "dense.onnx").exists():
        raise Left("no dense network was made, see prepare.log")
    rows, by_engine, notes = [], {}, []
    for engine in ("rten", "ort"):
        try:
            environment = b.onnx_runtime() if engine == "ort" else None
            result = b.bench("--compare", "coarse,refined,dense", "--onnx-engine", engine, bundle=b.dense_bundle,
                             environment=environment)
            by_engine[engine] = modes(result)
        except Left as why:
            notes.append(f"{engine}: {why}")
    macs, per_level, _ = multiply_adds(b)
    gmac = {"coarse": macs["segmenter"] / 1e9, "dense": macs["dense"] / 1e9}
    for engine, by_mode in by_engine.items():
        sites = by_mode["refined"]["sites_per_frame"]
        gmac["refined"] = gmac["coarse"] + sum(n * cost for n, cost in zip(sites, per_level)) / 1e9
        dense = by_mode["dense"]["latency_ms"]["p50"]
        for mode in ("coarse", "refined", "dense"):
            entry = by_mode[mode]
            rows.append([f"sparse_refine, {mode}, {engine}", f"{gmac[mode]:.1f}", ms(entry["stage_p50_ms"]["segment"]),
                         ms(entry["latency_ms"]["p50"]), ms(entry["latency_ms"]["p99"]),
                         f"{dense / entry['latency_ms']['p50']:.2f}"])
    try:
        text = b.call([b.python, "scripts/bench_baselines.py", "run", b.bundle, b.dense_bundle, SIZE])
        python = last_json(text)
        dense = next((entry["ms"] for entry in python.values() if entry["mode"] == "dense"), None)
        for name, entry in python.items():
            against = f"{dense / entry['ms']:.2f}" if dense else ""
            rows.append([name, f"{gmac[entry['mode']]:.1f}", ms(entry["network_ms"]), ms(entry["ms"]), "", against])
    except Left as why:
        notes.append(f"Python: {why}")
    lines = table(["way to the labels of a frame", "GMAC", "network", "frame p50", "p99", "x faster than dense, same engine"],
                  rows)
    if by_engine:
        share = next(iter(by_engine.values()))["refined"]["refined_fraction"]
        ratio = gmac["dense"] / gmac["refined"]
        lines += ["", f"{100 * share:.1f} % of the pixels refined; dense needs {ratio:.1f} times the multiply-adds of refined "
                      f"(target 10; the refiner's are counted with every neighbour present)."]
        b.target("multiply-adds of dense against refined", "at least 10 times", f"{ratio:.1f} times", ratio >= 10)
        for engine, by_mode in by_engine.items():
            faster = by_mode["dense"]["latency_ms"]["p50"] / by_mode["refined"]["latency_ms"]["p50"]
            b.target(f"refined against dense, {engine}", "at least 3.7 times as fast", f"{faster:.2f} times", faster >= 3.7)
            lines.append(f"Refined is {faster:.2f} times as fast as dense on {engine} (the paper's figure is 3.7).")
    return lines + notes


def stages(b):
    """Stages of a refined frame against the measured peaks, one thread and all."""
    if not b.peaks:
        raise Left("the section kernels measured no peak")
    if not (b.dense_bundle / "multiply_adds.json").exists():
        raise Left("no count of the segmenter's multiply-adds, see prepare.log")
    macs, per_level, per_site = multiply_adds(b)
    width, height = (int(n) for n in SIZE.split("x"))
    pixels, grid = width * height, macs["input_pixels"]
    rows, runs = [], {}
    for n in threads():
        runs[n] = modes(b.bench("--compare", "refined", "--threads", n))["refined"]
    for stage in STAGES[:-1]:
        row = [stage]
        for n, run in runs.items():
            sites = run["sites_per_frame"]
            classes = macs["classes"]
            gate = sites[0] * per_site
            refiner = sum(count * cost for count, cost in zip(sites, per_level)) - gate
            work = {
                "upload": ("bytes", 2 * 3 * pixels),
                "preprocess": ("bytes", 3 * pixels + 4 * 3 * grid),
                "segment": ("flop", 2 * macs["segmenter"]),
                "select": ("flop", CLASS_OPERATIONS * classes * grid),
                "refine": ("flop", 2 * refiner),
                "fuse": ("flop", 2 * gate),
            }[stage]
            time_ms = run["stage_p50_ms"][stage]
            peak = b.peaks[f"triad/{n}" if work[0] == "bytes" else f"multiply-add/{n}"]
            share = 100 * work[1] / max(time_ms, 1e-6) / 1e6 / peak
            row += [ms(time_ms), f"{share:.0f} % of {'triad' if work[0] == 'bytes' else 'multiply-add'}"]
        rows.append(row)
    head = ["stage"]
    for n in runs:
        head += [f"{n} thread{'s' if n > 1 else ''}, ms", "of the peak"]
    rows.append(["frame p50", *(cell for run in runs.values() for cell in (ms(run["latency_ms"]["p50"]), ""))])
    return table(head, rows)


def modes_table(b):
    """The modes of the bundle: `bench --frames N`."""
    result = b.bench()
    by_mode = modes(result)
    rows = [[stage, *(ms(entry["stage_p50_ms"][stage]) for entry in by_mode.values())] for stage in STAGES]
    for rank in ("p50", "p99"):
        rows.append([f"frame {rank}", *(ms(entry["latency_ms"][rank]) for entry in by_mode.values())])
    refined, select = by_mode["refined"]["latency_ms"]["p50"], by_mode["refined"]["stage_p50_ms"]["select"]
    b.target(f"refined frame of {SIZE}, {THREADS} threads, median", "at most 200 ms", f"{ms(refined)} ms", refined <= 200)
    b.target("select", "at most 15 ms", f"{ms(select)} ms", select <= 15)
    memory = result["peak_memory_mb"]
    note = f"{100 * by_mode['refined']['refined_fraction']:.1f} % of the pixels refined; {result['frames']} frames a mode in turn"
    return [*table(["", *by_mode], rows), "", note + (f"; peak memory of the process {memory:.0f} MB." if memory else ".")]


def deadline(b):
    """Budgets: `bench --curve out/bench/curve.html`, the budgets in turn frame by frame."""
    result = b.bench("--curve", b.out / "curve.html", frames=PUNCTUAL_FRAMES, limit_s=600)
    rows = []
    for point in result["points"]:
        budget = point["budget_ms"]
        rows.append([f"{budget:.0f}" if budget else "none", ms(point["latency_ms"]["p50"]), ms(point["latency_ms"]["p99"]),
                     f"{100 * point['share_within_1_1_budgets']:.1f}" if budget else "", f"{100 * point['miou']:.2f}",
                     f"{100 * point['dropped_share_of_selected']:.1f}", f"{point['dropped_entropy_nats_per_frame']:.0f}",
                     f"{100 * point['coarse_only_share']:.0f}"])
    shares = [100 * p["share_within_1_1_budgets"] for p in result["points"] if p["budget_ms"]]
    b.target("frames within 1.1 budgets, worst of the budgets", "at least 99 %", f"{min(shares):.1f} %", min(shares) >= 99)
    return table(["budget, ms", "p50", "p99", "within 1.1 budgets, %", "mIoU, %", "dropped of selected, %",
                  "dropped entropy, nats a frame", "coarse-only, %"], rows) + [
        "", f"{result['frames']} frames a budget; the first row refines nothing, the last everything selected."]


def pixels_refined(b):
    """Cost against pixels refined (`--alpha`)."""
    rows = []
    for alpha in (0.2, 0.4, 0.7, 1.0, 1.4):
        entry = modes(b.bench("--compare", "refined", "--alpha", alpha, "--max-fraction", 1, frames=FEW))["refined"]
        stage = entry["stage_p50_ms"]
        rows.append([alpha, f"{100 * entry['refined_fraction']:.1f}", ms(stage["refine"]), ms(stage["fuse"]),
                     ms(entry["latency_ms"]["p50"])])
    return table(["alpha", "pixels refined, %", "refine", "fuse", "frame p50"], rows)


def image_size(b):
    """Cost against image size."""
    rows = []
    for size in ("960x540", "1920x1080", "2880x1620", "3840x2160") if SIZE == "3840x2160" else ("480x270", SIZE):
        by_mode = modes(b.bench("--compare", "coarse,refined", size=size, frames=FEW))
        rows.append([size, ms(by_mode["coarse"]["latency_ms"]["p50"]), ms(by_mode["refined"]["latency_ms"]["p50"]),
                     f"{100 * by_mode['refined']['refined_fraction']:.1f}"])
    return table(["size", "coarse p50", "refined p50", "pixels refined, %"], rows)


def thread_count(b):
    """Cost against threads (`--threads`)."""
    rows = []
    counts = [n for n in (1, 2, 4, 8, 16, 32, 64) if n <= THREADS]
    for n in counts if THREADS in counts else [*counts, THREADS]:
        by_mode = modes(b.bench("--compare", "coarse,refined", "--threads", n, frames=FEW))
        stage = by_mode["refined"]["stage_p50_ms"]
        rows.append([n, *(ms(stage[name]) for name in ("segment", "select", "refine", "fuse")),
                     ms(by_mode["coarse"]["latency_ms"]["p50"]), ms(by_mode["refined"]["latency_ms"]["p50"])])
    return table(["threads", "segment", "select", "refine", "fuse", "coarse p50", "refined p50"], rows)


def cameras(b):
    """Cameras and frames in flight, as fast as they go (`bench --cameras K --slots S`)."""
    rows = []
    for count, slots in ((1, 1), (1, 2), (2, 1), (2, 2), (4, 2), (4, 4)):
        run = b.bench("--cameras", count, "--slots", slots, frames=FEW)
        rows.append([count, slots, f"{run['frames_per_second']:.2f}", ms(run["latency_ms"]["p50"]),
                     ms(run["latency_ms"]["p99"]), f"{run['peak_memory_mb'] or 0:.0f}"])
    return table(["cameras", "frames in flight", "frames/s in all", "latency p50", "p99", "memory, MB"], rows)


def instruction_sets(b):
    """Instruction sets (`SPARSE_REFINE_ISA`)."""
    rows = []
    fast = ("neon",) if platform.machine() in ("aarch64", "arm64") else ("avx512", "avx2")
    for name in (*fast, "portable"):
        if f"refine/{name} 1/2" not in b.kernels and b.kernels:
            continue
        entry = modes(b.bench("--compare", "refined", frames=3, environment={"SPARSE_REFINE_ISA": name}))["refined"]
        rows.append([name, *(ms(entry["stage_p50_ms"][stage]) for stage in ("refine", "fuse")), ms(entry["latency_ms"]["p50"])])
    return table(["instruction set", "refine", "fuse", "frame p50"], rows)


def spconv(b):
    """The sparse U-Net on spconv's CPU build: `scripts/bench_spconv.py`, the selection of the kernels' benchmark."""
    python = b.out / "spconv/bin/python"
    if not python.exists():
        raise Left("spconv is not installed, see prepare.log")

    def run(n):
        return last_json(b.call([python, "scripts/bench_spconv.py", b.bundle, "--threads", n, "--runs", 1, "--size", SIZE],
                                {"OMP_NUM_THREADS": str(n), "OMP_WAIT_POLICY": "passive"}, limit_s=240))

    alone = run(1)
    ours = next((b.kernels[name][0] for name in b.kernels
                 if re.fullmatch(r"refine/\w+ 1/11", name) and "avx2" not in name and SIZE == "3840x2160"), None)
    row = [alone["sites"], alone["gmac"], f"{alone['spconv_ms']:.0f}", f"{alone['torch_ms']:.0f}",
           ms(ours) if ours else "", f"{alone['spconv_ms'] / ours:.1f}" if ours else ""]
    head = ["sites", "GMAC", f"spconv {alone['spconv']}", f"gather and multiply, PyTorch {alone['torch']}", "sparse_refine",
            "spconv over sparse_refine"]
    lines = ["", "One thread, index tables included. spconv's logits agree with this repository's PyTorch network to "
                 f"{alone['largest_relative_error']:.0e} of the largest."]
    if THREADS > 1 and (many := run(THREADS))["wrong"]:
        lines += [f"On {THREADS} threads they are wrong in {many['wrong']} of {many['tries']} tries: its CPU build races with "
                  "itself, so no time is given."]
    return table(head, [row]) + lines


def nodes(b):
    """Nodes end to end over DDS, one camera, one frame at a time: `scripts/bench_nodes.py`."""
    if not (ROOT / ".ros").exists() and "AMENT_PREFIX_PATH" not in os.environ:
        raise Left("no ROS 2: make ros")
    scenes = b.out / "scenes"
    shutil.rmtree(scenes, ignore_errors=True)
    b.call([b.tool, "synth", scenes, "--format", "images", "--size", SIZE, "--frames", 1, "--scenes", 4, "--seed", 9100])
    packages = {"PYTHONPATH": ":".join(str(p) for p in (ROOT / ".venv").glob("lib/python3*/site-packages"))}
    text = b.call(["scripts/ros_run.sh", "scripts/bench_nodes.py", b.bundle, b.dense_bundle, scenes, "--frames", FRAMES],
                  packages, limit_s=240)
    rows = [[entry["node"], ms(entry["p50_ms"]), ms(entry["max_ms"])] for entry in last_json(text)]
    missing = [] if any("sparse_refine" in row[0] for row in rows) else ["", "sparse_refine_node was not built: make ros."]
    return table(["node", "published to label received, p50", "most"], rows) + missing


def trace(b):
    """One frame's trace as a picture: out/bench/trace.svg (`replay --trace`, scripts/trace_picture.py)."""
    recording = b.out / f"trace_{SIZE}"
    if not recording.exists():
        b.call([b.tool, "synth", recording, "--size", SIZE, "--frames", 4, "--cameras", 1, "--seed", 9100])
    b.call([b.tool, "replay", recording, "--backend", "cpu", "--model", b.bundle, "--out", b.out / "trace", "--force", "--panels", 0,
            "--trace", b.out / "trace.json"])
    return [b.call([sys.executable, "scripts/trace_picture.py", b.out / "trace.json", b.out / "trace.svg"]).strip()]


def targets(b):
    """What was aimed at, and what the sections above measured."""
    if not b.targets:
        raise Left("no section with a target was measured")
    return table(["", "target", "measured", "reached"], b.targets)


SECTIONS = {
    "machine": machine, "kernels": kernels, "modes": modes_table, "side_by_side": side_by_side, "stages": stages,
    "deadline": deadline, "pixels": pixels_refined, "size": image_size, "threads": thread_count, "cameras": cameras,
    "instruction_sets": instruction_sets, "trace": trace, "spconv": spconv, "nodes": nodes,
    "targets": targets,
}


def main():
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    b = Bench(*sys.argv[1:])
    text = []
    for name, section in SECTIONS.items():
        if ONLY and name not in ONLY:
            continue
        began = time.monotonic()
        try:
            if began - STARTED > 60 * MINUTES:
                raise Left(f"not started: {MINUTES:g} minutes were over")
            lines = section(b)
        except Left as why:
            lines = [f"Not measured: {why}."]
        except (KeyError, ValueError, TypeError, OSError, StopIteration) as error:
            lines = [f"Not measured: {type(error).__name__}: {error}."]
        part = [f"## {name}", section.__doc__.replace("\n    ", " "), "", *lines, ""]
        text += part
        print("\n".join(part), flush=True)
        print(f"({name}: {time.monotonic() - began:.0f} s)\n", file=sys.stderr, flush=True)
        (b.out / "tables.md").write_text("\n".join(text))


if __name__ == "__main__":
    main()
