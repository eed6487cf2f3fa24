"""What stands out in a folder is said before a training that would be disappointing."""

import pytest

from tests.conftest import draw_folder
from volo.data.folders.imagefolder import ImageFolder


def notes(root, image_size: int) -> str:
    return "; ".join(ImageFolder(root, "train", image_size).notes)


@pytest.mark.parametrize(
    ("pixels", "image_size", "said"),
    [
        (
            120,
            32,
            "half of the images have 120 pixels or more on the shorter side, of which 32 remain; --image-size 96, say",
        ),
        (70, 32, "of which 32 remain; --image-size 64, say, would keep more of them"),
        (500, 224, "half of the images have 500 pixels or more on the shorter side, of which 224 remain"),
        (20, 32, "half of the images have 20 pixels or fewer on the shorter side, enlarged to 32"),
        (60, 32, ""),
        (32, 32, ""),
    ],
)
@pytest.mark.parametrize("splits", [("train", "test"), ("",)], ids=["splits", "class folders alone"])
def test_sizes_that_do_not_fit_are_said_with_a_better_one(tmp_path, pixels, image_size, said, splits):
    root = draw_folder(tmp_path, {split: {"cat": 4, "dog": 4} for split in splits}, size=pixels)
    found = notes(root, image_size)
    assert said in found if said else "shorter side" not in found
    assert ("--image-size" in found) == ("--image-size" in said)


def test_a_few_odd_files_do_not_count_and_damaged_ones_do_not_stop_it(tmp_path):
    root = draw_folder(tmp_path, {"train": {"cat": 6, "dog": 6}}, size=40)
    draw_folder(tmp_path / "more", {"train": {"cat": 1}}, size=400)
    (tmp_path / "more" / "train" / "cat" / "0000.png").rename(root / "train" / "cat" / "large.png")
    (root / "train" / "dog" / "0000.png").write_bytes(b"no image")
    assert "shorter side" not in notes(root, 32)


def test_classes_of_very_different_sizes_are_named(tmp_path):
    root = draw_folder(tmp_path, {"train": {"cat": 3, "dog": 15, "owl": 9}})
    assert "classes are uneven: 3 images of 'cat', 15 of 'dog'" in notes(root, 32)
    (root / "train" / "dog" / "0000.png").unlink()
    assert "uneven" not in notes(root, 32)
