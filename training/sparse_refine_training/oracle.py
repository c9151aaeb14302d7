"""What any refiner behind a selector could reach: every selected pixel is taken to be right.

The labels there are the true ones, elsewhere the segmenter's. It says whether the selector, the refiner or the
segmenter is what limits a bundle, before a refiner is trained.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch

from . import coarse
from .data import IGNORE, Dataset
from .metrics import Confusion, boundary_band


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("oracle", help="what a perfect refiner would reach", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    coarse.add_options(parser)
    parser.add_argument("--alpha", type=thresholds, default=[0.3, 0.5, 0.7], help="thresholds (0.3,0.5,0.7)")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(run=run)


def thresholds(text: str) -> list:
    """`0.3,0.5` as [0.3, 0.5]."""
    return [float(part) for part in text.split(",")]


class Tally:
    """Counts for one threshold."""

    def __init__(self, classes: int) -> None:
        self.whole, self.edges = Confusion(classes), Confusion(classes)
        self.selected = self.pixels = self.wrong = self.wrong_selected = 0
        self.per_class = np.zeros((2, classes), np.int64)  # pixels, selected ones

    def add(self, label: np.ndarray, labels: np.ndarray, mask: np.ndarray, band: np.ndarray) -> None:
        valid = label != IGNORE
        wrong = valid & (label != labels)
        perfect = np.where(mask & valid, label, labels)
        self.whole.add(label, perfect)
        self.edges.add(label, perfect, band)
        self.selected += int(mask.sum())
        self.pixels += mask.size
        self.wrong += int(wrong.sum())
        self.wrong_selected += int((wrong & mask).sum())
        for row, where in enumerate((valid, valid & mask)):
            self.per_class[row] += np.bincount(label[where], minlength=self.whole.classes)[: self.whole.classes]

    def figures(self, names: list) -> dict:
        share = self.per_class[1] / np.maximum(self.per_class[0], 1)
        return {
            "selected_fraction": self.selected / self.pixels,
            "errors_covered": self.wrong_selected / max(self.wrong, 1),
            "miou": self.whole.miou(),
            "boundary_miou": self.edges.miou(),
            "per_class_iou": dict(zip(names, self.whole.iou().round(4).tolist())),
            "per_class_selected": dict(zip(names, share.round(4).tolist())),
        }


def run(options: argparse.Namespace) -> dict:
    torch.set_num_threads(options.threads)
    data = Dataset.open(options.data, options.limit)
    segmenter = coarse.open_segmenter(options, data)
    names = [entry["name"] for entry in data.classes]
    tallies = {alpha: Tally(len(names)) for alpha in (float("inf"), *options.alpha)}
    for scene in data.scenes:
        image, label = scene.read(len(names))
        view = segmenter.look(image, scene.image)
        labels, band = view.labels(), boundary_band(label)
        for alpha, tally in tallies.items():
            tally.add(label, labels, view.mask(alpha), band)
    figures = {"coarse" if alpha == float("inf") else str(alpha): t.figures(names) for alpha, t in tallies.items()}
    text = json.dumps({"data": data.folder.name, "scenes": len(data.scenes), "oracle": figures}, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            file.write(text + "\n")
    return figures
