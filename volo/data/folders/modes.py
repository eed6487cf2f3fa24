"""Converts an image of any Pillow mode to 8-bit RGB: no value wraps, is clipped or turns black silently.

Gray of more than 8 bits is scaled from the range that the file states: the largest value of a PGM, or the bit depth of
a TIFF with 9 to 15 bits. Other files hold any range in a large type and are accepted only if their values show which:

    floats from 0 to 1                     x 255
    0 and 1                                x 255
    whole numbers up to 16 ... 255         as they are, in floats and 32 bits
    integers up to 4096 ... 65535          / 257

The rest is refused: negative values, NaN, 0 to 15, and 0 to 4095 in 16 bits, which one program shows as a bright 12-bit
image and another as a black 16-bit one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageCms

from volo.errors import InputError

FOUR_BITS, TWELVE_BITS, SIXTEEN_BITS = 15, 4095, 65535
BITS, PHOTOMETRIC, MAX_SAMPLE = 258, 262, 281  # TIFF tags
RESCALED = {"L;2": 85, "L;4": 17}  # how Pillow scales a PNG's samples, but not its transparent value


@dataclass(frozen=True)
class Samples:
    """What a file states about its samples; Pillow drops it once the pixels are read.

    Attributes:
        white: The largest possible gray value, if the file states it.
        is_inverted: 0 is white, and Pillow does not change that.
        is_deep: 16 bits per channel, of which Pillow keeps the upper 8.
        transparency: The gray or color that is transparent, in the values that Pillow gives pixels.
    """

    white: int | None = None
    is_inverted: bool = False
    is_deep: bool = False
    transparency: Any = None

    @classmethod
    def of(cls, image: Image.Image) -> "Samples":
        """The samples of an image that is open and whose pixels have not been read."""
        raw_mode = _raw_mode(image)
        tags = getattr(image, "tag_v2", {})
        is_large = image.mode[0] in "IF"
        white = SIXTEEN_BITS if (image.format, image.mode) == ("PPM", "I") else _white_of_tiff(tags)
        return cls(
            white=white if image.mode.startswith("I") else None,
            is_inverted=is_large and tags.get(PHOTOMETRIC) == 0,
            is_deep=not is_large and ";16" in raw_mode,
            transparency=_transparency(image, raw_mode),
        )


def to_rgb(image: Image.Image, samples: Samples) -> Image.Image:
    """The same image in mode RGB, with transparency composited on white.

    Raises:
        InputError: gray values whose range is unclear.
    """
    if image.mode[0] in "IF":
        return Image.fromarray(gray_levels(np.asarray(image)[None], image.mode, samples)[0]).convert("RGB")
    if samples.is_deep:
        check_not_nearly_black(image)
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None, "it is None only if the image is converted in place"
        return converted
    if samples.transparency is not None:
        image.info["transparency"] = samples.transparency
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode == "La" else "RGBA").convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _white_of_tiff(tags: Any) -> int | None:
    """From the bit depth, or from a MaxSampleValue of 2**bits - 1: others are only the image's own largest value."""
    bits, largest = (np.ravel(tags.get(tag, 0))[0] for tag in (BITS, MAX_SAMPLE))
    if 8 < bits < 16:
        return 2 ** int(bits) - 1
    return int(largest) if largest in {2**bits - 1 for bits in range(9, 17)} else None


def _transparency(image: Image.Image, raw_mode: str) -> Any:
    found = image.info.get("transparency")
    if raw_mode in RESCALED and isinstance(found, int):
        return found * RESCALED[raw_mode]
    if raw_mode == "RGB;16B" and isinstance(found, tuple):
        return tuple(value >> 8 for value in found)
    return found


def gray_levels(values: np.ndarray, mode: str, samples: Samples) -> np.ndarray:
    """Gray values of more than 8 bits (n, H, W), as Pillow gives them in this mode, on one scale: (n, H, W) uint8.

    Raises:
        InputError: the range of all of them together is unclear.
    """
    white = _white(mode, values, samples.white)
    if white is None:
        raise _unclear(values, mode, samples.white)
    gray = np.stack([(plane.astype(np.float64) * (255 / white)).round().astype(np.uint8) for plane in values])
    if samples.is_inverted:
        gray = 255 - gray
    if samples.transparency is not None:
        gray[values == samples.transparency] = 255
    return gray


def _white(mode: str, values: np.ndarray, stated: int | None) -> int | None:
    """The value of white; None if that is unclear."""
    low, high = values.min(), values.max()
    if not (low >= 0 and high < np.inf):  # NaN is neither
        return None
    if stated:
        return stated if high <= stated else None
    if high == 0 or (high <= 1 and mode in ("I", "F")):
        return 1
    if mode == "F" and not (values == values.round()).all():
        return None
    if mode in ("I", "F") and FOUR_BITS < high <= 255:
        return 255
    if mode == "F":
        return None
    return SIXTEEN_BITS if TWELVE_BITS < high <= SIXTEEN_BITS else None


def _unclear(values: np.ndarray, mode: str, stated: int | None) -> InputError:
    finite = values[np.isfinite(values)]
    found = f"{finite.min():g} to {finite.max():g}" if finite.size else "none"
    if rest := values.size - finite.size:
        found += f" and {rest:,} that are not finite"
    if (finite != finite.round()).any():
        found += ", with fractions,"
    return InputError(
        f"gray values must lie in {_rule(mode, stated)}, got {found} in mode {mode}; convert the image to 8 bits from "
        "its own range"
    )


def _rule(mode: str, stated: int | None) -> str:
    """What `_white` accepts."""
    if stated:
        return f"0 to {stated}, the file's own white"
    if mode == "F":
        return "0 to 1, or be whole numbers in 0 to 255 and use more than 4 of these 8 bits"
    sixteen = "0 to 65535 and use more than 12 of these 16 bits"
    return f"0 to 1, in 0 to 255 and use more than 4 of these 8 bits, or in {sixteen}" if mode == "I" else sixteen


def check_not_nearly_black(image: Image.Image) -> None:
    """Of the upper 8 bits of 16. Raises InputError if they leave hardly anything of the image."""
    bands = np.atleast_3d(np.asarray(image))  # (H, W, bands)
    high = int(bands[..., : 1 if image.mode.startswith("L") else 3].max())
    if 0 < high < 16:
        raise InputError(
            f"colors of 16 bits must use more than 12 of them, got at most {high * 256 + 255} of {SIXTEEN_BITS}; "
            "convert the image to 8 bits from its own range"
        )
