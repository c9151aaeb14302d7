"""Writes a bundle: segmenter.onnx, refiner.safetensors and model.toml with their hashes (docs/bundle.md)."""

import hashlib
import inspect
import io
import json
import warnings
from pathlib import Path

import torch

from . import __version__, tensors
from .data import DataError
from .segmenter import LOGIT_STRIDE
from .train_refiner import load_refiner
from .train_segmenter import load_segmenter
from .unet import bundle_tensors

OPSET = 13


def add_command(commands):
    parser = commands.add_parser("export", help="write a bundle from checkpoints", description=__doc__)
    parser.add_argument("out", help="folder of the bundle; its name is the bundle's name")
    parser.add_argument("--segmenter", required=True, help="checkpoint of the segmenter command")
    parser.add_argument("--refiner", help="checkpoint of the refiner command; without it, a coarse segmenter only")
    parser.add_argument("--dense", help="checkpoint of a segmenter trained at full resolution, for comparison")
    parser.add_argument("--max-fraction", type=float, default=0.25, help="capacity, share of the pixels (0.25)")
    parser.add_argument("--description", default="")
    parser.add_argument("--data", default="", help="provenance: what it was trained on")
    parser.add_argument("--training", default="", help="provenance: commands and commit")
    parser.add_argument("--licence", default="Apache-2.0")
    parser.set_defaults(run=run)


def run(options):
    folder = Path(options.out)
    folder.mkdir(parents=True, exist_ok=True)
    segmenter, coarse = load_segmenter(options.segmenter)
    refiner, fine = load_refiner(options.refiner) if options.refiner else (None, None)
    hashes = {"segmenter": write_onnx(segmenter, coarse["size"], folder / "segmenter.onnx")}
    if refiner:
        tensors.save(folder / "refiner.safetensors", bundle_tensors(refiner))
        hashes["refiner"] = sha256(folder / "refiner.safetensors")
    dense = None
    if options.dense:
        model, dense = load_segmenter(options.dense)
        if [c["name"] for c in dense["classes"]] != [c["name"] for c in coarse["classes"]]:
            raise DataError(f"the dense network's classes differ from the segmenter's: {options.dense}")
        hashes["dense"] = write_onnx(model, dense["size"], folder / "dense.onnx")
    (folder / "model.toml").write_text(manifest(folder.name, options, coarse, fine, dense, hashes))
    for path in sorted(folder.iterdir()):
        print(f"{path}: {path.stat().st_size} bytes", flush=True)


def write_onnx(model, size, path):
    """Exports with BatchNorm folded and a batch of one; returns the file's sha256."""
    buffer = io.BytesIO()
    # From 2.9 on PyTorch's default exporter is another one, which needs more packages.
    legacy = {"dynamo": False} if "dynamo" in inspect.signature(torch.onnx.export).parameters else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.eval(),
            torch.zeros(1, 3, *size),
            buffer,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            do_constant_folding=True,
            **legacy,
        )
    path.write_bytes(buffer.getvalue())
    return sha256(path)


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def manifest(name, options, coarse, fine, dense, hashes):
    """Text of model.toml. JSON strings, numbers and lists are valid TOML."""
    networks = (("segmenter", coarse), ("refiner", fine), ("dense", dense))
    training = ["{} {} steps, {:.1f} min".format(kind, *facts["total"]) for kind, facts in networks if facts]
    training.append(f"sparse_refine_training {__version__}, torch {torch.__version__}")
    if options.training:
        training.append(options.training)
    sections = [
        "",
        {"schema": 1, "name": name, "method": "sparse_refine", "description": options.description},
        "[provenance]",
        {"data": options.data, "training": "; ".join(training), "licence": options.licence},
    ]
    for entry in coarse["classes"]:
        sections += ["[[classes]]", {"name": entry["name"], "colour": entry["colour"]}]
    sections += ["[segmenter]", network("segmenter", coarse, hashes) | {"fit": "pad", **colours(coarse)}]
    if fine:
        selector = {"kind": "entropy", "alpha": fine["alpha"], "upsample": "nearest"}
        sections += ["[selector]", selector | {"max_fraction": options.max_fraction}]
        refiner = {key: fine[key] for key in ("planes", "blocks", "features", "bound")}
        entry = {"file": "refiner.safetensors", "sha256": hashes["refiner"], **refiner, **colours(fine)}
        sections += ["[refiner]", entry]
    if dense:
        sections += ["[dense]", network("dense", dense, hashes)]
    lines = []
    for part in sections:
        if isinstance(part, str):
            lines += ["", part] if part else []
        else:
            lines += [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in part.items() if value != ""]
    return "\n".join(lines) + "\n"


def network(name, facts, hashes):
    height, width = facts["size"]
    entry = {"file": f"{name}.onnx", "sha256": hashes[name], "input": "image", "output": "logits"}
    return entry | {"size": [width, height], "logit_stride": LOGIT_STRIDE}


def colours(facts):
    return {"channel_order": "rgb", "mean": list(facts["mean"]), "std": list(facts["std"])}
