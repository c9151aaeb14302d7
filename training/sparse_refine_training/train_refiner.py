"""Trains the sparse refiner, gate and fuser on full-resolution crops, behind a frozen segmenter.

Use other scenes than the segmenter's: on those it is more certain than it will be on new ones. With too few scenes for
that, train one segmenter for each part left out and give them all (`--fold-segmenters`).
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path

import numpy as np
import torch

from . import augment, coarse, crops, loop, tensors
from .data import DataError, Dataset
from .losses import LabelLoss
from .sparse import BOUNDS
from .train_segmenter import mild_weights, size, span
from .unet import FEATURES, Refiner

WEIGHT_DECAY = 1e-2
CROP_MULTIPLE = 16  # keeps the stride-2 lattice of five levels where it is in a whole image
WEIGHTS = ("mild", "none")


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("refiner", help="train the sparse refiner", description=__doc__)
    add_training_options(parser)
    parser.set_defaults(run=run)


def add_training_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="+", help="folders with images/, labels/ and classes.json, of the same classes")
    coarse.add_options(parser)
    parser.add_argument("--alpha", type=float, default=0.4, help="select where the entropy (nats) exceeds this (0.4)")
    parser.add_argument("--planes", type=numbers, default=[16, 16, 32, 32], help="channels per level (16,16,32,32)")
    parser.add_argument("--blocks", type=int, default=1, help="residual blocks before and after each level (1)")
    parser.add_argument("--features", choices=FEATURES, default="rgb+probabilities")
    parser.add_argument("--bound", choices=BOUNDS, default="image")
    parser.add_argument("--crop", type=size, default=(256, 256), help="training window in pixels (256x256)")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--augment", choices=augment.KINDS, default="mild", help="strong: as METHODS 1.4 (mild)")
    parser.add_argument("--scale", type=span, metavar="LOW,HIGH", help="enlarge by other factors than --augment does")
    parser.add_argument(
        "--ask-again", action="store_true",
        help="change whole pictures and ask the segmenter about them at each step: for few and small pictures",
    )
    parser.add_argument("--class-weights", choices=WEIGHTS, default="mild", help="weight of rare classes (mild)")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument(
        "--fold-segmenters", nargs="+", default=[], metavar="SEGMENTER",
        help="K-th of N: trained by `segmenter --without-fold K/N`, it is asked about the scenes it has not seen",
    )
    parser.add_argument("--leave-out", action="append", default=[], help="stem of a scene not to train on; repeatable")
    parser.add_argument("--jaccard", type=float, default=0.0, help="weight of the soft Jaccard loss (0)")
    parser.add_argument("--trust", type=float, default=0.0, help="weight of the divergence from the coarse logits (0)")
    loop.add_options(parser, learning_rate=4e-3)


def numbers(text: str) -> list:
    """`16,32` as [16, 32]."""
    return [int(part) for part in text.split(",")]


def read_scenes(options: argparse.Namespace, crop_step: int) -> tuple[list, coarse.Frozen, list]:
    """(data sets, frozen segmenter, prepared scenes) of the folders named."""
    sets = [Dataset.open(folder, options.limit) for folder in options.data]
    names = [entry["name"] for entry in sets[0].classes]
    for other in sets[1:]:
        if [entry["name"] for entry in other.classes] != names:
            raise DataError(f"the classes of {other.folder} differ from those of {sets[0].folder}")
    for side in options.crop:
        if side % crop_step:
            raise DataError(f"--crop {options.crop[1]}x{options.crop[0]}: both must be multiples of {crop_step}")
    frozen = coarse.open_segmenter(options, sets[0])
    asked = segmenters_of_scenes(options, sets, frozen)
    rng = np.random.default_rng(options.seed)
    scenes, left_out = [], set(options.leave_out)
    for scene in (scene for data in sets for scene in data.scenes):
        if scene.name in left_out:
            continue
        image, label = scene.read(len(names))
        scenes.append(crops.prepare(image, label, asked[scene.image], options.alpha, len(names), rng, scene.image))
    if not scenes:
        raise DataError("--leave-out leaves no scene to train on")
    share = np.mean([scene.selected.mean() for scene in scenes])
    print(f"{len(scenes)} scenes, {100 * share:.1f} % of the cells selected", flush=True)
    return sets, frozen, scenes


def segmenters_of_scenes(options: argparse.Namespace, sets: list, frozen: coarse.Frozen) -> dict:
    """Path of each picture: the segmenter to ask about it, which with `--fold-segmenters` has not been trained on it."""
    asked = {scene.image: frozen for data in sets for scene in data.scenes}
    for number, path in enumerate(options.fold_segmenters):
        other = coarse.open_segmenter(argparse.Namespace(**{**vars(options), "segmenter": path}), sets[0])
        if other.size != frozen.size or len(other.classes) != len(frozen.classes):
            raise DataError(f"{path} has another size or other classes than {options.segmenter}")
        for data in sets:
            asked.update((scene.image, other) for scene in data.folds(len(options.fold_segmenters))[number])
    return asked


def crop_step(options: argparse.Namespace) -> int:
    """Multiple of the windows' sides and origins."""
    return max(CROP_MULTIPLE, 2 ** (len(options.planes) - 1))


def run(options: argparse.Namespace) -> list:
    loop.seed_everything(options)
    step = crop_step(options)
    return fit(options, *read_scenes(options, step), step)[1]


def fit(
    options: argparse.Namespace, sets: list, frozen: coarse.Frozen, scenes: list, crop_step: int
) -> tuple[Refiner, list]:
    """Trains on prepared scenes: (model, losses)."""
    weights = None
    if options.class_weights == "mild":
        weights = mild_weights(sum(scene.pixels for scene in scenes).astype(np.float64))
    device = loop.device(options)
    loss = LabelLoss(frozen.label_of_channel, len(sets[0].classes), weights, options.jaccard, options.trust).to(device)
    model = Refiner(options.planes, options.blocks, len(frozen.classes), options.features, options.bound)
    facts = {
        "kind": "refiner",
        "planes": options.planes,
        "blocks": options.blocks,
        "classes": frozen.classes,
        "features": options.features,
        "bound": options.bound,
        "alpha": options.alpha,
        "channel_order": frozen.channel_order,
        "mean": list(frozen.mean),
        "std": list(frozen.std),
        "seed": options.seed,
        "scenes": [sets[0].scenes[0].name, sets[-1].scenes[-1].name, len(scenes)],
    }

    scales = options.scale or augment.SCALES[options.augment]

    def step(rng: np.random.Generator, _progress: float) -> torch.Tensor:
        drawn = [scenes[index] for index in rng.integers(len(scenes), size=options.batch)]
        kind, window_scales = options.augment, scales
        if options.ask_again:
            drawn = [crops.changed(scene, options.alpha, options.augment, scales, rng) for scene in drawn]
            kind, window_scales = "none", augment.SCALES["none"]
        mask, rgb, y1, label = crops.batch(drawn, options.crop, crop_step, kind, window_scales, rng)
        pyramid = model.pyramid(mask).to(device)
        rgb, y1, label = (tensor.to(device) for tensor in (rgb, y1, label))
        y2, out = model(pyramid, rgb, y1)
        return loss(y2, label, y1) + loss(out, label, y1)

    if options.init and Path(options.init).is_dir() and not options.resume:
        loop.start_from(model, bundle_state(Path(options.init))["model"], options.init)
        options = argparse.Namespace(**{**vars(options), "init": None})
    return model, loop.train(model, step, options, facts, WEIGHT_DECAY)


def load_refiner(path: str | Path) -> tuple:
    """(model in evaluation mode, facts) of a checkpoint, or of the folder of a bundle."""
    state = bundle_state(Path(path)) if Path(path).is_dir() else loop.load_checkpoint(path)
    facts = state["facts"]
    if facts["kind"] != "refiner":
        raise DataError(f"this checkpoint is of a {facts['kind']}, a refiner is needed: {path}")
    model = Refiner(facts["planes"], facts["blocks"], len(facts["classes"]), facts["features"], facts["bound"])
    model.load_state_dict(state["model"])
    return model.eval(), {"channel_order": "rgb", **facts, "total": loop.total(state)}


def bundle_state(folder: Path) -> dict:
    """A bundle's refiner as a checkpoint; how long it was trained only its provenance says."""
    content = coarse.read_manifest(folder / "model.toml")
    if "refiner" not in content:
        raise DataError(f"this bundle has no refiner: {folder}")
    entry = {"bound": "image", **content.get("selector", {}), **content["refiner"], "kind": "refiner"}
    missing = {"alpha", "file", "sha256", "planes", "blocks", "features", "mean", "std"} - entry.keys()
    if missing:
        raise DataError(f"no {', '.join(sorted(missing))} of the selector or refiner: {folder / 'model.toml'}")
    file = folder / entry["file"]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if digest != entry["sha256"]:
        raise DataError(f"sha256 is {digest}, {folder / 'model.toml'} says {entry['sha256']}: {file}")
    arrays, _ = tensors.load(file)
    model = Refiner(entry["planes"], entry["blocks"], len(content["classes"]), entry["features"], entry["bound"])
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    weights = {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}
    classes = [{"label": index, **item} for index, item in enumerate(content["classes"])]
    return {"model": {**weights, **counters}, "step": 0, "seconds": 0.0, "facts": {**entry, "classes": classes}}
