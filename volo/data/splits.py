"""Holds out training images for validation: stratified, and the same on every worker and machine."""

import hashlib
from dataclasses import dataclass

import numpy as np

from volo.errors import InputError


@dataclass(frozen=True)
class Split:
    """Indices into the data set's training images, ascending, int64."""

    train: np.ndarray
    val: np.ndarray

    def digest(self) -> str:
        """sha256 of both parts: equal if and only if the same numbers are trained on and held out. Which images have
        these numbers is for volo/data/contents.py to say."""
        digest = hashlib.sha256()
        for part in (self.train, self.val):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part.astype("<i8").tobytes())
        return digest.hexdigest()

    def without(self, numbers: np.ndarray) -> "Split":
        return Split(*(part[~np.isin(part, numbers)] for part in (self.train, self.val)))


def split_train(
    labels: np.ndarray,
    val_fraction: float,
    seed: int,
    train_images: int | None = None,
    held_out: np.ndarray | None = None,
) -> Split:
    """Holds out `val_fraction` of each class, rounded down, so a class too small to split stays in train.

    Args:
        labels: (N,) classes of the training images.
        val_fraction: In [0, 1); ignored with held_out.
        seed: Used only for the split.
        train_images: Keeps only this many of the remaining training images, in proportion to the classes.
        held_out: The images to validate on, if they are already chosen.

    Raises:
        InputError: no class is large enough to hold out an image, or there are fewer images than train_images.
    """
    train, val = [], []
    for name in np.unique(labels):
        members = _shuffled(np.flatnonzero(labels == name), seed, int(name))
        is_val = np.arange(len(members)) < int(len(members) * val_fraction + 1e-9)
        if held_out is not None:
            is_val = np.isin(members, held_out)
        val.append(members[is_val])
        train.append(members[~is_val])
    if held_out is None and val_fraction > 0 and not sum(map(len, val)):
        raise InputError(
            f"--val-fraction must hold out at least one image, got {val_fraction} of at most "
            f"{max(map(len, train))} images per class; raise it, or use --val-fraction 0 to train without validation"
        )
    if train_images is not None:
        train = _subset(train, train_images)
    return Split(np.sort(np.concatenate(train)), np.sort(np.concatenate(val)))


def _shuffled(members: np.ndarray, seed: int, name: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, name)))).permutation(members)


def _subset(classes: list[np.ndarray], num_images: int) -> list[np.ndarray]:
    """The first images of each class, in proportion; the rest after rounding goes to the largest remainders."""
    sizes = np.array([len(members) for members in classes])
    if num_images > sizes.sum():
        raise InputError(
            f"--train-images must not exceed the images to train on, got {num_images} of {sizes.sum()}; lower it"
        )
    shares = sizes * num_images / sizes.sum()
    counts = np.floor(shares).astype(int)
    largest = np.argsort(counts - shares, kind="stable")[: num_images - counts.sum()]
    counts[largest] += 1
    return [members[:count] for members, count in zip(classes, counts, strict=True)]
