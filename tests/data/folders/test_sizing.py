"""The size to train on, where nobody names one, is that of the photographs."""

import pytest
from PIL import Image

from tests.conftest import draw_folder
from volo.cli.parse import parse_settings
from volo.data.folders.sizing import chosen_size
from volo.data.packed.packing import pack
from volo.log import LOGGER


def settings_of(folder, *flags):
    argv = ["--dataset", "imagefolder", "--data-dir", str(folder), *flags]
    return parse_settings(argv, prog="volo train", description="")


@pytest.fixture
def said(monkeypatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(LOGGER, "info", lambda text, *args: lines.append(text % args if args else text))
    return lines


def photos(tmp_path, *sizes):
    """A folder of photographs of these widths and heights, in two classes."""
    for number, size in enumerate(sizes):
        place = tmp_path / "photos" / "train" / ("cat", "dog")[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise(size, 30).convert("RGB").save(place / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(32, 32)] * 4, 32),
        ([(8, 8)] * 4, 32),
        ([(500, 375)] * 4, 224),
        ([(100, 140), (140, 128), (30, 40), (200, 300)], 96),  # the median is 114
        ([(128, 128)] * 3 + [(20, 20)], 128),
        ([(300, 100)] * 4, 96),
    ],
)
def test_the_largest_size_that_half_of_the_shorter_sides_reach_is_chosen(tmp_path, sizes, expected):
    folder = photos(tmp_path, *sizes)
    assert chosen_size(str(folder)) == expected


def test_of_many_classes_the_first_alone_does_not_decide(tmp_path):
    for number in range(200):
        place = tmp_path / "photos" / "train" / f"{number:03}"
        place.mkdir(parents=True)
        Image.new("RGB", (32, 32) if number < 10 else (128, 128)).save(place / "a.png")
    assert chosen_size(str(tmp_path / "photos")) == 128


def test_a_command_takes_it_with_patches_that_fit_and_says_so(tmp_path, said):
    folder = photos(tmp_path, *[(500, 375)] * 4)
    settings = settings_of(folder, "--model", "nano")
    assert settings.data.image_size == 224
    assert settings.model.resolved().patch_size == 16
    assert settings.model.resolved().stem_channels == (16, 48, 96)
    assert any("images are used at 224 pixels in patches of 16" in line for line in said)
    assert settings_of(folder, "--model", "volo_d1").model.resolved().patch_size == 8


def test_under_torchrun_the_first_rank_alone_says_so(tmp_path, said, monkeypatch):
    folder = photos(tmp_path, *[(500, 375)] * 4)
    for rank, times in (("1", 0), ("0", 1)):
        monkeypatch.setenv("RANK", rank)
        assert settings_of(folder).data.image_size == 224
        assert sum("images are used at 224" in line for line in said) == times


@pytest.mark.parametrize("flags", [["--image-size", "64"], ["--recipe", "photos"]])
def test_a_size_that_is_given_counts(tmp_path, said, flags):
    folder = photos(tmp_path, *[(500, 375)] * 4)
    assert settings_of(folder, *flags).data.image_size == (64 if flags[1] == "64" else 128)
    assert not [line for line in said if "images are used at" in line]


def test_patches_that_are_given_count(tmp_path):
    folder = photos(tmp_path, *[(128, 128)] * 4)
    settings = settings_of(folder, "--patch-size", "32")
    assert (settings.data.image_size, settings.model.resolved().patch_size) == (128, 32)


def test_packed_images_have_the_size_of_their_folder(tmp_path):
    folder = photos(tmp_path, *[(128, 128)] * 4)
    pack(folder, tmp_path / "packed", 10**6)
    assert chosen_size(str(tmp_path / "packed")) == 128
    assert settings_of(tmp_path / "packed").data.image_size == 128


def test_a_folder_that_is_not_there_is_left_to_what_opens_it(tmp_path):
    assert settings_of(tmp_path / "none").data.image_size == 32
    (tmp_path / "empty").mkdir()
    assert settings_of(tmp_path / "empty").data.image_size == 32
    small = draw_folder(tmp_path / "small", {"train": {"cat": 2, "dog": 2}})
    assert settings_of(small).data.image_size == 32
