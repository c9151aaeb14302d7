"""Reading scenes, the errors that name what is wrong, and the way from pixels to cells."""

import json

import numpy as np
import pytest
from PIL import Image
from scenes import write

from sparse_refine_training import cli
from sparse_refine_training.data import DataError, Dataset, Grid


def relabel(folder, change):
    path = folder / "labels" / "s0.png"
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def set_value(value):
    def change(label):
        label[0, 0] = value
        return label

    return change


def test_reads_scenes_in_order(tmp_path):
    data = Dataset.open(write(tmp_path))
    assert [scene.name for scene in data.scenes] == ["s0", "s1", "s2", "s3"]
    image, label = data.scenes[0].read(3)
    assert image.shape == (64, 96, 3) and label.shape == (64, 96)
    (tmp_path / "list.txt").write_text("s2\ns0\n")
    assert [scene.name for scene in Dataset.open(tmp_path).scenes] == ["s2", "s0"]


def test_ignored_pixels_are_allowed(tmp_path):
    relabel(write(tmp_path), set_value(255))
    assert Dataset.open(tmp_path).scenes[0].read(3)[1][0, 0] == 255


@pytest.mark.parametrize(
    "change, message",
    [
        (set_value(3), r"label values \[3\] are neither 0 to 2 nor 255.*s0.png"),
        (lambda label: label[:, :50].copy(), r"labels are 50x64, the image is 96x64.*s0.png"),
        (lambda label: np.stack([label] * 3, 2), r"one channel, this is mode RGB.*s0.png"),
    ],
)
def test_wrong_labels_are_errors(tmp_path, change, message):
    relabel(write(tmp_path), change)
    with pytest.raises(DataError, match=message):
        Dataset.open(tmp_path).scenes[0].read(3)


def test_wrong_folders_are_errors(tmp_path):
    with pytest.raises(DataError, match="no folder `images`"):
        Dataset.open(tmp_path)
    write(tmp_path)
    (tmp_path / "list.txt").write_text("s9")
    with pytest.raises(DataError, match="`s9`"):
        Dataset.open(tmp_path)
    (tmp_path / "list.txt").unlink()
    (tmp_path / "labels" / "s1.png").unlink()
    with pytest.raises(DataError, match="s1.png has no labels"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.update(num_classes=4), "num_classes is 4, 3 classes are listed"),
        (lambda c: c["classes"][1].update(id=7), r"found \[0, 7, 2\]"),
    ],
)
def test_wrong_classes_are_errors(tmp_path, change, message):
    path = write(tmp_path) / "classes.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        Dataset.open(tmp_path)


def test_grid_of_an_8_mp_camera():
    grid = Grid.pad((2160, 3840), (544, 960))
    assert grid.ratio == 4 and grid.canvas == (2176, 3840)


def test_shrink_is_the_mean_of_the_pixels_in_a_cell():
    image = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    cells = Grid.pad((3, 4), (3, 2)).shrink(image, (100, 101, 102))
    assert cells.shape == (3, 3, 2)
    assert cells[1, 0, 1] == image[:2, 2:, 1].mean()
    assert cells[2, 1, 0] == image[2, :2, 2].mean()
    assert cells[:, 2, 1].tolist() == [100, 101, 102]


@pytest.mark.parametrize("camera, size", [((7, 9), (3, 4)), ((6, 10), (4, 10)), ((5, 4), (5, 3))])
def test_shrink_weighs_pixels_that_cells_share(camera, size):
    """Against enlarging both until cells and pixels are whole."""
    image = np.random.default_rng(0).integers(0, 256, (*camera, 3), dtype=np.uint8)
    cells = Grid.stretch(camera, size).shrink(image, (0, 0, 0))
    large = image.astype(np.float64).repeat(size[0], 0).repeat(size[1], 1)
    expected = large.reshape(size[0], camera[0], size[1], camera[1], 3).mean((1, 3))
    np.testing.assert_allclose(cells.transpose(1, 2, 0), expected, atol=1e-3)


def test_pixels_find_their_cells_at_uneven_ratios():
    rows, columns = Grid.stretch((7, 10), (3, 4)).cells()
    assert rows.tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert columns.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]


def test_camvid_layout_and_its_ignored_value(tmp_path):
    flat = write(tmp_path / "source")
    (flat / "images").rename(tmp_path / "train")
    (flat / "labels").rename(tmp_path / "trainannot")
    content = json.loads((flat / "classes.json").read_text())
    (tmp_path / "classes.json").write_text(json.dumps({**content, "ignore_id": 11}))
    path = tmp_path / "trainannot" / "s0.png"
    label = np.array(Image.open(path))
    label[0, :5] = 11
    Image.fromarray(label).save(path)
    data = Dataset.open(tmp_path / "train")
    assert len(data.scenes) == 4
    assert data.scenes[0].read(3)[1][0, :6].tolist() == [255] * 5 + [label[0, 5]]


def test_shares_count_labelled_pixels():
    label = np.array([[0, 1, 2, 2], [1, 1, 2, 255]], np.uint8)
    shares = Grid.pad((2, 4), (1, 2)).shares(label, 3)
    assert shares[:, 0, 0].tolist() == [63, 191, 0]
    assert shares[:, 0, 1].tolist() == [0, 0, 191]


def test_relabel_maps_names_and_ignores_the_rest(tmp_path):
    data, like = write(tmp_path / "data"), write(tmp_path / "like")
    content = json.loads((like / "classes.json").read_text())
    content["classes"][2]["name"] = "thing"
    (like / "classes.json").write_text(json.dumps(content))
    (tmp_path / "map.json").write_text('{"class0": "class0", "class1": "thing"}')
    text = f"relabel {data} {tmp_path}/out --like {like} --map {tmp_path}/map.json --every 2"
    assert cli.main(text.split()) == 0
    before, after = Dataset.open(data).scenes[2].read(3), Dataset.open(tmp_path / "out").scenes[1].read(3)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(after[1], np.array([0, 2, 255], np.uint8)[before[1]])
    (tmp_path / "map.json").write_text('{"class7": "thing"}')
    assert cli.main(text.split()) == 2
