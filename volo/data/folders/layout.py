"""The layout of an image folder: `train/`, `val/` and `test/`, each with class folders, or class folders alone.

Class folders alone are split here: TEST_SHARE of each class, chosen by file name, is held out of training.
"""

import hashlib
import os
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from volo.data.folders.listing import find_folders
from volo.errors import InputError

TRAIN, TEST, VALIDATION = "train", "test", ("val", "valid", "validation")
TEST_SHARE = 0.1


class NoTestSplit(InputError):
    """There are no images to test on; training does not need any."""


@dataclass(frozen=True)
class Layout:
    """`train` is the root itself if it holds class folders alone; `unused` are the names of folders beside `train`."""

    root: Path
    train: Path
    val: Path | None = None
    test: Path | None = None
    unused: tuple[str, ...] = ()

    @property
    def is_split_here(self) -> bool:
        return self.train == self.root


def find_layout(root: Path) -> Layout:
    """Raises InputError for a folder without train/ and without class folders, or with two for validation."""
    names = [os.path.basename(folder) for folder in find_folders(root)[0]] if os.path.isdir(root) else []
    splits = {TRAIN, TEST, *VALIDATION}
    if misspelt := [name for name in names if name.lower() in splits and name not in splits]:
        raise InputError(
            f"split folders must have lowercase names, got {', '.join(misspelt)} in {root}; rename them, even if "
            "they are classes, which belong below train"
        )
    if TRAIN not in names:
        return _class_folders_alone(root, names)
    found = [name for name in VALIDATION if name in names]
    if len(found) > 1:
        raise InputError(
            f"an image folder must have one validation folder, got {' and '.join(found)} in {root}; remove or "
            "rename all but one"
        )
    return Layout(
        root,
        root / TRAIN,
        val=root / found[0] if found else None,
        test=root / TEST if TEST in names else None,
        unused=tuple(name for name in names if name not in splits),
    )


def _class_folders_alone(root: Path, names: Sequence[str]) -> Layout:
    others = [name for name in names if name in (TEST, *VALIDATION)]
    if others or not names:
        beside = f" beside {' and '.join(others)}" if others else ""
        raise InputError(
            f"an image folder must hold {TRAIN}/<class>/<images>, got no folder {root / TRAIN}{beside}; put it there "
            "or pass another with --data-dir"
        )
    if below := [name for name in names if (root / name / TRAIN).is_dir()]:
        raise InputError(
            f"--data-dir must name the folder that holds {TRAIN}, got {root}, which holds {below[0]}/{TRAIN}; use "
            f"--data-dir {root / below[0]}"
        )
    return Layout(root, root)


def in_test(names: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """(N,) bool, which files of class folders alone are the test split: about TEST_SHARE of each class.

    Only a file's own name decides, so adding or removing one moves no other. At least one file of each class is not in
    the test split.

    Args:
        names: Paths relative to the folder, such as cat/0001.jpg.
        labels: (N,) classes.
    """
    drawn = np.array([_share(name) for name in names])
    chosen = drawn < TEST_SHARE
    for label in np.unique(labels[chosen]):
        members = np.flatnonzero(labels == label)
        if chosen[members].all():
            chosen[members[drawn[members].argmax()]] = False
    return chosen


def _share(name: str) -> float:
    """A number in [0, 1), the same on every machine, however its file system encodes accents."""
    content = unicodedata.normalize("NFC", name).encode(errors="surrogateescape")
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "big") / 2**64
