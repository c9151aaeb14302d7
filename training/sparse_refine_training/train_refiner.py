"""Trains the sparse refiner, gate and fuser on full-resolution crops, behind a frozen segmenter.

Use other scenes than the segmenter's: on those it is more certain than it will be on new ones.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from . import loop, selection
from .data import IGNORE, DataError, Dataset, Grid, normalise, photometric
from .sparse import BOUNDS
from .train_segmenter import load_segmenter, size
from .unet import FEATURES, Refiner

WEIGHT_DECAY = 1e-2
CROP_MULTIPLE = 16  # keeps every level's stride-2 lattice where it is in a whole image
TRIES = 8


def add_command(commands):
    parser = commands.add_parser("refiner", help="train the sparse refiner", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("--segmenter", required=True, help="checkpoint of the segmenter command")
    parser.add_argument("--alpha", type=float, default=0.4, help="select where the entropy (nats) exceeds this (0.4)")
    parser.add_argument("--planes", type=numbers, default=[16, 32, 48, 64], help="channels per level (16,32,48,64)")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks before and after each level (1)")
    parser.add_argument("--features", choices=FEATURES, default="rgb+probabilities")
    parser.add_argument("--bound", choices=BOUNDS, default="image")
    parser.add_argument("--crop", type=size, default=(512, 512), help="training window in pixels (512x512)")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    loop.add_options(parser, learning_rate=2e-3)
    parser.set_defaults(run=run)


def numbers(text):
    """`16,32` as [16, 32]."""
    return [int(part) for part in text.split(",")]


def labelled_mean(logits, label):
    """Mean cross entropy of the labelled sites, 0 where there are none."""
    total = F.cross_entropy(logits, label, ignore_index=IGNORE, reduction="sum")
    return total / (label != IGNORE).sum().clamp(min=1)


@dataclass
class CoarseScene:
    """A scene in memory with what the frozen segmenter says about it."""

    image: np.ndarray  # uint8 [h, w, 3]
    label: np.ndarray  # uint8 [h, w]
    logits: np.ndarray  # float16 [classes, grid rows, grid columns]
    selected: np.ndarray  # bool [grid rows, grid columns]
    ratio: int


def run(options):
    loop.seed_everything(options)
    segmenter, coarse = load_segmenter(options.segmenter)
    data = Dataset.open(options.data, options.limit)
    if [c["name"] for c in data.classes] != [c["name"] for c in coarse["classes"]]:
        raise DataError(f"the segmenter's classes differ from those of {data.folder}")
    if options.crop[0] % CROP_MULTIPLE or options.crop[1] % CROP_MULTIPLE:
        raise DataError(f"--crop {options.crop[1]}x{options.crop[0]}: both must be multiples of {CROP_MULTIPLE}")
    scenes = [prepare(*scene.read(len(data.classes)), segmenter, coarse, options.alpha) for scene in data.scenes]
    share = np.mean([scene.selected.mean() for scene in scenes])
    print(f"{len(scenes)} scenes, {100 * share:.1f} % of the cells selected: {data.folder}", flush=True)
    model = Refiner(options.planes, options.blocks, len(data.classes), options.features, options.bound)
    facts = {
        "kind": "refiner",
        "planes": options.planes,
        "blocks": options.blocks,
        "classes": data.classes,
        "features": options.features,
        "bound": options.bound,
        "alpha": options.alpha,
        "mean": coarse["mean"],
        "std": coarse["std"],
        "scenes": [data.scenes[0].name, data.scenes[-1].name, len(data.scenes)],
    }

    def step(rng):
        mask, rgb, y1, label = batch(scenes, options.crop, options.batch, coarse, rng)
        y2, out = model(model.pyramid(mask), rgb, y1)
        return labelled_mean(y2, label) + labelled_mean(out, label)

    return loop.train(model, step, options, facts, WEIGHT_DECAY)


def coarse_logits(image, segmenter, facts):
    """Logits `[1, classes, rows, columns]` on the segmenter's grid for an image uint8 `[h, w, 3]`, and the grid."""
    grid = Grid.pad(image.shape[:2], facts["size"])
    cells = torch.from_numpy(grid.shrink(image, facts["mean"]))[None]
    with torch.no_grad():
        return selection.to_grid(segmenter(normalise(cells, facts["mean"], facts["std"])), grid.size), grid


def prepare(image, label, segmenter, facts, alpha):
    logits, grid = coarse_logits(image, segmenter, facts)
    selected = (selection.entropy(logits) > alpha)[0].numpy()
    # Padding takes no part.
    selected[-(-image.shape[0] // grid.ratio) :] = False
    selected[:, -(-image.shape[1] // grid.ratio) :] = False
    return CoarseScene(image, label, logits[0].numpy().astype(np.float16), selected, grid.ratio)


def window(scene, crop, rng):
    """Origin (row, column) of a crop with selected pixels, a multiple of `CROP_MULTIPLE` and of the cells."""
    step = np.lcm(CROP_MULTIPLE, scene.ratio)
    ways = [max(0, n - m) // step + 1 for n, m in zip(scene.label.shape, crop)]
    for _ in range(TRIES):
        top, left = (step * int(rng.integers(n)) for n in ways)
        cells = scene.selected[top // scene.ratio :, left // scene.ratio :]
        if cells[: crop[0] // scene.ratio, : crop[1] // scene.ratio].mean() > 0.01:
            break
    return top, left


def batch(scenes, crop, count, facts, rng):
    """(mask `[n, h, w]`, colours `[sites, 3]`, coarse logits `[sites, classes]`, labels `[sites]`)."""
    masks, pictures, logits, labels = [], [], [], []
    for index in rng.integers(len(scenes), size=count):
        scene = scenes[index]
        top, left = window(scene, crop, rng)
        flip = -1 if rng.random() < 0.5 else 1
        ratio = scene.ratio
        # Scenes smaller than the crop leave the rest of the window unselected.
        picture, label = np.zeros((3, *crop), np.float32), np.full(crop, IGNORE, np.uint8)
        part = scene.image[top : top + crop[0], left : left + crop[1]]
        height, width = part.shape[:2]
        picture[:, :height, :width] = part.transpose(2, 0, 1)
        label[:height, :width] = scene.label[top : top + crop[0], left : left + crop[1]]
        cells = np.s_[top // ratio : (top + crop[0]) // ratio, left // ratio : (left + crop[1]) // ratio]
        mask = np.zeros(crop, bool)
        selected = scene.selected[cells].repeat(ratio, 0).repeat(ratio, 1)[:height, :width]
        mask[:height, :width] = selected
        rows, columns = mask[:, ::flip].nonzero()
        columns_before = columns if flip == 1 else crop[1] - 1 - columns
        logits.append(scene.logits[(slice(None), *cells)][:, rows // ratio, columns_before // ratio].T)
        masks.append(mask[:, ::flip])
        pictures.append(picture[..., ::flip])
        labels.append(label[rows, columns_before])
    mask = torch.from_numpy(np.stack(masks))
    image = normalise(photometric(torch.from_numpy(np.stack(pictures)), rng), facts["mean"], facts["std"])
    y1 = torch.from_numpy(np.concatenate(logits).astype(np.float32))
    return mask, image.permute(0, 2, 3, 1)[mask], y1, torch.from_numpy(np.concatenate(labels).astype(np.int64))


def load_refiner(path):
    """(model in evaluation mode, facts) of a checkpoint."""
    state = loop.load_checkpoint(path)
    facts = state["facts"]
    if facts["kind"] != "refiner":
        raise DataError(f"this checkpoint is of a {facts['kind']}, a refiner is needed: {path}")
    model = Refiner(facts["planes"], facts["blocks"], len(facts["classes"]), facts["features"], facts["bound"])
    model.load_state_dict(state["model"])
    return model.eval(), {**facts, "total": loop.total(state)}
