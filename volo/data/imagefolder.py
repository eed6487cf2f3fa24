"""Image folders: `<data_dir>/<split>/<class>/<any image file>`."""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from volo.data.class_names import differences, plain
from volo.data.formats import opened
from volo.data.listing import ImageFile, find_folders, find_images
from volo.data.modes import Samples, to_rgb
from volo.data.passed_over import PassedOver, say_passed_over
from volo.errors import InputError


class ImageFolder:
    """One split of an image folder; a `Source`. Classes are the folders, sorted; names as volo/data/class_names.py
    compares them.

    Attributes:
        files: (N,) the images below each class's folder (volo/data/listing.py), class by class.
        passed_over: What else lies there.

    Raises:
        InputError: a missing folder, fewer than two classes, a class without an image, a name that is no text, other
            classes in train than in test (where there is a test split).
    """

    coarse = None

    def __init__(self, data_dir: str | Path, split: str, image_size: int, resize: str = "crop"):
        self.name = f"imagefolder-{split}"
        self.image_size = image_size
        self.resize = resize
        self.root = Path(data_dir, split)
        self.files, self.labels, self.class_names, self.passed_over = _listed(self.root)
        if split == "train" and Path(data_dir, "test").is_dir():
            _check_same_classes(self.class_names, Path(data_dir, "test"))

    def say_passed_over(self) -> None:
        """Once, on the terminal of a job: what of the folder is not used."""
        say_passed_over(self.root, len(self.files), self.passed_over)

    def fingerprint(self) -> str:
        listing = "\n".join(f"{name} {size} {mtime_ns}" for name, size, mtime_ns in self.files)
        digest = hashlib.sha256(listing.encode(errors="surrogateescape")).hexdigest()
        return f"imagefolder 2 {self.image_size} {self.resize} {digest}"

    def decode(self, start: int, stop: int) -> np.ndarray:
        with ThreadPoolExecutor() as pool:
            images = pool.map(lambda file: read_image(file.name, self.image_size, self.resize), self.files[start:stop])
            return np.stack(list(images))


def read_image(file: str | Path, image_size: int, resize: str = "crop") -> np.ndarray:
    """Any image Pillow reads as (image_size, image_size, 3) uint8 RGB.

    Turned upright by its EXIF tag, transparency laid on white, more than 8 bits scaled to 8 (volo/data/modes.py); the
    first frame of several.
    `crop` scales the shorter side (bicubic) and cuts the center square, `squash` ignores the aspect ratio.

    Raises:
        InputError: a file that is no image, a damaged one, or one of more than twice PIL.Image.MAX_IMAGE_PIXELS; the
            message names it.
    """
    try:
        with opened(file) as image:
            return fit_image(image, image_size, resize)
    except Exception as error:  # a damaged file shows as nearly any exception
        reason = str(error) or type(error).__name__
        raise InputError(f"every image must be readable, got {file} ({reason}); mend or remove it") from error


def fit_image(image: Image.Image, image_size: int, resize: str = "crop") -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it."""
    samples = Samples.of(image)
    upright = to_rgb(ImageOps.exif_transpose(image), samples)
    size = (image_size, image_size)
    if resize == "squash":
        return np.asarray(upright.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BICUBIC))


def _listed(root: Path) -> tuple[list[ImageFile], np.ndarray, tuple[str, ...], PassedOver]:
    folders, passed_over = _class_folders(root)
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = find_images(folder)
        if not found.files:
            raise _empty_class(folder, found.passed_over)
        files += found.files
        labels += [label] * len(found.files)
        passed_over.add(found.passed_over)
    if len(folders) < 2:
        raise InputError(
            f"a data set must have at least two classes, got {len(folders)} in {root}; give every class a folder "
            "there, or name the folder above train and test with --data-dir"
        )
    return files, np.array(labels, dtype=np.int64), _names(folders), passed_over


def _empty_class(folder: str, passed_over: PassedOver) -> InputError:
    found = f" but {passed_over.in_words()}" if passed_over else ""
    remedy = passed_over.remedy() or "add images"
    return InputError(f"a class must hold an image, got none in {folder}{found}; {remedy} or remove the folder")


def _class_folders(root: Path) -> tuple[list[str], PassedOver]:
    if not root.is_dir():
        raise InputError(
            f"an image folder must hold {root.name}/<class>/<images>, got no folder {root}; "
            "place it there or name another with --data-dir"
        )
    folders, passed_over = find_folders(root)
    before: dict[str, str] = {}
    for folder, name in zip(folders, _names(folders), strict=True):
        if not name or any(unicodedata.category(letter) in ("Cc", "Cs") for letter in name):
            raise InputError(f"a class must have a name of plain text, got {folder!a}; rename the folder")
        if before.setdefault(name, folder) != folder:
            raise InputError(
                "classes must differ in more than Unicode form or blanks at the ends of their names, got "
                f"{before[name]!a} and {folder!a}; rename one, or put their images into one folder"
            )
    return folders, passed_over


def _names(folders: Sequence[str]) -> tuple[str, ...]:
    return tuple(plain(os.path.basename(folder)) for folder in folders)


def _check_same_classes(class_names: tuple[str, ...], test: Path) -> None:
    others = _names(_class_folders(test)[0])
    if differing := differences(class_names, others):
        raise InputError(
            f"train and test must have the same classes, got {len(class_names)} in train and {len(others)} in {test}; "
            f"{differing}"
        )
