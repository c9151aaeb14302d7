"""Reading scenes, the errors that name what is wrong, and the way from pixels to cells."""

import json

import numpy as np
import pytest
from PIL import Image
from scenes import write

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


def test_shrink_is_the_mean_of_blocks_padded_with_the_mean():
    image = np.arange(3 * 4 * 3, dtype=np.uint8).reshape(3, 4, 3)
    grid = Grid.pad((3, 4), (2, 2))
    cells = grid.shrink(image, (100, 101, 102))
    assert cells.shape == (3, 2, 2)
    assert cells[1, 0, 1] == image[:2, 2:, 1].mean()
    assert cells[2, 1, 0] == (image[2, :2, 2].sum() + 2 * 102) / 4


def test_shares_count_labelled_pixels():
    label = np.array([[0, 1, 2, 2], [1, 1, 2, 255]], np.uint8)
    shares = Grid.pad((2, 4), (1, 2)).shares(label, 3)
    assert shares[:, 0, 0].tolist() == [63, 191, 0]
    assert shares[:, 0, 1].tolist() == [0, 0, 191]
