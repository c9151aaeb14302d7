#!/usr/bin/env python3
"""Takes barriers, waits and bounds out of the CUDA path, one at a time, and looks whether a test fails.

    mutations.py TESTS OUT.md [WORD]   TESTS: the binary of tests/cuda; WORD: only rows with it; in scripts/cuda_env.sh's environment

Kernels are changed in a copy and compiled for the emulated driver. A wait of the host is taken out by letting the driver's
call answer "success" without doing anything (CUEMU_FAIL with code 0).
"""
import os
import shutil
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.join(HERE, "..", "..", "src", "cuda", "kernels")

# What, file, text, its replacement, which occurrence (from 0), the test that is to notice.
SCAN, FRAMES, LOGITS = "common.cuh", "frames_of_every", "logits"
MANY_BLOCKS, TILES = "many_blocks", "tiles::frames"
SOURCES = [
    ("barrier: partial sums of the scan are written", SCAN, "    __syncthreads();\n", "", 0, FRAMES),
    ("barrier: sums of the warps are scanned", SCAN, "    __syncthreads();\n", "", 1, FRAMES),
    ("barrier: partial sums may be reused", SCAN, "    __syncthreads();\n", "", 2, MANY_BLOCKS),
    ("barrier: copies of a step are there", "tensor_cores.cu", "            __syncthreads();  // everybody", "//", 0, LOGITS),
    ("barrier: before the next tile's copies", "tensor_cores.cu", "        __syncthreads();  // before", "//", 0, LOGITS),
    ("wait: asynchronous copies", "tensor_cores.cu", "            cp_async_wait<RING - 2>();\n", "", 0, LOGITS),
    ("wait: one group too few", "tensor_cores.cu", "cp_async_wait<RING - 2>", "cp_async_wait<RING - 1>", 0, LOGITS),
    ("bound: pixels of the image", "pixels.cu", "i < width * height", "i <= width * height", 0, FRAMES),
    ("bound: the camera's last pixel in a cell", "pixels.cu", "(u64)camera);\n", "(u64)camera + 1);\n", 0, FRAMES),
    ("bound: lattice positions", "select.cu", "i < lattice_width * lattice_height", "i <= lattice_width * lattice_height", 0, FRAMES),
    ("bound: strict alpha", "select.cu", "belief.entropy > alpha", "belief.entropy >= alpha", 0, "images_without"),
    ("bound: ties that still fit", "select.cu", "before <= counters[TIES_LEFT]", "before < counters[TIES_LEFT]", 0, MANY_BLOCKS),
    ("bound: positions of a tie block", "select.cu", "if (i >= count || !kept[i] || __float", "if (!kept[i] || __float", 0, FRAMES),
    ("bound: words of the bitmap", "sites.cu", "i < row_words * rows", "i <= row_words * rows", 0, FRAMES),
    ("bound: columns beyond the level", "sites.cu", "        if (first + 32 > column_bound) word &=", "        if (0) word &=", 0, FRAMES),
    ("bound: neighbours beyond the level", "sites.cu", "if ((u32)row >= height || (u32)col >= width) return ABSENT;", "", 0, FRAMES),
    ("bound: parents of an odd site", "sites.cu", "if (slot < rows * columns) id", "id", 0, LOGITS),
    ("bound: absent neighbours", "network.cu", "            if (from == ABSENT) continue;\n", "", 0, FRAMES),
    ("bound: sites of a tensor-core tile", "tensor_cores.cu", "                if (to >= count) continue;\n", "", 0, LOGITS),
    ("bound: pixels of the windows", "tiles.cu", "i < size * plane", "i <= size * plane", 0, TILES),
    ("bound: rows beyond the camera", "tiles.cu", "row < camera_height &&", "row <= camera_height &&", 0, TILES),
    ("bound: what of a window is a tile", "tiles.cu", "column >= tile.x / stride &&", "", 0, TILES),
    ("bound: shut gates", "tiles.cu", "        if (!(g > 0.0f)) continue;\n", "", 0, TILES),
    ("bound: pixels of the labels", "tiles.cu", "i < camera_width * camera_height", "i <= camera_width * camera_height", 0, TILES),
    ("bound: output channels", "tensor_cores.cu", "} else if (channel < outputs) {", "} else {", 0, LOGITS),
]
# Waits of the host: the driver's call does nothing.
REFUSED = "a_frame_that_the_network_refuses"
WAITS = [
    ("wait: the frame's last event", "cuEventQuery:0:0", FRAMES),
    ("wait: the weight map, before the host selects", "cuEventQuery:0:0", TILES),
    ("wait: the stream, before the host's network reads its input", "cuStreamSynchronize:0:0", FRAMES),
    ("wait: a refused frame's copies, before their source is filled again", "cuStreamSynchronize:0:0", REFUSED),
    ("wait: copies under way, before their memory is freed", "cuCtxSynchronize:0:0", REFUSED),
]


def mutated(file, text, replacement, occurrence, folder):
    shutil.copytree(KERNELS, folder)
    path = os.path.join(folder, file)
    with open(path) as source:
        parts = source.read().split(text)
    if len(parts) <= occurrence + 1:
        sys.exit(f"{file} no longer has `{text.strip()}` {occurrence + 1} times: mend mutations.py")
    changed = text.join(parts[: occurrence + 1]) + replacement + text.join(parts[occurrence + 1 :])
    with open(path, "w") as source:
        source.write(changed)


def noticed(tests, name, settings):
    """The first line that says what failed, or None."""
    # One multiprocessor: launches that loop over their work do loop.
    environment = dict(os.environ, CUEMU_PROCESSORS="1", **settings)
    try:
        run = subprocess.run([tests, "--ignored", "--test-threads", "1", name], env=environment, capture_output=True, text=True, timeout=300)
    except subprocess.TimeoutExpired:
        return "no end within 300 s"
    if run.returncode == 0:
        return None
    lines = (run.stderr + run.stdout).splitlines()
    words = ("cuemu: ", "frames", "assertion", " differ", "errors", "DeviceLost", "entropy", "counts", "panicked")
    said = [line for line in lines if any(word in line for word in words) and "running" not in line]
    return (said[0] if said else "the process died").strip()[:110]


def main():
    tests, out, word = (sys.argv + [""])[1:4]
    rows, survivors = [], 0
    for what, *mutation, test in (row for row in SOURCES if word in row[0]):
        with tempfile.TemporaryDirectory() as place:
            folder = os.path.join(place, "kernels")
            mutated(*mutation, folder)
            library = os.path.join(place, "kernels.so")
            build = [os.path.join(HERE, "build_kernels.sh"), library, folder]
            subprocess.run(build, check=True, capture_output=True)
            by, said = "", None
            for schedule, seed in (("lazy", "1"), ("lazy", "2"), ("threads", "3")):
                settings = {"CUEMU_KERNELS": library, "CUEMU_SCHED": schedule, "CUEMU_SEED": seed}
                said = noticed(tests, test, settings)
                if said:
                    by = f"{schedule}, seed {seed}"
                    break
        rows.append((what, mutation[0], by, said))
        survivors += said is None
        print(what, "|", by, "|", said, flush=True)
    for what, fail, test in (row for row in WAITS if word in row[0]):
        said = noticed(tests, test, {"CUEMU_SCHED": "lazy", "CUEMU_FAIL": fail})
        rows.append((what, fail.split(":")[0], "lazy, seed 1", said))
        survivors += said is None
        print(what, "|", said, flush=True)
    with open(out, "w") as file:
        file.write("| taken out | where | noticed under | what the test or the driver said |\n|---|---|---|---|\n")
        for what, where, by, said in rows:
            said = (said or "**nobody noticed**").replace("|", "/").replace("`", "'")
            file.write(f"| {what} | {where} | {by} | {said} |\n")
    print(f"{len(rows)} mutations, {survivors} unnoticed")


if __name__ == "__main__":
    main()
