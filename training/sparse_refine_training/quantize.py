"""Writes a copy of a bundle whose dense networks compute in 16-bit floats or 8-bit integers, and scores it.

The precision is written into the ONNX file: 16-bit tensors, or QuantizeLinear and DequantizeLinear around convolutions.
Inputs and outputs stay float32, so nothing else of the bundle changes. Needs onnx, onnxruntime, numpy and Pillow, not
PyTorch: `python3 -m sparse_refine_training.quantize` works without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from .data import DataError, Dataset, Grid

if TYPE_CHECKING:  # imported where they are needed
    import onnx
    import onnxruntime

# Of the absolute values of a tensor, the share that 8 bits represent; the rest is clipped.
CALIBRATED = 99.99
HALF_MAX = 65504.0


def add_command(commands: argparse._SubParsersAction) -> None:
    fill(commands.add_parser("quantize", help="write a bundle in 16 or 8 bits and score it", description=__doc__))


def fill(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", help="folder of the bundle to start from")
    parser.add_argument("out", help="folder of the new bundle; its name is the bundle's name")
    parser.add_argument("--precision", required=True, choices=("fp16", "int8"))
    parser.add_argument("--calibrate", help="scenes whose images show how large activations become (int8)")
    parser.add_argument("--score", help="other scenes with labels: prints how much the coarse labels change")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    source, out = Path(options.bundle), Path(options.out)
    text, manifest = read_manifest(source)
    if out.exists():
        raise DataError(f"the folder is there already, choose another: {out}")
    if options.precision == "int8" and not options.calibrate:
        raise DataError("int8 needs --calibrate SCENES: how large activations become is measured on them")
    converted = {}
    for section in ("segmenter", "dense"):
        if section in manifest:
            network = Network.of(manifest, section)
            model = load(source / network.file)
            if options.precision == "fp16":
                converted[section] = to_half(model)
            else:
                scenes = Dataset.open(options.calibrate)
                ranges = activation_ranges(model, (network.prepare(one.image) for one in scenes.scenes))
                converted[section] = to_int8(model, ranges)
    out.mkdir(parents=True)
    for path in source.iterdir():
        if path.is_file():
            shutil.copy(path, out / path.name)
    text = re.sub(r'(?m)^name = ".*"$', f"name = {json.dumps(out.name)}", text, count=1)
    for section, model in converted.items():
        network = Network.of(manifest, section)
        (out / network.file).write_bytes(model.SerializeToString())
        text = text.replace(network.sha256, hashlib.sha256((out / network.file).read_bytes()).hexdigest())
    (out / "model.toml").write_text(text)
    if options.score:
        scores = compare(source, out, manifest, Dataset.open(options.score))
        print(json.dumps({"bundle": out.name, "precision": options.precision, **scores}), flush=True)


def read_manifest(bundle: Path) -> tuple[str, dict]:
    try:
        import tomllib
    except ImportError as error:
        raise DataError("quantize needs Python 3.11 or newer (tomllib)") from error
    text = (bundle / "model.toml").read_text()
    return text, tomllib.loads(text)


def load(path: Path) -> onnx.ModelProto:
    import onnx

    return onnx.load(path)


@dataclass(frozen=True)
class Network:
    """A dense network of a bundle and how an image becomes its input."""

    file: str
    sha256: str
    size: tuple
    fit: str
    order: str
    mean: tuple
    std: tuple

    @classmethod
    def of(cls, manifest: dict, section: str) -> Network:
        entry, colours = manifest[section], manifest["segmenter"]
        width, height = entry["size"]
        fit, order = colours.get("fit", "stretch"), colours.get("channel_order", "rgb")
        return cls(entry["file"], entry["sha256"], (height, width), fit, order, colours["mean"], colours["std"])

    def prepare(self, path: Path) -> np.ndarray:
        """float32 `[1, 3, height, width]`."""
        image = Image.open(path).convert("RGB")
        height, width = self.size
        order = slice(None, None, -1) if self.order == "bgr" else slice(None)
        if self.fit == "pad":
            camera = (image.height, image.width)
            # Padding is zero after normalisation, so it is the mean, in the order of the image.
            small = Grid.pad(camera, self.size).shrink(np.asarray(image), np.asarray(self.mean)[order])
        else:
            resized = np.asarray(image.resize((width, height), Image.Resampling.BOX), np.float32)
            small = resized.transpose(2, 0, 1)
        planes = small[order]
        shape = (3, 1, 1)
        return ((planes - np.reshape(self.mean, shape)) / np.reshape(self.std, shape)).astype(np.float32)[None]


def session(model: str | onnx.ModelProto) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    content = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


# ---- 16-bit floats ----


def to_half(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same graph on 16-bit floats between a cast of the input and one of each output."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    half = onnx.ModelProto()
    half.CopyFrom(model)
    graph = half.graph
    del graph.value_info[:]
    # Sizes and scales of a Resize are float32 whatever the image is.
    parameters = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:]}

    def convert(tensor: onnx.TensorProto) -> None:
        if tensor.data_type != TensorProto.FLOAT:
            return
        values = numpy_helper.to_array(tensor)
        largest = float(np.abs(values).max(initial=0))
        if largest > HALF_MAX:
            raise DataError(f"weight `{tensor.name}` reaches {largest:.0f}, 16-bit floats end at {HALF_MAX:.0f}")
        tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))

    for weight in graph.initializer:
        if weight.name not in parameters:
            convert(weight)
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value" and node.output[0] not in parameters:
                convert(attribute.t)
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    weights = {weight.name for weight in graph.initializer}
    first = []
    for tensor in graph.input:
        if tensor.name not in weights and tensor.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = tensor.name + ".half"
            rename(graph.node, tensor.name, inner, inputs=True)
            first.append(helper.make_node("Cast", [tensor.name], [inner], to=TensorProto.FLOAT16))
    last = []
    for tensor in graph.output:
        if tensor.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = tensor.name + ".half"
            rename(graph.node, tensor.name, inner, inputs=True)
            rename(graph.node, tensor.name, inner, inputs=False)
            last.append(helper.make_node("Cast", [inner], [tensor.name], to=TensorProto.FLOAT))
    set_nodes(graph, [*first, *graph.node, *last])
    onnx.checker.check_model(half, full_check=True)
    return half


def rename(nodes: Iterable[onnx.NodeProto], old: str, new: str, inputs: bool) -> None:
    for node in nodes:
        names = node.input if inputs else node.output
        for index, name in enumerate(names):
            if name == old:
                names[index] = new


def set_nodes(graph: onnx.GraphProto, nodes: Iterable[onnx.NodeProto]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


# ---- 8-bit integers ----


def quantised_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions' outputs that get 8 bits: all but the first, which sees the image, and those that give
    the logits, whose small differences are the entropy."""
    graph = model.graph
    inputs, outputs = {tensor.name for tensor in graph.input}, {tensor.name for tensor in graph.output}
    weights = {weight.name for weight in graph.initializer}
    return [
        node.output[0]
        for node in graph.node
        if node.op_type == "Conv"
        and node.input[1] in weights
        and node.input[0] not in inputs
        and node.output[0] not in outputs
    ]


def activation_ranges(model: onnx.ModelProto, images: Iterable[np.ndarray]) -> dict[str, float]:
    """Largest absolute value, but for the clipped share, of the input of each convolution that gets 8 bits."""
    import onnx
    from onnx import helper

    chosen = set(quantised_convolutions(model))
    watched = list(dict.fromkeys(node.input[0] for node in model.graph.node if node.output[0] in chosen))
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    have = {tensor.name for tensor in probe.graph.output}
    probe.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in watched if name not in have)
    runner = session(probe)
    ranges = dict.fromkeys(watched, 0.0)
    for image in images:
        values = runner.run(watched, {runner.get_inputs()[0].name: image}) if watched else []
        for name, value in zip(watched, values):
            ranges[name] = max(ranges[name], float(np.percentile(np.abs(value), CALIBRATED)))
    return ranges


def to_int8(model: onnx.ModelProto, ranges: dict[str, float]) -> onnx.ModelProto:
    """QuantizeLinear and DequantizeLinear (zero point 0, as TensorRT wants it) before each chosen convolution, its
    weights as 8-bit integers with a scale for each output channel."""
    import onnx
    from onnx import helper, numpy_helper

    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    del graph.value_info[:]
    chosen = set(quantised_convolutions(model))
    weights = {weight.name: weight for weight in graph.initializer}
    nodes, added, made = [], [], {}

    def add(name: str, values: np.ndarray | np.generic) -> str:
        added.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    for node in graph.node:
        if node.output[0] in chosen:
            x, weight = node.input[0], node.input[1]
            if x not in made:
                scale = add(x + ".scale", np.float32(max(ranges[x], 1e-8) / 127))
                zero = add(x + ".zero", np.int8(0))
                nodes.append(helper.make_node("QuantizeLinear", [x, scale, zero], [x + ".q"]))
                nodes.append(helper.make_node("DequantizeLinear", [x + ".q", scale, zero], [x + ".dq"]))
                made[x] = x + ".dq"
            if weight not in made:
                values = numpy_helper.to_array(weights[weight])
                scales = np.maximum(np.abs(values).reshape(len(values), -1).max(1), 1e-8).astype(np.float32) / 127
                steps = np.rint(values / scales.reshape(-1, *[1] * (values.ndim - 1)))
                inputs = [
                    add(weight + ".q", np.clip(steps, -127, 127).astype(np.int8)),
                    add(weight + ".scale", scales),
                    add(weight + ".zero", np.zeros(len(values), np.int8)),
                ]
                nodes.append(helper.make_node("DequantizeLinear", inputs, [weight + ".dq"], axis=0))
                made[weight] = weight + ".dq"
            node.input[0], node.input[1] = made[x], made[weight]
        nodes.append(node)
    set_nodes(graph, nodes)
    used = {name for node in graph.node for name in node.input}
    kept = [weight for weight in graph.initializer if weight.name in used] + added
    kept = [type(weight).FromString(weight.SerializeToString()) for weight in kept]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


# ---- what it costs ----


def compare(before: Path, after: Path, manifest: dict, scenes: Dataset) -> dict:
    """Coarse labels of two bundles on the same scenes."""
    network = Network.of(manifest, "segmenter")
    alpha = manifest.get("selector", {}).get("alpha", 0.3)
    channels = len(manifest["classes"])
    runners = [session(str(bundle / network.file)) for bundle in (before, after)]
    tables = [np.zeros((channels, channels), np.int64) for _ in runners]
    agree, differences, largest = [], [], 0.0
    selected: list[list[float]] = [[], []]
    for scene in scenes.scenes:
        image = network.prepare(scene.image)
        logits = [runner.run(None, {runner.get_inputs()[0].name: image})[0][0][:channels] for runner in runners]
        classes = [one.argmax(0) for one in logits]
        agree.append(float((classes[0] == classes[1]).mean()))
        difference = np.abs(logits[0] - logits[1])
        differences.append(float(difference.mean()))
        largest = max(largest, float(difference.max()))
        truth = scene.read_label(channels, Image.open(scene.image).size[::-1])
        for one, table, coarse, share in zip(logits, tables, classes, selected):
            share.append(float((entropy(one) > alpha).mean()))
            labels = enlarge(coarse, truth.shape, network)
            known = truth < channels
            np.add.at(table, (truth[known], labels[known]), 1)
    return {
        "scenes": len(agree),
        "same_class": float(np.mean(agree)),
        "mean_logit_difference": float(np.mean(differences)),
        "max_logit_difference": largest,
        "coarse_miou": [miou(table) for table in tables],
        "unsure": [float(np.mean(share)) for share in selected],
        "bytes": [(bundle / network.file).stat().st_size for bundle in (before, after)],
    }


def entropy(logits: np.ndarray) -> np.ndarray:
    """Nats, of the softmax over the first axis."""
    shifted = logits - logits.max(0)
    exp = np.exp(shifted)
    total = exp.sum(0)
    return np.log(total) - (exp * shifted).sum(0) / total


def enlarge(cells: np.ndarray, size: tuple, network: Network) -> np.ndarray:
    """Each camera pixel takes the class of the logit it lies in."""
    height, width = size
    rows, columns = cells.shape
    if network.fit == "pad":
        height, width = Grid.pad(size, network.size).canvas
    row, column = np.arange(size[0]) * rows // height, np.arange(size[1]) * columns // width
    return cells[row][:, column]


def miou(table: np.ndarray) -> float:
    truth, hits = table.sum(1), np.diag(table)
    union = truth + table.sum(0) - hits
    present = truth > 0
    return float((hits[present] / union[present]).mean())


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(prog="python3 -m sparse_refine_training.quantize", description=__doc__)
    fill(arguments)
    given = arguments.parse_args()
    try:
        given.run(given)
    except (DataError, FileNotFoundError) as problem:
        print(f"error: {problem}", file=sys.stderr)
        sys.exit(2)
