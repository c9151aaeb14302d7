"""Writes a bundle: segmenter.onnx, refiner.safetensors and model.toml with their hashes (docs/bundle.md)."""

from __future__ import annotations

import argparse
import hashlib
import inspect
import io
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import torch

from . import __version__, tensors
from .coarse import read_manifest
from .data import DataError
from .segmenter import LOGIT_STRIDE
from .train_refiner import load_refiner
from .train_segmenter import load_segmenter
from .unet import bundle_tensors

OPSET = 13


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("export", help="write a bundle from checkpoints", description=__doc__)
    parser.add_argument("out", help="folder of the bundle; its name is the bundle's name")
    parser.add_argument("--segmenter", required=True, help="checkpoint, or model.toml of a bundle with an ONNX network")
    parser.add_argument("--refiner", help="checkpoint of the refiner command; without it, a coarse segmenter only")
    parser.add_argument("--dense", help="checkpoint of a segmenter trained at full resolution, for comparison")
    parser.add_argument("--alpha", type=float, help="other than the refiner was trained with")
    parser.add_argument("--max-fraction", type=float, default=0.25, help="capacity, share of the pixels (0.25)")
    parser.add_argument("--description", default="")
    parser.add_argument("--data", default="", help="provenance: what it was trained on")
    parser.add_argument("--training", default="", help="provenance: commands and commit")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    folder = Path(options.out)
    refiner, fine = load_refiner(options.refiner) if options.refiner else (None, None)
    hashes = {}
    if Path(options.segmenter).is_dir() or options.segmenter.endswith(".toml"):
        source, content = described(options.segmenter)
        classes, facts = content["classes"], None
        entry = {**content["segmenter"]}
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / entry["file"]
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)
        entry["sha256"] = sha256(target)
    else:
        segmenter, facts = load_segmenter(options.segmenter)
        folder.mkdir(parents=True, exist_ok=True)
        hashes["segmenter"] = write_onnx(segmenter, facts["size"], folder / "segmenter.onnx")
        classes = facts["classes"]
        entry = network("segmenter", facts, hashes) | {"fit": "pad", **colours(facts)}
    if refiner:
        if len(fine["classes"]) != len(classes):
            raise DataError(f"the refiner has {len(fine['classes'])} classes, the segmenter {len(classes)}")
        tensors.save(folder / "refiner.safetensors", bundle_tensors(refiner))
        hashes["refiner"] = sha256(folder / "refiner.safetensors")
    dense = None
    if options.dense:
        model, dense = load_segmenter(options.dense)
        if [c["name"] for c in dense["classes"]] != [c["name"] for c in classes]:
            raise DataError(f"the dense network's classes differ from the segmenter's: {options.dense}")
        hashes["dense"] = write_onnx(model, dense["size"], folder / "dense.onnx")
    text = manifest(folder.name, options, (facts, classes, entry), fine, dense, hashes)
    (folder / "model.toml").write_text(text)
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes", flush=True)


def described(path: str | Path) -> tuple:
    """(ONNX file, manifest) of a bundle whose segmenter is somebody's network."""
    path = Path(path) / "model.toml" if Path(path).is_dir() else Path(path)
    content = read_manifest(path)
    source = path.parent / content["segmenter"]["file"]
    if not source.is_file():
        raise FileNotFoundError(f"no ONNX network: {source}")
    return source, content


def write_onnx(model: torch.nn.Module, size: tuple, path: Path) -> str:
    """Exports with BatchNorm folded and a batch of one; returns the file's sha256."""
    buffer: Any = io.BytesIO()  # PyTorch's annotations of late know paths only
    # From 2.9 on PyTorch's default exporter is another one, which needs more packages.
    legacy: dict[str, Any] = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            (torch.zeros(1, 3, *size),),
            buffer,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            do_constant_folding=True,
            **legacy,
        )
    path.write_bytes(buffer.getvalue())
    return sha256(path)


def sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def manifest(
    name: str, options: argparse.Namespace, segmenter: tuple, fine: dict | None, dense: dict | None, hashes: dict
) -> str:
    """Text of model.toml. JSON strings, numbers and lists are valid TOML."""
    coarse, classes, entry = segmenter
    networks = (("segmenter", coarse), ("refiner", fine), ("dense", dense))
    training = ["{} {} steps, {:.1f} min".format(kind, *facts["total"]) for kind, facts in networks if facts]
    training.append(f"sparse_refine_training {__version__}, torch {torch.__version__}")
    if options.training:
        training.append(options.training)
    sections: list[str | dict] = [
        "",
        {"schema": 1, "name": name, "method": "sparse_refine", "description": options.description},
        "[provenance]",
        {"data": options.data, "training": "; ".join(training), "licence": options.licence},
    ]
    for index, item in enumerate(classes):
        label = {} if item.get("label", index) == index else {"label": item["label"]}
        sections += ["[[classes]]", {"name": item["name"], "colour": item["colour"], **label}]
    sections += ["[segmenter]", entry]
    if fine:
        alpha = fine["alpha"] if options.alpha is None else options.alpha
        selector = {"kind": "entropy", "alpha": alpha, "upsample": "nearest"}
        sections += ["[selector]", selector | {"max_fraction": options.max_fraction}]
        refiner = {key: fine[key] for key in ("planes", "blocks", "features", "bound")}
        entry = {"file": "refiner.safetensors", "sha256": hashes["refiner"], **refiner, **colours(fine)}
        sections += ["[refiner]", entry]
    if dense:
        # The other keys are the segmenter's.
        entry = network("dense", dense, hashes)
        sections += ["[dense]", {key: entry[key] for key in ("file", "sha256", "size", "logit_stride")}]
    lines = []
    for part in sections:
        if isinstance(part, str):
            lines += ["", part] if part else []
        else:
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in part.items() if value != ""]
    return "\n".join(lines) + "\n"


def network(name: str, facts: dict, hashes: dict) -> dict:
    height, width = facts["size"]
    entry = {"file": f"{name}.onnx", "sha256": hashes[name], "input": "image", "output": "logits"}
    return entry | {"size": [width, height], "logit_stride": LOGIT_STRIDE}


def colours(facts: dict) -> dict:
    return {"channel_order": facts.get("channel_order", "rgb"), "mean": list(facts["mean"]), "std": list(facts["std"])}
