"""The frozen segmenter as the refiner sees it: logits on a grid of cells, and which cell a pixel belongs to.

It is a checkpoint of the `segmenter` command, or anybody's ONNX network described by a bundle's `model.toml`
(docs/bundle.md), so that what is trained behind is what the product runs.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from . import selection
from .data import DataError, Dataset, Grid, normalise
from .segmenter import LOGIT_STRIDE
from .train_segmenter import load_segmenter

UPSAMPLE = ("nearest", "bilinear")
STRIP = 128  # pixel rows
NORMALISED = ("channel_order", "mean", "std")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--segmenter", required=True, help="checkpoint (.pt) or the model.toml of a bundle with an ONNX network"
    )
    parser.add_argument("--cache", help="folder to keep the ONNX network's logits in, 2 bytes each")


@dataclass
class View:
    """What the segmenter says about one image."""

    logits: torch.Tensor  # [1, channels, rows, columns] on the grid
    grid: Grid
    label_of_channel: np.ndarray  # uint8

    def __post_init__(self) -> None:
        self.rows, self.columns = self.grid.cells()

    def to_pixels(self, cells: np.ndarray) -> np.ndarray:
        """An array `[rows, columns]` of the grid at the camera's resolution: nearest upsampling."""
        return cells[self.rows][:, self.columns]

    def labels(self) -> np.ndarray:
        return self.to_pixels(self.label_of_channel[self.logits.argmax(1)[0].numpy()])

    def entropy(self) -> np.ndarray:
        """Per cell, in nats."""
        return selection.entropy(self.logits)[0].numpy()

    def mask(self, alpha: float) -> np.ndarray:
        """The pixels to refine."""
        return self.to_pixels(self.entropy() > alpha)

    def at(self, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        """Logits `[pixels, channels]` of the cells of pixels."""
        flat = torch.from_numpy(self.rows[rows] * self.grid.size[1] + self.columns[columns])
        return self.logits[0].flatten(1).index_select(1, flat).t().contiguous()


class PixelView(View):
    """Logits upsampled bilinearly: entropy and label of every pixel, as the product's `upsample = "bilinear"`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        (height, width), canvas = self.grid.camera, self.grid.canvas
        self.fine = selection.to_grid(self.logits, canvas)[0, :, :height, :width]

    def labels(self) -> np.ndarray:
        return self.label_of_channel[self.fine.argmax(0).numpy()]

    def mask(self, alpha: float) -> np.ndarray:
        strips = self.fine.split(STRIP, 1)  # a whole softmax of 8 MP would take a GB
        return np.concatenate([(selection.entropy(strip[None])[0] > alpha).numpy() for strip in strips])

    def at(self, rows: np.ndarray, columns: np.ndarray) -> torch.Tensor:
        flat = torch.from_numpy(rows * self.grid.camera[1] + columns)
        return self.fine.flatten(1).index_select(1, flat).t().contiguous()


@dataclass
class Frozen:
    """A segmenter and how images become its input."""

    run: Callable  # normalised `[1, 3, h, w]` to logits `[1, channels, ., .]`
    size: tuple  # (height, width) of its input, which is the grid
    mean: tuple
    std: tuple
    classes: list  # name, colour and label of each channel
    channel_order: str = "rgb"
    fit: str = "pad"
    resize: str = "area"
    entry: dict = field(default_factory=dict)  # its section of a manifest
    cache: Cache | None = None

    @property
    def label_of_channel(self) -> np.ndarray:
        return np.array([entry["label"] for entry in self.classes], np.uint8)

    def ordered(self, image: np.ndarray) -> np.ndarray:
        """RGB uint8 `[h, w, 3]` in the network's order of channels."""
        return image if self.channel_order == "rgb" else np.ascontiguousarray(image[..., ::-1])

    def look(self, image: np.ndarray, path: Path | None = None, upsample: str = "nearest") -> View:
        """`View` of an RGB image; `path`, the file it came from, allows the cache to be used."""
        fit = Grid.pad if self.fit == "pad" else Grid.stretch
        grid = fit(image.shape[:2], self.size)
        kept = self.cache.file(path) if self.cache and path else None
        if kept and kept.is_file():
            logits = torch.from_numpy(np.load(kept).astype(np.float32))
        else:
            cells = torch.from_numpy(self._shrink(self.ordered(image), grid))[None]
            logits = selection.to_grid(self.run(normalise(cells, self.mean, self.std)), grid.size)
            if kept:
                np.save(kept, logits.numpy().astype(np.float16))
        return (View if upsample == "nearest" else PixelView)(logits, grid, self.label_of_channel)

    def _shrink(self, image: np.ndarray, grid: Grid) -> np.ndarray:
        if self.resize == "area":
            return grid.shrink(image, self.mean)
        small = Image.fromarray(image).resize(self.size[::-1], Image.Resampling.BILINEAR)
        return np.asarray(small, np.float32).transpose(2, 0, 1).copy()


class Cache:
    """Logits on disk, one file for each image and network."""

    def __init__(self, folder: str, network: str) -> None:
        self.folder, self.network = Path(folder), network
        self.folder.mkdir(parents=True, exist_ok=True)

    def file(self, path: Path) -> Path:
        path = Path(path).resolve()
        key = f"{self.network} {path} {path.stat().st_mtime_ns} {path.stat().st_size}"
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:32] + ".npy")


def open_segmenter(options: argparse.Namespace, data: Dataset) -> Frozen:
    """`Frozen` for the options of `add_options`, checked against the classes of a data set."""
    path = Path(options.segmenter)
    if path.is_dir() or path.suffix == ".toml":
        frozen = from_manifest(path / "model.toml" if path.is_dir() else path, options)
    elif path.suffix == ".onnx":
        raise DataError(f"an ONNX network needs its model.toml (docs/bundle.md), give that instead of {path}")
    else:
        frozen = from_checkpoint(path)
        names = [entry["name"] for entry in data.classes]
        if names != [entry["name"] for entry in frozen.classes]:
            raise DataError(f"the segmenter's classes differ from those of {data.folder}")
    highest = max(entry["label"] for entry in frozen.classes)
    if highest >= len(data.classes):
        raise DataError(f"the segmenter has label {highest}, {data.folder} has labels 0 to {len(data.classes) - 1}")
    never = [c["name"] for i, c in enumerate(data.classes) if i not in set(frozen.label_of_channel.tolist())]
    if never:
        print(f"no channel of the segmenter predicts {', '.join(never)}", flush=True)
    return frozen


def from_checkpoint(path: str | Path) -> Frozen:
    model, facts = load_segmenter(path)

    def run(image: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return model(image)

    classes = [{**entry, "label": index} for index, entry in enumerate(facts["classes"])]
    return Frozen(run, tuple(facts["size"]), facts["mean"], facts["std"], classes)


def read_manifest(path: str | Path) -> dict:
    """model.toml as dictionaries, with what is needed here checked."""
    import tomllib

    if not Path(path).is_file():
        raise FileNotFoundError(f"no manifest: {path}")
    try:
        content = tomllib.loads(Path(path).read_text())
    except tomllib.TOMLDecodeError as error:
        raise DataError(f"{error}: {path}") from None
    for section, keys in (("segmenter", ("file", "size", "mean", "std")), ("classes", ())):
        if section not in content:
            raise DataError(f"no [{section}] section: {path}")
        for key in keys:
            if key not in content[section]:
                raise DataError(f"[{section}] has no `{key}`: {path}")
    entry = content["segmenter"]
    allowed = {"fit": ("pad", "stretch"), "resize": ("area", "bilinear"), "channel_order": ("rgb", "bgr")}
    for key, values in allowed.items():
        if entry.setdefault(key, values[0]) not in values:
            raise DataError(f"[segmenter] {key} is `{entry[key]}`, it must be one of {', '.join(values)}: {path}")
    if entry["resize"] == "bilinear" and entry["fit"] == "pad":
        raise DataError(f"[segmenter] resize = \"bilinear\" needs fit = \"stretch\": {path}")
    return content


def from_manifest(path: str | Path, options: argparse.Namespace) -> Frozen:
    content = read_manifest(path)
    entry = content["segmenter"]
    classes = [{"label": index, **item} for index, item in enumerate(content["classes"])]
    file = Path(path).parent / entry["file"]
    if not file.is_file():
        raise FileNotFoundError(f"no ONNX network: {file}")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if entry.get("sha256", digest) not in (digest, ""):
        raise DataError(f"sha256 is {digest}, {path} says {entry['sha256']}: {file}")
    width, height = entry["size"]
    run = onnx_runner(file, entry, len(classes), getattr(options, "threads", 2))
    normalised = {key: entry[key] for key in NORMALISED}
    frozen = Frozen(run, (height, width), classes=classes, entry=entry, **normalised)
    frozen.fit, frozen.resize = entry["fit"], entry["resize"]
    if getattr(options, "cache", None):
        form = "".join(str(entry[key]) for key in (*NORMALISED, "fit", "resize"))
        frozen.cache = Cache(options.cache, f"{digest} {form} {len(classes)}")
    return frozen


def onnx_runner(file: Path, entry: dict, classes: int, threads: int) -> Callable:
    """A function from the normalised image to the logits of the kept channels."""
    try:
        import onnxruntime
    except ImportError:
        raise DataError(f"onnxruntime is needed to run {file}: pip install onnxruntime") from None
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(file), settings, providers=["CPUExecutionProvider"])
    width, height = entry["size"]
    source = entry.get("input") or session.get_inputs()[0].name
    target = entry.get("output") or session.get_outputs()[0].name
    shapes = {tensor.name: tensor.shape for tensor in session.get_inputs()}
    if source not in shapes:
        raise DataError(f"the network has no input `{source}`, it has {', '.join(shapes)}: {file}")
    fixed = [(want, got) for want, got in zip((1, 3, height, width), shapes[source]) if isinstance(got, int)]
    if any(want != got for want, got in fixed):
        raise DataError(f"the network's input is {shapes[source]}, the manifest says {[1, 3, height, width]}: {file}")
    stride = entry.get("logit_stride", LOGIT_STRIDE)
    expected = (1, entry.get("channels", classes), -(-height // stride), -(-width // stride))

    def run(image: torch.Tensor) -> torch.Tensor:
        logits = session.run([target], {source: image.numpy()})[0]
        if logits.shape != expected:
            raise DataError(f"the network's output is {list(logits.shape)}, expected {list(expected)}: {file}")
        return torch.from_numpy(np.ascontiguousarray(logits[:, :classes]))

    return run
