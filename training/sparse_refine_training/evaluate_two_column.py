"""Scores two-column checkpoints on labelled scenes at full resolution along the deployed path, beside their non-sparse
twins (the same network with every tile run and the whole map), and counts multiply-accumulates."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from .data import Dataset, normalise
from .metrics import Confusion, boundary_band
from .train_two_column import load, load_two_column
from .two_column import STRIDE, Tiles, bilinear, deployed, macs


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("two-column-evaluate", help="score two-column checkpoints", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("checkpoints", nargs="+", help="checkpoints of the two-column command")
    parser.add_argument("--threshold", type=float, help="other than the checkpoint's")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> list[dict]:
    torch.set_num_threads(options.threads)
    rows = [evaluate(path, options) for path in options.checkpoints]
    print("| checkpoint | configuration | mIoU | boundary | coarse | twin | GMAC | of twin | cells | rho |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['checkpoint']} | {row['configuration']} | {100 * row['miou']:.2f} | "
            f"{100 * row['boundary_miou']:.2f} | {100 * row['coarse_miou']:.2f} | {100 * row['twin_miou']:.2f} | "
            f"{row['gmac']:.2f} | {row['gmac'] / row['twin_gmac']:.3f} | {row['cell_area']:.3f} | {row['rho']:.3f} |"
        )
    if options.json:
        with open(options.json, "w") as file:
            file.write(json.dumps(rows, indent=1) + "\n")
    return rows


def evaluate(path: str | Path, options: argparse.Namespace) -> dict:
    model, facts = load_two_column(path)
    data = Dataset.open(options.data, options.limit)
    classes = len(data.classes)
    images, labels = load(data, facts["size"])
    height, width = facts["size"]
    tiles = Tiles(height, width, facts["tile"], facts["halo"], facts["ratio"] * STRIDE)
    threshold = None if facts["configuration"] == "ctf" else facts["threshold"]
    if options.threshold is not None and threshold is not None:
        threshold = options.threshold
    scores = {name: Confusion(classes) for name in ("miou", "boundary_miou", "coarse_miou", "twin_miou")}
    cells, rho = [], []
    for image, label in zip(images, labels):
        x = normalise(torch.from_numpy(image.astype(np.float32))[None], facts["mean"], facts["std"])
        with torch.no_grad():
            fused, coarse, weights, share = deployed(model, x, tiles, threshold, facts["cross"])
            twin = fused if threshold is None else deployed(model, x, tiles, None, facts["cross"])[0]
        predicted = at_pixels(fused, STRIDE)
        scores["miou"].add(label, predicted)
        scores["boundary_miou"].add(label, predicted, boundary_band(label))
        scores["coarse_miou"].add(label, at_pixels(bilinear(coarse, model.ratio), STRIDE))
        scores["twin_miou"].add(label, at_pixels(twin, STRIDE))
        cells.append(float((weights > (threshold or 0)).float().mean()) if threshold is not None else 1.0)
        rho.append(share)
    coarse_macs, fine_macs = macs(model, facts["size"], facts["cross"])
    return {
        "checkpoint": str(path).rsplit("/", 1)[-1],
        "stage": facts["stage"],
        "configuration": facts["configuration"],
        "area": facts["area"],
        "steps": facts["total"][0],
        "minutes": facts["total"][1],
        "removed": facts["removed"],
        **{name: confusion.miou() for name, confusion in scores.items()},
        "cell_area": float(np.mean(cells)),
        "rho": float(np.mean(rho)),
        "gmac": (coarse_macs + float(np.mean(rho)) * fine_macs) / 1e9,
        "twin_gmac": (coarse_macs + fine_macs) / 1e9,
        "coarse_gmac": coarse_macs / 1e9,
    }


def at_pixels(scores: torch.Tensor, factor: int) -> np.ndarray:
    return bilinear(scores, factor).argmax(1)[0].to(torch.uint8).numpy()
