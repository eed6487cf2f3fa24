"""The epoch table: (seed, epoch, position in the epoch) determine everything that happens to a sample.

An epoch is therefore the same for one worker or eight, and a run resumes mid-epoch without saved generator states.
"""

from dataclasses import dataclass
from enum import IntEnum, auto

import numpy as np

NUM_UNIFORMS = 40
NUM_CROP_DRAWS = 24  # volo/data/crops.py
PER_BLOCK = 8  # one Philox block yields four 64-bit numbers, each of them two float32


class Draw(IntEnum):
    """What each column of the uniform numbers decides."""

    CROP_Y = 0
    CROP_X = auto()
    FLIP = auto()
    MIX = auto()
    MIX_KIND = auto()
    PARTNER = auto()
    BOX_Y = auto()
    BOX_X = auto()
    AUTO_OP = auto()
    AUTO_LEVEL = auto()
    AUTO_SIGN = auto()
    ERASE = auto()
    ERASE_AREA = auto()
    ERASE_RATIO = auto()
    ERASE_Y = auto()
    ERASE_X = auto()
    AUTO_OP_2 = auto()
    AUTO_SIGN_2 = auto()
    BRIGHTNESS = auto()
    CONTRAST = auto()
    SATURATION = auto()


class Stream(IntEnum):
    """Independent generators of one epoch."""

    ORDER = 0
    UNIFORM = auto()
    MIXUP = auto()
    CUTMIX = auto()
    CROP = auto()


@dataclass(frozen=True)
class EpochTable:
    """One epoch over `num_images` images.

    Attributes:
        order: (num_images,) int64, the image at each position: each image once, or each class equally often.
        mixup: (num_images,) float32 in [0, 1], each position's Beta(alpha, alpha) coefficient; None if mixup is off.
        cutmix: The same for CutMix.
    """

    seed: int
    epoch: int
    order: np.ndarray
    mixup: np.ndarray | None
    cutmix: np.ndarray | None

    @classmethod
    def draw(
        cls,
        seed: int,
        epoch: int,
        num_images: int,
        mixup_alpha: float = 0.0,
        cutmix_alpha: float = 0.0,
        balanced: np.ndarray | None = None,
    ) -> "EpochTable":
        """`balanced`: (num_images,) labels, of which each is to appear equally often; None: each image once."""
        generator = _generator(seed, epoch, Stream.ORDER)
        return cls(
            seed,
            epoch,
            order=generator.permutation(num_images) if balanced is None else _balanced(balanced, generator),
            mixup=_coefficients(seed, epoch, Stream.MIXUP, mixup_alpha, num_images),
            cutmix=_coefficients(seed, epoch, Stream.CUTMIX, cutmix_alpha, num_images),
        )

    def uniforms(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, NUM_UNIFORMS) float32 in [0, 1), columns as in `Draw`; a row does not depend on the range."""
        return self._rows(Stream.UNIFORM, start, stop, NUM_UNIFORMS)

    def crop_draws(self, start: int, stop: int) -> np.ndarray:
        """(stop - start, NUM_CROP_DRAWS) float32 in [0, 1), which decide random crops; as independent of the range."""
        return self._rows(Stream.CROP, start, stop, NUM_CROP_DRAWS)

    def _rows(self, stream: Stream, start: int, stop: int, length: int) -> np.ndarray:
        bits = _philox(self.seed, self.epoch, stream).advance(start * (length // PER_BLOCK))
        return np.random.Generator(bits).random((stop - start, length), dtype=np.float32)


def worker_share(start: int, stop: int, rank: int, world_size: int) -> tuple[int, int]:
    """The part of positions [start, stop) that a worker computes; sizes differ by at most one position."""
    size, rest = divmod(stop - start, world_size)
    first = start + rank * size + min(rank, rest)
    return first, first + size + (rank < rest)


def _philox(seed: int, epoch: int, stream: Stream) -> np.random.Philox:
    return np.random.Philox(np.random.SeedSequence((seed, epoch, stream)))


def _generator(seed: int, epoch: int, stream: Stream) -> np.random.Generator:
    return np.random.Generator(_philox(seed, epoch, stream))


def _balanced(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """(N,) indices of labels: all that appear do so equally often, to within one, and each label's indices do too."""
    _, starts, counts = np.unique(np.sort(labels), return_index=True, return_counts=True)
    by_class = np.split(np.argsort(labels, kind="stable"), starts[1:])
    share, rest = divmod(len(labels), len(by_class))
    wanted = np.full(len(by_class), share)
    wanted[generator.permutation(len(by_class))[:rest]] += 1
    drawn = [
        np.concatenate([generator.permutation(members) for _ in range(-(-number // count))])[:number]
        for members, count, number in zip(by_class, counts.tolist(), wanted.tolist(), strict=True)
        if number
    ]
    return generator.permutation(np.concatenate(drawn))


def _coefficients(seed: int, epoch: int, stream: Stream, alpha: float, num_images: int) -> np.ndarray | None:
    return _generator(seed, epoch, stream).beta(alpha, alpha, num_images).astype(np.float32) if alpha > 0 else None
