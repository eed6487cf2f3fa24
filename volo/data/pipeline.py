"""Training batches, gathered, augmented and mixed on the device, and evaluation batches."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from volo.data.augment import crop_and_flip, erase, normalize
from volo.data.autoaugment import color_jitter, rand_augment, trivial_augment
from volo.data.crops import Cut
from volo.data.cutting import Cutting, Unread
from volo.data.decoded.cache import Images
from volo.data.decoded.readahead import ReadAhead
from volo.data.epoch import Draw, EpochTable, worker_share
from volo.data.mixing import MixPlan, mix, one_hot, plan_mix
from volo.data.transfer import to_device
from volo.errors import InputError
from volo.settings.augment import ResolvedAugment

DEVICE_SHARE = 0.25
COPIED = 512  # images at a time


@dataclass(frozen=True)
class Batch:
    """A worker's share of one step. `images` (b, C, H, W) float32, `targets` (b, classes) float32."""

    images: Tensor
    targets: Tensor


class Pixels:
    """The images that batches are gathered from: on the device if they take at most a quarter of its free memory,
    otherwise in the memory map, gathered by the CPU; those that are not decoded are read from their files. In each
    case an image keeps its number."""

    def __init__(self, data: Images, mean: tuple, std: tuple, device: torch.device):
        num_bytes, everything = len(data.decoded) * data.images[:1].nbytes, np.arange(len(data))
        self.data = data
        fits = device.type == "cuda" and num_bytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
        self.stored, self.row = resident(data, device) if fits else (_read_only(data.images), data.row(everything))
        self.read_ahead = ReadAhead(data.images) if not fits else None
        self.device = device
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)

    def augmented(
        self,
        index: np.ndarray,
        uniforms: np.ndarray,
        augment: ResolvedAugment,
        cut: np.ndarray | None = None,
        share: float = 1.0,
    ) -> Tensor:
        """(b,) image numbers and their (b, NUM_UNIFORMS) draws -> (b, C, H, W) float32 on the device.

        `cut` (b, H, W, C) uint8: these images in place of the stored ones, mirrored already if they are cut at random;
        they have this `share` of the full size.
        """
        if cut is not None and augment.crop_area:
            gathered = to_device(cut, self.device)
        else:
            stored = self.stored if cut is None else to_device(cut, self.device)
            rows = self._found(index) if cut is None else torch.arange(len(cut), device=self.device)
            draws = to_device(uniforms, stored.device)
            gathered = crop_and_flip(stored, rows, draws, augment.crop_padding, augment.hflip)
            gathered = gathered.to(self.device, non_blocking=True)
        if augment.color_jitter:
            gathered = color_jitter(gathered, uniforms, augment.color_jitter)
        if augment.auto_augment == "trivial":
            gathered = trivial_augment(gathered, uniforms, share)
        elif augment.auto_augment == "rand":
            gathered = rand_augment(gathered, uniforms, augment.rand_magnitude)
        images = normalize(gathered, self.mean, self.std)
        return erase(images, uniforms, augment.random_erasing) if augment.random_erasing else images

    def plain(self, index: np.ndarray) -> Tensor:
        """(b,) image numbers -> (b, C, H, W) float32 on the device, without augmentation."""
        if (self.row[index] < 0).any():
            gathered = torch.from_numpy(self.data.pixels(index))
        else:
            gathered = self.stored[self._found(index)]
        return normalize(gathered.to(self.device, non_blocking=True), self.mean, self.std)

    def _found(self, index: np.ndarray) -> Tensor:
        """The rows of image numbers, which are gathered next, on the device that holds the images."""
        rows = self.row[index]
        if self.read_ahead:
            self.read_ahead(rows)
        return to_device(rows, self.stored.device)


def resident(data: Images, device: torch.device) -> tuple[Tensor, np.ndarray]:
    """The decoded images, (n, H, W, C) uint8 on the device, and (N,) the row of each image; -1 if it is not decoded."""
    used = data.decoded
    copy = torch.empty((len(used), *data.images.shape[1:]), dtype=torch.uint8, device=device)
    for start in range(0, len(used), COPIED):
        part = used[start : start + COPIED]
        copy[start : start + len(part)] = torch.from_numpy(data.pixels(part))
    rows = np.full(len(data), -1)
    rows[used] = np.arange(len(used))
    return copy, rows


def _read_only(images: np.ndarray) -> Tensor:
    """A tensor that shares the array's memory. Nobody writes to it, but PyTorch cannot know that and would warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(images)


class TrainingBatches:
    """All batches of a run, by epoch and step: `batch(epoch, step)` does not depend on earlier calls.

    Args:
        data: The training split, as far as it is decoded.
        index: (n,) which of its images to train on.
        batch_size: Images per step over all workers; the last partial batch of an epoch is dropped.
        epochs: Of the whole training, by which `augment.resize_schedule` tells the size of a step's images.
        cut: How images are read from their files at each step; None: they are decoded already.
        num_readers: Processes that read them ahead; 0: this one reads when a batch is asked for.

    Attributes:
        read_anew: What reads images at each step, in words; empty if they are decoded.

    Raises:
        InputError: a batch larger than the data set.
    """

    def __init__(
        self,
        data: Images,
        index: np.ndarray,
        pixels: Pixels,
        augment: ResolvedAugment,
        *,
        batch_size: int,
        seed: int,
        epochs: int,
        rank: int = 0,
        world_size: int = 1,
        cut: Cut | None = None,
        num_readers: int = 0,
    ):
        check_batch_size(batch_size, len(index), world_size)
        self.data, self.labels, self.num_classes = data, data.labels, len(data.class_names)
        self.index, self.pixels, self.augment = index, pixels, augment
        self.batch_size, self.seed, self.epochs = batch_size, seed, epochs
        self.rank, self.world_size = rank, world_size
        self._tables: dict[int, EpochTable] = {}
        self._image_size = cut.image_size if cut else data.images.shape[1]
        self._cutting = Cutting(cut, self._to_read, 2 * -(-batch_size // world_size), num_readers) if cut else None
        self.read_anew = ""
        if cut:
            self.read_anew = "by the worker itself" if not num_readers else f"by {num_readers} processes beside it"

    def close(self) -> None:
        """Ends the processes that read ahead."""
        if self._cutting:
            self._cutting.close()

    @property
    def steps_per_epoch(self) -> int:
        return len(self.index) // self.batch_size

    def drawn(self, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The global batch of a step: (batch_size,) positions in the epoch, and the numbers of the images there."""
        positions = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        return positions, self.index[self._epoch_table(epoch).order[positions]]

    def batch(self, epoch: int, step: int) -> Batch:
        """This worker's share of step `step` of an epoch, both counted from 0."""
        batch, size = self._augmented(epoch, step), self._size(epoch, step)
        return batch if batch.images.shape[-1] == size else Batch(shrunk(batch.images, size), batch.targets)

    def _size(self, epoch: int, step: int) -> int:
        """Height and width of a step's images."""
        done = (epoch + step / self.steps_per_epoch) / self.epochs
        return next((size for size, end in self.augment.resize_stages if done < end), self._image_size)

    def _augmented(self, epoch: int, step: int) -> Batch:
        """Images that are cut at random have the step's size, others their own."""
        share = self._share(epoch, step)
        cut = self._cutting(epoch * self.steps_per_epoch + step) if self._cutting else None
        size = self._image_size if cut is None else cut.shape[1]
        images = self.pixels.augmented(share.index, share.uniforms, self.augment, cut, size / self._image_size)
        labels = to_device(self.labels[share.index], images.device)
        targets = one_hot(labels, self.num_classes, self.augment.label_smoothing)
        if share.plan is None:
            return Batch(images, targets)
        at, partner = to_device(share.found, images.device).chunk(2)
        return Batch(*mix(_taken(images, at), _taken(images, partner), targets[at], targets[partner], share.plan))

    def _share(self, epoch: int, step: int) -> "_Share":
        table = self._epoch_table(epoch)
        start = step * self.batch_size
        first, last = worker_share(start, start + self.batch_size, self.rank, self.world_size)
        uniforms = table.uniforms(start, start + self.batch_size)
        places, plan = np.arange(first - start, last - start), None
        found = places
        if self.augment.mix_prob:
            plan = plan_mix(table, uniforms, start, first, last, self.augment.mix_prob)
            places, found = np.unique(np.concatenate([places, plan.partner]), return_inverse=True)  # compute each once
        positions = start + places
        return _Share(positions, self.index[table.order[positions]], uniforms[places], plan, found)

    def _to_read(self, number: int) -> Unread:
        """What `Cutting` reads for step `number` of the training."""
        epoch, step = divmod(number, self.steps_per_epoch)
        share, start = self._share(epoch, step), step * self.batch_size
        draws = self._epoch_table(epoch).crop_draws(start, start + self.batch_size)
        flips = np.zeros(len(share.index), bool)  # without random parts, `Pixels` mirrors
        if self.augment.crop_area:
            flips = share.uniforms[:, Draw.FLIP] < self.augment.hflip
        images = [self.data.unread(one) for one in share.index.tolist()]
        return Unread(images, draws[share.positions - start], flips, self._size(epoch, step))

    def _epoch_table(self, epoch: int) -> EpochTable:
        """Two are kept: at an epoch's end, the next one is read ahead."""
        if epoch not in self._tables:
            self._tables = dict(list(self._tables.items())[-1:])
            self._tables[epoch] = EpochTable.draw(
                self.seed,
                epoch,
                len(self.index),
                self.augment.mixup_alpha,
                self.augment.cutmix_alpha,
                self.labels[self.index] if self.augment.balance == "sampling" else None,
            )
        return self._tables[epoch]


@dataclass(frozen=True, eq=False)
class _Share:
    """What a worker computes in one step: n images, each once, from which its b samples are mixed.

    Attributes:
        positions: (n,) int64, in the epoch.
        index: (n,) int64, the images there.
        uniforms: (n, NUM_UNIFORMS), their draws.
        plan: How they are mixed; None if they are not.
        found: (2 b,) int64, indices into the above: each sample's own image, then each one's partner.
    """

    positions: np.ndarray
    index: np.ndarray
    uniforms: np.ndarray
    plan: MixPlan | None
    found: np.ndarray


def shrunk(images: Tensor, size: int) -> Tensor:
    """(b, C, H, W) -> (b, C, size, size), bilinear with antialiasing."""
    return F.interpolate(images, size=(size, size), mode="bilinear", antialias=True)


def _taken(images: Tensor, places: Tensor) -> Tensor:
    """(n, C, H, W) -> (b, C, H, W), still channels last in memory; plain indexing would put them first."""
    return images.permute(0, 2, 3, 1)[places].permute(0, 3, 1, 2)


def check_batch_size(batch_size: int, num_images: int, world_size: int) -> None:
    """Raises InputError if there is no full batch or a worker would have no sample."""
    if batch_size > num_images:
        raise InputError(
            f"--batch-size must not exceed the images to train on, got --batch-size {batch_size}, {num_images} images; "
            f"use --batch-size {max(world_size, num_images // 4)} or more images"
        )
    if batch_size < world_size:
        raise InputError(
            f"--batch-size must give each worker a sample, got --batch-size {batch_size} for {world_size} workers; "
            f"use --batch-size {world_size} or more, or fewer workers"
        )


def evaluation_batch_size(device: torch.device) -> int:
    """Images per evaluation batch, the same during and after training, so that both give bit-identical results.

    On a CPU, small batches stay in the cache: batches of 32 are 1.5 times as fast as batches of 256.
    """
    return 256 if device.type == "cuda" else 32


def evaluation_batches(
    data: Images, index: np.ndarray, pixels: Pixels, *, batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[tuple[Tensor, Tensor]]:
    """This worker's share of the images `index`, without padding or repeats: (b, C, H, W) float32 and (b,) labels."""
    first, last = worker_share(0, len(index), rank, world_size)
    for start in range(first, last, batch_size):
        part = index[start : min(start + batch_size, last)]
        images = pixels.plain(part)
        yield images, to_device(data.labels[part], images.device)
