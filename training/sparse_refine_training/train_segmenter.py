"""Trains the dense segmenter on scenes shrunk to its grid; with `--size` at the camera's own, the dense baseline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from . import augment, loop
from .data import IMAGENET_MEAN, IMAGENET_STD, DataError, Dataset, Grid, normalise, photometric
from .segmenter import DECODER, LOGIT_STRIDE, MULTIPLE, WIDTHS, Segmenter
from .selection import to_grid

WEIGHT_DECAY = 1e-3
PRECISIONS = {"f32": None, "bf16": torch.bfloat16}


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("segmenter", help="train the dense segmenter", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("--size", type=size, default=(544, 960), help="input grid, WIDTHxHEIGHT (960x544)")
    parser.add_argument("--crop", type=size, default=(320, 480), help="training window on the grid (480x320)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--without-fold", metavar="K/N", help="leave the K-th of N parts of the scenes out")
    parser.add_argument(
        "--scale", type=span, default=(1, 1), metavar="LOW,HIGH", help="enlarge windows by a random factor (1,1)"
    )
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="f32", help="bf16: convolutions in 16 bits, where the CPU has them"
    )
    loop.add_options(parser, learning_rate=2e-3)
    parser.set_defaults(run=run)


def size(text: str) -> tuple[int, int]:
    """`960x544` as (height, width)."""
    width, height = (int(part) for part in text.lower().split("x"))
    return height, width


def span(text: str) -> tuple[float, float]:
    """`0.75,1.5` as (0.75, 1.5)."""
    try:
        low, high = (float(part) for part in text.split(","))
    except ValueError:
        low = high = 0.0
    if not 0.1 <= low <= high <= 10:
        raise argparse.ArgumentTypeError(f"`{text}` must be two factors from 0.1 to 10, such as 0.75,1.5")
    return low, high


def run(options: argparse.Namespace) -> list:
    loop.seed_everything(options)
    for name, (height, width) in (("size", options.size), ("crop", options.crop)):
        if height % MULTIPLE or width % MULTIPLE:
            raise DataError(f"--{name} {width}x{height}: both must be multiples of {MULTIPLE}")
    if options.crop[0] > options.size[0] or options.crop[1] > options.size[1]:
        raise DataError(f"--crop {options.crop[::-1]} exceeds --size {options.size[::-1]}")
    data = Dataset.open(options.data, options.limit).without_fold(options.without_fold)
    images, shares = load(data, options.size)
    classes = len(data.classes)
    weights = class_weights(shares)
    # Channels last: the CPU's convolutions then take four fifths of the time.
    model = Segmenter(classes).to(memory_format=torch.channels_last)
    precision, device = PRECISIONS[options.precision], loop.device(options)
    weights = weights.to(device)
    facts = {
        "kind": "segmenter",
        "widths": WIDTHS,
        "decoder": DECODER,
        "classes": data.classes,
        "size": options.size,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "scenes": [data.scenes[0].name, data.scenes[-1].name, len(data.scenes)],
    }

    def step(rng: np.random.Generator, _progress: float) -> torch.Tensor:
        image, share = (tensor.to(device) for tensor in batch(images, shares, options, rng))
        image = normalise(image, IMAGENET_MEAN, IMAGENET_STD).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            logits = model(image)
        return soft_cross_entropy(to_grid(logits.float(), options.crop), share, weights)

    return loop.train(model, step, options, facts, WEIGHT_DECAY)


def load(data: Dataset, grid_size: tuple) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """All scenes on the grid, in memory: colours uint8 `[3, h, w]` and class shares uint8 `[classes, h, w]` each."""
    images, shares = [], []
    for scene in data.scenes:
        image, label = scene.read(len(data.classes))
        grid = Grid.pad(label.shape, grid_size)
        images.append(np.rint(grid.shrink(image, IMAGENET_MEAN)).astype(np.uint8))
        shares.append(grid.shares(label, len(data.classes)))
    print(f"{len(images)} scenes on a grid of {grid_size[1]}x{grid_size[0]}: {data.folder}", flush=True)
    return images, shares


def class_weights(shares: list[np.ndarray]) -> torch.Tensor:
    return mild_weights(sum(share.sum((1, 2), dtype=np.float64) for share in shares))


def mild_weights(covered: np.ndarray) -> torch.Tensor:
    """The fourth root of how much rarer than the median a class is, between 0.5 and 3; 0 for absent ones."""
    present = covered > 0
    weights = np.zeros(len(covered))
    weights[present] = np.clip((np.median(covered[present]) / covered[present]) ** 0.25, 0.5, 3)
    return torch.tensor(weights, dtype=torch.float32)


def soft_cross_entropy(logits: torch.Tensor, share: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy against class shares `[n, classes, h, w]`, weighted by class; cells without labels do not count."""
    weighted = share * weights.view(1, -1, 1, 1)
    return -(weighted * F.log_softmax(logits, 1)).sum() / weighted.sum().clamp(min=1)


def batch(
    images: list[np.ndarray], shares: list[np.ndarray], options: argparse.Namespace, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows, half of them mirrored: colours `[n, 3, h, w]`, 0 to 255, and class shares `[n, classes, h, w]`."""
    pictures, targets = [], []
    for index in rng.integers(len(images), size=options.batch):
        factor = augment.factor(options.scale, rng)
        picture, target = window(images[index], shares[index], options.crop, factor, rng)
        if rng.random() < 0.5:
            picture, target = picture[..., ::-1], target[..., ::-1]
        pictures.append(picture.astype(np.float32))
        targets.append(target.astype(np.float32) / 255)
    image = torch.from_numpy(np.stack(pictures))
    return photometric(image, rng), torch.from_numpy(np.stack(targets))


def window(
    image: np.ndarray, share: np.ndarray, crop: tuple, factor: float, rng: np.random.Generator
) -> Sequence[np.ndarray]:
    """A random window of a scene, enlarged by `factor`; what lies beyond the scene is black and has no labels."""
    origin, extent = [], []
    for side, size in zip(crop, image.shape[1:]):
        length = min(round(side / factor), size)
        # Origins at multiples of the logit stride, as everywhere in a whole image.
        origin.append(LOGIT_STRIDE * int(rng.integers((size - length) // LOGIT_STRIDE + 1)))
        extent.append(length)
    cut = tuple(slice(first, first + length) for first, length in zip(origin, extent))
    picture, target = image[(slice(None), *cut)], share[(slice(None), *cut)]
    if factor == 1:
        return picture, target
    inside = [min(side, round(length * factor)) for side, length in zip(crop, extent)]
    resized = []
    for part in (picture, target):
        part = torch.from_numpy(part.astype(np.float32))[None]
        part = F.interpolate(part, inside, mode="bilinear", align_corners=False, antialias=factor < 1)[0]
        resized.append(F.pad(part, (0, crop[1] - inside[1], 0, crop[0] - inside[0])).numpy())
    return resized


def load_segmenter(path: str | Path) -> tuple[Segmenter, dict]:
    """(model in evaluation mode, facts) of a checkpoint."""
    state = loop.load_checkpoint(path)
    facts = state["facts"]
    if facts["kind"] != "segmenter":
        raise DataError(f"this checkpoint is of a {facts['kind']}, a segmenter is needed: {path}")
    model = Segmenter(len(facts["classes"]), facts["widths"], facts["decoder"])
    model.load_state_dict(state["model"])
    return model.eval(), {**facts, "total": loop.total(state)}
