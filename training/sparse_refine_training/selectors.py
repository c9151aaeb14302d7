"""Which pixels to refine: by entropy as the product does, and other ways to compare it with at an equal share."""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from .coarse import View


def open_selector(options: argparse.Namespace) -> Callable:
    """A function (view, image, alpha, number of the scene) -> mask bool `[h, w]`."""
    if options.selector == "entropy":
        return lambda view, image, alpha, number: view.mask(alpha)
    if options.selector == "random":
        return lambda view, image, alpha, number: random_cells(view, alpha, [options.seed, number])
    from .train_selector import load_selector  # a checkpoint

    model = load_selector(options.selector)
    return lambda view, image, alpha, number: view.to_pixels(highest(model.scores(view, image), view, alpha))


def random_cells(view: View, alpha: float, seed: list) -> np.ndarray:
    """As many cells as the entropy selects, drawn at random."""
    return view.to_pixels(highest(np.random.default_rng(seed).random(view.grid.size), view, alpha))


def highest(scores: np.ndarray, view: View, alpha: float) -> np.ndarray:
    """The cells of highest score, as many as the entropy selects."""
    inside = np.zeros(view.grid.size, bool)
    inside[: view.rows[-1] + 1, : view.columns[-1] + 1] = True
    count = int(((view.entropy() > alpha) & inside).sum())
    scores = np.where(inside, scores, -np.inf)
    chosen = np.zeros(scores.size, bool)
    chosen[np.argpartition(-scores.reshape(-1), max(count - 1, 0))[:count]] = True
    return chosen.reshape(scores.shape)
