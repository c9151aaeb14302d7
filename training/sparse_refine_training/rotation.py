"""For a handful of labelled images: trains on all but one and scores that one, in rotation.

Every turn starts from the same weights (`--init`, pretrained on other data). Scores are pooled over the turns, so each
image is judged by a refiner that never saw it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from . import evaluate, loop, train_refiner
from .metrics import Confusion, boundary_band


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("rotation", help="leave one image out, in rotation", description=__doc__)
    train_refiner.add_training_options(parser)
    parser.add_argument("--json", help="file for the figures")
    parser.set_defaults(run=run)


class Scores:
    """Coarse and refined tables of one image or of all."""

    def __init__(self, classes: int) -> None:
        self.whole = {mode: Confusion(classes) for mode in ("coarse", "refined")}
        self.edges = {mode: Confusion(classes) for mode in ("coarse", "refined")}

    def add(self, label: np.ndarray, labels: dict, band: np.ndarray) -> None:
        for mode, counts in self.whole.items():
            counts.add(label, labels[mode])
            self.edges[mode].add(label, labels[mode], band)

    def figures(self) -> dict:
        """IoU is averaged over the classes that occur in the labels."""
        return {
            "miou": {mode: counts.miou_of_present() for mode, counts in self.whole.items()},
            "boundary_miou": {mode: counts.miou_of_present() for mode, counts in self.edges.items()},
        }


def run(options: argparse.Namespace) -> dict:
    loop.seed_everything(options)
    step = train_refiner.crop_step(options)
    sets, frozen, scenes = train_refiner.read_scenes(options, step)
    classes = [entry["name"] for entry in sets[0].classes]
    turns, pooled = {}, Scores(len(classes))
    for left_out, scene in enumerate(sets[0].scenes):
        rest = [other for number, other in enumerate(scenes) if number != left_out]
        turn = argparse.Namespace(**{**vars(options), "out": str(Path(options.out).with_suffix(f".{left_out}.pt"))})
        model = train_refiner.fit(turn, sets, frozen, rest, step)[0].eval()
        facts = {"mean": frozen.mean, "std": frozen.std}
        image, label = scene.read(len(classes))
        view = frozen.look(image, scene.image)
        mask = view.mask(options.alpha)
        labels = evaluate.refine(view, frozen.ordered(image), mask, model, facts)[0] | {"coarse": view.labels()}
        band, own = boundary_band(label), Scores(len(classes))
        for scores in (own, pooled):
            scores.add(label, labels, band)
        turns[scene.name] = own.figures() | {"selected_fraction": float(mask.mean())}
        print(f"{scene.name}: {json.dumps(turns[scene.name])}", flush=True)
    per_class = {m: dict(zip(classes, c.iou().round(4).tolist())) for m, c in pooled.whole.items()}
    shares = [turn["selected_fraction"] for turn in turns.values()]
    figures = {"alpha": options.alpha, "pooled": pooled.figures(), "selected_fraction": float(np.mean(shares))}
    figures |= {"per_class_iou": per_class, "images": turns}
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        Path(options.json).write_text(text + "\n")
    return figures
