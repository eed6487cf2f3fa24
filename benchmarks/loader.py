"""Photographs to training batches, images/s: ours, torchvision's ImageFolder in a DataLoader, and timm's loader.

    python -m benchmarks.loader --data-dir data/photos500 [--image-size 224] [--workers 2] [--rounds 7]

Each reads the same files with as many processes, cuts random parts (8 to 100% of the area), flips, and gives normalized
float32 batches. A round starts the processes, reads so many images, and ends them. Of the batches, the mean, the
standard deviation and the share of fine detail are compared as well: they must be the same pictures.
"""

import argparse
import itertools
import statistics
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from timm.data import create_loader
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset
from torchvision import datasets, transforms

from benchmarks.timing import alternate, machine, ratios
from volo.data.crops import Cut
from volo.data.decoded.cache import cached
from volo.data.folders.imagefolder import ImageFolder
from volo.data.pipeline import Pixels, TrainingBatches
from volo.settings.augment import AugmentSettings
from volo.settings.data import IMAGENET

AREA, BATCH, REPEATED = (0.08, 1.0), 32, 100
Loader = Callable[[], Iterator[Tensor]]


def ours(data_dir: str, image_size: int, workers: int) -> Loader:
    augment = AugmentSettings(crop_area=AREA, label_smoothing=0).resolved(image_size)
    images = cached(ImageFolder(data_dir, "train", image_size), np.arange(0))
    pixels = Pixels(images, *IMAGENET, torch.device("cpu"))
    index = np.tile(np.arange(len(images)), REPEATED)

    def batches() -> Iterator[Tensor]:
        found = TrainingBatches(
            images, index, pixels, augment, batch_size=BATCH, seed=0, epochs=1,
            cut=Cut(image_size, augment.crop_area, augment.crop_ratio), num_readers=workers,
        )  # fmt: skip
        try:
            for step in range(found.steps_per_epoch):
                yield found.batch(0, step).images
        finally:
            found.close()

    return batches


def torchvisions(data_dir: str, image_size: int, workers: int) -> Loader:
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(image_size, AREA, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    images: Dataset = ConcatDataset([datasets.ImageFolder(f"{data_dir}/train", transform)] * REPEATED)

    def batches() -> Iterator[Tensor]:
        loader = DataLoader(images, BATCH, shuffle=True, num_workers=workers, drop_last=True)
        return (batch for batch, _ in loader)

    return batches


def timms(data_dir: str, image_size: int, workers: int) -> Loader:
    images = datasets.ImageFolder(f"{data_dir}/train")

    def batches() -> Iterator[Tensor]:
        loader = create_loader(
            images, (3, image_size, image_size), BATCH, is_training=True, scale=AREA, color_jitter=0.0,
            interpolation="bicubic", mean=IMAGENET[0], std=IMAGENET[1], num_workers=workers, use_prefetcher=False,
            persistent_workers=False, num_aug_repeats=0,
        )  # fmt: skip
        while True:
            yield from (batch for batch, _ in loader)

    return batches


def described(loader: Loader, num_batches: int) -> str:
    """Mean, standard deviation, and the mean difference between neighbors: a blurred or noisy image has another."""
    taken = torch.cat(list(itertools.islice(loader(), num_batches)))
    detail = (taken[..., 1:] - taken[..., :-1]).abs().mean()
    return f"mean {taken.mean():+.3f}, standard deviation {taken.std():.3f}, detail {detail:.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", required=True)
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=7)
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    makers = {"ours": ours, "torchvision": torchvisions, "timm": timms}
    loaders = {name: make(flags.data_dir, flags.image_size, flags.workers) for name, make in makers.items()}
    for name, loader in loaders.items():
        print(f"{name}: {described(loader, flags.batches)}")

    def read(loader: Loader) -> None:
        for _ in itertools.islice(batches := loader(), flags.batches):
            pass
        del batches

    times = alternate({name: partial(read, one) for name, one in loaders.items()}, flags.rounds, seconds=0.0)
    print(f"{machine()}; {flags.image_size} pixels, {flags.workers} processes, n = {flags.rounds}")
    for name, found in times.items():
        print(f"{name}: {flags.batches * BATCH / statistics.median(found):,.0f} images/s")
    for name in ("torchvision", "timm"):
        print(f"ours over {name}: {ratios(times[name], times['ours'])}")


if __name__ == "__main__":
    main()
