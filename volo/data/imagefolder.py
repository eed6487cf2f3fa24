"""Image folders: `<data_dir>/<split>/<class>/<any image file>`."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from volo.errors import InputError


class ImageFolder:
    """One split of an image folder; a `Source`. Classes are the folders' names, sorted.

    Raises:
        InputError: a missing folder, no class, a class without an image.
    """

    def __init__(self, data_dir: str | Path, split: str, image_size: int, resize: str = "crop"):
        self.name = f"imagefolder-{split}"
        self.image_size = image_size
        self.resize = resize
        self.files, self.labels, self.class_names = _listed(Path(data_dir), split)

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
        InputError: a file that is no image, or a damaged one; the message names it.
    """
    try:
        with Image.open(file) as opened:
            return fit_image(opened, image_size, resize)
    except Exception as error:  # the decoders stumble over damaged files in many ways
        raise InputError(f"every image must be readable, got {file} ({error}); mend or remove it") from error


def fit_image(image: Image.Image, image_size: int, resize: str = "crop") -> np.ndarray:
    """An opened image of any size and mode as `read_image` returns it."""
    upright = _rgb(ImageOps.exif_transpose(image))
    size = (image_size, image_size)
    if resize == "squash":
        return np.asarray(upright.resize(size, Image.Resampling.BICUBIC))
    return np.asarray(ImageOps.fit(upright, size, Image.Resampling.BICUBIC))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float64)
        top = 65535 if image.mode.startswith("I") and values.max(initial=0) > 255 else 255
        return Image.fromarray((values.clip(0, top) * (255 / top)).round().astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _listed(data_dir: Path, split: str) -> tuple[list[Path], np.ndarray, tuple[str, ...]]:
    root = data_dir / split
    if not root.is_dir():
        raise InputError(
            f"an image folder must hold {split}/<class>/<images>, got no folder {root}; "
            "place it there or name another with --data-dir"
        )
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not folders:
        raise InputError(f"a split must hold a folder for each class, got none in {root}")
    known = set(Image.registered_extensions())
    files, labels = [], []
    for label, folder in enumerate(folders):
        found = sorted(
            path for path in folder.rglob("*")
            if path.suffix.lower() in known and not path.name.startswith(".") and path.is_file()
        )
        if not found:
            raise InputError(f"a class must hold an image, got none in {folder}; add images or remove the folder")
        files += found
        labels += [label] * len(found)
    return files, np.array(labels, dtype=np.int64), tuple(folder.name for folder in folders)
