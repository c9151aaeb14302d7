"""Writes a bundle of the method spatial_sparsity: coarse.onnx, fine.onnx and model.toml (docs/bundle.md)."""

from __future__ import annotations

import argparse
import inspect
import io
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from . import __version__
from .export import OPSET, colours, sha256
from .train_two_column import load_two_column
from .two_column import STRIDE, TwoColumn


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("two-column-export", help="write a bundle of two columns", description=__doc__)
    parser.add_argument("out", help="folder of the bundle; its name is the bundle's name")
    parser.add_argument("checkpoint", help="checkpoint of the two-column command")
    parser.add_argument("--max-fraction", type=float, default=1.0, help="capacity, share of the pixels (1)")
    parser.add_argument("--description", default="")
    parser.add_argument("--data", default="", help="provenance: what it was trained on")
    parser.add_argument("--training", default="", help="provenance: commands and commit")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.set_defaults(run=run)


class Coarse(nn.Module):
    """The coarse column as the product runs it: scores, weight map and, with cross-column connections, features."""

    def __init__(self, model: TwoColumn, cross: bool) -> None:
        super().__init__()
        self.model, self.cross = model, cross

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        features, scores, logits = self.model.outputs_of_coarse(image)
        weights = torch.sigmoid(logits)
        return (scores, weights, features) if self.cross else (scores, weights)


class Fine(nn.Module):
    """The fine column as the product runs it."""

    def __init__(self, model: TwoColumn) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: torch.Tensor, features: torch.Tensor | None = None) -> torch.Tensor:
        return self.model.run_fine(image, features)


def run(options: argparse.Namespace) -> None:
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    model, facts = load_two_column(options.checkpoint)
    height, width = facts["size"]
    ratio, cross = facts["ratio"], facts["cross"]
    names = ["scores", "weights"] + (["features"] if cross else [])
    reduced = torch.zeros(1, 3, height // ratio, width // ratio)
    hashes = {"coarse": write(Coarse(model, cross), (reduced,), ["image"], names, {}, folder / "coarse.onnx")}
    side = facts["tile"] + 2 * facts["halo"]
    inputs, free = [torch.zeros(2, 3, side, side)], {"image": {0: "n", 2: "height", 3: "width"}}
    if cross:
        cell = ratio * STRIDE
        inputs.append(torch.zeros(2, facts["decoder"], side // cell, side // cell))
        free["features"] = {0: "n", 2: "rows", 3: "columns"}
    free["scores"] = {0: "n", 2: "score_rows", 3: "score_columns"}
    names = ["image", "features"][: len(inputs)]
    hashes["fine"] = write(Fine(model), tuple(inputs), names, ["scores"], free, folder / "fine.onnx")
    (folder / "model.toml").write_text(manifest(folder.name, options, facts, hashes))
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes", flush=True)


def write(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], names: list[str], outputs: list[str], free: dict, path: Path
) -> str:
    """Exports with BatchNorm folded; returns the file's sha256."""
    buffer: Any = io.BytesIO()  # PyTorch's annotations of late know paths only
    # From 2.9 on PyTorch's default exporter is another one, which needs more packages.
    legacy: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,
            opset_version=OPSET,
            input_names=names,
            output_names=outputs,
            dynamic_axes=free,
            do_constant_folding=True,
            **legacy,
        )
    path.write_bytes(buffer.getvalue())
    return sha256(path)


def manifest(name: str, options: argparse.Namespace, facts: dict, hashes: dict[str, str]) -> str:
    """Text of model.toml. JSON strings, numbers and lists are valid TOML."""
    height, width = facts["size"]
    ratio = facts["ratio"]
    steps, minutes = facts["total"]
    training = [f"two-column {facts['stage']}, {steps} steps, {minutes:.1f} min in all stages, area {facts['area']}"]
    training.append(f"sparse_refine_training {__version__}, torch {torch.__version__}")
    if options.training:
        training.append(options.training)
    head = {"schema": 1, "name": name, "method": "spatial_sparsity", "description": options.description}
    sections: list[str | dict] = ["", head, "[provenance]"]
    sections += [{"data": options.data, "training": "; ".join(training), "licence": options.licence}]
    for entry in facts["classes"]:
        sections += ["[[classes]]", {"name": entry["name"], "colour": entry["colour"]}]
    segmenter: dict = {"file": "coarse.onnx", "sha256": hashes["coarse"], "input": "image", "output": "scores"}
    segmenter |= {"size": [width // ratio, height // ratio], "logit_stride": STRIDE, "fit": "pad", **colours(facts)}
    selector = {"kind": "weights", "alpha": facts["threshold"], "max_fraction": options.max_fraction}
    fine: dict = {"configuration": facts["configuration"], "file": "fine.onnx", "sha256": hashes["fine"]}
    fine |= {"size": [width, height], "stride": STRIDE, "tile": facts["tile"], "halo": facts["halo"]}
    if facts["cross"]:
        fine["feature_channels"] = facts["decoder"]
    sections += ["[segmenter]", segmenter, "[selector]", selector, "[fine]", fine]
    lines = []
    for part in sections:
        if isinstance(part, str):
            lines += ["", part] if part else []
        else:
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in part.items() if value != ""]
    return "\n".join(lines) + "\n"
