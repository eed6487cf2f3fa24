import io
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import draw_folder
from volo.data.decoded.cache import cached
from volo.data.folders.image import fit_image, read_image
from volo.data.folders.imagefolder import ImageFolder, LabeledFolder
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


def test_sixteen_bit_gray_is_scaled_and_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    image = read_image(saved(tmp_path, Image.fromarray(ramp), "a.png"), 8)
    assert np.abs(image[..., 0] - ramp / 257).max() <= 1


def test_a_dark_sixteen_bit_image_stays_dark(tmp_path):
    dark = Image.fromarray(np.full((8, 8), 4200, dtype=np.uint16))
    assert (read_image(saved(tmp_path, dark, "a.png"), 8) == 16).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_gray_of_unstated_range_is_accepted_if_it_fits(tmp_path, mode):
    values = np.full((8, 8), 120, dtype=np.int32 if mode == "I" else np.float32)
    assert (read_image(saved(tmp_path, Image.fromarray(values), "a.tiff"), 8) == 120).all()
    if mode == "I":
        assert (read_image(saved(tmp_path, Image.fromarray(values * 257), "b.tiff"), 8) == 120).all()


def sixteen_bit_png(channels: int) -> bytes:
    """A 16-bit PNG, all 0x80FF except for an opaque alpha; Pillow cannot write one with color."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixel = b"\x80\xff" * 3 + b"\xff\xff" * (channels - 3)
    header = struct.pack(">IIBBBBB", 4, 4, 16, {3: 2, 4: 6}[channels], 0, 0, 0)
    rows = zlib.compress((b"\0" + pixel * 4) * 4)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize("channels", [3, 4])
def test_sixteen_bit_color_is_scaled_to_eight(tmp_path, channels):
    (tmp_path / "a.png").write_bytes(sixteen_bit_png(channels))
    assert np.abs(read_image(tmp_path / "a.png", 4).astype(int) - 128).max() <= 1


def test_the_first_of_several_frames_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    for name in ("a.gif", "a.webp", "a.png", "a.tiff"):
        file = saved(tmp_path, frames[0], name, save_all=True, append_images=frames[1:])
        assert np.abs(read_image(file, 8).astype(int) - [254, 0, 0]).max() <= 4, name


def test_a_transparent_palette_entry_is_composited_on_white(tmp_path):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((0, 0), 0)
    for name, transparency in (("a.png", 1), ("a.gif", 1), ("b.png", bytes([255, 0]))):
        found = read_image(saved(tmp_path, image, name, transparency=transparency), 8)
        assert found[0, 0].tolist() == [255, 0, 0]
        assert (found[1:] == 255).all()


def test_a_transparent_color_and_half_transparency_are_composited_on_white(tmp_path):
    red = Image.new("RGB", (8, 8), "red")
    assert (read_image(saved(tmp_path, red, "a.png", transparency=(255, 0, 0)), 8) == 255).all()
    gray = Image.new("LA", (8, 8), (0, 128))
    assert np.abs(read_image(saved(tmp_path, gray, "b.png"), 8).astype(int) - 127).max() <= 1


def test_print_colors_are_converted(tmp_path):
    cyan = saved(tmp_path, Image.new("CMYK", (8, 8), (255, 0, 0, 0)), "a.tiff")
    assert read_image(cyan, 8)[0, 0].tolist() == [0, 255, 255]
    white = saved(tmp_path, Image.new("LAB", (8, 8), (255, 128, 128)), "b.tiff")
    assert (read_image(white, 8) >= 250).all()


def test_transparency_is_composited_on_white(tmp_path):
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


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("image_size", [12, 20, 80])
def test_resizing_is_bicubic_and_antialiased_and_no_other_filter(resize, image_size):
    """Compares with PyTorch, whose antialiased bicubic equals Pillow's."""
    pixels = np.random.default_rng(0).integers(38, 218, (40, 60, 3), dtype=np.uint8)
    width = image_size * 3 // 2 if resize == "crop" else image_size
    left = (width - image_size) // 2

    def seen(resized: np.ndarray) -> np.ndarray:
        return resized[:, left : left + image_size]

    planes = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
    resized = F.interpolate(planes, (image_size, width), mode="bicubic", antialias=True)
    expected = seen(resized[0].permute(1, 2, 0).numpy())
    assert np.abs(fit_image(Image.fromarray(pixels), image_size, resize) - expected).max() <= 1.5
    for other in {*Image.Resampling} - {Image.Resampling.BICUBIC}:
        found = seen(np.asarray(Image.fromarray(pixels).resize((width, image_size), other)))
        assert np.abs(found - expected).max() > 2, other


@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (10, 20_000), (1, 3000)])
def test_odd_shapes_are_read(tmp_path, size, resize):
    image = read_image(saved(tmp_path, Image.new("RGB", size, "red"), "a.png"), 16, resize)
    assert (image == [255, 0, 0]).all()
    assert image.shape == (16, 16, 3)


def test_a_large_image_is_read_without_a_warning_and_a_bomb_is_refused(tmp_path, monkeypatch):
    file = saved(tmp_path, Image.new("RGB", (30, 30), "red"), "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert (read_image(file, 8) == [255, 0, 0]).all()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match=r"every image must be readable, got .*a\.png .*exceeds limit"):
        read_image(file, 8)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken", b"<html>", POSTSCRIPT])
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


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (24, 24, 3), dtype=np.uint8))


@given(name=st.sampled_from(["png", "jpeg", "gif", "tiff", "webp", "bmp", "ico"]), data=st.data())
def test_any_damage_ends_in_an_image_or_an_error(name, data):
    with io.BytesIO() as whole:
        NOISE.save(whole, name)
        content = bytearray(whole.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        image = read_image(io.BytesIO(bytes(content)), 8)
    except InputError as refused:
        assert "every image must be readable" in str(refused)
    else:
        assert image.shape == (8, 8, 3)
        assert image.dtype == np.uint8


def test_classes_are_the_sorted_folders_and_other_files_are_passed_over(folder):
    for name in ("notes.txt", "labels.pdf", "figure.eps"):
        (folder / "train" / "cat" / name).write_text("no image")
    (folder / "train" / ".hidden").mkdir()
    source = ImageFolder(folder, "train", 32)
    assert source.class_names == ("cat", "dog")
    assert np.bincount(source.labels).tolist() == [40, 40]


def test_missing_folders_and_empty_classes_are_refused(folder):
    with pytest.raises(InputError, match="must hold holiday/<class>/<images>"):
        LabeledFolder(folder / "holiday", 32)
    (folder / "train" / "empty").mkdir()
    with pytest.raises(InputError, match=r"a class must hold an image, got none in .*empty"):
        ImageFolder(folder, "train", 32)
    (folder / "test2").mkdir()
    with pytest.raises(InputError, match=r"must have at least one class, got 0 in .*test2"):
        LabeledFolder(folder / "test2", 32)


def test_a_single_class_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must have at least two classes, got 1 in .*train; give every"):
        ImageFolder(draw_folder(tmp_path, {"train": {"cat": 3}}), "train", 32)


def test_a_split_without_images_is_refused(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
    with pytest.raises(InputError, match=r"a class must hold an image, got none in .*cat; add images or remove"):
        ImageFolder(tmp_path, "train", 32)


def test_classes_to_test_on_that_train_lacks_are_named_before_training(folder):
    (folder / "test" / "cat").rename(folder / "test" / "bird")
    with pytest.raises(InputError, match=r"test must have no classes that train lacks, got 1 of 2 in .*test: 'bird';"):
        ImageFolder(folder, "train", 32)
    assert ImageFolder(folder, "test", 32).class_names == ("bird", "dog")


@pytest.mark.parametrize("name", ["<b>dog", "köter & co", "新しい\u200c猫", "a,b", "'; drop"])
def test_class_names_are_kept_as_they_are(tmp_path, name):
    folder = draw_folder(tmp_path, {"train": {name: 1, "other": 1}})
    assert name in ImageFolder(folder, "train", 8).class_names


@pytest.mark.parametrize("name", [b"\xff\xfe", b"two\nlines", b"\x1b[31mred"])
def test_a_class_name_that_is_not_text_is_refused(folder, name):
    os.mkdir(os.path.join(os.fsencode(folder / "train"), name))
    with pytest.raises(InputError, match=r"a class must have a name of plain text"):
        ImageFolder(folder, "train", 8)


def test_the_cache_holds_what_was_decoded_and_sees_a_changed_file(tmp_path):
    folder = draw_folder(tmp_path / "images", {"train": {"a": 3, "b": 2}})
    source = ImageFolder(folder, "train", 16)
    first = cached(source)
    assert np.array_equal(first.images, np.stack(list(source.decode(np.arange(5)))))
    Image.fromarray(RED).save(folder / "train" / "a" / "0000.png")
    second = cached(ImageFolder(folder, "train", 16))
    assert (second.pixels(np.array([0])) == RED[:16, :16]).all()


EMPTY_TIFF, ORIENTED = b"MM\0*\0\0\0\x08\0\0\0\0\0\0", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12\0\x03"


def png_with(kind: bytes, content: bytes) -> bytes:
    """RED, with a chunk before its pixels."""
    with io.BytesIO() as file:
        Image.fromarray(RED).save(file, "png")
        whole = file.getvalue()
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return whole[:33] + chunk + whole[33:]  # signature and header are 33 bytes


def jpeg_with(**options) -> bytes:
    with io.BytesIO() as file:
        Image.fromarray(RED).save(file, "jpeg", **options)
        return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        png_with(b"eXIf", b"no TIFF header"),
        png_with(b"eXIf", b""),
        png_with(b"eXIf", EMPTY_TIFF[:9]),
        png_with(b"iCCP", b"name\0\0no profile"),
        png_with(b"tEXt", b"no separator"),
        jpeg_with(exif=b"Exif\0\0no TIFF header"),
        jpeg_with(exif=ORIENTED),
        jpeg_with(exif=b"Exif\0\0" + EMPTY_TIFF[:6]),
        jpeg_with(icc_profile=b"no profile"),
        jpeg_with(xmp=b"<x:xmpmeta tiff:Orientation="),
    ],
)
def test_invalid_metadata_beside_intact_pixels_is_not_damage(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        image = read_image(tmp_path / "a.png", 8)
    assert np.abs(image.astype(int) - [254, 0, 0]).max() <= 4
