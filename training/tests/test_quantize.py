"""Bundles in 16 and 8 bits: what changes in the file, and how little in the logits. Needs onnx and onnxruntime."""

import json

import numpy as np
import pytest
from PIL import Image

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from sparse_refine_training import quantize  # noqa: E402
from sparse_refine_training.data import DataError  # noqa: E402

SIZE = (16, 32)
CLASSES = 3


def network(seed=0, largest=None):
    """Three convolutions and a resize: image, features, features, logits."""
    random = np.random.default_rng(seed)
    nodes, weights = [], []

    def conv(x, before, after, name, kernel=3):
        values = random.standard_normal((after, before, kernel, kernel)).astype(np.float32)
        values /= np.float32(kernel * np.sqrt(before))
        weights.append(numpy_helper.from_array(values, name + ".weight"))
        weights.append(numpy_helper.from_array(random.standard_normal(after).astype(np.float32), name + ".bias"))
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [x, name + ".weight", name + ".bias"], [name], pads=pads))
        return name

    nodes.append(helper.make_node("Relu", [conv("image", 3, 8, "first")], ["a"]))
    nodes.append(helper.make_node("Relu", [conv("a", 8, 8, "middle")], ["b"]))
    weights.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "scales"))
    nodes.append(helper.make_node("Resize", ["b", "", "scales"], ["c"], mode="linear"))
    conv("c", 8, CLASSES, "logits", kernel=1)
    if largest is not None:
        weights[0] = numpy_helper.from_array(np.full((8, 3, 3, 3), largest, np.float32), "first.weight")
    height, width = SIZE
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, height, width])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, CLASSES, 2 * height, 2 * width])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def run(model, image):
    return quantize.session(model).run(None, {"image": image})[0]


@pytest.fixture
def image():
    return np.random.default_rng(1).standard_normal((1, 3, *SIZE)).astype(np.float32)


def test_half_precision_keeps_float32_at_both_ends(image):
    model = network()
    half = quantize.to_half(model)
    ends = [*half.graph.input, *half.graph.output]
    assert [end.type.tensor_type.elem_type for end in ends] == [TensorProto.FLOAT] * 2
    types = {weight.name: weight.data_type for weight in half.graph.initializer}
    assert types.pop("scales") == TensorProto.FLOAT, "a Resize keeps its scales"
    assert set(types.values()) == {TensorProto.FLOAT16}
    difference = np.abs(run(model, image) - run(half, image)).max()
    assert 0 < difference < 0.02


def test_weights_that_16_bits_cannot_hold_are_named():
    with pytest.raises(DataError, match="first.weight.*70000"):
        quantize.to_half(network(largest=70000.0))


def test_only_convolutions_in_the_middle_get_8_bits(image):
    model = network()
    assert quantize.quantised_convolutions(model) == ["middle"]
    ranges = quantize.activation_ranges(model, [image])
    assert list(ranges) == ["a"] and ranges["a"] > 0
    small = quantize.to_int8(model, ranges)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in small.graph.initializer}
    assert "middle.weight" not in weights and weights["middle.weight.q"].dtype == np.int8
    assert weights["a.zero"] == 0 and weights["a.scale"] == np.float32(ranges["a"] / 127)
    # Each channel's largest weight uses all of the 8 bits.
    assert (np.abs(weights["middle.weight.q"]).reshape(8, -1).max(1) == 127).all()
    before, after = run(model, image), run(small, image)
    step = weights["middle.weight.scale"].max() * 127 + weights["a.scale"] * 127
    assert 0 < np.abs(before - after).max() < 0.1 * step


def bundle(folder):
    folder.mkdir()
    (folder / "segmenter.onnx").write_bytes(network().SerializeToString())
    classes = "".join(f'[[classes]]\nname = "c{index}"\ncolour = [0, 0, {index}]\n' for index in range(CLASSES))
    sha256 = quantize.hashlib.sha256((folder / "segmenter.onnx").read_bytes()).hexdigest()
    (folder / "model.toml").write_text(
        f'schema = 1\nname = "small"\nmethod = "sparse_refine"\n{classes}[segmenter]\nfile = "segmenter.onnx"\n'
        f'sha256 = "{sha256}"\nsize = [{SIZE[1]}, {SIZE[0]}]\nfit = "pad"\nmean = [127.5, 127.5, 127.5]\n'
        "std = [64.0, 64.0, 64.0]\n"
    )
    return folder


def scenes(folder):
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    random = np.random.default_rng(2)
    names = [{"name": f"c{index}", "colour": [0, 0, index]} for index in range(CLASSES)]
    (folder / "classes.json").write_text(json.dumps({"classes": names}))
    for index in range(2):
        pixels = random.integers(0, 256, (30, 64, 3), np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        Image.fromarray(random.integers(0, CLASSES, (30, 64), np.uint8)).save(folder / "labels" / f"{index}.png")
    return folder


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_bundle_is_written_with_its_new_name_and_hash_and_scored(tmp_path, capsys, precision):
    import argparse

    source, images, out = bundle(tmp_path / "small"), scenes(tmp_path / "scenes"), tmp_path / "smaller"
    parser = argparse.ArgumentParser()
    quantize.fill(parser)
    arguments = [str(source), str(out), "--precision", precision, "--calibrate", str(images), "--score", str(images)]
    options = parser.parse_args(arguments)
    options.run(options)
    manifest = quantize.read_manifest(out)[1]
    assert manifest["name"] == "smaller"
    content = (out / "segmenter.onnx").read_bytes()
    assert manifest["segmenter"]["sha256"] == quantize.hashlib.sha256(content).hexdigest()
    scores = json.loads(capsys.readouterr().out)
    assert scores["scenes"] == 2 and scores["same_class"] > 0.9 and len(scores["coarse_miou"]) == 2
    assert 0 < scores["mean_logit_difference"] < scores["max_logit_difference"] < 0.5
    with pytest.raises(DataError, match="there already"):
        options.run(options)
