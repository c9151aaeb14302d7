"""Segmenters of any origin in front of the refiner: manifests, ONNX networks, class maps, caches, other selectors."""

import json

import numpy as np
import pytest
import torch
from scenes import write
from test_training import REFINER, SEGMENTER, command

from sparse_refine_training import augment, cli, coarse, crops, evaluate, export, loop, train_refiner, train_segmenter
from sparse_refine_training.data import DataError, Dataset
from sparse_refine_training.losses import LabelLoss

CLASS = "[[classes]]\nname='a'\ncolour=[0,0,0]\n"
MEAN_STD = "mean = [123.675, 116.28, 103.53]\nstd = [58.395, 57.12, 57.375]\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Folder with `data` and `theirs`, a coarse bundle as a newcomer would write it."""
    pytest.importorskip("tomllib")
    folder = tmp_path_factory.mktemp("frozen")
    data = write(folder / "data")
    train_segmenter.run(command(SEGMENTER + " --steps 30", data=data, out=folder / "seg.pt"))
    export.run(command("export {f}/theirs --segmenter {f}/seg.pt", f=folder))
    return folder


def frozen_of(folder, text):
    """A manifest without its network."""
    (folder / "model.toml").write_text(text)
    (folder / "net.onnx").write_bytes(b"")
    options = command("oracle d --segmenter {f}/model.toml", f=folder)
    return lambda data: coarse.open_segmenter(options, data)


def test_onnx_and_checkpoint_say_the_same(bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    data = Dataset.open(bundle / "data")
    views = []
    for name, extra in (("theirs/model.toml", f" --cache {tmp_path / 'cache'}"), ("seg.pt", "")):
        options = command("oracle {f}/data --segmenter {f}/" + name + extra, f=bundle)
        frozen = coarse.open_segmenter(options, data)
        image, _ = data.scenes[0].read(3)
        views += [frozen.look(image, data.scenes[0].image) for _ in range(2)]
    assert len(list((tmp_path / "cache").iterdir())) == 1
    torch.testing.assert_close(views[0].logits, views[2].logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(views[1].logits, views[0].logits, atol=1e-2, rtol=1e-2)  # 16 bits, from the cache


def test_refiner_behind_an_onnx_network_becomes_a_bundle(bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    text = REFINER + " --steps 25 --cache {cache}"
    places = {"data": bundle / "data", "seg": bundle / "theirs", "cache": tmp_path / "cache"}
    losses = train_refiner.run(command(text, out=tmp_path / "ref.pt", **places))
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    figures = evaluate.run(
        command("evaluate {data} --segmenter {seg} --refiner {r} --all-choices", r=tmp_path / "ref.pt", **places)
    )
    assert set(figures["miou"]) == {"coarse", "refined", "lower_entropy", "direct"}
    text = "export {o} --segmenter {seg} --refiner {r} --alpha 0.3"
    export.run(command(text, o=tmp_path / "b", r=tmp_path / "ref.pt", **places))
    content = coarse.read_manifest(tmp_path / "b" / "model.toml")
    theirs = coarse.read_manifest(bundle / "theirs" / "model.toml")
    assert content["segmenter"] == theirs["segmenter"] and content["classes"] == theirs["classes"]
    assert (tmp_path / "b" / "segmenter.onnx").read_bytes() == (bundle / "theirs" / "segmenter.onnx").read_bytes()
    assert content["selector"]["alpha"] == 0.3 and content["refiner"]["planes"] == [4, 8]


@pytest.mark.parametrize(
    "text, message",
    [
        ("x = [", "Invalid value|Unexpected|Expected"),
        ("[segmenter]\nfile = 'net.onnx'\n", "has no `size`"),
        ("[segmenter]\nfile = 'net.onnx'\nsize = [48, 32]\n" + MEAN_STD, r"no \[classes\]"),
        (
            CLASS + "[segmenter]\nfile='net.onnx'\nsize=[48,32]\nfit='crop'\n" + MEAN_STD,
            "fit is `crop`, it must be one of pad, stretch",
        ),
        (
            CLASS + "[segmenter]\nfile='net.onnx'\nsha256='00'\nsize=[48,32]\n" + MEAN_STD,
            "model.toml says 00",
        ),
    ],
)
def test_wrong_manifests_are_named(tmp_path, text, message):
    pytest.importorskip("tomllib")
    data = Dataset.open(write(tmp_path / "data"))
    with pytest.raises(DataError, match=message):
        frozen_of(tmp_path, text)(data)


def test_an_onnx_network_alone_is_not_enough(tmp_path):
    data = Dataset.open(write(tmp_path / "data"))
    with pytest.raises(DataError, match="needs its model.toml"):
        coarse.open_segmenter(command("oracle d --segmenter net.onnx"), data)


def test_wrong_sizes_of_an_onnx_network_are_named(bundle, tmp_path):
    pytest.importorskip("onnxruntime")
    entry = {"size": [64, 32], "file": "segmenter.onnx"}
    with pytest.raises(DataError, match=r"input is \[1, 3, 32, 48\], the manifest says \[1, 3, 32, 64\]"):
        coarse.onnx_runner(bundle / "theirs" / "segmenter.onnx", entry, 3, 1)
    run = coarse.onnx_runner(bundle / "theirs" / "segmenter.onnx", {**entry, "size": [48, 32], "channels": 4}, 3, 1)
    with pytest.raises(DataError, match=r"output is \[1, 3, 8, 12\], expected \[1, 4, 8, 12\]"):
        run(torch.zeros(1, 3, 32, 48))


def test_channels_that_share_a_label_add_their_probabilities():
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.1, 0.2, 3.0]])
    p = logits.softmax(1)
    loss = LabelLoss([0, 1, 0], 3)(logits, torch.tensor([0, 255]))
    torch.testing.assert_close(loss, -(p[0, 0] + p[0, 2]).log())
    assert LabelLoss([0, 1, 0], 3)(logits, torch.tensor([2, 2])) == 0  # no channel has label 2
    weighted = LabelLoss(range(3), 3, torch.tensor([1.0, 2.0, 4.0]))(logits, torch.tensor([1, 2]))
    torch.testing.assert_close(weighted, -(2 * p[0, 1].log() + 4 * p[1, 2].log()) / 6)


def scene_of(grid_size=(6, 9), camera=(48, 72)):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (*camera, 3), dtype=np.uint8)
    label = rng.integers(0, 3, camera).astype(np.uint8)
    logits = torch.from_numpy(rng.normal(0, 2, (1, 3, *grid_size)).astype(np.float32))
    classes = [{"name": str(k), "colour": [0, 0, 0], "label": k} for k in range(3)]
    frozen = coarse.Frozen(lambda _: logits, grid_size, (0, 0, 0), (1, 1, 1), classes, fit="stretch")
    return image, label, frozen


@pytest.mark.parametrize("kind", augment.KINDS)
def test_windows_keep_pixels_labels_and_logits_together(kind):
    """The picture carries its own coordinates, so every selected pixel can be looked up in the scene."""
    image, label, frozen = scene_of()
    image[..., 0], image[..., 1] = np.arange(48)[:, None], np.arange(72)
    scene = crops.prepare(image, label, frozen, 0.4, 3, np.random.default_rng(0))
    for seed in range(6):
        mask, picture, logits, labels = crops.cut(scene, (32, 32), 16, augment.SCALES[kind], np.random.default_rng(seed))
        at = picture[:, mask]
        assert mask.any() and len(labels) == mask.sum()
        if kind != "strong":
            rows, columns = at[0].astype(int), at[1].astype(int)
            assert np.array_equal(labels, label[rows, columns])
            assert np.array_equal(logits, scene.logits[:, rows * 6 // 48, columns * 9 // 72].T)
            assert np.array_equal(mask.sum(), scene.selected[rows * 6 // 48, columns * 9 // 72].sum())
        else:  # between two pixels after scaling
            columns, rows = np.unique(at[1]), np.unique(at[0])
            assert columns.min() >= 0 and columns.max() <= 71 and rows.max() <= 47


@pytest.mark.parametrize("span", [(1, 1), (0.5, 0.5), (0.7, 1.9), (2, 2)])
def test_changed_scenes_keep_pixels_and_labels_together(span):
    """Labels are a function of the colour, before and after; beyond the picture nothing is labelled."""
    rng = np.random.default_rng(5)
    cells = rng.integers(0, 3, (6, 9)).astype(np.uint8)
    label = cells.repeat(8, 0).repeat(8, 1)
    image = np.stack([(80 + 60 * label).astype(np.uint8)] * 3, 2)
    _, _, frozen = scene_of()
    scene = crops.prepare(image, label, frozen, 0.4, 3, rng)
    for _ in range(4):
        other = crops.changed(scene, 0.4, "none", span, rng)
        assert other.image.shape == image.shape and other.label.shape == label.shape
        labelled = other.label < 3
        inside = other.image[..., 0] > 0
        assert np.array_equal(labelled, inside)
        assert abs(inside.mean() - min(1, span[0] ** 2)) < 0.02 or span[0] != span[1]
        expected = np.round((other.image[..., 0].astype(float) - 80) / 60)
        assert (expected[labelled] == other.label[labelled]).mean() > 0.8  # but for blurred edges
        assert other.frozen is frozen and other.pixels.sum() > 0


def test_changed_scenes_are_asked_about_as_they_are_now():
    image, label, frozen = scene_of()
    seen = []

    def run(cells):
        seen.append(cells.mean().item())
        return torch.zeros(1, 3, 6, 9)

    asked = coarse.Frozen(run, frozen.size, (0, 0, 0), (1, 1, 1), frozen.classes, fit="stretch")
    scene = crops.prepare(image, label, asked, 0.4, 3, np.random.default_rng(0))
    other = crops.changed(scene, 0.4, "mild", (1, 1), np.random.default_rng(1))
    assert len(seen) == 2 and seen[0] != seen[1]
    assert seen[1] == pytest.approx(other.image.mean(), abs=0.5)


def test_strong_colours_stay_in_range_and_mild_ones_differ():
    image = torch.rand(4, 3, 8, 8) * 255
    for kind in ("mild", "strong"):
        changed = augment.colours(image.clone(), kind, np.random.default_rng(0))
        assert not torch.equal(changed, image) and changed.min() >= 0 and changed.max() <= 255
    assert torch.equal(augment.colours(image.clone(), "none", np.random.default_rng(0)), image)


def test_hue_keeps_grey():
    grey = torch.full((3, 2, 2), 77.0)
    torch.testing.assert_close(torch.einsum("ij,jhw->ihw", augment._hue_rotation(0.5), grey), grey)


def test_bilinear_views_are_finer_than_the_grid():
    image, _, frozen = scene_of()
    nearest, bilinear = frozen.look(image), frozen.look(image, None, "bilinear")
    rows, columns = np.array([4, 40]), np.array([4, 71])
    assert bilinear.mask(0.4).shape == nearest.mask(0.4).shape == (48, 72)
    centre = nearest.at(np.array([4]), np.array([4]))
    assert not torch.equal(bilinear.at(rows, columns)[:1], centre)
    torch.testing.assert_close(bilinear.at(np.array([0]), np.array([0])), nearest.at(np.array([0]), np.array([0])))


def test_oracle_is_never_worse_than_coarse(bundle):
    text = "oracle {f}/data --segmenter {f}/seg.pt --alpha 0.1,0.6 --json {f}/oracle.json"
    figures = cli.oracle.run(command(text, f=bundle))
    assert figures["0.1"]["miou"] > figures["0.6"]["miou"] > figures["coarse"]["miou"]
    assert figures["0.1"]["errors_covered"] > 0.5 > figures["coarse"]["errors_covered"] == 0
    assert json.loads((bundle / "oracle.json").read_text())["scenes"] == 4


def test_other_selectors_choose_as_many_pixels(bundle, tmp_path):
    places = {"data": bundle / "data", "seg": bundle / "seg.pt", "t": tmp_path}
    train_refiner.run(command(REFINER + " --steps 3", out=tmp_path / "ref.pt", **places))
    losses = cli.train_selector.run(
        command("selector {data} --segmenter {seg} --crop 32x32 --steps 30 --out {t}/sel.pt --threads 1", **places)
    )
    assert np.mean(losses[-5:]) < np.mean(losses[:3])
    shares = []
    for selector in ("entropy", "random", f"{tmp_path}/sel.pt"):
        text = "evaluate {data} --segmenter {seg} --refiner {t}/ref.pt --limit 2 --selector " + selector
        shares.append(evaluate.run(command(text, **places))["selected_fraction"]["mean"])
    assert shares[0] == pytest.approx(shares[1]) == pytest.approx(shares[2])


def test_tensorboard_gets_loss_and_learning_rate(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(loop, "PRINT_SECONDS", 0)
    text = SEGMENTER + " --steps 4 --tensorboard {t}/board"
    train_segmenter.run(command(text, data=write(tmp_path / "data"), out=tmp_path / "s.pt", t=tmp_path))
    events = EventAccumulator(str(tmp_path / "board")).Reload()
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3, 4]
    assert max(event.value for event in events.Scalars("learning_rate")) <= 0.01


def test_rotation_scores_every_image_by_a_refiner_that_never_saw_it(bundle, tmp_path, monkeypatch):
    seen = []
    original = train_refiner.fit

    def fit(options, sets, frozen, scenes, step):
        seen.append([id(scene) for scene in scenes])
        return original(options, sets, frozen, scenes, step)

    monkeypatch.setattr(train_refiner, "fit", fit)
    text = "rotation {d}/data --segmenter {d}/seg.pt --planes 4,8 --crop 64x64 --batch 2 --alpha 0.2 --steps 12 "
    text += "--learning-rate 0.01 --threads 1 --limit 3 --out {t}/turn --json {t}/rotation.json"
    figures = cli.rotation.run(command(text, d=bundle, t=tmp_path))
    everyone = set().union(*seen)
    assert len(everyone) == 3 and sorted(len(one) for one in seen) == [2, 2, 2]
    assert len({frozenset(everyone - set(one)) for one in seen}) == 3
    assert set(figures["images"]) == {"s0", "s1", "s2"} and (tmp_path / "turn.2.pt").is_file()
    assert figures["pooled"]["miou"]["refined"] > figures["pooled"]["miou"]["coarse"]
