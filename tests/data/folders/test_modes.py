"""Images of every mode of Pillow: as RGB they look as they did, or are refused."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from volo.data.folders.image import fit_image, read_image
from volo.errors import InputError

RED = Image.new("RGB", (8, 8), "red")


def with_alpha(mode: str) -> Image.Image:
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    image.paste((0, 0, 0, 0), (0, 0, 8, 4))
    return palette_with_alpha(image.getchannel("A")) if mode == "PA" else image.convert(mode)


def palette_with_alpha(alpha: Image.Image) -> Image.Image:
    image = RED.convert("P").convert("PA")
    image.putalpha(alpha)
    return image


def gray(mode: str) -> Image.Image:
    """Half of white, in the mode's own values."""
    order = {"I;16": "<u2", "I;16L": "<u2", "I;16B": ">u2", "I;16N": "=u2"}
    if mode in order:
        return Image.frombytes(mode, (8, 8), np.full((8, 8), 128 * 257).astype(order[mode]).tobytes())
    return Image.fromarray(np.full((8, 8), 128).astype(np.int32 if mode == "I" else np.float32))


# What each mode shows: its upper half and its lower half.
WHITE, SCARLET, GRAY = [255] * 3, [255, 0, 0], [128] * 3
MODES: dict[str, tuple[Callable[[], Image.Image], list[int], list[int]]] = {
    **{mode: (lambda mode=mode: RED.convert(mode), SCARLET, SCARLET) for mode in ("RGB", "RGBX", "P", "HSV", "YCbCr")},
    "CMYK": (lambda: RED.convert("CMYK"), SCARLET, SCARLET),
    **{mode: (lambda mode=mode: with_alpha(mode), WHITE, SCARLET) for mode in ("RGBA", "RGBa", "PA")},
    "LA": (lambda: with_alpha("LA"), WHITE, [76] * 3),
    "La": (lambda: with_alpha("LA").convert("La"), WHITE, [76] * 3),
    "L": (lambda: Image.new("L", (8, 8), 128), GRAY, GRAY),
    "1": (lambda: Image.new("1", (8, 8), 1), WHITE, WHITE),
    "LAB": (lambda: Image.new("LAB", (8, 8), (255, 128, 128)), WHITE, WHITE),
    **{mode: (lambda mode=mode: gray(mode), GRAY, GRAY) for mode in ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")},
}


def test_the_table_holds_every_mode_that_pillow_has():
    assert MODES.keys() == {*Image.MODES}


@pytest.mark.parametrize("mode", Image.MODES)
@pytest.mark.parametrize("is_on_its_side", [False, True])
def test_an_image_of_every_mode_looks_as_it_did(mode, is_on_its_side):
    make, upper, lower = MODES[mode]
    image = make()
    assert image.mode == mode
    if is_on_its_side:
        image = image.transpose(Image.Transpose.ROTATE_90)
        image.getexif()[0x0112] = 6
    found = fit_image(image, 8).astype(int)
    assert np.abs(found[:3] - upper).max() <= 6
    assert np.abs(found[5:] - lower).max() <= 6


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(color: int, bits: int, row: bytes, transparent: tuple[int, ...]) -> io.BytesIO:
    """Eight rows of eight pixels, one color or gray of which is transparent."""
    header = struct.pack(">IIBBBBB", 8, 8, bits, color, 0, 0, 0)
    pixels = zlib.compress((b"\0" + row) * 8)
    clear = struct.pack(f">{len(transparent)}H", *transparent)
    parts = [chunk(b"IHDR", header), chunk(b"tRNS", clear), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    return io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_transparent_gray_of_any_bit_depth_is_composited_on_white(bits):
    """A row of four black pixels and four of a gray; either is the transparent one."""
    gray = {1: 1, 2: 2, 4: 10, 8: 170, 16: 43690}[bits]
    digits = "".join(f"{value:0{bits}b}" for value in [0] * 4 + [gray] * 4)
    row = int(digits, 2).to_bytes(bits, "big")
    found = read_image(png(0, bits, row, (0,)), 8)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == (255 if bits == 1 else 170)).all()
    clear = read_image(png(0, bits, row, (gray,)), 8)
    assert (clear[:, :4] == 0).all()
    assert (clear[:, 4:] == 255).all()


def test_a_transparent_sixteen_bit_color_is_composited_on_white():
    row = struct.pack(">3H", 0x80FF, 0x10FF, 0) * 4 + struct.pack(">3H", 0x20FF, 0, 0) * 4
    found = read_image(png(2, 16, row, (0x80FF, 0x10FF, 0)), 8)
    assert (found[:, :4] == 255).all()
    assert (found[:, 4:] == [0x20, 0, 0]).all()


def tiff(values: np.ndarray, **tags: int) -> io.BytesIO:
    file = io.BytesIO()
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[{"largest": 281, "photometric": 262}[tag]] = value
    Image.fromarray(values).save(file, "TIFF", tiffinfo=info)
    return file


def pgm(values: np.ndarray, largest: int) -> io.BytesIO:
    head = f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode()
    return io.BytesIO(head + values.astype(">u2").tobytes())


def twelve_bit_tiff(value: int) -> io.BytesIO:
    """BitsPerSample 12, packed: two samples in three bytes."""
    pixels = int(f"{value:03x}" * 64, 16).to_bytes(96, "big")
    entries = [(256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 8), (279, 96)]
    directory = b"".join(struct.pack("<HHII", tag, 4 if tag in (273, 279) else 3, 1, item) for tag, item in entries)
    return io.BytesIO(b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + bytes(4) + pixels)


def full(value: float, dtype) -> np.ndarray:
    return np.full((8, 8), value, dtype=dtype)


STATED = {
    "a PGM of 12 bits": (lambda: pgm(full(2048, np.uint16), 4095), 128),
    "a dark PGM of 16 bits": (lambda: pgm(full(600, np.uint16), 65535), 2),
    "a TIFF of 12 bits": (lambda: twelve_bit_tiff(2048), 128),
    "a TIFF whose largest sample is of 12 bits": (lambda: tiff(full(2048, np.uint16), largest=4095), 128),
    "a TIFF whose largest sample is of 16 bits": (lambda: tiff(full(600, np.uint16), largest=65535), 2),
    "a TIFF whose largest sample is its own": (lambda: tiff(full(32896, np.uint16), largest=32896), 128),
    "a TIFF where 0 is white": (lambda: tiff(full(65535 - 32896, np.uint16), photometric=0), 128),
}


@pytest.mark.parametrize("name", STATED)
def test_gray_is_scaled_from_the_range_that_the_file_states(name):
    make, expected = STATED[name]
    assert (read_image(make(), 8) == expected).all()


TAKEN = [
    (np.float32, 0.5, 128), (np.float32, 1.0, 255), (np.float32, 0.0, 0), (np.float32, 0.004, 1),
    (np.float32, 128.0, 128),
    (np.int32, 128, 128), (np.int32, 1, 255), (np.int32, 16, 16), (np.int32, 0, 0), (np.int32, 32896, 128),
    (np.uint16, 0, 0), (np.uint16, 4370, 17), (np.uint16, 65535, 255),
]  # fmt: skip


@pytest.mark.parametrize(("dtype", "value", "expected"), TAKEN)
def test_gray_of_an_unstated_range_is_accepted_if_its_values_show_the_range(dtype, value, expected):
    assert (read_image(tiff(full(value, dtype)), 8) == expected).all()
    assert (fit_image(Image.fromarray(full(value, dtype)), 8) == expected).all()


REFUSED = [
    (np.float32, [0, 1.5], "0 to 1.5"), (np.float32, [0, 4095], "0 to 4095"), (np.float32, [-0.5, 1], "-0.5 to 1"),
    (np.float32, [0, np.nan], "0 to 0 and 1 that are not finite"), (np.float32, [0.5, np.inf], "0.5 to 0.5 and 1 that"),
    (np.float32, [np.nan, np.nan], "none and 2 that"), (np.float32, [0.25, 200], "0.25 to 200"),
    (np.float32, [0, 2], "0 to 2"), (np.int32, [0, 15], "0 to 15"),
    (np.int32, [0, 4095], "0 to 4095"), (np.int32, [-1, 200], "-1 to 200"), (np.int32, [0, 70000], "0 to 70000"),
    (np.uint16, [0, 4095], "0 to 4095"), (np.uint16, [0, 255], "0 to 255"),
]  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("dtype", "values", "said"), REFUSED)
def test_gray_whose_range_is_unclear_is_refused_with_the_range_found(dtype, values, said):
    found = np.array([values], dtype=dtype)
    for read in (lambda: fit_image(Image.fromarray(found), 8), lambda: read_image(tiff(found), 8)):
        with pytest.raises(InputError, match=rf"gray values must lie in .*, got {said}.*; convert the image to 8 bits"):
            read()


UNMET = [
    (np.float32, [0.25, 222], "or be whole numbers in 0 to 255 and .*, got 0.25 to 222, with fractions, in mode F"),
    (np.float32, [0, 60000], "0 to 1, or be whole numbers in 0 to 255 and .*, got 0 to 60000 in mode F"),
    (np.uint16, [0, 222], "lie in 0 to 65535 and use more than 12 of these 16 bits, got 0 to 222 in mode I;16"),
    (np.int32, [0, 4095], "0 to 1, in 0 to 255 and .*, or in 0 to 65535 and .*, got 0 to 4095 in mode I;"),
]


@pytest.mark.parametrize(("dtype", "values", "said"), UNMET)
def test_refused_gray_does_not_meet_the_rule_that_the_message_names(dtype, values, said):
    with pytest.raises(InputError, match=f"gray values must .*{said}"):
        fit_image(Image.fromarray(np.array([values], dtype=dtype)), 8)


def test_values_beyond_the_stated_range_are_refused():
    with pytest.raises(InputError, match="gray values must lie in 0 to 4095, the file's own white, got 5000 to 5000"):
        read_image(tiff(full(5000, np.uint16), largest=4095), 8)


WHITE_16 = (0xFFFF, 0xFFFF, 0xFFFF)


def test_colors_of_sixteen_bits_that_would_be_nearly_black_are_refused():
    row = struct.pack(">3H", 0x0FFF, 0x0123, 0) * 8
    with pytest.raises(InputError, match="colors of 16 bits must use more than 12 of them, got at most 4095"):
        read_image(png(2, 16, row, WHITE_16), 8)
    assert (read_image(png(2, 16, bytes(48), WHITE_16), 8) == 0).all()
