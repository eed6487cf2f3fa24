"""An image as channels of 8 bits: its gray, its red, green and blue, or as many as its file holds.

1 channel is the gray of any image, and 3 are red, green and blue of any image (volo/data/folders/modes.py). For another
number the file must hold exactly as many: the bands of its image, such as 4 of RGBA or CMYK, or those of all frames of
a TIFF, one after another. They are taken as they are, so alpha is a channel. Those of more than 8 bits are scaled as
gray is, by the values of all frames together, so that channels keep their proportions.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from volo.data.folders.modes import Samples, check_not_nearly_black, gray_levels, to_rgb
from volo.errors import InputError
from volo.settings.data import GRAY, RGB

JPEG = ("JPEG", "MPO")  # MPO: several of them
EQUAL = {"1": "L", "La": "LA", "RGBa": "RGBA"}  # other ways to write a mode


def in_channels(image: Image.Image, in_chans: int) -> list[Image.Image]:
    """An opened image, upright, as images in mode RGB or L of one size that have `in_chans` channels together.

    Raises:
        InputError: gray values whose range is unclear, or a file that holds another number of channels, or frames that
            differ in size, mode or range; for damaged pixels Pillow's errors.
    """
    if in_chans not in (GRAY, RGB):
        return _bands(image, in_chans)
    samples, whole = Samples.of(image), upright(image)
    is_plain = whole.mode == "RGB" and image.format in JPEG
    color = whole if is_plain else to_rgb(whole, samples)
    return [color if in_chans == RGB else color.convert("L")]  # gray stays exactly as it is


def stacked(parts: Sequence[Image.Image]) -> np.ndarray:
    """What `in_channels` returns, also cut and resized, as (H, W, in_chans) uint8."""
    return np.dstack([np.asarray(part) for part in parts])


def upright(image: Image.Image) -> Image.Image:
    """Rotated by its EXIF tag if that can be read; invalid metadata does not make intact pixels unusable."""
    image.load()  # raises if the pixels are damaged
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # invalid EXIF can raise nearly anything
        return image


def _bands(image: Image.Image, in_chans: int) -> list[Image.Image]:
    num_frames = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
    if num_frames > in_chans:
        raise _another_number(in_chans, f"{num_frames:,} frames")
    kinds, frames = [], []
    for number in range(num_frames):
        if num_frames > 1:
            image.seek(number)
        samples = Samples.of(image)
        frame = _in_plain_mode(upright(image))
        if samples.is_deep:
            check_not_nearly_black(frame)
        kinds.append((frame.mode, frame.size, samples))
        frames.append(np.atleast_3d(np.asarray(frame)))  # (H, W, bands)
    if any(kind != kinds[0] for kind in kinds):
        raise InputError(f"frames must have one size, mode and range, got {_listed(kinds)}; write them alike")
    (mode, _, samples), values = kinds[0], np.dstack(frames)
    if values.shape[2] != in_chans:
        where = f" in {num_frames} frames" if num_frames > 1 else ""
        raise _another_number(in_chans, f"{values.shape[2]} of mode {mode}{where}")
    planes = np.moveaxis(values, 2, 0)  # (in_chans, H, W)
    levels = gray_levels(planes, mode, samples) if mode[0] in "IF" else planes
    return [Image.fromarray(np.ascontiguousarray(plane)) for plane in levels]


def _in_plain_mode(frame: Image.Image) -> Image.Image:
    """Numbers of a palette are not levels, and some modes are other ways to write a plain one."""
    if frame.mode in ("P", "PA"):
        return frame.convert("RGBA" if frame.has_transparency_data else "RGB")
    return frame.convert(EQUAL[frame.mode]) if frame.mode in EQUAL else frame


def _listed(kinds: Sequence[tuple[str, tuple[int, int], Samples]]) -> str:
    words = [f"{mode} of {width}x{height}" for mode, (width, height), _ in kinds]
    found = list(dict.fromkeys(words))
    return " and ".join(found) if len(found) > 1 else f"{found[0]} of several ranges"


def _another_number(in_chans: int, found: str) -> InputError:
    return InputError(
        f"an image must have {in_chans} channels, got {found}; set --in-chans to the number that the files hold"
    )
