"""Which formats are read with Pillow, their suffixes, and how a file is opened. HEIC, as phones write it, is read
where the package pillow-heif is installed."""

import contextlib
import io
import os
import stat
import warnings
from functools import cache
from threading import Lock

from PIL import Image

from volo.data.folders.parts import Part

# Formats that Pillow knows but cannot decode alone: EPS runs another program, the others need a plug-in.
NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
HEIF_SUFFIXES = frozenset({".heic", ".heics", ".heif", ".heifs", ".hif"})
_OPENING = Lock()


@cache
def readable_suffixes() -> frozenset[str]:
    """In lowercase, with the dot."""
    _learn_formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name not in NOT_READ)


def opened(file: str | os.PathLike | Part) -> Image.Image:
    """Opens a file, or a part of one, as an image without decoding its pixels. Raises whatever Pillow raises, and
    OSError for a pipe, a socket or a device, which might never end, and as `Part.read`."""
    return _opened(file, _formats())


def is_image_by_content(file: str | os.PathLike) -> bool:
    """Whether a file starts with the signature of an image format; its pixels are not read."""
    try:
        with _opened(file, _signed_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # a file that is not an image can raise nearly anything
        return False


def _opened(file: str | os.PathLike | Part, formats: tuple[str, ...]) -> Image.Image:
    """Without Pillow's warnings about invalid metadata and about large images (it refuses those that are too large).
    Warning filters belong to the whole process, hence the lock."""
    content = io.BytesIO(file.read()) if isinstance(file, Part) else file
    if isinstance(file, str | os.PathLike) and stat.S_IFMT(os.stat(file).st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError("a pipe, socket or device; copy what it gives into a file")
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Image.open(content, formats=formats)


@cache
def _formats() -> tuple[str, ...]:
    _learn_formats()
    return tuple(name for name in Image.ID if name not in NOT_READ)


def _learn_formats() -> None:
    """Pillow's own, and HEIC. A process decodes in one thread: there is one for each core."""
    Image.init()
    with contextlib.suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener(decode_threads=1)


@cache
def _signed_formats() -> tuple[str, ...]:
    """Without the formats that have no signature: they accept files of any kind."""
    return tuple(name for name in _formats() if Image.OPEN[name][1] is not None)
