#!/usr/bin/env python3
"""Registers, spills and shared memory of every kernel on every architecture, against budgets.tsv.

Compiles as the product does (NVRTC, then ptxas; no GPU), with the wheels that scripts/cuda_budgets.sh installs.
`budgets.py --write` replaces the table: raising a budget is a change to review.
"""
import ctypes
import glob
import os
import re
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
KERNELS = os.path.join(HERE, "..", "..", "src", "cuda", "kernels")
TABLE = os.path.join(HERE, "budgets.tsv")
# What each compiler is for; 13 compiles for Thor under its new number.
ARCHITECTURES = {12: [75, 80, 86, 87, 89, 90, 100, 101, 120], 13: [110]}
SHARED_LIMIT = 48 * 1024


def site_packages():
    return os.path.join(sys.prefix, "lib", f"python3.{sys.version_info[1]}", "site-packages", "nvidia")


def one(pattern):
    found = sorted(glob.glob(os.path.join(site_packages(), pattern)))
    return found[0] if found else None


TOOLS = {
    12: (one("cuda_nvrtc/lib/libnvrtc.so.12"), one("cuda_nvcc/bin/ptxas")),
    13: (one("cu13/lib/libnvrtc.so.13"), one("cu13/bin/ptxas")),
}


def source():
    """The text of src/cuda/modules.rs, in its order."""
    with open(os.path.join(KERNELS, "..", "modules.rs")) as file:
        names = re.findall(r'\("([\w.]+)", include_str!', file.read())
    parts = []
    for name in names:
        with open(os.path.join(KERNELS, name)) as file:
            parts.append(f'#line 1 "{name}"\n{file.read()}')
    return "".join(parts)


def ptx(library, text, architecture):
    nvrtc = ctypes.CDLL(library)
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), text.encode(), b"kernels.cu", 0, None, None)
    options = [b"--std=c++17", b"--fmad=false", f"--gpu-architecture=compute_{architecture}".encode()]
    array = (ctypes.c_char_p * len(options))(*options)
    if nvrtc.nvrtcCompileProgram(program, len(options), array):
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        sys.exit(f"sm_{architecture}: {log.value.decode()}")
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    code = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, code)
    return code.raw[:-1]


def measure(tools, text, architecture, cubin):
    library, ptxas = tools
    with tempfile.NamedTemporaryFile(suffix=".ptx") as file:
        file.write(ptx(library, text, architecture))
        file.flush()
        command = [ptxas, "-v", f"-arch=sm_{architecture}", file.name, "-o", cubin]
        log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    kernels = {}
    for part in log.split("Compiling entry function '")[1:]:
        name = part.split("'")[0]
        spills = sum(int(n) for n in re.findall(r"(\d+) bytes spill", part))
        shared = re.search(r"(\d+) bytes smem", part)
        kernels[name] = (int(re.search(r"Used (\d+) registers", part)[1]), int(shared[1]) if shared else 0, spills)
    return kernels


def instructions(cubin, architecture):
    """What the tensor-core convolution must be made of."""
    nvdisasm = one("cu13/bin/nvdisasm") or one("cuda_nvdisasm/bin/nvdisasm")
    if not nvdisasm:
        return None
    code = subprocess.run([nvdisasm, "-c", cubin], capture_output=True, text=True, check=True).stdout
    code = next((part for part in code.split(".section\t") if part.startswith(".text.conv_f16,")), "")
    return {name: len(re.findall(rf"\b{name}", code)) for name in ("HMMA.16816", "LDGSTS", "LDSM")}


def main():
    text, failures, measured = source(), [], {}
    for major, architectures in ARCHITECTURES.items():
        if not all(TOOLS[major]):
            print(f"SKIPPED sm_{architectures}: the CUDA {major} wheels are not installed")
            continue
        for architecture in architectures:
            with tempfile.NamedTemporaryFile(suffix=".cubin") as cubin:
                kernels = measure(TOOLS[major], text, architecture, cubin.name)
                found = instructions(cubin.name, architecture) if architecture >= 80 else {}
            for name, (registers, shared, spills) in kernels.items():
                most = measured.setdefault(name, [0, 0])
                measured[name] = [max(most[0], registers), max(most[1], shared)]
                if spills or shared > SHARED_LIMIT:
                    failures.append(f"sm_{architecture} {name}: {spills} bytes spilled, {shared} bytes shared")
            if found is None:
                found = "nvdisasm is not installed, instructions not checked"
            elif not all(found.values()):
                failures.append(f"sm_{architecture}: conv_f16 has {found}")
            top = max(kernels, key=lambda name: kernels[name][0])
            print(f"sm_{architecture}: {len(kernels)} kernels, most registers {top} {kernels[top][0]}, conv_f16 {found}")
    if "--write" in sys.argv:
        with open(TABLE, "w") as file:
            file.write("kernel\tregisters\tshared_bytes\n")
            file.writelines(f"{name}\t{r}\t{s}\n" for name, (r, s) in sorted(measured.items()))
        return
    with open(TABLE) as file:
        budgets = {row[0]: (int(row[1]), int(row[2])) for row in (line.split("\t") for line in list(file)[1:])}
    for name, (registers, shared) in sorted(measured.items()):
        if name not in budgets:
            failures.append(f"{name}: no budget in budgets.tsv")
        elif registers > budgets[name][0] or shared > budgets[name][1]:
            failures.append(f"{name}: {registers} registers, {shared} bytes shared; budget {budgets[name]}")
    print("\n".join(failures) if failures else "every kernel is within its budget, nothing spills")
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
