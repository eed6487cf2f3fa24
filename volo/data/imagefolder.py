"""Image folders: `<data_dir>/<split>/<class>/<any image file>`."""

import hashlib
import unicodedata
import warnings
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
from PIL import Image, ImageCms, ImageOps

from volo.errors import InputError

# What Pillow knows and cannot show by itself: EPS runs another program, the others need a plug-in.
NOT_READ = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"})
_OPENING = Lock()


class ImageFolder:
    """One split of an image folder; a `Source`. Classes are the folders' names, sorted.

    Raises:
        InputError: a missing folder, fewer than two classes, a class without an image, a name that is no text, other
            classes in train than in test (where there is a test split).
    """

    coarse = None

    def __init__(self, data_dir: str | Path, split: str, image_size: int, resize: str = "crop"):
        self.name = f"imagefolder-{split}"
        self.image_size = image_size
        self.resize = resize
        self.files, self.labels, self.class_names = _listed(Path(data_dir, split))
        if split == "train" and Path(data_dir, "test").is_dir():
            _check_same_classes(self.class_names, Path(data_dir, "test"))

    def fingerprint(self) -> str:
        stats = (file.stat() for file in self.files)
        listing = "\n".join(f"{f} {s.st_size} {s.st_mtime_ns}" for f, s in zip(self.files, stats, strict=True))
        digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
        return f"imagefolder 1 {self.image_size} {self.resize} {digest}"

    def decode(self, start: int, stop: int) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            images = pool.map(lambda file: read_image(file, self.image_size, self.resize), self.files[start:stop])
            return np.stack(list(images))


def read_image(file: str | Path, image_size: int, resize: str = "crop") -> np.ndarray:
    """Any image Pillow reads as (image_size, image_size, 3) uint8 RGB.

    Turned upright by its EXIF tag, transparency laid on white, 16 bits scaled to 8; the first frame of several.
    `crop` scales the shorter side (bicubic) and cuts the centre square, `squash` ignores the aspect ratio.

    Raises:
        InputError: a file that is no image, a damaged one, or one of more than twice PIL.Image.MAX_IMAGE_PIXELS; the
            message names it.
    """
    try:
        with _opened(file) as opened:
            return fit_image(opened, image_size, resize)
    except Exception as error:  # a damaged file shows as nearly any exception
        reason = str(error) or type(error).__name__
        raise InputError(f"every image must be readable, got {file} ({reason}); mend or remove it") from error


def fit_image(image: Image.Image, image_size: int, resize: str = "crop") -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it."""
    upright = _rgb(ImageOps.exif_transpose(image))
    size = (image_size, image_size)
    if resize == "squash":
        return np.asarray(upright.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BICUBIC))


def _opened(file: str | Path) -> Image.Image:
    """Large images, up to where Pillow refuses them, without its warning; filters are the whole process's: one at a
    time."""
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(file, formats=_formats())


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in Image.ID if name not in NOT_READ)


@cache
def readable_suffixes() -> frozenset[str]:
    """Of the files an image folder is searched for, in lower case with their dots."""
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name not in NOT_READ)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return _eight_bits(image).convert("RGB")
    if image.mode == "LAB":
        lab, srgb = (ImageCms.createProfile(name) for name in ("LAB", "sRGB"))
        return ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more bits. Integers of 32 bits and floats do not say their range: 255 where nothing exceeds it."""
    values = np.asarray(image, dtype=np.float64)
    is_sixteen = image.mode.startswith("I;16") or (image.mode == "I" and values.max(initial=0) > 255)
    top = 65535 if is_sixteen else 255
    return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8))


def _listed(root: Path) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    files, labels, class_names = [], [], []
    for label, folder in enumerate(_class_folders(root)):
        found = sorted(
            path for path in folder.rglob("*")
            if path.suffix.lower() in readable_suffixes() and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise InputError(f"a class must hold an image, got none in {folder}; add images or remove the folder")
        files += found
        labels += [label] * len(found)
        class_names.append(folder.name)
    if len(class_names) < 2:
        raise InputError(
            f"a data set must have at least two classes, got {len(class_names)} in {root}; give every class a folder "
            "there, or name the folder above train and test with --data-dir"
        )
    return files, np.array(labels, dtype=np.int64), tuple(class_names)


def _class_folders(root: Path) -> list[Path]:
    if not root.is_dir():
        raise InputError(
            f"an image folder must hold {root.name}/<class>/<images>, got no folder {root}; "
            "place it there or name another with --data-dir"
        )
    try:
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise InputError(f"an image folder must be readable, got {root} ({error.strerror}); see its rights") from None
    for folder in folders:
        if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in folder.name):  # control, or not UTF-8
            raise InputError(f"a class must have a name of plain text, got {str(folder)!a}; rename the folder")
    return folders


def _check_same_classes(class_names: tuple[str, ...], test: Path) -> None:
    others = {folder.name for folder in _class_folders(test)}
    if differing := sorted(others ^ {*class_names}):
        raise InputError(
            f"train and test must have the same classes, got {len(class_names)} in train and {len(others)} in {test}; "
            f"not in both: {', '.join(differing[:8])}"
        )
