"""CIFAR-10 and CIFAR-100 as published: archives of pickles, 32x32 images in rows of 3072 bytes, channels first.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009;
https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from volo.data.archives.fetch import Archive, Unpacked, fetch
from volo.data.archives.pickles import load_plain
from volo.data.contents import Contents, Item
from volo.data.decoded.cache import Coarse
from volo.data.decoded.store import KEY
from volo.data.folders.channels import stacked
from volo.errors import InputError
from volo.settings.data import RGB

NATIVE_SIZE = 32


@dataclass(frozen=True)
class CifarLayout:
    """The layout of an archive of this family: its files by split, and the keys of its pickles."""

    splits: dict[str, tuple[str, ...]]
    meta: str
    labels: str
    class_names: str
    coarse_labels: str = ""
    coarse_names: str = ""


CIFAR10 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    md5="c58f30108f718f92721af3b95e74349a",
    folder="cifar-10-batches-py",
    members={
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
        "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    },
)
CIFAR10_LAYOUT = CifarLayout(
    splits={"train": tuple(f"data_batch_{number}" for number in range(1, 6)), "test": ("test_batch",)},
    meta="batches.meta",
    labels="labels",
    class_names="label_names",
)
CIFAR100 = Archive(
    url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    folder="cifar-100-python",
    members={
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
)
CIFAR100_LAYOUT = CifarLayout(
    splits={"train": ("train",), "test": ("test",)},
    meta="meta",
    labels="fine_labels",
    class_names="fine_label_names",
    coarse_labels="coarse_labels",
    coarse_names="coarse_label_names",
)


class Cifar:
    """One split, downloaded if missing; a `Source`. For an image size other than 32, images are resized (bicubic);
    `in_chans` is 3, or 1 for their gray.

    Raises:
        InputError: as `fetch`; an archive with a different layout.
    """

    coarse: Coarse | None = None
    held_out: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __init__(
        self,
        name: str,
        archive: Archive,
        layout: CifarLayout,
        data_dir: str | Path,
        split: str,
        image_size: int,
        in_chans: int = RGB,
    ):
        self.name = f"{name}-{split}"
        self.image_size, self.in_chans = image_size, in_chans
        files = fetch(archive, data_dir)
        self._parts = layout.splits[split]
        self._md5s = [files.md5s[part] for part in self._parts]
        meta, *batches = (_read(files, part) for part in (layout.meta, *self._parts))
        try:
            self.class_names = _names(meta[layout.class_names])
            self._rows = np.concatenate([_rows(batch) for batch in batches])
            self.labels = _labels(batches, layout.labels, len(self._rows), len(self.class_names))
            if layout.coarse_labels:
                names = _names(meta[layout.coarse_names])
                labels = _labels(batches, layout.coarse_labels, len(self._rows), len(names))
                self.coarse = _coarse(names, labels, self.labels, len(self.class_names))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{files.folder} must have the layout of {archive.folder} as published, got a different one "
                f"({type(error).__name__}: {error}); use the archive from {archive.url}"
            ) from None

    def fingerprint(self) -> str:
        gray = "" if self.in_chans == RGB else "gray "
        return f"cifar 2 {self.image_size} {gray}{' '.join(self._md5s)}"

    def keys(self) -> np.ndarray:
        return np.arange(len(self.labels)).astype(KEY)

    def contents(self, num_images: int | None = None) -> Contents:
        return Contents.of(Item(part, 0, f"md5:{md5}") for part, md5 in zip(self._parts, self._md5s, strict=True))

    def name_of(self, number: int) -> str:
        return f"{self.name} {number}"

    def file_of(self, number: int) -> None:
        return None

    def decode(self, numbers: np.ndarray) -> Iterator[np.ndarray | str]:
        size = (self.image_size, self.image_size)
        for number in numbers.tolist():
            pixels = self._rows[number].reshape(3, NATIVE_SIZE, NATIVE_SIZE).transpose(1, 2, 0)  # (H, W, 3)
            if (self.image_size, self.in_chans) != (NATIVE_SIZE, RGB):
                image = Image.fromarray(pixels).convert("RGB" if self.in_chans == RGB else "L")
                pixels = stacked([image.resize(size, Image.Resampling.BICUBIC)])
            yield pixels


def _read(files: Unpacked, name: str) -> dict[str, Any]:
    content = files.read(name)
    try:
        return load_plain(content)
    except ValueError as error:
        raise InputError(f"{files.folder / name} {error}; use the archive as published") from None


def _names(names: list[str]) -> tuple[str, ...]:
    if len(set(names)) != len(names) or not all(isinstance(name, str) for name in names):
        raise ValueError("class names must be distinct text")
    return tuple(names)


def _rows(batch: dict[str, Any]) -> np.ndarray:
    rows = np.asarray(batch["data"])
    if rows.dtype != np.uint8 or rows.ndim != 2 or rows.shape[1] != 3 * NATIVE_SIZE**2:
        raise ValueError(f"images must be uint8 rows of 3072 bytes, got {rows.dtype} {rows.shape}")
    return rows


def _labels(batches: list[dict[str, Any]], key: str, num_images: int, num_classes: int) -> np.ndarray:
    labels = np.concatenate([np.asarray(batch[key], dtype=np.int64) for batch in batches])
    if not num_images or labels.shape != (num_images,):
        raise ValueError(f"every image must have a label, got {num_images} images, {key} of shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ValueError(f"{key} must name one of {num_classes} classes, got {labels.min()} to {labels.max()}")
    return labels


def _coarse(names: tuple[str, ...], labels: np.ndarray, fine_labels: np.ndarray, num_fine: int) -> Coarse:
    of_class = np.full(num_fine, -1)
    of_class[fine_labels] = labels
    if (of_class < 0).any() or (of_class[fine_labels] != labels).any():
        raise ValueError("every fine class must have images, all of one coarse class")
    return Coarse(names, of_class)
