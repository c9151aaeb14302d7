#!/usr/bin/env python3
"""What a user would write instead, on the same frame: ONNX Runtime and numpy, dense and coarse.

  bench_baselines.py prepare BUNDLE OUT   a copy of BUNDLE whose [dense] network is its segmenter at 3840x2176. The weights
                                          were trained for another resolution: the time is right, the labels are not
  bench_baselines.py run BUNDLE OUT       times them; needs numpy, pillow and onnxruntime (.venv has them)

`prepare` needs the package onnx. The frame is random noise: none of the times depends on what is in it.
"""

import hashlib
import json
import pathlib
import shutil
import statistics
import sys
import time

FRAMES = 7
CAMERA = (3840, 2160)
DENSE = (3840, 2176)


def prepare(bundle: pathlib.Path, out: pathlib.Path) -> None:
    import onnx

    shutil.copytree(bundle, out, dirs_exist_ok=True)
    model = onnx.load(str(bundle / "segmenter.onnx"))
    for value, size in ((model.graph.input[0], DENSE), (model.graph.output[0], (DENSE[0] // 4, DENSE[1] // 4))):
        dims = value.type.tensor_type.shape.dim
        dims[2].dim_value, dims[3].dim_value = size[1], size[0]
    del model.graph.value_info[:]
    onnx.save(model, str(out / "dense.onnx"))
    digest = hashlib.sha256((out / "dense.onnx").read_bytes()).hexdigest()
    with open(out / "model.toml", "a", encoding="utf-8") as manifest:
        manifest.write(
            f'\n[dense]\nfile = "dense.onnx"\nsha256 = "{digest}"\nsize = [{DENSE[0]}, {DENSE[1]}]\nlogit_stride = 4\n'
        )


def session(path: pathlib.Path):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(bundle: pathlib.Path, out: pathlib.Path) -> None:
    import numpy
    from PIL import Image

    rng = numpy.random.default_rng(1)
    frame = rng.integers(0, 256, (CAMERA[1], CAMERA[0], 3), dtype=numpy.uint8)
    mean = numpy.array([123.675, 116.28, 103.53], dtype=numpy.float32)
    std = numpy.array([58.395, 57.12, 57.375], dtype=numpy.float32)

    def tensor(image):
        planes = (numpy.asarray(image, dtype=numpy.float32) - mean) / std
        return numpy.ascontiguousarray(planes.transpose(2, 0, 1)[None])

    def padded(image, size):
        full = numpy.zeros((size[1], size[0], 3), dtype=numpy.uint8)
        full[: image.shape[0], : image.shape[1]] = image
        return full

    def coarse_logits(model):
        small = Image.fromarray(padded(frame, DENSE)).resize((960, 544), Image.BOX)
        return model.run(None, {model.get_inputs()[0].name: tensor(small)})[0][0]

    def coarse(model):
        labels = coarse_logits(model).argmax(0).astype(numpy.uint8)
        scale = DENSE[0] // labels.shape[1]
        return labels.repeat(scale, 0).repeat(scale, 1)[: CAMERA[1]]

    def coarse_bilinear(model):
        logits = coarse_logits(model)
        planes = [Image.fromarray(plane).resize(DENSE, Image.BILINEAR) for plane in logits]
        return numpy.stack([numpy.asarray(p) for p in planes]).argmax(0).astype(numpy.uint8)[: CAMERA[1]]

    def dense(model):
        logits = model.run(None, {model.get_inputs()[0].name: tensor(padded(frame, DENSE))})[0][0]
        labels = logits.argmax(0).astype(numpy.uint8)
        return labels.repeat(4, 0).repeat(4, 1)[: CAMERA[1]]

    coarse_model = session(bundle / "segmenter.onnx")
    cases = {
        "python: coarse by onnxruntime, labels repeated": (coarse, coarse_model),
        "python: coarse by onnxruntime, logits upsampled bilinearly": (coarse_bilinear, coarse_model),
    }
    if (out / "dense.onnx").exists():
        cases["python: dense 3840x2176 by onnxruntime"] = (dense, session(out / "dense.onnx"))
    times = {name: [] for name in cases}
    for round_ in range(FRAMES + 1):
        for name, (work, model) in cases.items():
            start = time.perf_counter()
            labels = work(model)
            if round_:
                times[name].append((time.perf_counter() - start) * 1e3)
            assert labels.shape == (CAMERA[1], CAMERA[0])
    result = {name: round(statistics.median(ms), 1) for name, ms in times.items()}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    if len(sys.argv) != 4 or sys.argv[1] not in ("prepare", "run"):
        sys.exit(__doc__)
    {"prepare": prepare, "run": run}[sys.argv[1]](pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
