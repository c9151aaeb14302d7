#!/usr/bin/env python3
"""What a user would write instead, on the same frame: ONNX Runtime and numpy, dense and coarse.

  bench_baselines.py prepare BUNDLE OUT      a copy of BUNDLE whose [dense] network is its segmenter at 3840x2176, and the
                                             multiply-adds of both. The weights were trained for another resolution: the
                                             time is right, the labels are not. Needs the package onnx
  bench_baselines.py run BUNDLE OUT WxH      times them; needs numpy, pillow and onnxruntime (.venv has them)

The frame is random noise: none of the times depends on what is in it. scripts/bench_python_node.py runs the same code live.
"""

import hashlib
import json
import pathlib
import shutil
import statistics
import sys
import time

FRAMES = 5
DENSE = (3840, 2176)
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def prepare(bundle: pathlib.Path, out: pathlib.Path) -> None:
    import onnx

    shutil.copytree(bundle, out, dirs_exist_ok=True)
    model = onnx.load(str(bundle / "segmenter.onnx"))
    coarse = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    counts = {"segmenter": multiply_adds(model), "input_pixels": coarse[2] * coarse[3]}
    for value, size in ((model.graph.input[0], DENSE), (model.graph.output[0], (DENSE[0] // 4, DENSE[1] // 4))):
        dims = value.type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = size[1], size[0]
    del model.graph.value_info[:]
    counts["dense"] = multiply_adds(model)
    counts["classes"] = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    onnx.save(model, str(out / "dense.onnx"))
    (out / "multiply_adds.json").write_text(json.dumps(counts))
    digest = hashlib.sha256((out / "dense.onnx").read_bytes()).hexdigest()
    with open(out / "model.toml", "a", encoding="utf-8") as manifest:
        manifest.write(
            f'\n[dense]\nfile = "dense.onnx"\nsha256 = "{digest}"\nsize = [{DENSE[0]}, {DENSE[1]}]\nlogit_stride = 4\n'
        )


def multiply_adds(model) -> int:
    """Of all convolutions, borders included."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in [*graph.value_info, *graph.output]}
    weights = {w.name: list(w.dims) for w in graph.initializer}
    total = 0
    for node in graph.node:
        if node.op_type in ("MatMul", "Gemm", "ConvTranspose"):
            raise SystemExit(f"{node.op_type} is not counted: {node.name}")
        if node.op_type == "Conv":
            _, per_group, *kernel = weights[node.input[1]]
            pixels = shapes[node.output[0]]
            total += pixels[1] * pixels[2] * pixels[3] * per_group * kernel[0] * kernel[1]
    return total


def session(path: pathlib.Path):
    import onnxruntime

    return onnxruntime.InferenceSession(str(path), onnxruntime.SessionOptions(), providers=["CPUExecutionProvider"])


class Labeller:
    """Labels of an RGB frame `[rows, columns, 3]` by one network, the plain way. `network_ms` is its part of the last."""

    def __init__(self, path: pathlib.Path, bilinear: bool) -> None:
        import numpy
        from PIL import Image

        self.numpy, self.image, self.bilinear = numpy, Image, bilinear
        self.model = session(path)
        self.input = self.model.get_inputs()[0].name
        _, _, self.height, self.width = self.model.get_inputs()[0].shape
        self.network_ms = 0.0

    def __call__(self, frame):
        numpy = self.numpy
        rows, columns = frame.shape[:2]
        # Padded to whole cells at the right and below, as the bundle's manifest says.
        scale = max(-(-rows // self.height), -(-columns // self.width))
        padded = numpy.zeros((self.height * scale, self.width * scale, 3), dtype=numpy.uint8)
        padded[:rows, :columns] = frame
        if scale > 1:
            padded = numpy.asarray(self.image.fromarray(padded).resize((self.width, self.height), self.image.BOX))
        planes = (padded.astype(numpy.float32) - numpy.float32(MEAN)) / numpy.float32(STD)
        tensor = numpy.ascontiguousarray(planes.transpose(2, 0, 1)[None])
        start = time.perf_counter()
        logits = self.model.run(None, {self.input: tensor})[0][0]
        self.network_ms = (time.perf_counter() - start) * 1e3
        times = scale * self.height // logits.shape[1]
        if self.bilinear:
            size = (logits.shape[2] * times, logits.shape[1] * times)
            planes = [numpy.asarray(self.image.fromarray(plane).resize(size, self.image.BILINEAR)) for plane in logits]
            return numpy.stack(planes).argmax(0).astype(numpy.uint8)[:rows, :columns]
        return logits.argmax(0).astype(numpy.uint8).repeat(times, 0).repeat(times, 1)[:rows, :columns]


def cases(bundle: pathlib.Path, out: pathlib.Path) -> dict:
    """What is compared: mode and network of each."""
    return {
        "Python: coarse, onnxruntime, labels repeated": ("coarse", bundle / "segmenter.onnx", False),
        "Python: coarse, onnxruntime, logits upsampled bilinearly": ("coarse", bundle / "segmenter.onnx", True),
        "Python: dense at 3840x2176, onnxruntime, labels repeated": ("dense", out / "dense.onnx", False),
    }


def run(bundle: pathlib.Path, out: pathlib.Path, size: str) -> None:
    import numpy

    width, height = (int(length) for length in size.split("x"))
    frame = numpy.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    labellers = {name: (mode, Labeller(path, how)) for name, (mode, path, how) in cases(bundle, out).items() if path.exists()}
    times = {name: ([], []) for name in labellers}
    for round_ in range(FRAMES + 1):
        for name, (_, label) in labellers.items():
            start = time.perf_counter()
            labels = label(frame)
            if round_:
                times[name][0].append((time.perf_counter() - start) * 1e3)
                times[name][1].append(label.network_ms)
            assert labels.shape == (height, width)
    print(json.dumps({
        name: {"mode": labellers[name][0], "ms": round(statistics.median(whole), 1), "network_ms": round(statistics.median(part), 1)}
        for name, (whole, part) in times.items()
    }))


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5) or sys.argv[1] not in ("prepare", "run"):
        sys.exit(__doc__)
    {"prepare": prepare, "run": run}[sys.argv[1]](*map(pathlib.Path, sys.argv[2:4]), *sys.argv[4:])
