"""Rewrites the labels of a folder of scenes in the classes of another one, so that a network can pretrain on both.

The map is a JSON object: class name here -> class name there. Classes that it does not name become 255, ignored.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from .data import IGNORE, DataError, Dataset, read_classes


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("relabel", help="rewrite labels in the classes of another data set", description=__doc__)
    parser.add_argument("data", help="folder with images/, labels/ and classes.json")
    parser.add_argument("out", help="folder to write; existing scenes there stay")
    parser.add_argument("--like", required=True, help="folder whose classes.json is wanted")
    parser.add_argument("--map", required=True, help='JSON file such as {"kerb": "sidewalk"}')
    parser.add_argument("--every", type=int, default=1, help="take every n-th scene only")
    parser.add_argument("--limit", type=int, help="take the first scenes only")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    data, out = Dataset.open(options.data), Path(options.out)
    wanted, _ = read_classes(Path(options.like))
    table = lookup(json.loads(Path(options.map).read_text()), data.classes, wanted)
    for part in ("images", "labels"):
        (out / part).mkdir(parents=True, exist_ok=True)
    scenes = data.scenes[:: options.every][: options.limit]
    for scene in scenes:
        _, label = scene.read(len(data.classes))
        shutil.copyfile(scene.image, out / "images" / scene.image.name)
        Image.fromarray(table[label]).save(out / "labels" / f"{scene.name}.png")
    entries = [{"id": index, **entry} for index, entry in enumerate(wanted)]
    content = {"num_classes": len(wanted), "ignore_id": IGNORE, "classes": entries}
    (out / "classes.json").write_text(json.dumps(content, indent=1))
    print(f"{len(scenes)} scenes: {out}", flush=True)


def lookup(mapping: dict, classes: list, wanted: list) -> np.ndarray:
    """New value of every label value, uint8 `[256]`."""
    names = {entry["name"]: index for index, entry in enumerate(wanted)}
    here = {entry["name"]: index for index, entry in enumerate(classes)}
    table = np.full(256, IGNORE, np.uint8)
    for source, target in mapping.items():
        if source not in here or target not in names:
            unknown, known = (source, here) if source not in here else (target, names)
            raise DataError(f"the map names `{unknown}`, the classes there are {', '.join(known)}")
        table[here[source]] = names[target]
    return table
