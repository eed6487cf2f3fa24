"""What Pillow reads here: formats, their suffixes, and a file opened."""

import os
import warnings
from functools import cache
from threading import Lock

from PIL import Image

# What Pillow knows and cannot show by itself: EPS runs another program, the others need a plug-in.
NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
_OPENING = Lock()


@cache
def readable_suffixes() -> frozenset[str]:
    """In lower case, with their dots."""
    Image.init()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name not in NOT_READ)


def opened(file: str | os.PathLike) -> Image.Image:
    """A file as an image whose pixels are yet to be read. Raises whatever Pillow does."""
    return _opened(file, _formats())


def is_image_by_content(file: str | os.PathLike) -> bool:
    """Whether a file begins as an image of a format that has a signature; its pixels are not read."""
    try:
        with _opened(file, _signed_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # what is no image shows as nearly any exception
        return False


def _opened(file: str | os.PathLike, formats: tuple[str, ...]) -> Image.Image:
    """Without Pillow's warnings: of large images, up to where it refuses them, and of metadata that make no sense.
    Filters are the whole process's: one at a time."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(file, formats=formats)


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


@cache
def _signed_formats() -> tuple[str, ...]:
    """Without those that have no signature and find themselves in files of anything."""
    return tuple(name for name in _formats() if Image.OPEN[name][1] is not None)
