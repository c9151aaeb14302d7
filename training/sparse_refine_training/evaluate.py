"""Scores coarse and refined labels of a folder of scenes at full resolution, to hold against the product's figures."""

import json
import time

import numpy as np
import torch

from . import selection
from .data import Dataset, normalise
from .metrics import Confusion, boundary_band
from .train_refiner import coarse_logits, load_refiner
from .train_segmenter import load_segmenter


def add_command(commands):
    parser = commands.add_parser("evaluate", help="score checkpoints on labelled scenes", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("--segmenter", required=True, help="checkpoint of the segmenter command")
    parser.add_argument("--refiner", help="checkpoint of the refiner command; without it, coarse labels only")
    parser.add_argument("--alpha", type=float, help="other than the refiner was trained with")
    parser.add_argument("--limit", type=int, help="use the first scenes only")
    parser.add_argument("--json", help="file for the figures")
    parser.add_argument("--threads", type=int, default=2)
    parser.set_defaults(run=run)


def run(options):
    torch.set_num_threads(options.threads)
    segmenter, coarse = load_segmenter(options.segmenter)
    refiner, fine = load_refiner(options.refiner) if options.refiner else (None, None)
    alpha = options.alpha if options.alpha is not None else (fine["alpha"] if fine else None)
    data = Dataset.open(options.data, options.limit)
    names = [entry["name"] for entry in data.classes]
    modes = ("coarse", "refined") if refiner else ("coarse",)
    whole = {mode: Confusion(len(names)) for mode in modes}
    edges = {mode: Confusion(len(names)) for mode in modes}
    selected, giga_macs = [], []
    for scene in data.scenes:
        begun = time.monotonic()
        image, label = scene.read(len(names))
        labels, share, macs = predict(image, segmenter, coarse, refiner, alpha)
        band = boundary_band(label)
        for mode in modes:
            whole[mode].add(label, labels[mode])
            edges[mode].add(label, labels[mode], band)
        selected.append(share)
        giga_macs.append(macs / 1e9)
        print(f"{scene.name}: {100 * share:.2f} % selected, {time.monotonic() - begun:.1f} s", flush=True)
    figures = {
        "data": data.folder.name,
        "scenes": len(data.scenes),
        "miou": {mode: whole[mode].miou() for mode in modes},
        "boundary_miou": {mode: edges[mode].miou() for mode in modes},
        "per_class_iou": {mode: dict(zip(names, whole[mode].iou().round(4).tolist())) for mode in modes},
        "selected_fraction": {"mean": float(np.mean(selected)), "max": float(np.max(selected))},
        "refiner_gmac": {"mean": float(np.mean(giga_macs)), "max": float(np.max(giga_macs))},
    }
    text = json.dumps(figures, indent=1)
    print(text)
    if options.json:
        with open(options.json, "w") as file:
            file.write(text + "\n")
    return figures


def predict(image, segmenter, coarse, refiner=None, alpha=None):
    """({mode: labels uint8 `[h, w]`}, share of selected pixels, multiply-accumulates of the refiner)."""
    height, width = image.shape[:2]
    logits, grid = coarse_logits(image, segmenter, coarse)
    base = selection.to_pixels(logits.argmax(1), grid.ratio)[0, :height, :width].to(torch.uint8).numpy()
    if refiner is None:
        return {"coarse": base}, 0.0, 0
    mask = torch.zeros(1, *grid.canvas, dtype=torch.bool)
    chosen = selection.to_pixels(selection.entropy(logits) > alpha, grid.ratio)
    mask[:, :height, :width] = chosen[:, :height, :width]
    _, rows, columns = mask.nonzero().unbind(1)
    rows_columns = (rows.numpy(), columns.numpy())
    rgb = torch.from_numpy(image[rows_columns].astype(np.float32)).t()[None, :, :, None]
    rgb = normalise(rgb, coarse["mean"], coarse["std"])[0, :, :, 0].t()
    y1 = logits[0, :, rows // grid.ratio, columns // grid.ratio].t()
    with torch.no_grad():
        pyramid = refiner.pyramid(mask)
        _, out = refiner(pyramid, rgb.contiguous(), y1.contiguous())
    refined = base.copy()
    refined[rows_columns] = out.argmax(1).to(torch.uint8).numpy()
    return {"coarse": base, "refined": refined}, len(rows) / (height * width), refiner.macs(pyramid)
