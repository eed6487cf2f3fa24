import numpy as np
import pytest
from PIL import Image

from tests.conftest import draw_folder
from volo.data.cache import cached
from volo.data.imagefolder import ImageFolder, read_image
from volo.errors import InputError

RED = np.full((20, 20, 3), (255, 0, 0), dtype=np.uint8)


def saved(tmp_path, image: Image.Image, name: str, **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("mode", "name"),
    [("RGB", "a.png"), ("RGB", "a.bmp"), ("P", "a.gif"), ("CMYK", "a.jpg"), ("RGBA", "a.webp"), ("RGB", "a.tiff")],
)
def test_any_mode_and_format_becomes_rgb(tmp_path, mode, name):
    file = saved(tmp_path, Image.fromarray(RED).convert(mode), name)
    image = read_image(file, 8)
    assert image.shape == (8, 8, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - [254, 0, 0]).max() <= 4


def test_sixteen_bit_grey_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = read_image(saved(tmp_path, Image.fromarray(ramp), "a.png"), 8)
    assert np.abs(image[..., 0] - ramp / 257).max() <= 1


def test_transparency_lies_on_white(tmp_path):
    clear = Image.fromarray(np.zeros((8, 8, 4), dtype=np.uint8))
    assert (read_image(saved(tmp_path, clear, "a.png"), 8) == 255).all()


def test_an_image_on_its_side_is_turned_upright(tmp_path):
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    pixels[0] = 255
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    image = read_image(saved(tmp_path, Image.fromarray(pixels), "a.png", exif=exif), 8)
    assert (image[-1] == 255).all()
    assert (image[0] == 0).all()


def test_crop_keeps_the_middle_and_squash_keeps_all(tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    file = saved(tmp_path, Image.fromarray(wide), "a.png")
    assert (read_image(file, 8, "crop") == 255).all()
    assert read_image(file, 24, "squash")[12, 0, 0] == 0


@pytest.mark.parametrize("size", [(1, 1), (2000, 3)])
def test_odd_shapes_are_read(tmp_path, size):
    assert read_image(saved(tmp_path, Image.new("RGB", size, "red"), "a.png"), 16).shape == (16, 16, 3)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken"])
def test_an_unreadable_file_is_named(tmp_path, content):
    file = tmp_path / "broken.png"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"every image must be readable, got .*broken\.png"):
        read_image(file, 8)


def test_a_truncated_file_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    file = saved(tmp_path, Image.fromarray(noise), "cut.jpg")
    file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"cut\.jpg"):
        read_image(file, 8)


def test_classes_are_the_sorted_folders_and_other_files_are_passed_over(folder):
    (folder / "train" / "cat" / "notes.txt").write_text("no image")
    (folder / "train" / ".hidden").mkdir()
    source = ImageFolder(folder, "train", 32)
    assert source.class_names == ("cat", "dog")
    assert np.bincount(source.labels).tolist() == [40, 40]


def test_missing_folders_and_empty_classes_are_refused(folder):
    with pytest.raises(InputError, match="must hold val/<class>/<images>"):
        ImageFolder(folder, "val", 32)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(InputError, match=r"a class must hold an image, got none in .*empty"):
        ImageFolder(folder, "train", 32)
    (folder / "test2").mkdir()
    with pytest.raises(InputError, match="a split must hold a folder for each class"):
        ImageFolder(folder, "test2", 32)


def test_the_cache_holds_what_was_decoded_and_sees_a_changed_file(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": {"a": 3, "b": 2}})
    source = ImageFolder(folder, "train", 16)
    first = cached(source)
    assert np.array_equal(first.images, source.decode(0, 5))
    Image.fromarray(RED).save(folder / "train" / "a" / "0000.png")
    second = cached(ImageFolder(folder, "train", 16))
    assert (second.images[0] == RED[:16, :16]).all()
