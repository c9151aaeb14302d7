#!/usr/bin/env python3
"""Makes docs/images/refined.jpg, the picture of the README: one synthetic frame of 3840x2160, its coarse and refined
labels and its true ones; below, pixel by pixel, the window in which refinement corrected most near the label edges.

    scripts/setup.sh python && cargo build --release && .venv/bin/python scripts/readme_picture.py

Everything is made by `sparse_refine` itself (synth, then replay in both modes) and read from the bags it writes.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rosbags.highlevel import AnyReader
from rosbags.typesys import Stores, get_typestore

ROOT = Path(__file__).resolve().parent.parent
UNLABELLED = 255
BAND_PX = 8
# The window is shown pixel by pixel, so it is as large as a panel.
WINDOW = PANEL = (480, 270)
GAP, CAPTION, LIMIT_BYTES = 8, 30, 400_000


def messages(bag: Path) -> dict:
    """The first message of every topic."""
    first = {}
    with AnyReader([bag], default_typestore=get_typestore(Stores.ROS2_JAZZY)) as reader:
        for connection, _, data in reader.messages():
            if connection.topic not in first:
                first[connection.topic] = reader.deserialize(data, connection.msgtype)
    return first


def pixels(image) -> np.ndarray:
    """A raw image message as an array, without the padding of its rows."""
    channels = {"mono8": 1, "rgb8": 3}[image.encoding]
    rows = image.data.reshape(image.height, image.step)[:, : image.width * channels]
    return rows.reshape(image.height, image.width, channels).squeeze()


def box_sums(array: np.ndarray, width: int, height: int) -> np.ndarray:
    """The sum over every box of the size that lies within the array."""
    sums = np.pad(array.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    return sums[height:, width:] - sums[:-height, width:] - sums[height:, :-width] + sums[:-height, :-width]


def near_edges(truth: np.ndarray) -> np.ndarray:
    """Where a label edge is at most BAND_PX away, as in the boundary mIoU."""
    edge = np.zeros(truth.shape, np.int32)
    across, down = truth[:, 1:] != truth[:, :-1], truth[1:] != truth[:-1]
    for part, unequal in ((edge[:, 1:], across), (edge[:, :-1], across), (edge[1:], down), (edge[:-1], down)):
        part |= unequal
    side = 2 * BAND_PX - 1
    return box_sums(np.pad(edge, side // 2), side, side) > 0


def best_window(coarse, refined, truth) -> tuple[int, int]:
    """Left and top of the window with, near label edges, the most corrected pixels less those made wrong."""
    counted = near_edges(truth) & (truth != UNLABELLED)
    gain = (refined == truth).astype(np.int32) - (coarse == truth)
    boxes = box_sums(gain * counted, *WINDOW)
    top, left = np.unravel_index(boxes.argmax(), boxes.shape)
    return int(left), int(top)


def montage(rgb, maps: dict, corner: tuple[int, int]) -> Image.Image:
    """Columns of the whole frame above its window; the window is outlined in the frame."""
    columns = {"camera image": rgb, **maps}
    (left, top), (width, height) = corner, WINDOW
    step_x, step_y = PANEL[0] + GAP, PANEL[1] + GAP
    sheet = Image.new("RGB", (step_x * len(columns) - GAP, CAPTION + 2 * step_y - GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, array) in enumerate(columns.items()):
        photo = index == 0
        whole = Image.fromarray(array).resize(PANEL, Image.Resampling.LANCZOS if photo else Image.Resampling.BOX)
        x = index * step_x
        draw.text((x, 4), caption, fill="black", font=ImageFont.load_default(18))
        sheet.paste(whole, (x, CAPTION))
        crop = Image.fromarray(array[top : top + height, left : left + width])
        sheet.paste(crop, (x, CAPTION + step_y))
        scale = PANEL[0] / rgb.shape[1]
        box = [x + left * scale, CAPTION + top * scale, x + (left + width) * scale, CAPTION + (top + height) * scale]
        draw.rectangle([box[0] - 1, box[1] - 1, box[2] + 1, box[3] + 1], outline="black", width=4)
        draw.rectangle(box, outline="white", width=2)
    return sheet


def compressed(picture: Image.Image) -> bytes:
    """The best JPEG that is small enough for a README."""
    for quality in range(92, 40, -4):
        out = io.BytesIO()
        picture.save(out, "JPEG", quality=quality, subsampling=0, optimize=True)
        if out.tell() <= LIMIT_BYTES:
            return out.getvalue()
    raise SystemExit(f"the picture does not fit {LIMIT_BYTES} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    target = os.environ.get("CARGO_TARGET_DIR", ROOT / "target")
    parser.add_argument("--tool", type=Path, default=Path(target) / "release" / "sparse_refine")
    parser.add_argument("--model", type=Path, default=ROOT / "engines" / "streets")
    parser.add_argument("--seed", type=int, default=28, help="of the scene; training must not have seen it")
    parser.add_argument("--size", default="3840x2160")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "refined.jpg")
    args = parser.parse_args()

    def run(*command) -> None:
        print("+ sparse_refine", *command, file=sys.stderr)
        subprocess.run([args.tool, *map(str, command)], check=True, stdout=sys.stderr)

    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        run("synth", folder / "bag", "--size", args.size, "--frames", 1, "--seed", args.seed)
        recorded, labels = messages(folder / "bag"), {}
        for mode in ("coarse", "refined"):
            out = folder / mode
            results = ("--mode", mode, "--out", out, "--panels", 0, "--write-bag")
            run("replay", folder / "bag", "--model", args.model, *results)
            written = messages(out / "bag")
            labels[mode] = pixels(written["/sparse_refine/output/front/label"])
        info = json.loads(written["/sparse_refine/output/front/label_info_json"].data)

    palette = np.zeros((256, 3), np.uint8)
    for entry in info["classes"]:
        palette[entry["id"]] = entry["colour"]
    truth = pixels(recorded["/camera/front/label"])
    corner = best_window(labels["coarse"], labels["refined"], truth)
    maps = {"coarse labels": labels["coarse"], "refined labels": labels["refined"], "true labels": truth}
    picture = montage(
        pixels(recorded["/camera/front/image_raw"]), {name: palette[map] for name, map in maps.items()}, corner
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(compressed(picture))
    print(f"{args.out}: {picture.width}x{picture.height}, window {WINDOW[0]}x{WINDOW[1]} at {corner}")


if __name__ == "__main__":
    main()
