"""Short runs of everything: losses fall, runs resume, bundles read back, images in a batch do not mix."""

import argparse
import re

import numpy as np
import pytest
import torch
from scenes import write
from torch.nn import functional as F

from sparse_refine_training import cli, coarse, export, loop, tensors, train_refiner, train_segmenter
from sparse_refine_training.data import DataError, Dataset
from sparse_refine_training.losses import LabelLoss, jaccard_loss
from sparse_refine_training.metrics import Confusion, boundary_band
from sparse_refine_training.segmenter import Segmenter, macs
from sparse_refine_training.unet import Refiner, bundle_tensors

SEGMENTER = "segmenter {data} --size 48x32 --crop 48x32 --out {out} --learning-rate 0.01 --threads 1 --batch 2"
REFINER = (
    "refiner {data} --segmenter {seg} --out {out} --planes 4,8 --crop 64x64 --batch 2 --alpha 0.2 "
    "--learning-rate 0.01 --threads 1"
)


def command(text, **places):
    return cli.parser().parse_args(text.format(**places).split())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(folder with seg.pt and ref.pt, losses of both)."""
    folder = tmp_path_factory.mktemp("trained")
    write(folder / "data")
    places = {"data": folder / "data", "seg": folder / "seg.pt"}
    one = train_segmenter.run(command(SEGMENTER + " --steps 40", out=folder / "seg.pt", **places))
    two = train_refiner.run(command(REFINER + " --steps 40", out=folder / "ref.pt", **places))
    return folder, one, two


def test_losses_fall(trained):
    for losses in trained[1:]:
        assert len(losses) == 40
        assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:3])


def test_refined_beats_coarse_on_the_training_scenes(trained):
    folder = trained[0]
    text = "evaluate {d} --segmenter {d}/../seg.pt --refiner {d}/../ref.pt --json {d}/../figures.json"
    figures = cli.evaluate.run(command(text, d=folder / "data"))
    assert figures["boundary_miou"]["refined"] > figures["boundary_miou"]["coarse"] + 0.01
    assert 0.02 < figures["selected_fraction"]["mean"] < 0.95
    assert (folder / "figures.json").stat().st_size > 100


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    data = write(tmp_path / "data")
    whole, parts = tmp_path / "whole.pt", tmp_path / "parts.pt"
    train_segmenter.run(command(SEGMENTER + " --steps 6", data=data, out=whole))
    stopped = command(SEGMENTER + " --steps 6", data=data, out=parts)
    steps = iter(range(3))
    original = train_segmenter.batch

    def batch(*arguments):
        next(steps)  # StopIteration after three steps
        return original(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_segmenter, "batch", batch)
        patch.setattr(loop, "CHECKPOINT_SECONDS", -1)
        with pytest.raises(StopIteration):
            train_segmenter.run(stopped)
    stopped.resume = True
    train_segmenter.run(stopped)
    a, b = (loop.load_checkpoint(path)["model"] for path in (whole, parts))
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_weights_can_start_from_a_checkpoint(trained, tmp_path):
    folder, losses, _ = trained
    text = SEGMENTER + " --steps 2 --init {seg}"
    first = train_segmenter.run(command(text, data=folder / "data", seg=folder / "seg.pt", out=tmp_path / "on.pt"))[0]
    assert first < 0.7 * losses[0]
    assert train_segmenter.load_segmenter(tmp_path / "on.pt")[1]["total"][0] == 42


def test_folds_are_consecutive_and_each_scene_is_left_out_once(trained):
    data = Dataset.open(trained[0] / "data")
    names = [scene.name for scene in data.scenes]
    folds = data.folds(3)
    assert [scene.name for fold in folds for scene in fold] == names
    for number, fold in enumerate(folds, 1):
        rest = data.without_fold(f"{number}/3").scenes
        assert sorted([*rest, *fold], key=lambda scene: scene.name) == sorted(data.scenes, key=lambda scene: scene.name)
    assert data.without_fold(None).scenes == data.scenes
    for text in ("0/2", "3/2", "1/1", "1/9999", "half"):
        with pytest.raises(DataError, match="fold"):
            data.without_fold(text)


def test_each_scene_is_looked_at_by_the_segmenter_that_has_not_seen_it(trained, tmp_path):
    folder = trained[0]
    for part in (1, 2):
        text = SEGMENTER + f" --steps 1 --without-fold {part}/2 --seed {part}"
        train_segmenter.run(command(text, data=folder / "data", out=tmp_path / f"{part}.pt"))
    text = REFINER + " --fold-segmenters {one} {two}"
    places = {"one": tmp_path / "1.pt", "two": tmp_path / "2.pt", "seg": folder / "seg.pt"}
    options = command(text, data=folder / "data", out=tmp_path / "ref.pt", **places)
    sets, _, prepared = train_refiner.read_scenes(options, 16)
    halves = sets[0].folds(2)
    for number, scene in enumerate(sets[0].scenes):
        first = scene in halves[0]
        other = coarse.from_checkpoint(places["one" if first else "two"])
        logits = other.look(scene.read(len(sets[0].classes))[0]).logits[0].numpy().astype(np.float16)
        np.testing.assert_array_equal(prepared[number].logits, logits)


def test_bundle_reads_back(trained, tmp_path):
    folder = trained[0]
    text = "export {out} --segmenter {f}/seg.pt --refiner {f}/ref.pt --dense {f}/seg.pt --data squares"
    export.run(command(text, out=tmp_path / "squares", f=folder))
    found, _ = tensors.load(tmp_path / "squares" / "refiner.safetensors")
    model, _ = train_refiner.load_refiner(folder / "ref.pt")
    expected = bundle_tensors(model)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert np.array_equal(found[name], tensor.numpy()), name
    text = (tmp_path / "squares" / "model.toml").read_text()
    for file, digest in re.findall(r'file = "(.+)"\nsha256 = "(.+)"', text):
        assert export.sha256(tmp_path / "squares" / file) == digest
    tomllib = pytest.importorskip("tomllib")
    manifest = tomllib.loads(text)
    assert manifest["segmenter"]["size"] == [48, 32] and manifest["dense"]["file"] == "dense.onnx"
    assert set(manifest["dense"]) == {"file", "sha256", "size", "logit_stride"}  # the product refuses others
    assert manifest["refiner"]["planes"] == [4, 8] and manifest["selector"]["alpha"] == 0.2
    assert [entry["name"] for entry in manifest["classes"]] == ["class0", "class1", "class2"]
    assert manifest["provenance"] == {**manifest["provenance"], "data": "squares", "licence": "Apache-2.0"}


def test_a_refiner_goes_on_from_a_bundle(trained, tmp_path):
    pytest.importorskip("tomllib")
    folder = trained[0]
    export.run(command("export {out} --segmenter {f}/seg.pt --refiner {f}/ref.pt", out=tmp_path / "squares", f=folder))
    before, facts = train_refiner.load_refiner(folder / "ref.pt")
    there, described = train_refiner.load_refiner(tmp_path / "squares")
    for name, tensor in bundle_tensors(before).items():
        assert torch.equal(bundle_tensors(there)[name], tensor), name
    for key in ("planes", "blocks", "features", "bound", "alpha", "mean", "std", "channel_order"):
        assert described[key] == facts[key], key
    text = REFINER + " --steps 1 --learning-rate 0 --init {init}"
    places = {"data": folder / "data", "seg": folder / "seg.pt", "out": tmp_path / "next.pt"}
    train_refiner.run(command(text, init=tmp_path / "squares", **places))
    after = dict(train_refiner.load_refiner(tmp_path / "next.pt")[0].named_parameters())
    for name, tensor in before.named_parameters():
        assert torch.equal(after[name], tensor), name
    for init in (tmp_path / "squares", folder / "ref.pt"):
        with pytest.raises(DataError, match="another architecture"):
            train_refiner.run(command(text + " --planes 6,8", init=init, **places))
    weights, manifest = (tmp_path / "squares" / name for name in ("refiner.safetensors", "model.toml"))
    weights.write_bytes(weights.read_bytes()[:-4])
    with pytest.raises(DataError, match="sha256 is .* says"):
        train_refiner.load_refiner(tmp_path / "squares")
    manifest.write_text(manifest.read_text().replace("blocks =", "block_count ="))
    with pytest.raises(DataError, match="no blocks"):
        train_refiner.load_refiner(tmp_path / "squares")
    export.run(command("export {out} --segmenter {f}/seg.pt", out=tmp_path / "coarse", f=folder))
    with pytest.raises(DataError, match="has no refiner"):
        train_refiner.load_refiner(tmp_path / "coarse")


def test_tensor_names_and_shapes_are_those_of_the_format():
    shapes = {name: list(t.shape) for name, t in bundle_tensors(Refiner([4, 6], 2, 5, "rgb+probabilities")).items()}
    expected = {
        "stem.weight": [9, 8, 4],
        "levels.0.pre.1.conv2.weight": [9, 4, 4],
        "levels.0.down.bn.running_var": [4],
        "levels.0.down.weight": [9, 4, 6],
        "levels.0.up.bn.bias": [6],
        "levels.0.up.weight": [9, 6, 4],
        "levels.0.post.0.projection": [8, 4],
        "levels.0.post.0.bn1.weight": [8],
        "levels.0.post.0.conv1.weight": [9, 8, 4],
        "levels.0.post.1.conv1.weight": [9, 4, 4],
        "levels.1.pre.0.bn2.running_mean": [6],
        "head.bn.weight": [4],
        "classifier.weight": [5, 4],
        "gate.0.weight": [64, 12],
        "gate.2.bias": [2],
        "fuser.2.weight": [5, 64],
    }
    assert {name: shapes.get(name) for name in expected} == expected
    # stem, 3 residual pairs at level 0 (2 pre, 2 post) and 2 at level 1: ten tensors each, one projection, two BNs.
    assert len(shapes) == 1 + 10 * 6 + 1 + 2 * 5 + 4 + 2 + 4 + 4


def test_released_network_has_its_number_of_parameters():
    model = Refiner([32, 64, 128, 256, 512, 1024], 2, 19)
    assert sum(p.numel() for p in model.parameters()) == 79_340_456


def test_images_of_a_batch_do_not_mix():
    model = Refiner([4, 8, 8], 1, 3).eval()
    mask = torch.rand(2, 33, 40) < 0.4
    rgb, y1 = torch.randn(int(mask.sum()), 3), torch.randn(int(mask.sum()), 3)
    first = int(mask[0].sum())
    with torch.no_grad():
        both = model(model.pyramid(mask), rgb, y1)[1]
        alone = model(model.pyramid(mask[1:]), rgb[first:], y1[first:])[1]
    torch.testing.assert_close(both[first:], alone, atol=1e-5, rtol=1e-5)


def test_training_survives_images_without_sites():
    model = Refiner([4, 8, 8], 1, 3)
    for sites in (0, 1):
        mask = torch.zeros(1, 16, 16, dtype=torch.bool)
        mask[0, 5, 5] = bool(sites)
        _, out = model(model.pyramid(mask), torch.randn(sites, 3), torch.randn(sites, 3))
        loss = LabelLoss(range(3), 3)(out, torch.full((sites,), 1))
        loss.backward()
        assert torch.isfinite(loss)


def test_a_step_works_where_the_tensors_are():
    """`meta` has no values but refuses to mix devices: every tensor of a step follows the model."""
    if int(torch.__version__.split(".")[0]) < 2:
        pytest.skip("index_select of meta tensors gives a wrong shape before PyTorch 2")
    meta = torch.device("meta")
    mask = torch.rand(2, 32, 48, generator=torch.Generator().manual_seed(0)) > 0.5
    model = Refiner([8, 8, 8], 1, 4, "rgb+probabilities")
    pyramid = model.pyramid(mask).to(meta)
    sites = int(mask.sum())
    rgb, y1 = torch.zeros(sites, 3, device=meta), torch.zeros(sites, 4, device=meta)
    label = torch.zeros(sites, dtype=torch.long, device=meta)
    for channels in (range(4), (0, 0, 1, 2)):
        loss = LabelLoss(channels, 4, torch.ones(4)).to(meta)
        y2, out = model.to(meta)(pyramid, rgb, y1)
        (loss(y2, label) + loss(out, label)).backward()
    assert all(parameter.grad.device == meta for parameter in model.parameters())


def test_label_loss_is_the_weighted_mean_of_the_labelled_sites():
    logits = torch.tensor([[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.5, 0.5, 3.0]])
    label, weights = torch.tensor([0, 255, 2]), torch.tensor([0.5, 1.0, 2.0])
    of_site = -logits.log_softmax(1)[[0, 2], [0, 2]]
    plain, weighted = (LabelLoss(range(3), 3, w)(logits, label) for w in (None, weights))
    assert torch.isclose(plain, of_site.mean())
    assert torch.isclose(weighted, (of_site * torch.tensor([0.5, 2.0])).sum() / 2.5)
    assert LabelLoss(range(3), 3)(logits, torch.full((3,), 255)) == 0


def test_jaccard_loss_by_hand():
    log_p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [0.0, 0.25, 0.75], [0.0, 1.0, 0.0]]).clamp(min=1e-30).log()
    label = torch.tensor([0, 0, 1, 255])  # the last site is not labelled, label 2 does not occur
    expected = 1 - (1.5 / 2 + 0.25 / (0.75 + 1 - 0.25)) / 2
    assert jaccard_loss(log_p, label).item() == pytest.approx(expected)
    assert jaccard_loss(log_p, torch.full((4,), 255)) == 0
    exact = F.one_hot(label[:3], 3).float().clamp(min=1e-30).log()
    assert jaccard_loss(exact, label[:3]).item() == pytest.approx(0, abs=1e-6)


def test_trust_is_the_divergence_from_the_coarse_logits():
    logits, before = torch.randn(5, 3), torch.randn(5, 3)
    label = torch.tensor([0, 1, 2, 255, 0])
    there = label < 3
    plain, trusting = (LabelLoss(range(3), 3, trust=weight)(logits, label, before) for weight in (0.0, 2.0))
    expected = F.kl_div(logits[there].log_softmax(1), before[there].softmax(1), reduction="batchmean")
    torch.testing.assert_close(trusting - plain, 2 * expected)
    torch.testing.assert_close(LabelLoss(range(3), 3, trust=2.0)(before, label, before),
                               LabelLoss(range(3), 3)(before, label))
    both = LabelLoss(range(3), 3, jaccard=0.5, trust=2.0)(logits, label, before)
    torch.testing.assert_close(both - trusting, 0.5 * jaccard_loss(logits.log_softmax(1), label))


def test_a_gpu_that_is_not_there_is_said(trained, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    text = SEGMENTER + " --steps 1 --device cuda"
    with pytest.raises(DataError, match="no GPU"):
        train_segmenter.run(command(text, data=trained[0] / "data", out=tmp_path / "x.pt"))


def test_segmenter_cost_and_stride():
    model = Segmenter(13)
    assert macs(model, (544, 960)) < 2.5e9
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 13, 8, 12)
    with pytest.raises(ValueError, match="48x40.*multiples of 16"):
        model(torch.zeros(1, 3, 40, 48))


def test_wrong_options_are_one_line(trained, tmp_path, capsys):
    folder = trained[0]
    assert cli.main(["evaluate", str(folder / "data"), "--segmenter", str(tmp_path / "none.pt")]) == 2
    assert cli.main(["evaluate", str(folder / "data"), "--segmenter", str(folder / "ref.pt")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2 and "no checkpoint" in lines[0] and "a segmenter is needed" in lines[1]
    with pytest.raises(DataError, match="multiples of 16"):
        train_segmenter.run(command(SEGMENTER.replace("48x32", "40x32"), data=folder / "data", out=tmp_path / "x.pt"))


def test_scores_by_hand():
    label = np.array([[0, 0, 1, 255]], np.uint8)
    confusion = Confusion(3)
    confusion.add(label, np.array([[0, 1, 1, 2]], np.uint8))
    iou = confusion.iou()
    assert iou[:2].tolist() == [0.5, 0.5] and np.isnan(iou[2]) and confusion.miou() == 0.5
    band = boundary_band(np.array([[0] * 5 + [1] * 5], np.uint8), 2)
    assert band[0].nonzero()[0].tolist() == [3, 4, 5, 6]


def test_an_untrained_fuser_passes_the_mix_on():
    model = Refiner([4, 8], 1, 3)
    y = torch.randn(7, 3)
    torch.testing.assert_close(model.fuse(y, y)[0], y)


def test_gate_weighs_by_entropy_and_probability_only():
    """Adding a constant to the coarse logits changes neither of the gate's inputs."""
    model = Refiner([4, 8], 1, 3)
    y1, y2 = torch.randn(6, 3), torch.randn(6, 3)
    torch.testing.assert_close(model.fuse(y1, y2)[1], model.fuse(y1 + 5, y2)[1])


def test_a_refiner_learns_where_the_segmenter_is_asked_again(trained, tmp_path):
    text = REFINER + " --steps 30 --ask-again --augment mild --scale 0.8,1.3"
    losses = train_refiner.run(
        command(text, data=trained[0] / "data", seg=trained[0] / "seg.pt", out=tmp_path / "r.pt")
    )
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:3])


def test_windows_scale_colours_and_labels_together():
    image, share = np.zeros((3, 32, 48), np.uint8), np.zeros((2, 32, 48), np.uint8)
    image[:, :, 24:], share[1, :, 24:], share[0, :, :24] = 200, 255, 255
    rng = np.random.default_rng(0)
    for factor in (1, 0.5, 1.5, 3):
        picture, target = train_segmenter.window(image, share, (32, 48), factor, rng)
        assert picture.shape == (3, 32, 48) and target.shape == (2, 32, 48)
        inside = target.sum(0) > 0
        assert inside.mean() == (factor**2 if factor < 1 else 1), factor
        # A pixel is as bright as it is of class 1, in the middle of the blur too.
        np.testing.assert_allclose(picture[0], target[1] * (200 / 255), atol=1.0)
    small = train_segmenter.window(image, share, (32, 48), 0.5, rng)[0]
    assert small[0, :16, 14:24].min() > 150 and small[0, 16:].max() == 0 and small[0, :, 24:].max() == 0


@pytest.mark.parametrize("text", ["0,1", "2,1", "1", "a,b", "1,1000"])
def test_a_wrong_span_of_scales_is_refused(text, capsys):
    with pytest.raises(SystemExit):
        command("segmenter data --out x.pt --scale " + text)
    assert "--scale: `" + text + "` must be two factors" in capsys.readouterr().err


def test_schedule_warms_up_and_ends_at_zero():
    values = [loop.schedule(p) for p in (0.0, 0.015, 0.03, 0.5, 1.0)]
    assert values[0] < values[1] < values[2] == 1.0 and 0.4 < values[3] < 0.6 and values[4] == pytest.approx(0)
    assert isinstance(command(SEGMENTER, data="d", out="o"), argparse.Namespace)
