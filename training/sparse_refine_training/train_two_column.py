"""Trains the two columns of Spatial Sparsity (a reconstruction, docs/methods.md) in stages.

ctf: both columns on crops, the weight map only mixes; either column can start from a trained segmenter (`--coarse`,
`--fine`). sctf: from ctf, the map is a binary-concrete sample under an area budget that is annealed from 1. uncrop: whole
images along the deployed tile path, BatchNorm statistics frozen. isctf: the same with the cross-column connection.
prune: removes residual units and recovers on crops.
"""

from __future__ import annotations

import argparse
import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import loop
from .data import IGNORE, IMAGENET_MEAN, IMAGENET_STD, DataError, Dataset, Grid, normalise, photometric
from .segmenter import DECODER, MULTIPLE, WIDTHS
from .train_segmenter import PRECISIONS, mild_weights, size
from .two_column import (
    FUSIONS,
    STRIDE,
    Tiles,
    TwoColumn,
    area_penalty,
    bernoulli_kl,
    bilinear,
    binary_concrete,
    binary_entropy,
    deployed,
    fuse,
    prune_unit,
)

WEIGHT_DECAY = 1e-3
STAGES = ("ctf", "sctf", "uncrop", "isctf", "prune")
STEERING = 0.3  # by how much a wrong share of open tiles shifts the logits of the map, a step
COARSE_LOSS, REGULARISER_LOSS = 0.4, 0.01
ANNEAL = 0.5  # share of the stage in which the area budget falls from 1


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("two-column", help="train the columns of Spatial Sparsity", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("--stage", choices=STAGES, default="ctf")
    parser.add_argument("--size", type=size, default=(2176, 3840), help="canvas, WIDTHxHEIGHT (3840x2176)")
    parser.add_argument("--ratio", type=int, default=2, help="canvas pixels per pixel of the coarse column (2)")
    parser.add_argument("--crop", type=size, default=(512, 512), help="training window on the canvas (512x512)")
    parser.add_argument("--batch", type=int, default=4, help="crops in a step; whole images come one at a time")
    parser.add_argument("--coarse", help="segmenter checkpoint that the coarse column starts from, in the stage ctf")
    parser.add_argument("--fine", help="the same for the fine column: one trained at full resolution")
    parser.add_argument(
        "--fusion", choices=FUSIONS, default="map", help="sum: equal weights, the baseline of ctf (map)"
    )
    parser.add_argument("--widths", type=numbers, default=WIDTHS, help="channels at strides 2, 4, 8 and 16")
    parser.add_argument("--decoder", type=int, default=DECODER, help="channels of the way back up (%d)" % DECODER)
    parser.add_argument("--tile", type=int, default=128)
    parser.add_argument("--halo", type=int, default=32)
    parser.add_argument("--threshold", type=float, default=0.5, help="on the weight map (0.5)")
    parser.add_argument("--area", type=areas, default=(0.15,), help="area budget; several, as .1,.2,.3, are a sweep")
    parser.add_argument("--area-weight", type=float, default=1.0, help="of the area penalty in the loss, on crops (1)")
    parser.add_argument("--regulariser", choices=("entropy", "kl"), default="entropy")
    parser.add_argument("--remove", type=int, default=1, help="residual units that the stage prune removes (1)")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--precision", choices=PRECISIONS, default="f32", help="of convolutions (f32)")
    loop.add_options(parser, learning_rate=2e-3)
    parser.set_defaults(run=run)


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def areas(text: str) -> tuple[float, ...]:
    values = tuple(float(part) for part in text.split(","))
    if not values or not all(0 < value <= 1 for value in values):
        raise ValueError(text)
    return values


def run(options: argparse.Namespace) -> list:
    loop.seed_everything(options)
    data = Dataset.open(options.data, options.limit)
    runs, described = sweep(options), []
    for one in runs:
        former = loop.load_checkpoint(one.out if one.resume else one.init)["facts"] if one.resume or one.init else None
        if options.stage != "ctf" and not former:
            raise DataError(f"the stage {options.stage} starts from a checkpoint: give --init")
        if former and former["kind"] != "two-column":
            raise DataError(f"this checkpoint is of a {former['kind']}, two columns are needed: {options.init}")
        described.append({**describe(options, data, former), "area": one.area})
    images, labels = load(data, described[0]["size"])
    histories = [run_stage(one, facts, images, labels) for one, facts in zip(runs, described)]
    return histories[0] if len(histories) == 1 else histories


def sweep(options: argparse.Namespace) -> list[argparse.Namespace]:
    """The options of each area budget; several write `OUT_a10.pt` and so on, and resume those that are there."""
    runs = []
    for area in options.area:
        one = copy.copy(options)
        one.area = area
        if len(options.area) > 1:
            out = Path(options.out)
            one.out = str(out.with_name(f"{out.stem}_a{round(100 * area):02d}{out.suffix}"))
            one.resume = options.resume and Path(one.out).is_file()
        runs.append(one)
    return runs


def describe(options: argparse.Namespace, data: Dataset, former: dict | None) -> dict:
    """Facts of the checkpoint: what the network is comes from the one before, the rest from the options."""
    shape = ("widths", "decoder", "size", "ratio", "fusion")
    facts = {key: former[key] if former else getattr(options, key) for key in shape}
    whole = math.lcm(facts["ratio"] * STRIDE, MULTIPLE)
    for name in ("tile", "halo"):
        if getattr(options, name) % whole:
            raise DataError(f"--{name} {getattr(options, name)}: a multiple of {whole} px is needed")
    whole = facts["ratio"] * MULTIPLE
    for name, (height, width) in (("size", facts["size"]), ("crop", options.crop)):
        if height % whole or width % whole:
            raise DataError(f"--{name} {width}x{height}: both must be multiples of {whole}")
        if height % options.tile or width % options.tile:
            raise DataError(f"--{name} {width}x{height}: it must be whole tiles of {options.tile} px, see --tile")
    if options.crop[0] > facts["size"][0] or options.crop[1] > facts["size"][1]:
        raise DataError(f"--crop {options.crop[::-1]} exceeds the canvas {facts['size'][::-1]}")
    if facts["fusion"] == "sum" and options.stage not in ("ctf", "prune"):
        raise DataError(
            f"the stage {options.stage} needs a weight map, this checkpoint sums: start ctf with --fusion map"
        )
    if former and [c["name"] for c in former["classes"]] != [c["name"] for c in data.classes]:
        raise DataError(f"the classes differ from those of the checkpoint: {data.folder}")
    cross = options.stage == "isctf" or bool(former and former["cross"])
    sparse = options.stage in ("sctf", "uncrop", "isctf") or bool(former and former["configuration"] != "ctf")
    return {
        **facts,
        "removed": former["removed"] if former else [],
        "kind": "two-column",
        "stage": options.stage,
        "configuration": "isctf" if cross else "sctf" if sparse else "ctf",
        "cross": cross,
        "tile": options.tile,
        "halo": options.halo,
        "threshold": options.threshold,
        "area_weight": options.area_weight,
        "regulariser": options.regulariser,
        "classes": data.classes,
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "scenes": [data.scenes[0].name, data.scenes[-1].name, len(data.scenes)],
    }


def build(facts: dict) -> TwoColumn:
    """The untrained network that a checkpoint's facts describe."""
    classes = len(facts["classes"])
    pool = facts["tile"] // (facts["ratio"] * STRIDE)
    return TwoColumn(
        classes, facts["widths"], facts["decoder"], facts["ratio"], pool, facts["fusion"], facts["removed"]
    )


def start_columns(model: TwoColumn, options: argparse.Namespace, data_classes: list[dict]) -> None:
    """Loads trained segmenters into the columns."""
    for name in ("coarse", "fine"):
        path = getattr(options, name)
        if path is None:
            continue
        state = loop.load_checkpoint(path)
        facts = state["facts"]
        if facts["kind"] != "segmenter":
            raise DataError(f"--{name}: a checkpoint of a segmenter is needed, this is of a {facts['kind']}: {path}")
        if [entry["name"] for entry in facts["classes"]] != [entry["name"] for entry in data_classes]:
            raise DataError(f"--{name}: its classes differ from those of the pictures: {path}")
        try:
            getattr(model, name).load_state_dict(state["model"])
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise DataError(f"--{name}: not of the widths of this column, see --widths, --decoder: {path}: {why}")


def run_stage(options: argparse.Namespace, facts: dict, images: list[np.ndarray], labels: list[np.ndarray]) -> list:
    model = build(facts)
    if options.stage == "ctf" and not options.resume:
        start_columns(model, options, facts["classes"])
    model = model.to(memory_format=torch.channels_last)  # as the segmenter's
    weights = class_weights(labels, len(facts["classes"]))
    if options.stage == "prune" and not options.resume:
        facts = prune(model, options, facts, images, labels, weights)
        options = copy.copy(options)
        options.init = None  # its weights are in the model, less the removed units
    weights = weights.to(loop.device(options))
    stage = facts["configuration"] if options.stage == "prune" else options.stage
    if stage in ("uncrop", "isctf") and options.stage != "prune":
        step = whole_image_step(model, facts, images, labels, weights, options)
    else:
        step = crop_step(model, facts, images, labels, weights, options)
    return loop.train(model, step, options, facts, WEIGHT_DECAY)


def prune(
    model: TwoColumn,
    options: argparse.Namespace,
    facts: dict,
    images: list[np.ndarray],
    labels: list[np.ndarray],
    weights: torch.Tensor,
) -> dict:
    """Loads the checkpoint and removes units by the loss on a few fixed crops; returns the new facts."""
    state = loop.load_checkpoint(options.init)
    model.load_state_dict(state["model"])
    facts = {**facts, "before": loop.total(state)}
    model.eval()
    one = copy.copy(options)
    one.batch = max(options.batch, 8)
    image, label = crops(images, labels, one, facts, np.random.default_rng(options.seed))
    image = normalise(image, facts["mean"], facts["std"])

    def loss() -> torch.Tensor:
        fine, coarse, logits = model(image, facts["cross"])
        return pixel_loss(fuse(coarse, fine, torch.sigmoid(logits), model.ratio), label, weights)

    facts["removed"] = list(facts["removed"])
    for _ in range(options.remove):
        name, value = prune_unit(model, loss)
        facts["removed"].append(name)
        print(f"removed {name}: loss {value:.4f}", flush=True)
    return facts


def crop_step(
    model: TwoColumn,
    facts: dict,
    images: list[np.ndarray],
    labels: list[np.ndarray],
    weights: torch.Tensor,
    options: argparse.Namespace,
) -> Callable:
    """A step on crops; under an area budget in every configuration but ctf."""

    def step(rng: np.random.Generator, progress: float) -> torch.Tensor:
        image, label = (tensor.to(weights.device) for tensor in crops(images, labels, options, facts, rng))
        image = normalise(image, facts["mean"], facts["std"]).contiguous(memory_format=torch.channels_last)
        with autocast(options, image):
            fine, coarse, logits = (scores.float() for scores in model(image, facts["cross"]))
        extra = 0.0
        if facts["configuration"] == "ctf":
            m = torch.sigmoid(logits)
        else:
            tiles = [*logits.shape[:2], *(side // model.pool for side in logits.shape[2:])]
            noise = torch.from_numpy(rng.uniform(1e-6, 1 - 1e-6, tiles).astype(np.float32))
            m = binary_concrete(logits, model.to_cells(noise.to(logits.device)))
            area = annealed(facts["area"], progress)
            steer(model, torch.sigmoid(logits), area, facts)
            extra = sparsity_loss(torch.sigmoid(logits), area, facts)
        scores = fuse(coarse, fine, m, model.ratio)
        return both_losses(scores, coarse, label, weights, model.ratio) + extra

    return step


def annealed(area: float, progress: float) -> float:
    """The area budget: from 1 down to `area` in the first part of the stage."""
    return 1 + (area - 1) * min(1.0, progress / ANNEAL)


def steer(model: TwoColumn, weights: torch.Tensor, area: float, facts: dict) -> None:
    """Moves the map's bias so that the share above the threshold follows the budget.

    The penalty alone is content with a map that is equally low everywhere, below the threshold; so held, the map has only
    to learn where the fine column helps most.
    """
    with torch.no_grad():
        open_share = (weights > facts["threshold"]).float().mean()
        model.map[-1].bias += STEERING * (area - open_share)


def sparsity_loss(weights: torch.Tensor, area: float, facts: dict) -> torch.Tensor:
    regulariser = binary_entropy(weights) if facts["regulariser"] == "entropy" else bernoulli_kl(weights, area)
    return facts["area_weight"] * area_penalty(weights, area) + REGULARISER_LOSS * regulariser


def whole_image_step(
    model: TwoColumn,
    facts: dict,
    images: list[np.ndarray],
    labels: list[np.ndarray],
    weights: torch.Tensor,
    options: argparse.Namespace,
) -> Callable:
    """A step on one whole image along the deployed path: same tiles, threshold and halo as in the product.

    A shut tile does not say what the fine column would have gained there, so the map learns no more: only its bias moves.
    """
    model.map.requires_grad_(False)
    height, width = facts["size"]
    tiles = Tiles(height, width, facts["tile"], facts["halo"], facts["ratio"] * STRIDE)

    def step(rng: np.random.Generator, _progress: float) -> torch.Tensor:
        freeze_statistics(model)
        index = int(rng.integers(len(images)))
        image, label = images[index], labels[index]
        if rng.random() < 0.5:
            image, label = image[..., ::-1], label[..., ::-1]
        image = photometric(torch.from_numpy(image.astype(np.float32))[None], rng)
        label = torch.from_numpy(label.astype(np.int64))[None]
        image = normalise(image, facts["mean"], facts["std"]).to(weights.device)
        label = label.to(weights.device)
        with autocast(options, image):
            scores, coarse, m, _ = deployed(model, image, tiles, facts["threshold"], facts["cross"])
        steer(model, m, facts["area"], facts)
        return both_losses(scores.float(), coarse.float(), label, weights, model.ratio)

    return step


def autocast(options: argparse.Namespace, image: torch.Tensor) -> torch.autocast:
    precision = PRECISIONS[options.precision]
    return torch.autocast(image.device.type, dtype=precision, enabled=precision is not None)


def both_losses(
    scores: torch.Tensor, coarse: torch.Tensor, label: torch.Tensor, weights: torch.Tensor, ratio: int
) -> torch.Tensor:
    """The fused scores at every pixel, the coarse ones at every pixel of the reduced image (the nearest label)."""
    reduced = label[..., ratio // 2 :: ratio, ratio // 2 :: ratio]
    return pixel_loss(scores, label, weights) + COARSE_LOSS * pixel_loss(coarse, reduced, weights)


def freeze_statistics(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def pixel_loss(scores: torch.Tensor, label: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Cross entropy at every pixel of the scores upsampled bilinearly; label 255 does not count."""
    logits = bilinear(scores, label.shape[-1] // scores.shape[-1])
    loss = F.cross_entropy(logits, label, weights, ignore_index=IGNORE, reduction="sum")
    counted = weights[label[label != IGNORE]].sum()
    return loss / counted.clamp(min=1)


def load(data: Dataset, canvas: tuple) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """All scenes padded to the canvas, in memory: colours uint8 `[3, h, w]` and labels uint8 `[h, w]`."""
    images, labels = [], []
    mean = np.rint(IMAGENET_MEAN).astype(np.uint8)
    for scene in data.scenes:
        image, label = scene.read(len(data.classes))
        if Grid.pad(label.shape, canvas).ratio != 1:
            raise DataError(f"the canvas {canvas[1]}x{canvas[0]} does not hold {label.shape[::-1]}: {scene.image}")
        padded = np.empty((3, *canvas), np.uint8)
        padded[:] = mean[:, None, None]
        padded[:, : label.shape[0], : label.shape[1]] = image.transpose(2, 0, 1)
        target = np.full(canvas, IGNORE, np.uint8)
        target[: label.shape[0], : label.shape[1]] = label
        images.append(padded)
        labels.append(target)
    print(f"{len(images)} scenes on a canvas of {canvas[1]}x{canvas[0]}: {data.folder}", flush=True)
    return images, labels


def class_weights(labels: list[np.ndarray], classes: int) -> torch.Tensor:
    """Mild, as the segmenter's."""
    counts = (np.bincount(label.ravel(), minlength=256)[:classes] for label in labels)
    return mild_weights(sum(counts, np.zeros(classes, np.int64)).astype(np.float64))


def crops(
    images: list[np.ndarray],
    labels: list[np.ndarray],
    options: argparse.Namespace,
    facts: dict,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random windows on whole cells, half of them mirrored: (float `[n, 3, h, w]` 0 to 255, labels `[n, h, w]`)."""
    height, width = options.crop
    cell = facts["ratio"] * STRIDE
    pictures, targets = [], []
    for index in rng.integers(len(images), size=options.batch):
        top = cell * rng.integers((images[index].shape[1] - height) // cell + 1)
        left = cell * rng.integers((images[index].shape[2] - width) // cell + 1)
        window = (slice(top, top + height), slice(left, left + width))
        picture, target = images[index][(slice(None), *window)], labels[index][window]
        if rng.random() < 0.5:
            picture, target = picture[..., ::-1], target[..., ::-1]
        pictures.append(picture.astype(np.float32))
        targets.append(target.astype(np.int64))
    return photometric(torch.from_numpy(np.stack(pictures)), rng), torch.from_numpy(np.stack(targets))


def load_two_column(path: str | Path) -> tuple[TwoColumn, dict]:
    """(model in evaluation mode, facts) of a checkpoint."""
    state = loop.load_checkpoint(path)
    facts = state["facts"]
    if facts["kind"] != "two-column":
        raise DataError(f"this checkpoint is of a {facts['kind']}, two columns are needed: {path}")
    model = build(facts)
    model.load_state_dict(state["model"])
    return model.eval(), {**facts, "total": loop.total(state)}
