"""Writes the golden files of the Rust tests: small inputs and the results of the dense reference, from one seed.

Inputs and weights are float32 numbers; the results are computed in float64 and rounded once, so that a test measures
the error of what it tests. Contents and names are listed in training/README.md. The cases hold what the index rules can
get wrong: sites in the last rows and columns, isolated pixels, aligned blocks, odd sizes, levels that stay empty.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import dense_reference as dense
from . import tensors
from .unet import Refiner, bundle_tensors

SEED = 2023
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


def add_command(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("goldens", help="write the golden files of the Rust tests", description=__doc__)
    parser.add_argument("folder", help="such as tests/golden")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    for path in write(options.folder):
        print(path)


def write(folder: str | Path) -> list[Path]:
    """Writes every file; returns their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, (arrays, metadata) in cases().items():
        path = folder / f"{name}.safetensors"
        arrays = {key: array.float() if array.is_floating_point() else array for key, array in arrays.items()}
        tensors.save(path, arrays, {"seed": SEED, **metadata})
        written.append(path)
    return written


def cases() -> dict[str, tuple[dict[str, torch.Tensor], dict]]:
    """(arrays, metadata) by file name."""
    torch.manual_seed(SEED)
    with torch.no_grad():
        found: dict[str, tuple[dict[str, torch.Tensor], dict]] = {"subm": (submanifold_case(), {})}
        for bound in ("image", "active"):
            found[f"down_{bound}"] = (down_case(bound), {"bound": bound})
        found["up"] = (up_case(), {"bound": "image"})
        found["res_same"] = (residual_case(8, 8), {})
        found["res_project"] = (residual_case(16, 8), {})
        found["unet_image"] = unet_case([8, 12, 16], 1, "rgb", "image", site_mask(39, 54))
        found["unet_active"] = unet_case([8, 12, 16], 1, "rgb", "active", site_mask(39, 54, last=False))
        found["unet_two_blocks_probabilities"] = unet_case(
            [6, 8, 10], 2, "rgb+probabilities", "image", site_mask(32, 48)
        )
        # Odd coordinates, and no other site to raise the bound: levels 1 and 2 have no site.
        lone = torch.zeros(21, 30, dtype=torch.bool)
        lone[13, 9] = True
        found["unet_empty_level"] = unet_case([8, 12, 16], 1, "rgb", "active", lone)
        found["gate"] = (gate_case(), {"classes": 5})
        found["forward"] = forward_case()
    return found


def site_mask(height: int, width: int, last: bool = True) -> torch.Tensor:
    """Aligned 4x4 blocks, scattered pixels, and (`last`) the last pixel; without `last`, the border stays empty."""
    blocks = torch.rand((height + 3) // 4, (width + 3) // 4) < 0.3
    mask = blocks.repeat_interleave(4, 0).repeat_interleave(4, 1)[:height, :width].clone()
    mask |= torch.rand(height, width) < 0.05
    mask[-1, -1] = last
    if not last:
        mask[-6:], mask[:, -9:] = False, False
    return mask


def randn(*shape: int) -> torch.Tensor:
    """Normal float32 numbers, as float64."""
    return torch.randn(*shape).double()


def rounded(tensor: torch.Tensor) -> torch.Tensor:
    """What float32 holds of a tensor, as float64."""
    return tensor.float().double()


def kernel(inputs: int, outputs: int) -> torch.Tensor:
    return rounded(torch.randn(9, inputs, outputs) * (2 / (9 * inputs)) ** 0.5)


def submanifold_case() -> dict[str, torch.Tensor]:
    mask, weight = site_mask(23, 30), kernel(5, 7)
    x = randn(int(mask.sum()), 5)
    y = dense.submanifold(dense.spread(mask, x), mask, weight)
    return {"mask": mask, "x": x, "weight": weight, "y": dense.collect(mask, y)}


def down_case(bound: str) -> dict[str, torch.Tensor]:
    # Even and odd axes; without `last` the largest active coordinate differs from the image's.
    mask, weight = site_mask(26, 33, last=bound == "image"), kernel(5, 7)
    x, out_mask = randn(int(mask.sum()), 5), dense.down_mask(mask, bound)
    y = dense.down(dense.spread(mask, x), out_mask, weight)
    return {"mask": mask, "x": x, "weight": weight, "out_mask": out_mask, "y": dense.collect(out_mask, y)}


def up_case() -> dict[str, torch.Tensor]:
    mask, weight = site_mask(26, 33), kernel(7, 5)
    coarse_mask = dense.down_mask(mask, "image")
    x = randn(int(coarse_mask.sum()), 7)
    y = dense.up(dense.spread(coarse_mask, x), mask, weight)
    return {"mask": mask, "coarse_mask": coarse_mask, "x": x, "weight": weight, "y": dense.collect(mask, y)}


def randomise(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of an untrained network with BatchNorms that do something and logits of order one."""
    for name, tensor in weights.items():
        if name.endswith("running_var") or (".bn" in name and name.endswith("weight")):
            tensor.uniform_(0.5, 1.5)
        elif name.endswith("running_mean") or (".bn" in name and name.endswith("bias")):
            tensor.normal_(0, 0.3)
        elif tensor.dim() == 3:
            tensor.normal_(0, (2 / (9 * tensor.shape[1])) ** 0.5)
        else:
            tensor.normal_(0, tensor.shape[-1] ** -0.5)
    return {name: tensor.double() for name, tensor in weights.items()}


def residual_case(inputs: int, outputs: int) -> dict[str, torch.Tensor]:
    mask = site_mask(21, 26)
    shapes: dict[str, tuple[int, ...]] = {"conv1.weight": (9, inputs, outputs), "conv2.weight": (9, outputs, outputs)}
    for bn, width in (("bn1", inputs), ("bn2", outputs)):
        shapes.update({f"{bn}.{name}": (width,) for name in ("weight", "bias", "running_mean", "running_var")})
    if inputs != outputs:
        shapes["projection"] = (inputs, outputs)
    weights = randomise({f"block.{name}": torch.empty(shape) for name, shape in shapes.items()})
    x = randn(int(mask.sum()), inputs)
    y = dense.residual(dense.spread(mask, x), mask, weights, "block")
    return {"mask": mask, "x": x, "y": dense.collect(mask, y), **weights}


def model_weights(planes: list[int], blocks: int, classes: int, features: str, bound: str) -> dict[str, torch.Tensor]:
    """Random tensors under the names and shapes of a bundle."""
    model = Refiner(planes, blocks, classes, features, bound)
    return randomise({name: tensor.clone() for name, tensor in bundle_tensors(model).items()})


def with_prefix(weights: dict[str, torch.Tensor], prefix: str = "model.") -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in weights.items()}


def network_metadata(planes: list[int], blocks: int, classes: int, features: str, bound: str) -> dict:
    planes = ",".join(map(str, planes))
    return {"planes": planes, "blocks": blocks, "classes": classes, "features": features, "bound": bound}


def unet_case(
    planes: list[int], blocks: int, features: str, bound: str, mask: torch.Tensor, classes: int = 5
) -> tuple[dict[str, torch.Tensor], dict]:
    network = (planes, blocks, classes, features, bound)
    weights = model_weights(*network)
    sites = int(mask.sum())
    x = randn(sites, 3)
    if features != "rgb":
        x = torch.cat([x, rounded((2 * randn(sites, classes)).softmax(1))], 1)
    y2 = dense.unet(x, mask, weights, planes, blocks, bound)
    return {"mask": mask, "features": x, "y2": y2, **with_prefix(weights)}, network_metadata(*network)


def gate_case(sites: int = 200, classes: int = 5) -> dict[str, torch.Tensor]:
    weights = model_weights([4, 4], 1, classes, "rgb", "image")
    weights = {name: t for name, t in weights.items() if name.startswith(("gate.", "fuser."))}
    scale = torch.rand(sites, 1) * 8  # from undecided to one-hot: the clamp inside the logarithm matters
    y1, y2 = rounded(scale * randn(sites, classes)), rounded(scale.flip(0) * randn(sites, classes))
    out, w1, e1 = dense.gate(y1, y2, weights)
    return {"y1": y1, "y2": y2, "out": out, "w1": w1, "e1": e1, **with_prefix(weights)}


def forward_case(
    height: int = 48, width: int = 64, ratio: int = 4, alpha: float = 0.5, classes: int = 5
) -> tuple[dict[str, torch.Tensor], dict]:
    """A whole image with ready coarse logits, from the entropy to the labels."""
    network = ([8, 12], 1, classes, "rgb+probabilities", "image")
    weights = model_weights(*network)
    image = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)
    cells = (height // ratio, width // ratio)
    sharpness = torch.where(torch.rand(cells) < 0.6, 12.0, 1.0)
    # The winner stands out, so that no rounding moves an entropy over alpha or a label to its neighbour.
    winner = torch.nn.functional.one_hot(torch.randint(0, classes, cells), classes).permute(2, 0, 1)
    logits = rounded(sharpness * (winner + 0.2 * torch.rand(classes, *cells)))
    entropy = dense.site_entropy(logits.flatten(1).t()).view(cells)
    mask = (entropy > alpha).repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    y1 = logits.repeat_interleave(ratio, 1).repeat_interleave(ratio, 2).permute(1, 2, 0)
    rgb = ((image.double() - torch.tensor(MEAN).double()) / torch.tensor(STD).double())[mask]
    features = torch.cat([rgb, torch.softmax(y1[mask], 1)], 1)
    y2 = dense.unet(features, mask, weights, *network[:2], network[4])
    out, w1, _ = dense.gate(y1[mask], y2, weights)
    final = y1.clone()
    final[mask] = out
    arrays = {"image": image, "logits": logits, "entropy": entropy, "mask": mask, "y2": y2, "w1": w1, "out": out}
    arrays["labels"] = final.argmax(2).to(torch.uint8)
    metadata = {
        **network_metadata(*network),
        "alpha": alpha,
        "mean": ",".join(map(str, MEAN)),
        "std": ",".join(map(str, STD)),
    }
    return {**arrays, **with_prefix(weights)}, metadata
