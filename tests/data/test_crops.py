"""Random-resized crops: the boxes that torchvision draws, and the pixels that Pillow gives."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import RandomResizedCrop

from volo.data.crops import Cut, random_box, resized
from volo.data.epoch import NUM_CROP_DRAWS
from volo.data.folders.image import Unreadable, read_image

AREA, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)


def draws(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((count, NUM_CROP_DRAWS), dtype=np.float32)


@pytest.mark.parametrize("size", [(500, 375), (40, 300), (1000, 90), (1, 1)])
@pytest.mark.parametrize("area", [AREA, (0.5, 0.5), (1.0, 1.0)])
def test_every_box_lies_in_the_image(size, area):
    for row in draws(300):
        left, top, width, height = random_box(*size, row, area, RATIO)
        assert left >= 0 and top >= 0 and width >= 1 and height >= 1
        assert left + width <= size[0] and top + height <= size[1]


def test_boxes_are_distributed_as_torchvisions():
    """Share of the area, ratio, and place: quantiles of 4,000 boxes each."""
    width, height, count = 500, 375, 4000
    ours = np.array([random_box(width, height, row, AREA, RATIO) for row in draws(count)], float)
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    drawn = [RandomResizedCrop.get_params(image, list(AREA), list(RATIO)) for _ in range(count)]
    theirs = np.array([(left, top, w, h) for top, left, h, w in drawn], float)

    def described(boxes: np.ndarray) -> np.ndarray:
        left, top, w, h = boxes.T
        return np.stack([w * h / (width * height), np.log(w / h), (left + w / 2) / width, (top + h / 2) / height])

    quantiles = np.linspace(0.1, 0.9, 9)
    found, expected = (np.quantile(described(boxes), quantiles, axis=1) for boxes in (ours, theirs))
    assert np.abs(found - expected).max() < 0.03


def test_an_image_too_long_for_any_box_is_cut_in_its_center():
    assert random_box(1000, 90, draws(1)[0], (0.9, 1.0), RATIO) == (440, 0, 120, 90)
    assert random_box(90, 1000, draws(1)[0], (0.9, 1.0), RATIO) == (0, 440, 90, 120)


@pytest.mark.parametrize("size", [8, 24, 64])
def test_resizing_is_pillows_to_within_one_level(size):
    pixels = np.random.default_rng(0).integers(0, 256, (41, 37, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC))
    assert np.abs(resized(pixels, size).astype(int) - expected).max() <= 1


def smooth(width: int, height: int) -> Image.Image:
    """A photograph's kind of content: slow waves of color."""
    y, x = np.mgrid[:height, :width] / 40
    waves = np.stack([np.sin(x + y), np.cos(0.7 * x - 0.4 * y), np.sin(0.5 * x) * np.cos(y)], axis=-1)
    return Image.fromarray((128 + 100 * waves).astype(np.uint8))


def saved(image: Image.Image, path: Path, **options) -> str:
    image.save(path, **options)
    return str(path)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_file_gives_the_part_of_the_image_that_its_box_names(tmp_path, suffix):
    """Of a JPEG the larger parts are decoded at a fraction of the size, which changes them little."""
    file = saved(smooth(600, 400), tmp_path / f"a.{suffix}")
    whole, cut = np.asarray(Image.open(file)), Cut(48, AREA, RATIO)
    for row in draws(20):
        left, top, width, height = random_box(600, 400, row, AREA, RATIO)
        expected = resized(whole[top : top + height, left : left + width], 48).astype(int)
        found = cut.of_file(file, row)
        assert found.shape == (48, 48, 3) and found.dtype == np.uint8
        assert np.abs(found - expected).mean() < (2 if suffix == "jpg" else 1e-9)
        assert np.array_equal(cut.of_pixels(whole, row), expected)


def test_large_photographs_are_decoded_at_a_fraction_of_their_size(tmp_path, monkeypatch):
    file, sizes, cut = saved(smooth(1600, 1200), tmp_path / "a.jpg"), [], Cut(64, (0.9, 1.0), RATIO)
    load = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda image, *a, **k: sizes.append(image.size) or load(image, *a, **k))
    cut.of_file(file, draws(1)[0])
    assert sizes == [(200, 150)]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_boxes_are_those_of_the_upright_image(tmp_path, orientation):
    """The same picture, stored in each of the ways that cameras do, gives the same parts."""
    turned = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # what EXIF asks to undo
    upright = smooth(320, 200)
    stored = upright if turned is None else upright.transpose(Image.Transpose(turned))
    exif = Image.Exif()
    exif[274] = orientation
    file = saved(stored, tmp_path / "a.jpg", exif=exif, quality=95)
    plain = saved(upright, tmp_path / "b.jpg", quality=95)
    cut = Cut(32, (0.2, 0.6), RATIO)
    for row in draws(5):
        assert np.abs(cut.of_file(file, row).astype(int) - cut.of_file(plain, row)).mean() < 2


@pytest.mark.parametrize("mode", ["L", "CMYK", "RGBA", "P", "I;16"])
def test_any_mode_is_cut_as_it_is_read(tmp_path, mode):
    image = smooth(60, 60).convert("L") if mode == "I;16" else smooth(60, 60).convert(mode)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    file = saved(image, tmp_path / ("a.jpg" if mode == "CMYK" else "a.png"))
    whole = Cut(60, (1.0, 1.0), (1.0, 1.0)).of_file(file, draws(1)[0])
    assert np.array_equal(whole, read_image(file, 60))


def test_without_an_area_images_are_as_they_are_decoded(tmp_path):
    file = saved(smooth(60, 40), tmp_path / "a.png")
    assert np.array_equal(Cut(16, crop_pct=0.8).of_file(file, draws(1)[0]), read_image(file, 16, "crop", 0.8))


def test_crop_pct_is_the_share_of_the_shorter_side():
    image = Image.fromarray(np.kron(np.arange(100, dtype=np.uint8)[None, :, None], np.ones((50, 1, 3), np.uint8)))
    file_like = np.asarray(image)
    assert file_like.shape == (50, 100, 3)
    from volo.data.folders.image import fit_image

    for pct in (1.0, 0.5):
        row = fit_image(image, 10, "crop", pct)[5, :, 0].astype(float)
        assert row.mean() == pytest.approx(49.5, abs=0.6)
        assert row[-1] - row[0] == pytest.approx(0.9 * 50 * pct, abs=1.5)


def test_an_unreadable_file_is_named(tmp_path):
    file = tmp_path / "a.jpg"
    saved(smooth(200, 200), file)
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(Unreadable, match=r"every image must be readable, got .*a\.jpg"):
        Cut(16, AREA, RATIO).of_file(str(file), draws(1)[0])


def test_areas_are_uniform_in_their_range():
    shares = [w * h / 90_000 for _, _, w, h in (random_box(300, 300, row, (0.2, 0.4), (1, 1)) for row in draws(500))]
    assert math.isclose(np.mean(shares), 0.3, abs_tol=0.01) and min(shares) > 0.19 and max(shares) < 0.41
