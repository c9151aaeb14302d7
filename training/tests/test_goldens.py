"""The sparse package must reproduce the golden files, which come from dense operators alone."""

import numpy as np
import pytest
import torch

from sparse_refine_training import goldens, selection, sparse, tensors
from sparse_refine_training.unet import Refiner, Residual

NETWORKS = ("unet_image", "unet_active", "unet_two_blocks_probabilities", "unet_empty_level")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    paths = goldens.write(tmp_path_factory.mktemp("golden"))
    assert max(path.stat().st_size for path in paths) < 150_000
    assert sum(path.stat().st_size for path in paths) < 1_000_000
    found = {}
    for path in paths:
        arrays, metadata = tensors.load(path)
        found[path.stem] = ({name: torch.from_numpy(a.copy()) for name, a in arrays.items()}, metadata)
    return found


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def network(arrays, metadata):
    planes = [int(plane) for plane in metadata["planes"].split(",")]
    model = Refiner(planes, int(metadata["blocks"]), int(metadata["classes"]), metadata["features"], metadata["bound"])
    weights = {name[6:]: tensor for name, tensor in arrays.items() if name.startswith("model.")}
    problem = model.load_state_dict(weights, strict=False)
    assert not problem.unexpected_keys
    assert all(name.endswith("num_batches_tracked") for name in problem.missing_keys)
    return model.eval()


def mask_of(arrays):
    return arrays["mask"].bool()[None]


def test_operators(files):
    case = files["subm"][0]
    close(sparse.submanifold(case["x"], case["weight"], sparse.Pyramid(mask_of(case), 1).same[0]), case["y"])
    for bound in sparse.BOUNDS:
        case = files[f"down_{bound}"][0]
        pyramid = sparse.Pyramid(mask_of(case), 2, bound)
        assert torch.equal(pyramid.levels[1].mask[0], case["out_mask"].bool())
        close(sparse.down(case["x"], case["weight"], pyramid, 0), case["y"])
    case = files["up"][0]
    close(sparse.up(case["x"], case["weight"], sparse.Pyramid(mask_of(case), 2), 0), case["y"])


@pytest.mark.parametrize("name, widths", [("res_same", (8, 8)), ("res_project", (16, 8))])
def test_residual_blocks(files, name, widths):
    case = files[name][0]
    block = Residual(*widths).eval()
    block.load_state_dict({key[6:]: t for key, t in case.items() if key.startswith("block.")}, strict=False)
    with torch.no_grad():
        close(block(case["x"], sparse.Pyramid(mask_of(case), 1).same[0]), case["y"])


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(files, name):
    arrays, metadata = files[name]
    model = network(arrays, metadata)
    with torch.no_grad():
        close(model.refine(model.pyramid(mask_of(arrays)), arrays["features"]), arrays["y2"])


def test_empty_level_case_is_empty(files):
    mask = mask_of(files["unet_empty_level"][0])
    assert [level.count for level in sparse.Pyramid(mask, 3, "active").levels] == [1, 0, 0]


def test_whole_image(files):
    arrays, metadata = files["forward"]
    model, alpha = network(arrays, metadata), float(metadata["alpha"])
    logits = arrays["logits"][None]
    entropy = selection.entropy(logits)
    close(entropy[0], arrays["entropy"])
    assert (arrays["entropy"] - alpha).abs().min() > 1e-3
    mask = selection.to_pixels(entropy > alpha, 4)
    assert torch.equal(mask[0], arrays["mask"].bool()) and 0.2 < mask.float().mean() < 0.6
    final = selection.to_pixels(logits, 4).permute(0, 2, 3, 1)
    mean, std = (torch.tensor([float(v) for v in metadata[key].split(",")]) for key in ("mean", "std"))
    rgb = ((arrays["image"].float() - mean) / std)[None][mask]
    with torch.no_grad():
        y1 = final[mask]
        y2, out = model(model.pyramid(mask), rgb, y1)
        close(model.fuse(y1, y2)[1], arrays["w1"])
    close(y2, arrays["y2"])
    close(out, arrays["out"])
    final[mask] = out
    top = final.topk(2, -1).values
    assert (top[..., 0] - top[..., 1]).min() > 1e-4, "a label hangs on rounding: change the seed"
    assert np.array_equal(final.argmax(-1)[0].numpy(), arrays["labels"].numpy())


def test_gate(files):
    arrays, _ = files["gate"]
    model = Refiner([4, 4], 1, 5)
    model.load_state_dict({name[6:]: t for name, t in arrays.items() if name.startswith("model.")}, strict=False)
    with torch.no_grad():
        out, w1 = model.fuse(arrays["y1"], arrays["y2"])
    close(out, arrays["out"])
    close(w1, arrays["w1"])
    close(selection.entropy(arrays["y1"]), arrays["e1"])


def test_files_are_the_committed_ones(files):
    folder = goldens.Path(__file__).resolve().parents[2] / "tests" / "golden"
    if not folder.is_dir():
        pytest.skip("not in a checkout of the whole project")
    for name, (arrays, metadata) in files.items():
        committed, committed_metadata = tensors.load(folder / f"{name}.safetensors")
        assert committed_metadata == metadata and committed.keys() == arrays.keys()
        for key, tensor in arrays.items():
            np.testing.assert_allclose(committed[key], tensor.numpy(), atol=1e-5, rtol=1e-5, err_msg=f"{name} {key}")
