"""Trains a learnable selector, for comparison with the entropy: how much of each cell the segmenter gets wrong.

Two 3x3 convolutions on the image and an MLP that also sees the coarse probabilities, as the released one, here on the
segmenter's grid. The product selects by entropy; this shows what another selector would gain.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from . import coarse, loop
from .data import IGNORE, DataError, Dataset, normalise
from .train_segmenter import size

WIDTH, HIDDEN, WEIGHT_DECAY = 16, 32, 1e-4


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("selector", help="train a learnable selector, for comparison", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    coarse.add_options(parser)
    parser.add_argument("--crop", type=size, default=(128, 128), help="training window in cells (128x128)")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    loop.add_options(parser, learning_rate=3e-3)
    parser.set_defaults(run=run)


class Selector(nn.Module):
    """Normalised cells `[n, 3, h, w]` and coarse probabilities to a score per cell `[n, h, w]`."""

    mean: Sequence[float]  # of the colours, set by who makes or loads it
    std: Sequence[float]

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.image = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 1, 1), nn.ReLU(), nn.Conv2d(WIDTH, WIDTH, 3, 1, 1), nn.ReLU())
        hidden = [nn.Conv2d(WIDTH + channels, HIDDEN, 1), nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU()]
        self.mlp = nn.Sequential(*hidden, nn.Conv2d(HIDDEN, 1, 1))

    def forward(self, cells: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
        return self.mlp(torch.cat([self.image(cells), probabilities], 1))[:, 0]

    def scores(self, view: coarse.View, image: np.ndarray) -> np.ndarray:
        """Scores of the cells of one RGB image, for `selectors.highest`."""
        with torch.no_grad():
            return self(self.frozen_cells(view, image), view.logits.softmax(1))[0].numpy()

    def frozen_cells(self, view: coarse.View, image: np.ndarray) -> torch.Tensor:
        cells = torch.from_numpy(view.grid.shrink(image, self.mean))[None]
        return normalise(cells, self.mean, self.std)


def wrong_share(view: coarse.View, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of every cell's labelled pixels that the segmenter gets wrong, and whether it has labelled pixels."""
    valid = label != IGNORE
    wrong = valid & (view.labels() != label)
    cells = view.rows[:, None] * view.grid.size[1] + view.columns
    length = view.grid.size[0] * view.grid.size[1]
    counts = [np.bincount(cells[where], minlength=length).reshape(view.grid.size) for where in (wrong, valid)]
    return (counts[0] / np.maximum(counts[1], 1)).astype(np.float32), counts[1] > 0


def run(options: argparse.Namespace) -> list:
    loop.seed_everything(options)
    data = Dataset.open(options.data, options.limit)
    frozen = coarse.open_segmenter(options, data)
    model = Selector(len(frozen.classes))
    model.mean, model.std = frozen.mean, frozen.std
    scenes = []
    for scene in data.scenes:
        image, label = scene.read(len(data.classes))
        view = frozen.look(image, scene.image)
        cells = model.frozen_cells(view, image)[0].half()
        scenes.append((cells, view.logits[0].softmax(0).half(), *map(torch.from_numpy, wrong_share(view, label))))
    if any(side > limit for side, limit in zip(options.crop, frozen.size)):
        raise DataError(f"--crop {options.crop[1]}x{options.crop[0]} exceeds the grid {frozen.size[::-1]}")
    facts = {"kind": "selector", "channels": len(frozen.classes), "mean": list(frozen.mean), "std": list(frozen.std)}

    device = loop.device(options)

    def step(rng: np.random.Generator, _progress: float) -> torch.Tensor:
        parts = []
        for index in rng.integers(len(scenes), size=options.batch):
            top, left = (int(rng.integers(n - m + 1)) for n, m in zip(frozen.size, options.crop))
            where = (..., slice(top, top + options.crop[0]), slice(left, left + options.crop[1]))
            parts.append([tensor[where].float() for tensor in scenes[index]])
        cells, probabilities, wrong, valid = (torch.stack(tensors).to(device) for tensors in zip(*parts))
        loss = F.binary_cross_entropy_with_logits(model(cells, probabilities), wrong, reduction="none")
        return (loss * valid).sum() / valid.sum().clamp(min=1)

    return loop.train(model, step, options, facts, WEIGHT_DECAY)


def load_selector(path: str | Path) -> Selector:
    state = loop.load_checkpoint(path)
    if state["facts"]["kind"] != "selector":
        raise DataError(f"this checkpoint is of a {state['facts']['kind']}, a selector is needed: {path}")
    model = Selector(state["facts"]["channels"])
    model.load_state_dict(state["model"])
    model.mean, model.std = state["facts"]["mean"], state["facts"]["std"]
    return model.eval()
