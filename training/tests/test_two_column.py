"""The two columns: tiles against the whole image, fusion, losses, pruning, and the stages on tiny nets and pictures."""

import json

import pytest
import torch
from scenes import write
from torch import nn

from sparse_refine_training import cli, loop, segmenter, train_two_column
from sparse_refine_training.train_two_column import STEERING, load_two_column, steer
from sparse_refine_training.two_column import (
    Tiles,
    TwoColumn,
    area_penalty,
    bernoulli_kl,
    bilinear,
    binary_concrete,
    binary_entropy,
    deployed,
    fuse,
    macs,
    prune_unit,
)


WIDTHS = (4, 4, 6, 6)


def tiny(**options):
    """Every term at work: no statistics, shifts or cross weights that are 0."""
    model = TwoColumn(3, WIDTHS, decoder=4, **options).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
                module.bias.uniform_(-0.3, 0.3, generator=generator)
        model.cross.weight.uniform_(-0.5, 0.5, generator=generator)
    return model


def picture(height=96, width=160):
    # Blocks, so that the weights differ from cell to cell.
    blocks = torch.randn(1, 3, height // 16, width // 16)
    return nn.functional.interpolate(blocks, scale_factor=16.0) + 0.3 * torch.randn(1, 3, height, width)


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("height, width", [(64, 2304), (2304, 64)])
def test_tiles_with_enough_halo_are_the_whole_image(height, width, cross):
    model, image = tiny(), picture(height, width)
    # Radius of a column in px: 1 and 2 to stride 4, 2*4, 4, 2*8, 8, 2*2*16 and 2*4*16 at stride 16, then at most 16, 8, 8
    # and 4 on the way back.
    tiles = Tiles(height, width, 32, 272, 8)
    with torch.no_grad():
        features, coarse, logits = model.run_coarse(image)
        whole = model.run_fine(image, features if cross else None)
        chosen = [0, len(tiles.cores) // 2, len(tiles.cores) - 1]
        if tiles.rho(len(chosen)) >= 1:
            chosen = chosen[-1:]
        scores = tiles.run(model, image, features if cross else None, chosen)
    seen = torch.zeros_like(scores, dtype=torch.bool)
    for index in chosen:
        y, x, h, w = (value // 4 for value in tiles.cores[index])
        seen[:, :, y : y + h, x : x + w] = True
    assert 0 < seen.float().mean() < 1
    torch.testing.assert_close(scores[seen], whole[seen], rtol=1e-4, atol=1e-4)
    assert (scores[~seen] == 0).all()


def test_tiles_cover_the_canvas_once_like_the_products():
    for tile, halo in [(32, 16), (48, 16), (16, 0), (160, 0), (320, 16)]:
        tiles, seen = Tiles(96, 160, tile, halo, 16), torch.zeros(96, 160)
        for (y, x, h, w), (top, left) in zip(tiles.cores, tiles.origins):
            seen[y : y + h, x : x + w] += 1
            assert top <= max(y - halo, 0) and left <= max(x - halo, 0)
            assert top + tiles.window[0] >= min(y + h + halo, 96) and left + tiles.window[1] <= 160
        assert (seen == 1).all()
    assert Tiles(96, 160, 32, 16, 16).rho(2) == 2 * 64 * 64 / (96 * 160)
    with pytest.raises(ValueError, match="multiples of a cell"):
        Tiles(96, 160, 24, 16, 16)


def test_thresholds_outside_the_weights():
    model, image, tiles = tiny(), picture(), Tiles(96, 160, 32, 16, 8)
    with torch.no_grad():
        scores, coarse, _, rho = deployed(model, image, tiles, 1.0, False)
        torch.testing.assert_close(scores, bilinear(coarse, 2), rtol=0, atol=0)
        assert rho == 0
        everywhere = deployed(model, image, tiles, -1.0, False)
        dense = deployed(model, image, tiles, None, False)
    torch.testing.assert_close(everywhere[0], dense[0])
    assert everywhere[3] == dense[3] == 1


def test_the_sum_weighs_both_columns_equally():
    model, image, tiles = tiny(fusion="sum"), picture(), Tiles(96, 160, 32, 16, 8)
    with torch.no_grad():
        scores, coarse, weights, _ = deployed(model, image, tiles, None, False)
        fine = model.run_fine(image)
    assert (weights == 0.5).all()
    torch.testing.assert_close(scores, (bilinear(coarse, 2) + fine) / 2)


def test_fusion_by_hand():
    coarse, fine = torch.full((1, 1, 2, 2), 2.0), torch.arange(16.0).view(1, 1, 4, 4)
    gate = torch.tensor([[0.25, 0.0], [1.0, 0.5]]).view(1, 1, 2, 2)
    wanted = [1.5, 1.75, 2, 2, 2.5, 2.75, 2, 2, 8, 9, 6, 6.5, 12, 13, 8, 8.5]
    assert fuse(coarse, fine, gate, 2).flatten().tolist() == wanted


def test_cross_connections_start_at_nothing():
    model, image, tiles = tiny(), picture(), Tiles(96, 160, 32, 16, 8)
    nn.init.zeros_(model.cross.weight)
    with torch.no_grad():
        sctf, isctf = (deployed(model, image, tiles, 0.4, cross)[0] for cross in (False, True))
    assert torch.equal(sctf, isctf)


@pytest.mark.parametrize(
    "loss",
    [lambda m: area_penalty(m, 0.3), binary_entropy, lambda m: bernoulli_kl(m, 0.3)],
    ids=["area", "entropy", "kl"],
)
def test_gradients_of_the_sparsity_losses_by_differences(loss):
    logits = torch.randn(2, 1, 3, 4, dtype=torch.float64, requires_grad=True)
    noise = torch.rand(2, 1, 3, 4, dtype=torch.float64)

    def value(x):
        return loss(binary_concrete(x, noise))

    value(logits).backward()
    step = 1e-6
    assert logits.grad.abs().max() > 1e-4
    for index in range(logits.numel()):
        shift = torch.zeros(logits.numel(), dtype=torch.float64)
        shift[index] = step
        shift = shift.view_as(logits)
        with torch.no_grad():
            difference = (value(logits + shift) - value(logits - shift)) / (2 * step)
        assert abs(difference - logits.grad.flatten()[index]) < 1e-7


def test_the_area_penalty_is_per_image_and_one_sided():
    m = torch.stack([torch.full((1, 2, 2), 0.1), torch.full((1, 2, 2), 0.7)])
    assert float(area_penalty(m, 0.2)) == pytest.approx(0.5**2 / 2)
    assert float(area_penalty(m, 0.7)) == pytest.approx(0, abs=1e-12)


def test_the_cells_of_a_tile_share_the_mean_of_their_logits():
    cells, tiles = tiny(), tiny(pool=4)
    tiles.load_state_dict(cells.state_dict())
    image = picture()
    with torch.no_grad():
        each, shared = (model.run_coarse(image)[2] for model in (cells, tiles))
    assert each.shape == shared.shape == (1, 1, 12, 20)
    mean = each.view(3, 4, 5, 4).mean((1, 3))
    torch.testing.assert_close(shared.view(3, 4, 5, 4), mean[:, None, :, None].expand(3, 4, 5, 4))
    assert mean.std() > 0


def test_the_bias_of_the_map_follows_the_budget():
    model, facts = tiny(), {"threshold": 0.5}
    weights = torch.tensor([0.7, 0.9, 0.3, 0.1]).view(1, 1, 2, 2)  # half of the cells are open
    before = model.map[-1].bias.item()
    for area, moved in ((0.5, 0.0), (0.1, -0.4), (1.0, 0.5)):
        model.map[-1].bias.data.fill_(before)
        steer(model, weights, area, facts)
        assert model.map[-1].bias.item() - before == pytest.approx(STEERING * moved, abs=1e-6)


UNITS = ("stage4.1", "stage8.1", "stage16.1", "stage16.2")


def test_pruning_removes_the_unit_that_is_missed_least():
    model, image = tiny(), picture()
    assert model.units() == [f"{c}.{u}" for c in ("coarse", "fine") for u in UNITS]
    for name in model.units():
        nn.init.constant_(model.get_submodule(name).second[1].bias, 3.0)
    # This one does nothing: what it adds is 0.
    nothing = model.fine.stage16[2].second[1]
    nn.init.zeros_(nothing.weight)
    nn.init.zeros_(nothing.bias)
    with torch.no_grad():
        before = model(image)

    def loss():
        return sum((now - then).square().mean() for now, then in zip(model(image), before))

    name, value = prune_unit(model, loss)
    assert name == "fine.stage16.2" and value < 1e-10
    assert name not in model.units() and len(model.units()) == 2 * len(UNITS) - 1
    again = tiny(removed=[name])
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        for one, other in zip(again(image), model(image)):
            assert torch.equal(one, other)


def test_multiply_accumulates_by_hand():
    model = TwoColumn(3, WIDTHS, decoder=4)
    heads = (4 * 4 * 9 + 4) / 16
    size = (64, 96)
    column = segmenter.macs(model.fine, size)
    coarse, fine = macs(model, size)
    assert fine == column and coarse == segmenter.macs(model.coarse, (32, 48)) + heads * 64 * 96 / 4
    crossed = macs(model, size, cross=True)
    assert crossed[1] - fine == 4 * 4 * (64 // 8) * (96 // 8), "one connection, on the cells"
    gone = 2 * 6 * 6 * 9 * (64 // 16) * (96 // 16)
    assert macs(TwoColumn(3, WIDTHS, 4, removed=["fine.stage16.1"]), size)[1] == fine - gone


def test_the_stages_train_and_the_bundle_says_what_it_is(tmp_path):
    data = write(tmp_path / "scenes", size=(60, 96))
    common = ["--steps", "2", "--threads", "1", "--batch", "2", "--crop", "64x64", "--tile", "32", "--halo", "16"]
    shape = ["--size", "96x64", "--widths", "4,4,6,6", "--decoder", "4"]

    def train(stage, init=None, *more):
        out = tmp_path / f"{stage}.pt"
        start = ["--init", str(init)] if init else shape
        arguments = ["two-column", str(data), "--stage", stage, "--out", str(out), *start, *common, *more]
        assert cli.main(arguments) == 0
        return out

    ctf = train("ctf")
    sctf = train("sctf", ctf)
    isctf = train("isctf", train("uncrop", sctf))
    pruned = train("prune", isctf)
    facts = {path.stem: load_two_column(path)[1] for path in (ctf, sctf, isctf, pruned)}
    assert [facts[stage]["configuration"] for stage in ("ctf", "sctf", "isctf")] == ["ctf", "sctf", "isctf"]
    assert facts["isctf"]["total"][0] == 8, "the steps of all stages"
    assert len(facts["prune"]["removed"]) == 1 and facts["prune"]["total"][0] == 10
    train("sctf", ctf, "--area", ".2,.4")
    assert load_two_column(tmp_path / "sctf_a40.pt")[1]["area"] == 0.4

    # Interrupted between the two: the first is there, the second begins.
    (tmp_path / "sctf_a40.pt").unlink()
    assert train("sctf", ctf, "--area", ".2,.4", "--steps", "3", "--resume")
    for share in (20, 40):
        _, facts = load_two_column(tmp_path / f"sctf_a{share}.pt")
        assert facts["area"] == share / 100 and facts["total"][0] == 5

    assert cli.main(["two-column-evaluate", str(data), str(isctf), "--json", str(tmp_path / "figures.json")]) == 0
    (row,) = json.loads((tmp_path / "figures.json").read_text())
    assert 0 <= row["rho"] <= 1 and row["coarse_gmac"] <= row["gmac"] <= row["twin_gmac"]

    pytest.importorskip("torch.onnx")
    assert cli.main(["two-column-export", str(tmp_path / "tiny"), str(isctf)]) == 0
    text = (tmp_path / "tiny" / "model.toml").read_text()
    for line in ('method = "spatial_sparsity"', 'configuration = "isctf"', "feature_channels = 4", "size = [48, 32]"):
        assert line in text


def test_a_stage_without_its_checkpoint_is_an_error(tmp_path, capsys):
    data = write(tmp_path / "scenes", size=(64, 96))
    arguments = ["two-column", str(data), "--stage", "sctf", "--out", str(tmp_path / "x.pt"), "--size", "96x64"]
    assert cli.main(arguments) == 2
    assert "give --init" in capsys.readouterr().err


def test_the_budget_goes_on_where_a_resumed_stage_stopped(tmp_path, monkeypatch):
    data, seen = write(tmp_path / "scenes", size=(64, 96)), []
    common = ["two-column", str(data), *"--threads 1 --batch 1 --crop 64x64 --tile 32 --halo 16".split()]
    shape = "--stage ctf --size 96x64 --widths 4,4,6,6 --decoder 4 --steps 1".split()
    assert cli.main([*common, *shape, "--out", str(tmp_path / "ctf.pt")]) == 0
    original = train_two_column.annealed

    def watched(area, progress):
        seen.append(progress)
        return original(area, progress)

    monkeypatch.setattr(train_two_column, "annealed", watched)
    sctf = [*common, "--stage", "sctf", "--init", str(tmp_path / "ctf.pt"), "--out", str(tmp_path / "sctf.pt")]
    assert cli.main([*sctf, "--steps", "4"]) == 0
    assert cli.main([*sctf, "--steps", "8", "--resume"]) == 0
    assert seen == [0, 0.25, 0.5, 0.75, 0.5, 0.625, 0.75, 0.875]


def test_columns_start_from_trained_segmenters(tmp_path, capsys):
    data = write(tmp_path / "scenes", size=(64, 96))
    common = ["--threads", "1", "--batch", "1", "--crop", "64x64", "--size", "96x64", "--steps", "1"]
    assert cli.main(["segmenter", str(data), "--out", str(tmp_path / "seg.pt"), *common]) == 0
    columns = ["--coarse", str(tmp_path / "seg.pt"), "--fine", str(tmp_path / "seg.pt")]
    arguments = ["two-column", str(data), "--tile", "32", "--halo", "16", "--learning-rate", "0", *common, *columns]
    assert cli.main([*arguments, "--out", str(tmp_path / "ctf.pt")]) == 0
    started, trained = (loop.load_checkpoint(tmp_path / name)["model"] for name in ("ctf.pt", "seg.pt"))
    for name, value in trained.items():
        if value.is_floating_point() and "running" not in name:
            assert torch.equal(started[f"coarse.{name}"], value) and torch.equal(started[f"fine.{name}"], value)
    assert cli.main([*arguments, "--out", str(tmp_path / "x.pt"), "--decoder", "8"]) == 2
    assert "--coarse: not of the widths of this column" in capsys.readouterr().err
