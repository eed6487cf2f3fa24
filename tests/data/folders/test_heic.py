"""HEIC, as phones write it: read as any other image where pillow-heif is installed, otherwise counted and named."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pillow_heif import from_pillow

from tests.training.runs import losses, same, small_run, train, weights
from volo.data.crops import Cut
from volo.data.epoch import NUM_CROP_DRAWS
from volo.data.folders.formats import readable_suffixes
from volo.data.folders.image import SMALL, Unreadable, read_image
from volo.data.folders.imagefolder import ImageFolder
from volo.data.folders.judging import fitting_size

readable_suffixes()  # Pillow learns to write HEIC too
EXACT = dict(quality=-1, chroma=444, matrix_coefficients=0)  # nothing is rounded
ORIENTATION = 274  # the EXIF tag
WITHOUT = "import sys; sys.modules['pillow_heif'] = None; from volo.cli.main import main; main()"


def drawn(height: int = 48, width: int = 96, bands: int = 3) -> Image.Image:
    """Another color in each place, so that a turn, a shift or a mix-up of bands would be seen."""
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, bands), dtype=np.uint8)
    pixels[: height // 2, : width // 2, 0] = 255
    return Image.fromarray(pixels.squeeze())


def saved(image: Image.Image, path: Path, **more) -> str:
    image.save(path, **(EXACT if path.suffix == ".heic" else {}), **more)
    return str(path)


@pytest.mark.parametrize("bands", [1, 3, 4], ids=["gray", "color", "transparent"])
@pytest.mark.parametrize("resize", ["crop", "squash", SMALL])
def test_it_is_read_as_the_png_of_the_same_pixels(tmp_path, bands, resize):
    image = drawn(bands=bands)
    heic, png = (read_image(saved(image, tmp_path / name), 32, resize) for name in ("a.heic", "a.png"))
    assert np.array_equal(heic, png)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_upright_however_the_phone_was_held(tmp_path, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    files = [saved(drawn(), tmp_path / name, exif=exif.tobytes()) for name in ("a.heic", "a.png")]
    heic, png = (read_image(file, 32) for file in files)
    assert np.array_equal(heic, png)
    draws = np.random.default_rng(orientation).random(NUM_CROP_DRAWS)
    heic, png = (Cut(16, area=(0.2, 0.8)).of_file(file, draws) for file in files)
    assert np.array_equal(heic, png)


def test_of_several_images_the_one_that_its_owner_chose_is_read(tmp_path):
    burst = from_pillow(drawn(16, 16))
    burst.add_from_pillow(drawn(48, 96))
    burst.save(tmp_path / "a.heic", primary_index=1, **EXACT)
    expected = read_image(saved(drawn(48, 96), tmp_path / "a.png"), 32)
    assert np.array_equal(read_image(tmp_path / "a.heic", 32), expected)
    assert fitting_size([str(tmp_path / "a.heic")]) == 48


def test_a_thumbnail_beside_the_pixels_does_not_take_their_place(tmp_path):
    """Its size is no whole fraction of theirs."""
    photo = drawn(400, 600)
    files = [saved(photo, tmp_path / "a.heic", thumbnails=[130]), saved(photo, tmp_path / "a.png")]
    draws = np.random.default_rng(0).random(NUM_CROP_DRAWS)
    heic, png = (Cut(16, area=(0.9, 1.0)).of_file(file, draws) for file in files)
    assert np.array_equal(heic, png)
    assert np.array_equal(*(read_image(file, 32) for file in files))


def test_what_is_damaged_is_named(tmp_path):
    whole = Path(saved(drawn(), tmp_path / "a.heic")).read_bytes()
    for name, content in {"short": whole[: len(whole) // 2], "empty": b"", "other": b"no image" * 99}.items():
        (tmp_path / f"{name}.heic").write_bytes(content)
        with pytest.raises(Unreadable, match=f"every image must be readable, got .*{name}.heic"):
            read_image(tmp_path / f"{name}.heic", 32)


def converted(folder: Path) -> Path:
    """Every image as HEIC, in place of what it was."""
    for number, path in enumerate(sorted(folder.rglob("*.png"))):
        with Image.open(path) as image:
            image.save(path.with_suffix((".heic", ".HEIC", ".heif", ".hif")[number % 4]), "HEIF", **EXACT)
        path.unlink()
    return folder


def test_a_run_on_photographs_of_phones_ends_with_the_weights_of_one_on_their_pngs(tmp_path, folder):
    cut = dict(augment=dict(crop_area=(0.3, 1.0)), optim=dict(epochs=1), run=dict(num_readers=2))
    png = train(small_run(tmp_path / "png", folder, **cut))
    heic = train(small_run(tmp_path / "heic", converted(folder), **cut))
    assert same(weights(png), weights(heic)) and losses(png) == losses(heic)


def test_a_jpeg_that_was_renamed_is_read(folder):
    photo = folder / "train" / "cat" / "0000.png"
    with Image.open(photo) as image:
        image.save(photo, "JPEG")
    photo.rename(photo.with_suffix(".heic"))
    assert len(ImageFolder(folder, "train", 8).labels) == 80


def test_without_pillow_heif_they_are_counted_and_the_remedy_is_to_install_it(tmp_path, folder):
    converted(folder / "train" / "dog")
    flags = ["train", "--dataset", "imagefolder", "--data-dir", str(folder), "--num-workers", "0", "--output-dir"]
    command = [sys.executable, "-c", WITHOUT, *flags, str(tmp_path / "outputs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stdout + done.stderr
    assert f"got none in {folder}/train/dog but 20 .heic files (the first is" in done.stderr
    assert "install pillow-heif on every machine, which reads HEIC" in done.stderr
