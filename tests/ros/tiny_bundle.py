"""A model bundle of a few kilobytes: a 1x1 convolution as segmenter and a refiner with made-up weights.

It is fast and its labels follow the colours, so that tests see at once whether a label belongs to its image.
"""

import hashlib
import json
import struct
from pathlib import Path

import numpy as np

CLASSES = [("red", [255, 0, 0]), ("green", [0, 255, 0]), ("blue", [0, 0, 255])]
PLANES = [4, 6]
HIDDEN = 64


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: "bytes | str | int") -> bytes:
    """A field of a protobuf message."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def tensor_type(name: str, shape: "list[int]") -> bytes:
    dims = b"".join(field(1, field(1, size)) for size in shape)
    return field(1, name) + field(2, field(1, field(1, 1) + field(2, dims)))


def ints(name: str, values: "list[int]") -> bytes:
    return field(5, field(1, name) + b"".join(field(8, value) for value in values) + field(20, 7))


def segmenter(width: int, height: int, stride: int) -> bytes:
    """ONNX: logit k is 4 times colour channel k, averaged over stride x stride pixels."""
    channels = len(CLASSES)
    weight = np.zeros((channels, 3, stride, stride), np.float32)
    for k in range(channels):
        weight[k, k] = 4.0 / stride**2
    initializer = b"".join(field(1, size) for size in weight.shape) + field(2, 1) + field(8, "weight")
    initializer += field(9, weight.tobytes())
    conv = field(1, "image") + field(1, "weight") + field(2, "logits") + field(4, "Conv")
    conv += ints("kernel_shape", [stride, stride]) + ints("strides", [stride, stride])
    graph = field(1, conv) + field(2, "tiny") + field(5, initializer)
    graph += field(11, tensor_type("image", [1, 3, height, width]))
    graph += field(12, tensor_type("logits", [1, channels, height // stride, width // stride]))
    return field(1, 8) + field(7, graph) + field(8, field(1, "") + field(2, 13))


def refiner() -> bytes:
    """safetensors with random weights of every tensor in docs/bundle.md."""
    random = np.random.default_rng(7)
    tensors: "dict[str, np.ndarray]" = {}

    def put(name: str, *shape: int) -> None:
        tensors[name] = (random.standard_normal(shape) * 0.3).astype(np.float32)

    def norm(name: str, size: int) -> None:
        for part in ("weight", "bias", "running_mean"):
            put(f"{name}.{part}", size)
        tensors[f"{name}.running_var"] = np.ones(size, np.float32)

    def residual(name: str, inputs: int, outputs: int) -> None:
        if inputs != outputs:
            put(f"{name}.projection", inputs, outputs)
        norm(f"{name}.bn1", inputs)
        put(f"{name}.conv1.weight", 9, inputs, outputs)
        norm(f"{name}.bn2", outputs)
        put(f"{name}.conv2.weight", 9, outputs, outputs)

    a, b = PLANES
    count = len(CLASSES)
    put("stem.weight", 9, 3, a)
    residual("levels.0.pre.0", a, a)
    norm("levels.0.down.bn", a)
    put("levels.0.down.weight", 9, a, b)
    norm("levels.0.up.bn", b)
    put("levels.0.up.weight", 9, b, a)
    residual("levels.0.post.0", 2 * a, a)
    residual("levels.1.pre.0", b, b)
    norm("head.bn", a)
    put("classifier.weight", count, a)
    put("classifier.bias", count)
    for name, sizes in (("gate", (2 * count + 2, HIDDEN, 2)), ("fuser", (count, HIDDEN, count))):
        put(f"{name}.0.weight", sizes[1], sizes[0])
        put(f"{name}.0.bias", sizes[1])
        put(f"{name}.2.weight", sizes[2], sizes[1])
        put(f"{name}.2.bias", sizes[2])

    index, data = {}, b""
    for name, values in tensors.items():
        index[name] = {"dtype": "F32", "shape": list(values.shape),
                       "data_offsets": [len(data), len(data) + values.nbytes]}
        data += values.tobytes()
    text = json.dumps(index).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def write(folder: Path, width: int = 480, height: int = 272, max_fraction: float = 0.01) -> Path:
    folder.mkdir(parents=True)
    files = {"segmenter.onnx": segmenter(width, height, 4), "refiner.safetensors": refiner()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    sha = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    classes = "\n".join(f'[[classes]]\nname = "{name}"\ncolour = {colour}' for name, colour in CLASSES)
    (folder / "model.toml").write_text(f"""schema = 1
name = "tiny"
method = "sparse_refine"
{classes}
[segmenter]
file = "segmenter.onnx"
sha256 = "{sha["segmenter.onnx"]}"
size = [{width}, {height}]
logit_stride = 4
mean = [128.0, 128.0, 128.0]
std = [64.0, 64.0, 64.0]
[selector]
alpha = 0.3
max_fraction = {max_fraction}
[refiner]
file = "refiner.safetensors"
sha256 = "{sha["refiner.safetensors"]}"
planes = {PLANES}
blocks = 1
""")
    return folder


if __name__ == "__main__":
    import sys

    print(write(Path(sys.argv[1])))
