"""Scores coarse and refined labels of a folder of scenes at full resolution, to hold against the product's figures.

Other ways to select pixels and to choose between the two networks are scored beside, for the tables of docs/RESULTS.md.
"""

from __future__ import annotations

import argparse
import json
import time

import numpy as np
import torch

from . import coarse, loop, selectors
from .data import DataError, Dataset, normalise
from .metrics import Confusion, boundary_band
from .selection import entropy
from .train_refiner import load_refiner
from .unet import Refiner


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("evaluate", help="score checkpoints on labelled scenes", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    coarse.add_options(parser)
    parser.add_argument("--refiner", help="checkpoint of the refiner command or bundle; without it, coarse labels only")
    parser.add_argument("--dense", help="checkpoint of a segmenter trained at full resolution, scored beside")
    parser.add_argument("--alpha", type=float, help="other than the refiner was trained with")
    parser.add_argument(
        "--selector", default="entropy", help="entropy (default), or at an equal share: random, a `selector` checkpoint"
    )
    parser.add_argument("--upsample", choices=coarse.UPSAMPLE, default="nearest")
    parser.add_argument("--all-choices", action="store_true", help="also score: lower entropy wins; fine logits alone")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--only", action="append", default=[], help="stem of a scene to score; repeatable")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the random selector")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> dict:
    loop.keep_freed_memory()
    torch.set_num_threads(options.threads)
    data = Dataset.open(options.data, options.limit)
    frozen = coarse.open_segmenter(options, data)
    refiner, fine = load_refiner(options.refiner) if options.refiner else (None, None)
    dense = coarse.from_checkpoint(options.dense) if options.dense else None
    if fine and len(fine["classes"]) != len(frozen.classes):
        raise DataError(f"the refiner has {len(fine['classes'])} classes, the segmenter {len(frozen.classes)}")
    alpha = options.alpha if options.alpha is not None else (fine["alpha"] if fine else None)
    names = [entry["name"] for entry in data.classes]
    choose = selectors.open_selector(options)
    scenes = [scene for scene in data.scenes if not options.only or scene.name in options.only]
    if not scenes:
        raise DataError(f"--only {options.only} names no scene of {data.folder}")
    whole: dict[str, Confusion] = {}
    edges: dict[str, Confusion] = {}
    selected, giga_macs = [], []
    for number, scene in enumerate(scenes):
        begun = time.monotonic()
        image, label = scene.read(len(names))
        view = frozen.look(image, scene.image, options.upsample)
        labels = {"coarse": view.labels()}
        if refiner:
            mask = choose(view, image, alpha, number)
            fine_labels, macs = refine(view, frozen.ordered(image), mask, refiner, fine, options.all_choices)
            labels.update(fine_labels)
            selected.append(float(mask.mean()))
            giga_macs.append(macs / 1e9)
        if dense:
            labels["dense"] = dense.look(image, None, "bilinear").labels()
        band = boundary_band(label)
        for mode, predicted in labels.items():
            whole.setdefault(mode, Confusion(len(names))).add(label, predicted)
            edges.setdefault(mode, Confusion(len(names))).add(label, predicted, band)
        share = f"{100 * selected[-1]:.2f} % selected, " if selected else ""
        print(f"{scene.name}: {share}{time.monotonic() - begun:.1f} s", flush=True)
    figures = {
        "data": data.folder.name,
        "scenes": len(scenes),
        "alpha": alpha,
        "miou": {mode: counts.miou() for mode, counts in whole.items()},
        "boundary_miou": {mode: counts.miou() for mode, counts in edges.items()},
        "per_class_iou": {m: dict(zip(names, c.iou().round(4).tolist())) for m, c in whole.items()},
    }
    if refiner:
        figures["selected_fraction"] = {"mean": float(np.mean(selected)), "max": float(np.max(selected))}
        figures["refiner_gmac"] = {"mean": float(np.mean(giga_macs)), "max": float(np.max(giga_macs))}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            file.write(text + "\n")
    return figures


def refine(
    view: coarse.View, image: np.ndarray, mask: np.ndarray, refiner: Refiner, facts: dict, all_choices: bool = False
) -> tuple:
    """({choice: labels uint8 `[h, w]`}, multiply-accumulates) where the pixels of `mask` are refined."""
    canvas = torch.zeros(1, *view.grid.canvas, dtype=torch.bool)
    canvas[0, : mask.shape[0], : mask.shape[1]] = torch.from_numpy(mask)
    rows, columns = mask.nonzero()
    rgb = torch.from_numpy(image[rows, columns].astype(np.float32)).t()[None, :, :, None]
    rgb = normalise(rgb, facts["mean"], facts["std"])[0, :, :, 0].t().contiguous()
    y1 = view.at(rows, columns)
    with torch.no_grad():
        pyramid = refiner.pyramid(canvas)
        y2, out = refiner(pyramid, rgb, y1)
    logits = {"refined": out}
    if all_choices:
        surer = (entropy(y1) < entropy(y2))[:, None]
        logits.update({"lower_entropy": torch.where(surer, y1, y2), "direct": y2})
    base, labels = view.labels(), {}
    for choice, values in logits.items():
        labels[choice] = base.copy()
        labels[choice][rows, columns] = view.label_of_channel[values.argmax(1).numpy()]
    return labels, refiner.macs(pyramid)
